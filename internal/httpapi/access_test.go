package httpapi_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/internal/httpapi"
)

func TestWhoIsServed(t *testing.T) {
	const off, other = "off loopback", "this machine only"
	for _, test := range []struct {
		name             string
		local, anonymous bool
		host             string
		refused          string // words of the refusal, "" if served
	}{
		{"local", true, false, "127.0.0.1:7070", ""},
		{"local by name", true, false, "localhost:7070", ""},
		{"local by name without a port", true, false, "LOCALHOST", ""},
		{"local by IPv6", true, false, "[::1]:7070", ""},
		{"local by IPv6 without a port", true, false, "[::1]", ""},
		{"local by another name", true, false, "evil.example:7070", other},
		{"local by a name that begins alike", true, false, "localhost.evil.example", other},
		{"local by an address that is not loopback", true, false, "10.0.0.1:7070", other},
		{"local to everybody", true, true, "imgd.example.com", ""},
		{"elsewhere", false, false, "127.0.0.1:7070", off},
		{"elsewhere to everybody", false, true, "imgd.example.com", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, func(c *httpapi.Config) { c.Local, c.AllowAnonymous = test.local, test.anonymous })
			for _, path := range []string{"/v1/images", "/v1/events?follow=0", "/v1/letters", "/v1/releases?open=1", "/metrics", "/elsewhere"} {
				got := w.do("GET", path, "", "Host", test.host)
				if test.refused != "" {
					checkProblem(t, got, 403, "unauthorized", test.refused)
					checkProblem(t, got, 403, "unauthorized", "allowAnonymous: true")
				} else if got.status == 403 {
					t.Errorf("%s: got %d %s", path, got.status, got.body)
				}
			}
			for _, path := range []string{"/livez", "/readyz"} {
				if got := w.do("GET", path, "", "Host", test.host); got.status != 200 {
					t.Errorf("%s: got %d %s", path, got.status, got.body)
				}
			}
		})
	}
}

// What a page of another site sends by a browser on this machine is refused.
func TestOtherSites(t *testing.T) {
	w, _, _ := full(t)
	const path = "/v1/projects/hello/builds"
	for _, headers := range [][]string{
		{"Sec-Fetch-Site", "cross-site"},
		{"Sec-Fetch-Site", "same-site"},
		{"Origin", "https://evil.example"},
		{"Origin", "null"},
	} {
		checkProblem(t, w.do("POST", path, `{"ref":"v1.3.0"}`, headers...), 403, "unauthorized", "another site")
	}
	for _, contentType := range []string{"", "text/plain", "application/x-www-form-urlencoded", "application/jsonp"} {
		checkProblem(t, w.do("POST", path, `{"ref":"v1.3.0"}`, "Content-Type", contentType), 415, "usage", "application/json")
	}
	if len(w.asked) > 0 {
		t.Errorf("refused asks came into the queue: %+v", w.asked)
	}
	id := w.submitted()
	checkProblem(t, w.do("POST", "/v1/requests/"+id+"/drop", "", "Origin", "https://evil.example"), 403, "unauthorized", "another site")
	checkProblem(t, w.do("POST", "/v1/requests/"+id+"/drop", "", "Content-Type", "text/plain"), 415, "usage", "application/json")
	if s, _ := w.status(id); s.State != imgd.Queued {
		t.Errorf("a refused command came through: %+v", s)
	}
	if got := w.do("POST", path, `{"ref":"v1.3.0"}`, "Origin", w.url, "Sec-Fetch-Site", "same-origin", "Content-Type", "application/json; charset=utf-8"); got.status != 202 {
		t.Errorf("the own site: got %d %s", got.status, got.body)
	}
}

// Forges call from anywhere, by any name; what is beside the hooks stays shut.
func TestHooksAreOpen(t *testing.T) {
	hooks := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusAccepted)
		_, _ = io.Copy(w, io.MultiReader(strings.NewReader(r.Method+" "+r.URL.Path+" "), r.Body))
	})
	for _, local := range []bool{false, true} {
		w := newWorld(t, func(c *httpapi.Config) { c.Local, c.Hooks = local, hooks })
		got := w.do("POST", "/hooks/github/hello", `{"ref":"x"}`, "Host", "imgd.example.com", "Origin", "https://evil.example",
			"Sec-Fetch-Site", "cross-site", "Content-Type", "application/x-www-form-urlencoded")
		if got.status != http.StatusAccepted || got.body != `POST /hooks/github/hello {"ref":"x"}` {
			t.Errorf("local %t: got %d %s", local, got.status, got.body)
		}
		if got := w.do("GET", "/hooks/%2e%2e/metrics", ""); !strings.HasPrefix(got.body, "GET /hooks/") {
			t.Errorf("a path that leaves the hooks is answered by another: %d %s", got.status, got.body)
		}
		for _, path := range []string{"/metrics", "/hooks/../metrics", "/hooks/../v1/images", "//hooks/../metrics"} {
			checkProblem(t, w.do("GET", path, "", "Host", "imgd.example.com"), 403, "unauthorized", "allowAnonymous")
		}
	}
}

