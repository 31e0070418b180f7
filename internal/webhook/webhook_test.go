package webhook_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/internal/webhook"
)

func TestNewRefuses(t *testing.T) {
	hello, w := project("hello"), &world{}
	for name, tt := range map[string]struct {
		hooks []webhook.Hook
		want  string
	}{
		"no secret":         {[]webhook.Hook{{Project: hello, Forge: "github"}}, "secret is empty"},
		"a blank secret":    {[]webhook.Hook{{Project: hello, Forge: "github", Secret: []byte(" \r\n\t")}}, "secret is empty"},
		"no forge":          {[]webhook.Hook{{Project: hello, Secret: []byte("s3cret")}}, `forge ""`},
		"an unknown forge":  {[]webhook.Hook{{Project: hello, Forge: "bitbucket", Secret: []byte("s3cret")}}, "is none of"},
		"a project twice":   {[]webhook.Hook{hook("github", hello), hook("github", hello)}, "has one already"},
		"under two forges":  {[]webhook.Hook{hook("github", hello), hook("gitea", hello)}, "has one already"},
		"a key not base64":  {[]webhook.Hook{{Project: hello, Forge: "gitlab", Secret: []byte("whsec_s3cret!")}}, "base64"},
		"a key of nothing":  {[]webhook.Hook{{Project: hello, Forge: "gitlab", Secret: []byte("whsec_")}}, "base64"},
		"the second of two": {[]webhook.Hook{hook("github", project("a")), {Project: hello, Forge: "github"}}, "project hello"},
	} {
		_, err := webhook.New(webhook.Config{Hooks: tt.hooks, Queue: w})
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "hello") || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: got %v, want an error that names the project and says %q", name, err, tt.want)
		}
	}
	if _, err := webhook.New(webhook.Config{Hooks: []webhook.Hook{hook("github", hello)}}); err == nil {
		t.Error("takes no queue for one")
	}
}

// A zero Config but for the queue works: default clock, no log, no hooks.
func TestNewDefaults(t *testing.T) {
	w := &world{t: t, projects: map[string]imgd.Project{"hello": project("hello")}}
	h, err := webhook.New(webhook.Config{Queue: w, Hooks: []webhook.Hook{hook("gitlab signed", project("hello"))}})
	if err != nil {
		t.Fatal(err)
	}
	body := push("refs/heads/main", commit)
	r := delivery("gitlab signed", "Push Hook", body)
	signStandard(r, "1", time.Now(), body)
	got := httptest.NewRecorder()
	h.ServeHTTP(got, r)
	if got.Code != http.StatusAccepted {
		t.Errorf("got %d %s", got.Code, got.Body)
	}
}

// A closed pull request asks for no build, and has the tags of each project removed.
func TestClosed(t *testing.T) {
	for scheme, d := range map[string]struct{ event, body, want string }{
		"github":        {"pull_request", `{"action":"closed","pull_request":{"number":7,"head":{"repo":null}},"sender":{"login":"ada"}}`, "refs/pull/7/head github:ada"},
		"gitea":         {"pull_request", `{"action":"closed","pull_request":{"number":7},"sender":{"login":"ada"}}`, "refs/pull/7/head gitea:ada"},
		"gitlab signed": {"Merge Request Hook", `{"object_attributes":{"iid":7,"action":"merge"},"user":{"username":"ada"}}`, "refs/merge-requests/7/head gitlab:ada"},
	} {
		w := newWorld(t, hook(scheme, project("hello")), hook(scheme, project("other", "refs/heads/*")))
		for _, full := range []error{nil, errors.New("too many")} {
			w.closed, w.full = nil, full
			got := w.deliver(scheme, d.event, d.body)
			if got.Code != http.StatusOK || !strings.Contains(got.Body.String(), "7 is closed: nothing is built of it any more") || len(w.asked()) > 0 {
				t.Errorf("%s: got %d %s", scheme, got.Code, got.Body)
			}
			if want := fmt.Sprint([]string{"hello " + d.want, "other " + d.want}); fmt.Sprint(w.closed) != want {
				t.Errorf("%s: closed %q, want %q", scheme, w.closed, want)
			}
			if line := w.logged()[0]; (line["level"] == "WARN") != (full != nil) || full != nil && !strings.Contains(fmt.Sprint(line["error"]), "too many") {
				t.Errorf("%s: logged %v", scheme, line)
			}
		}
	}
}

