package kit_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/imgd/imgd/integration/kit"
)

// soon bounds what should happen at once; it is reached in a test that fails.
const soon = 10 * time.Second

func mustHold(t *testing.T, hold *kit.Hold) {
	t.Helper()
	select {
	case <-hold.Held():
	case <-time.After(soon):
		t.Fatal("nothing was held")
	}
}

func isHeld(hold *kit.Hold) bool {
	select {
	case <-hold.Held():
		return true
	default:
		return false
	}
}

func mustIdle(t *testing.T, gate interface{ Idle(context.Context) error }) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	if err := gate.Idle(ctx); err != nil {
		t.Fatal(err)
	}
}

// A backend notes what it is asked, and answers with it.
type backend struct {
	*httptest.Server

	mu   sync.Mutex // guards seen
	seen []string
}

func startBackend(t *testing.T) *backend {
	t.Helper()
	b := &backend{}
	b.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		text := fmt.Sprintf("%s %s %s", r.Method, r.URL, body)
		b.mu.Lock()
		b.seen = append(b.seen, text)
		b.mu.Unlock()
		w.Header().Set("X-Host", r.Host)
		w.WriteHeader(http.StatusCreated)
		fmt.Fprint(w, text)
	}))
	t.Cleanup(b.Server.Close)
	return b
}

func (b *backend) saw() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.seen)
}

func httpGate(t *testing.T, b *backend) *kit.HTTPGate {
	t.Helper()
	g, err := kit.StartHTTPGate(strings.TrimPrefix(b.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	return g
}

type reply struct {
	body string
	host string
	err  error
}

// put asks on a connection of its own, as net/http repeats by itself what failed on a kept one.
func put(ctx context.Context, g *kit.HTTPGate, path, body string) <-chan reply {
	answer := make(chan reply, 1)
	go func() {
		req, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://"+g.Addr+path, strings.NewReader(body))
		if err != nil {
			answer <- reply{err: err}
			return
		}
		req.Close = true
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			answer <- reply{err: err}
			return
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		answer <- reply{body: answerText(resp.StatusCode, text), host: resp.Header.Get("X-Host"), err: err}
	}()
	return answer
}

func answerText(code int, body []byte) string { return fmt.Sprintf("%d %s", code, body) }

func path(want string) func(*http.Request) bool {
	return func(r *http.Request) bool { return r.URL.Path == want }
}

func TestHTTPGate(t *testing.T) {
	ctx := t.Context()
	b := startBackend(t)
	g := httpGate(t, b)
	var watched []string
	g.Watch(func(r *http.Request) { watched = append(watched, fmt.Sprintf("%s after %d", r.URL.Path, len(b.saw()))) })

	if got := <-put(ctx, g, "/a?x=1", "one"); got.err != nil || got.body != "201 PUT /a?x=1 one" || got.host != g.Addr {
		t.Errorf("what is not held gives %+v", got)
	}

	before := g.Arm(kit.Before, path("/b"))
	held := put(ctx, g, "/b", "two")
	mustHold(t, before)
	if got := <-put(ctx, g, "/b", "three"); got.body != "201 PUT /b three" {
		t.Errorf("beside what is held another gives %+v", got)
	}
	if saw := b.saw(); slices.Contains(saw, "PUT /b two") {
		t.Errorf("the server saw what is held before it: %q", saw)
	}
	before.Pass()
	before.Drop() // too late
	if got := <-held; got.body != "201 PUT /b two" {
		t.Errorf("what was let pass gives %+v", got)
	}

	answered := g.Arm(kit.Answered, path("/c"))
	held = put(ctx, g, "/c", "four")
	mustHold(t, answered)
	if saw := b.saw(); !slices.Contains(saw, "PUT /c four") {
		t.Errorf("the server has not seen what it answered: %q", saw)
	}
	select {
	case got := <-held:
		t.Errorf("a held answer arrived: %+v", got)
	default:
	}
	answered.Pass()
	if got := <-held; got.body != "201 PUT /c four" || got.host != g.Addr {
		t.Errorf("the answer that was let pass is %+v", got)
	}
	mustIdle(t, g)
	if want := []string{"/a after 0", "/b after 1", "/b after 1", "/c after 3"}; !slices.Equal(watched, want) {
		t.Errorf("watched %q, want %q", watched, want)
	}
}

func TestHTTPGateDrops(t *testing.T) {
	ctx := t.Context()
	b := startBackend(t)
	g := httpGate(t, b)

	before := g.Arm(kit.Before, path("/b"))
	held := put(ctx, g, "/b", "one")
	mustHold(t, before)
	before.Drop()
	if got := <-held; got.err == nil {
		t.Errorf("what was dropped gives %+v", got)
	}
	if saw := b.saw(); len(saw) > 0 {
		t.Errorf("the server saw %q", saw)
	}
	answered := g.Arm(kit.Answered, path("/c"))
	answered.Drop() // what will come
	if got := <-put(ctx, g, "/c", "two"); got.err == nil {
		t.Errorf("the answer that was dropped is %+v", got)
	}
	if saw := b.saw(); !slices.Equal(saw, []string{"PUT /c two"}) {
		t.Errorf("the server saw %q", saw)
	}
}

// What a client sent before it died may still be on its way.
func TestHTTPGatePassesForTheDead(t *testing.T) {
	b := startBackend(t)
	g := httpGate(t, b)
	hold := g.Arm(kit.Before, path("/late"))
	ctx, kill := context.WithCancel(t.Context())
	defer kill()
	held := put(ctx, g, "/late", "one")
	mustHold(t, hold)
	kill()
	if got := <-held; !errors.Is(got.err, context.Canceled) {
		t.Errorf("the client got %+v", got)
	}
	hold.Pass()
	mustIdle(t, g)
	if saw := b.saw(); !slices.Equal(saw, []string{"PUT /late one"}) {
		t.Errorf("the server saw %q", saw)
	}
}

func TestHTTPGateCloseDrops(t *testing.T) {
	b := startBackend(t)
	g, err := kit.StartHTTPGate(strings.TrimPrefix(b.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	hold := g.Arm(kit.Before, path("/b"))
	held := put(t.Context(), g, "/b", "one")
	mustHold(t, hold)
	if err := g.Close(); err != nil {
		t.Error(err)
	}
	if got := <-held; got.err == nil {
		t.Errorf("after Close %+v", got)
	}
	if saw := b.saw(); len(saw) > 0 {
		t.Errorf("the server saw %q", saw)
	}
}
