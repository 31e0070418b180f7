package kit_test

import (
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/imgd/imgd/integration/kit"
)

func TestHTTPGateFaults(t *testing.T) {
	ctx := t.Context()
	b := startBackend(t)
	g := httpGate(t, b)
	for _, test := range []struct {
		name  string
		fault kit.Fault
		want  string // of the answer, empty: an error
		seen  bool   // by the server
	}{
		{"an answer of its own", kit.Fault{Status: http.StatusForbidden, Body: "no"}, "403 no", false},
		{"an answer cut short", kit.Fault{Status: http.StatusOK, Body: "yes and no", Cut: true}, "", false},
		{"no answer", kit.Fault{Status: http.StatusOK, Cut: true}, "", false},
		{"the server's answer cut short", kit.Fault{Cut: true}, "", true},
		{"nothing", kit.Fault{}, "201 PUT /x body", true},
	} {
		before := len(b.saw())
		mend := g.Fault(func(r *http.Request) *kit.Fault {
			if r.URL.Path == "/x" {
				return &test.fault
			}
			return nil
		})
		got := <-put(ctx, g, "/x", "body")
		if (got.err == nil) != (test.want != "") || got.err == nil && got.body != test.want {
			t.Errorf("%s: %+v, want %q", test.name, got, test.want)
		}
		if seen := len(b.saw()) > before; seen != test.seen {
			t.Errorf("%s: the server saw it: %v", test.name, seen)
		}
		if got := <-put(ctx, g, "/y", "body"); got.body != "201 PUT /y body" {
			t.Errorf("%s: what is not meant gives %+v", test.name, got)
		}
		mend()
		if got := <-put(ctx, g, "/x", "body"); got.body != "201 PUT /x body" {
			t.Errorf("%s: mended it gives %+v", test.name, got)
		}
		mustIdle(t, g)
	}
}

func TestHTTPGateFaultHasHeaders(t *testing.T) {
	g := httpGate(t, startBackend(t))
	g.Fault(func(*http.Request) *kit.Fault {
		return &kit.Fault{Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"86400"}}}
	})
	resp, err := http.Get("http://" + g.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusTooManyRequests || resp.Header.Get("Retry-After") != "86400" {
		t.Errorf("got %s %v", resp.Status, resp.Header)
	}
}

// Half of the server's body arrives, and then the connection ends.
func TestHTTPGateCutsBodies(t *testing.T) {
	g := httpGate(t, startBackend(t))
	g.Fault(func(*http.Request) *kit.Fault { return &kit.Fault{Cut: true} })
	resp, err := http.Get("http://" + g.Addr + "/path")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if full := "GET /path "; string(body) != full[:len(full)/2] || !errors.Is(err, io.ErrUnexpectedEOF) || int(resp.ContentLength) != len(full) {
		t.Errorf("got %q of %d, %v", body, resp.ContentLength, err)
	}
}

func TestHTTPGateDownAndUp(t *testing.T) {
	ctx := t.Context()
	b := startBackend(t)
	g := httpGate(t, b)
	addr := g.Addr
	hold := g.Arm(kit.Before, path("/held"))
	held := put(ctx, g, "/held", "one")
	mustHold(t, hold)
	for range 2 {
		if err := g.Down(); err != nil {
			t.Fatal(err)
		}
		if got := <-put(ctx, g, "/a", "two"); !errors.Is(got.err, syscall.ECONNREFUSED) {
			t.Errorf("while it is down: %+v", got)
		}
	}
	if got := <-held; got.err == nil {
		t.Errorf("what was held gives %+v", got)
	}
	hold.Pass() // as what was on its way
	for range 2 {
		if err := g.Up(); err != nil {
			t.Fatal(err)
		}
	}
	if got := <-put(ctx, g, "/b", "three"); got.body != "201 PUT /b three" || g.Addr != addr {
		t.Errorf("up again at %s, was at %s: %+v", g.Addr, addr, got)
	}
	mustIdle(t, g)
	saw := b.saw()
	slices.Sort(saw)
	if got, want := strings.Join(saw, ", "), "PUT /b three, PUT /held one"; got != want {
		t.Errorf("the server saw %s, want %s", got, want)
	}
}