func TestPush(t *testing.T) {
	want := imgd.Request{Project: "hello", Ref: "refs/heads/main", Commit: commit, Reason: "push"}
	for _, scheme := range schemes {
		t.Run(scheme, func(t *testing.T) {
			w := newWorld(t, hook(scheme, project("hello")))
			got := w.deliver(scheme, event(scheme), push("refs/heads/main", commit))
			asks := w.asked()
			if len(asks) != 1 {
				t.Fatalf("got %d %s, asked for %v", got.Code, got.Body, asks)
			}
			want.By = forgeOf(scheme) + ":ann"
			ids := map[string]string{"github": "72d3162e-cc78-11e3-81ab-4c9367dc0958", "gitlab": "f5e5f430-f57b-4e6e-9fac-d9128cd7232f",
				"gitea": "f6266f16-1bf3-46a5-9ea4-602e06ead473", "forgejo": "f6266f16-1bf3-46a5-9ea4-602e06ead473"}
			if fmt.Sprint(asks[0].req) != fmt.Sprint(want) || asks[0].delivery != forgeOf(scheme)+"/"+ids[forgeOf(scheme)]+"/hello" {
				t.Errorf("asked for %+v as %s, want %+v", asks[0].req, asks[0].delivery, want)
			}
			if answer := fmt.Sprintf("{\"requests\":[{\"project\":\"hello\",\"request\":\"%s\"}]}\n", want.Hash()); got.Code != http.StatusAccepted || got.Body.String() != answer {
				t.Errorf("got %d %s, want %s", got.Code, got.Body, answer)
			}
			line := w.logged()[0]
			for field, want := range map[string]any{"level": "INFO", "msg": "webhook asked for builds", "project": "hello", "forge": forgeOf(scheme),
				"delivery": ids[forgeOf(scheme)], "event": event(scheme)} {
				if line[field] != want {
					t.Errorf("logged %s %v, want %v", field, line[field], want)
				}
			}
		})
	}
}

// Nobody learns by asking which projects there are, unless they have a webhook.
func TestNotFound(t *testing.T) {
	w := newWorld(t, hook("github", project("hello")), hook("gitea", project("other")))
	const want = `{"title":"Not Found","status":404,"detail":"there is no such webhook: the path is /hooks/FORGE/PROJECT, ` +
		`of a project that has a webhook of this forge in imgd's config","code":"not-found"}` + "\n"
	for _, path := range []string{"/hooks/github/nobody", "/hooks/gitea/hello", "/hooks/github/other", "/hooks/github", "/hooks/", "/hooks",
		"/", "/hooks/github/hello/", "/hooks/github/hello/x", "//hooks/github/hello", "/github/hello", "/hooks/GitHub/hello", "/hooks/bitbucket/hello"} {
		r := delivery("github", "push", push("refs/heads/main", commit))
		r.URL.Path = path
		if got := w.send(r); got.Code != http.StatusNotFound || got.Body.String() != want {
			t.Errorf("%s: got %d %s", path, got.Code, got.Body)
		}
	}
	if asks := w.asked(); asks != nil {
		t.Errorf("asked for %v", asks)
	}
	if line := w.logged()[0]; line["level"] != "DEBUG" || line["path"] != "/hooks/bitbucket/hello" {
		t.Errorf("logged %v", line)
	}
}