func TestReady(t *testing.T) {
	now := epoch
	var natsErr error
	looks := 0
	w := newWorld(t, func(c *httpapi.Config) {
		c.Now = func() time.Time { return now }
		c.Checks = []httpapi.Check{
			{Name: "nats", Run: func(context.Context) error { looks++; return natsErr }},
			{Name: "registry", Run: func(context.Context) error { return nil }},
		}
	})
	want := func(path string, status int, body string) {
		t.Helper()
		if got := w.get(path); got.status != status || got.body != body || !strings.HasPrefix(got.header.Get("Content-Type"), "text/plain") {
			t.Errorf("%s: got %d %q, want %d %q", path, got.status, got.body, status, body)
		}
	}
	want("/readyz", 200, "ok\n")
	want("/readyz?verbose", 200, "[+]nats ok\n[+]registry ok\nreadyz check passed\n")
	natsErr = errors.New("no answer\nin time")
	want("/readyz", 200, "ok\n") // a storm of probes is one look
	if looks != 1 {
		t.Errorf("looked %d times within a second", looks)
	}
	now = now.Add(time.Second)
	const failed = "[-]nats failed: no answer in time\n[+]registry ok\nreadyz check failed\n"
	want("/readyz", 503, failed)
	want("/readyz?verbose=1", 503, failed)
	want("/livez", 200, "ok\n")
	natsErr, now = nil, now.Add(time.Second)
	want("/readyz", 200, "ok\n")
	checkProblem(t, w.do("POST", "/readyz", ""), 405, "usage", "GET")
}

// The checks run beside each other, and not longer than their deadline: each
// of these waits for the other.
func TestChecksRunTogether(t *testing.T) {
	meet := make(chan struct{})
	w := newWorld(t, func(c *httpapi.Config) {
		c.Checks = []httpapi.Check{
			{Name: "a", Run: func(ctx context.Context) error { return wait(ctx, meet, nil) }},
			{Name: "b", Run: func(ctx context.Context) error { return wait(ctx, nil, meet) }},
			{Name: "c", Run: func(ctx context.Context) error {
				if _, ok := ctx.Deadline(); !ok {
					return errors.New("no deadline")
				}
				return nil
			}},
		}
	})
	if got := w.get("/readyz"); got.status != 200 {
		t.Errorf("got %d %s", got.status, got.body)
	}
}

func wait(ctx context.Context, from <-chan struct{}, to chan<- struct{}) error {
	select {
	case <-from:
	case to <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// A caller that goes away does not spoil what the next one is told.
func TestReadyOutlivesItsCaller(t *testing.T) {
	gone, cancel := context.WithCancel(t.Context())
	w := newWorld(t, func(c *httpapi.Config) {
		c.Checks = []httpapi.Check{{Name: "nats", Run: func(ctx context.Context) error {
			cancel()
			return ctx.Err()
		}}}
	})
	req, err := http.NewRequestWithContext(gone, "GET", w.url+"/readyz", nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := http.DefaultClient.Do(req); err == nil {
		resp.Body.Close()
	}
	if got := w.get("/readyz"); got.status != 200 {
		t.Errorf("got %d %s", got.status, got.body)
	}
}

func FuzzSplitImage(f *testing.F) {
	for _, s := range []string{"", "demo/hello", "demo/hello/tags/v1", "a/tags/b/tags/c", "a/tags/b/verify", "a/tags/b/history", "a/tags/b/c",
		"/tags/v1", "tags/v1", "a/tags/", "a/tags//verify", "a/tags/b/", "a/tags/b/verify/", "a/tags/verify"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, rest string) {
		image, tag, action := httpapi.SplitImage(rest)
		back := image
		if tag != "" {
			back += "/tags/" + tag
		}
		if action != "" {
			back += "/" + action
		}
		if back != rest {
			t.Errorf("%q came back as %q", rest, back)
		}
		if strings.Contains(tag, "/") || tag == "" && action != "" || tag != "" && image == "" {
			t.Errorf("%q: image %q, tag %q, action %q", rest, image, tag, action)
		}
	})
}

func TestSplitImage(t *testing.T) {
	for _, test := range [][4]string{
		{"demo/hello", "demo/hello", "", ""},
		{"demo/hello/tags/v1.2.3", "demo/hello", "v1.2.3", ""},
		{"demo/hello/tags/v1.2.3/verify", "demo/hello", "v1.2.3", "verify"},
		{"demo/hello/tags/verify", "demo/hello", "verify", ""},
		{"demo/tags/hello/tags/v1", "demo/tags/hello", "v1", ""},
		{"demo/tags/hello/there", "demo/tags/hello/there", "", ""},
		{"tags/v1", "tags/v1", "", ""},
		{"demo/tags/", "demo/tags/", "", ""},
	} {
		if image, tag, action := httpapi.SplitImage(test[0]); image != test[1] || tag != test[2] || action != test[3] {
			t.Errorf("%s: got %q %q %q, want %q", test[0], image, tag, action, test[1:])
		}
	}
}