func TestMethodNotAllowed(t *testing.T) {
	w := newWorld(t, hook("github", project("hello")))
	for _, path := range []string{"/hooks/github/hello", "/hooks/github/nobody"} {
		for _, method := range []string{http.MethodGet, http.MethodPut, http.MethodDelete, http.MethodOptions, "post"} {
			r := delivery("github", "push", push("refs/heads/main", commit))
			r.Method, r.URL.Path = method, path
			got := w.send(r)
			wantProblem(t, got, http.StatusMethodNotAllowed, "usage", "POST")
			if got.Header().Get("Allow") != "POST" {
				t.Errorf("%s: Allow is %q", method, got.Header().Get("Allow"))
			}
		}
	}
}

// One webhook serves every project of its repository, and no other.
func TestProjectsOfOneRepository(t *testing.T) {
	credentials, elsewhere, otherSecret := project("d-credentials"), project("elsewhere"), hook("github", project("other-secret"))
	credentials.Git = "https://user:pass@git.example.com/demo/hello"
	elsewhere.Git = "https://git.example.com/demo/other.git"
	otherSecret.Secret = []byte("another")
	w := newWorld(t, hook("github", project("hello")), hook("github", credentials), hook("github", elsewhere), otherSecret,
		hook("gitea", project("other-forge")), hook("github", project("a", "refs/heads/main")), hook("github", project("tags", "refs/tags/*")))

	got := w.deliver("github", "push", push("refs/heads/main", commit))
	var asked []string
	for _, a := range w.asked() {
		asked = append(asked, a.delivery)
	}
	const id = "github/72d3162e-cc78-11e3-81ab-4c9367dc0958/"
	if want := id + "a " + id + "d-credentials " + id + "hello"; strings.Join(asked, " ") != want {
		t.Errorf("got %d %s, asked for %s, want %s", got.Code, got.Body, asked, want)
	}
	if body := got.Body.String(); got.Code != http.StatusAccepted || strings.Count(body, "request\":") != 3 ||
		strings.Index(body, `"a"`) > strings.Index(body, `"d-credentials"`) || strings.Index(body, `"d-credentials"`) > strings.Index(body, `"hello"`) {
		t.Errorf("got %d %s, want three, sorted", got.Code, body)
	}
}

func TestNoProjectAllowsTheRef(t *testing.T) {
	w := newWorld(t, hook("github", project("hello", "refs/heads/main")), hook("github", project("b", "refs/tags/v*", "refs/heads/b")))
	wantIgnored(t, w.deliver("github", "push", push("refs/heads/x", commit)),
		`ref "refs/heads/x" is not among the refs ["refs/tags/v*" "refs/heads/b"] of project b; ref "refs/heads/x" is not among the refs ["refs/heads/main"] of project hello`)
	if line := w.logged()[0]; line["msg"] != "webhook ignored" || line["level"] != "INFO" || !strings.Contains(line["reason"].(string), "of project b") {
		t.Errorf("logged %v", line)
	}
}

// The 202 comes after all acknowledgements, so a failure of the second request
// makes the forge deliver again, and then both are asked for as before.
func TestQueueFails(t *testing.T) {
	w := newWorld(t, hook("github", project("hello")), hook("github", project("a")))
	w.submit = func(_ context.Context, req imgd.Request) error {
		if req.Project == "hello" {
			return errors.New("nats: no responders")
		}
		return nil
	}
	got := w.deliver("github", "push", push("refs/heads/main", commit))
	wantProblem(t, got, http.StatusServiceUnavailable, "failed", "deliver this again")
	if strings.Contains(got.Body.String(), "nats") {
		t.Errorf("the forge is told %s", got.Body)
	}
	if line := w.logged()[0]; line["level"] != "WARN" || !strings.Contains(fmt.Sprint(line["error"]), "project hello into the queue: nats: no responders") {
		t.Errorf("logged %v", line)
	}
	first := w.asked()

	w.submit = nil
	if got := w.deliver("github", "push", push("refs/heads/main", commit)); got.Code != http.StatusAccepted {
		t.Errorf("delivered again: got %d %s", got.Code, got.Body)
	}
	if second := w.asked(); len(second) != 2 || fmt.Sprint(first) != fmt.Sprint(second) {
		t.Errorf("asked for %v, then for %v, want the same", first, second)
	}
}

func TestQueueHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, hook("github", project("hello")), hook("github", project("a")))
		w.submit = func(ctx context.Context, req imgd.Request) error {
			if req.Project == "a" {
				return nil
			}
			<-ctx.Done()
			return ctx.Err()
		}
		start := time.Now()
		wantProblem(t, w.deliver("github", "push", push("refs/heads/main", commit)), http.StatusServiceUnavailable, "failed", "deliver this again")
		if took := time.Since(start); took != 8*time.Second {
			t.Errorf("answered after %s; GitHub waits for 10s", took)
		}
	})
}

// What can never be a request is not delivered again, but an operator hears of it.
func TestQueueRefuses(t *testing.T) {
	w := newWorld(t, hook("github", project("hello")), hook("github", project("a")))
	w.submit = func(context.Context, imgd.Request) error { return fmt.Errorf("read request: %w", imgd.ErrInvalid) }
	wantIgnored(t, w.deliver("github", "push", push("refs/heads/main", commit)),
		"project a: read request: invalid request; project hello: read request: invalid request")
	if line := w.logged()[0]; line["level"] != "WARN" || line["msg"] != "webhook ignored" {
		t.Errorf("logged %v", line)
	}
	w.submit = func(_ context.Context, req imgd.Request) error {
		if req.Project == "a" {
			return imgd.ErrInvalid
		}
		return nil
	}
	got := w.deliver("github", "push", push("refs/heads/main", commit))
	if got.Code != http.StatusAccepted || strings.Contains(got.Body.String(), `"a"`) || !strings.Contains(got.Body.String(), `"hello"`) {
		t.Errorf("got %d %s, want the other project's request", got.Code, got.Body)
	}
	if line := w.logged()[0]; line["level"] != "WARN" || line["error"] != "invalid request" {
		t.Errorf("logged %v", line)
	}
}

// GitHub does not deliver again by itself, so what it sent is not lost because
// it stopped waiting.
func TestForgeStopsWaiting(t *testing.T) {
	w := newWorld(t, hook("github", project("hello")), hook("github", project("a")))
	ctx, cancel := context.WithCancel(t.Context())
	w.submit = func(ctx context.Context, _ imgd.Request) error {
		cancel()
		return ctx.Err()
	}
	got := w.send(delivery("github", "push", push("refs/heads/main", commit)).WithContext(ctx))
	if asks := w.asked(); len(asks) != 2 || got.Code != http.StatusAccepted {
		t.Errorf("got %d %s, asked for %v", got.Code, got.Body, asks)
	}
}

func TestParserPanics(t *testing.T) {
	w := newWorld(t, hook("github", project("hello")))
	w.BreakParser()
	got := w.deliver("github", "push", push("refs/heads/main", commit))
	wantProblem(t, got, http.StatusBadRequest, "usage", "the payload could not be read")
	if strings.Contains(got.Body.String(), "range") {
		t.Errorf("the forge is told %s", got.Body)
	}
	line := w.logged()[0]
	if why := fmt.Sprint(line["error"]); line["level"] != "ERROR" || line["project"] != "hello" || line["delivery"] != "72d3162e-cc78-11e3-81ab-4c9367dc0958" ||
		!strings.Contains(why, "index out of range [0]") || !strings.Contains(why, "BreakParser") {
		t.Errorf("logged %v", line)
	}
}

func TestHeaders(t *testing.T) {
	w := newWorld(t, hook("github", project("hello")))
	r := delivery("github", "push", "{}")
	r.Header.Del("X-Hub-Signature-256")
	for _, got := range []*httptest.ResponseRecorder{w.send(r), w.deliver("github", "ping", "{}")} {
		if got.Header().Get("X-Content-Type-Options") != "nosniff" || got.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("%d: %v", got.Code, got.Header())
		}
	}
}
