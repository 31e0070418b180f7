package git_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/imgd/imgd"
)

func TestCloneIsPartial(t *testing.T) {
	o := newOrigin(t)
	first := o.push("main")
	o.annotate("v1.0.0", first)
	dir := t.TempDir()
	r := open(t, o.config(dir))
	resolve(t, r, "refs/heads/main", "")
	o.push("main")
	resolve(t, r, "refs/heads/main", "") // the filter holds for fetches too
	out := cloneGit(t, dir, "cat-file", "--batch-all-objects", "--batch-check=%(objecttype)")
	if got, want := count(out), (map[string]int{"commit": 2, "tag": 1}); !equal(got, want) {
		t.Errorf("objects: got %v, want %v", got, want)
	}
	missing := cloneGit(t, dir, "rev-list", "--objects", "--all", "--missing=print")
	if !strings.Contains(missing, "?"+o.git("rev-parse", "main^{tree}")) {
		t.Errorf("the tree is not missing: %s", missing)
	}
}

func cloneGit(t *testing.T, dir string, args ...string) string {
	t.Helper()
	return runGit(t, filepath.Join(dir, project+".git"), start, args...)
}

func count(lines string) map[string]int {
	n := map[string]int{}
	for _, line := range strings.Fields(lines) {
		n[line]++
	}
	return n
}

func equal(a, b map[string]int) bool {
	for k, n := range a {
		if b[k] != n {
			return false
		}
	}
	return len(a) == len(b)
}

func TestServerWithoutFilters(t *testing.T) {
	o := newOrigin(t)
	o.git("config", "uploadpack.allowFilter", "false")
	o.annotate("v1.0.0", o.push("main"))
	r := open(t, o.config(t.TempDir()))
	resolve(t, r, "refs/heads/main", "")
	want := o.push("main")
	if got := resolve(t, r, "refs/heads/main", ""); got.ID != want || got.Describe != "v1.0.0-1-g"+want[:7] {
		t.Errorf("got %+v, want %s", got, want)
	}
}

func TestPacksStayFew(t *testing.T) {
	for name, tag := range map[string]string{"repack": "v1.0.0", "clone again": "main^{tree}"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOrigin(t)
			o.push("main")
			o.annotate("some", strings.Replace(tag, "v1.0.0", "main", 1)) // git cannot repack a clone with a tag of a tree
			dir := t.TempDir()
			r := open(t, o.config(dir))
			most := 0
			for range 40 {
				head := o.push("main")
				if got := resolve(t, r, "refs/heads/main", "").ID; got != head {
					t.Fatalf("got %s, want %s", got, head)
				}
				packs, _ := filepath.Glob(filepath.Join(dir, "*.git/objects/pack/*.pack"))
				most = max(most, len(packs))
			}
			if most != 32 {
				t.Errorf("got up to %d packs, want up to 32", most)
			}
		})
	}
}

func TestChangedURL(t *testing.T) {
	old, other := newOrigin(t), newOrigin(t)
	gone := old.push("main")
	other.minutes = 5
	want := other.push("main")
	c := old.config(t.TempDir())
	resolve(t, open(t, c), "refs/heads/main", gone)
	c.Projects = other.config("").Projects
	r := open(t, c)
	if got := resolve(t, r, "refs/heads/main", "").ID; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, err := r.Contains(t.Context(), project, want, gone); err != nil || got {
		t.Errorf("commit of the old origin: got %t, %v", got, err)
	}
}

// A hold lets a request reach the server, and keeps the answer back.
type hold struct {
	reached, release chan struct{}
	once             sync.Once
	refs             atomic.Int32 // how often the refs were asked for
}

func newHold() *hold { return &hold{reached: make(chan struct{}), release: make(chan struct{})} }

// handler holds back the first answer that lists refs, as it stands then.
func (h *hold) handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		if !strings.Contains(string(body), "command=ls-refs") {
			next.ServeHTTP(w, r)
			return
		}
		h.refs.Add(1)
		answer := httptest.NewRecorder()
		next.ServeHTTP(answer, r)
		h.once.Do(func() { close(h.reached); <-h.release })
		for name, values := range answer.Header() {
			w.Header()[name] = values
		}
		w.WriteHeader(answer.Code)
		_, _ = w.Write(answer.Body.Bytes())
	})
}

// A watched context says when somebody waits for its end.
type watched struct {
	context.Context
	once    sync.Once
	waiting chan struct{}
}

func (w *watched) Done() <-chan struct{} {
	w.once.Do(func() { close(w.waiting) })
	return w.Context.Done()
}

// Callers accept no fetch that began before they called, and share the next.
func TestFetchesAreSharedAndNew(t *testing.T) {
	o := newOrigin(t)
	first := o.push("main")
	r := open(t, o.config(t.TempDir()))
	resolve(t, r, "refs/heads/main", "")
	h := newHold()
	o.intercept(h.handler)

	type answer struct {
		commit imgd.Commit
		err    error
	}
	ask := func(ctx context.Context) <-chan answer {
		c := make(chan answer, 1)
		go func() {
			commit, err := r.Resolve(ctx, project, "refs/heads/main", "")
			c <- answer{commit, err}
		}()
		return c
	}
	early := ask(t.Context())
	<-h.reached
	second := o.push("main")
	var late []<-chan answer
	for range 8 {
		ctx := &watched{Context: t.Context(), waiting: make(chan struct{})}
		late = append(late, ask(ctx))
		<-ctx.waiting
	}
	close(h.release)
	if a := <-early; a.err != nil || a.commit.ID != first && a.commit.ID != second {
		t.Errorf("early: got %+v", a)
	}
	for _, c := range late {
		if a := <-c; a.err != nil || a.commit.ID != second {
			t.Errorf("late: got %+v, want %s", a, second)
		}
	}
	if got := h.refs.Load(); got != 2 {
		t.Errorf("got %d fetches, want 2", got)
	}
}

func TestConcurrentCallers(t *testing.T) {
	o := newOrigin(t)
	first := o.push("main")
	o.set("refs/tags/v1.0.0", first)
	c := o.config(t.TempDir())
	r := open(t, c)
	clone := filepath.Join(c.Dir, project+".git")
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			got, err := r.Resolve(t.Context(), project, "refs/heads/main", first)
			if err != nil || got.Describe != "v1.0.0" {
				t.Errorf("Resolve: got %+v, %v", got, err)
			}
			if i == 5 { // damage that the others meet in the middle of their work
				_ = os.RemoveAll(filepath.Join(clone, "objects"))
			}
			if got, err := r.Head(t.Context(), project, "refs/heads/main"); err != nil || got != first {
				t.Errorf("Head: got %s, %v", got, err)
			}
			if got, err := r.Contains(t.Context(), project, first, strings.Repeat("1", 40)); err != nil || got {
				t.Errorf("Contains: got %t, %v", got, err)
			}
		})
	}
	wg.Wait()
	onlyClone(t, c.Dir)
}

// silent never answers, and says when a client came and went.
func silent(came, went chan<- struct{}) func(http.Handler) http.Handler {
	return func(http.Handler) http.Handler {
		return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			came <- struct{}{}
			<-r.Context().Done()
			went <- struct{}{}
		})
	}
}

func TestCancel(t *testing.T) {
	for _, warm := range []bool{false, true} {
		o := newOrigin(t)
		want := o.push("main")
		c := o.config(t.TempDir())
		r := open(t, c)
		if warm {
			resolve(t, r, "refs/heads/main", "")
			want = o.push("main")
		}
		came, went := make(chan struct{}), make(chan struct{})
		o.intercept(silent(came, went))
		ctx, cancel := context.WithCancel(t.Context())
		failed := make(chan error)
		go func() {
			_, err := r.Resolve(ctx, project, "refs/heads/main", "")
			failed <- err
		}()
		<-came
		cancelled := time.Now()
		cancel()
		<-went // git-remote-http is dead
		if err := <-failed; !errors.Is(err, context.Canceled) {
			t.Errorf("warm %t: got %v", warm, err)
		}
		if took := time.Since(cancelled); took > 10*time.Second {
			t.Errorf("warm %t: took %s", warm, took)
		}
		o.intercept(nil)
		if got := resolve(t, r, "refs/heads/main", "").ID; got != want {
			t.Errorf("warm %t: got %s, want %s", warm, got, want)
		}
		onlyClone(t, c.Dir)
	}
}

// A caller who gives up does not take those with him who wait for his fetch.
func TestCancelOneOfMany(t *testing.T) {
	o := newOrigin(t)
	want := o.push("main")
	r := open(t, o.config(t.TempDir()))
	holds := []*hold{newHold(), newHold()}
	ask := func(ctx context.Context) <-chan error {
		failed := make(chan error, 1)
		go func() {
			_, err := r.Resolve(ctx, project, "refs/heads/main", want)
			failed <- err
		}()
		return failed
	}
	o.intercept(holds[0].handler)
	first := ask(t.Context())
	<-holds[0].reached
	ctx, cancel := context.WithCancel(t.Context())
	leader := &watched{Context: ctx, waiting: make(chan struct{})}
	leading := ask(leader)
	<-leader.waiting
	follower := &watched{Context: t.Context(), waiting: make(chan struct{})}
	following := ask(follower)
	<-follower.waiting
	impatient, leave := context.WithCancel(t.Context())
	leave()
	if _, err := r.Head(impatient, project, "refs/heads/main"); !errors.Is(err, context.Canceled) {
		t.Errorf("who left while waiting: got %v", err)
	}
	o.intercept(holds[1].handler)
	close(holds[0].release)
	if err := <-first; err != nil {
		t.Error(err)
	}
	<-holds[1].reached
	cancel()
	if err := <-leading; !errors.Is(err, context.Canceled) {
		t.Errorf("who left: got %v", err)
	}
	close(holds[1].release)
	if err := <-following; err != nil {
		t.Errorf("who stayed: %v", err)
	}
}

func TestTimeout(t *testing.T) {
	o := newOrigin(t)
	first := o.push("main")
	came, went := make(chan struct{}, 9), make(chan struct{}, 9)
	o.intercept(silent(came, went))
	c := o.config(t.TempDir())
	c.Timeout = 200 * time.Millisecond
	_, err := open(t, c).Resolve(t.Context(), project, "refs/heads/main", first)
	notAnEnd(t, "silent server", err)
	if errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "200ms") {
		t.Errorf("got %v, want imgd's own limit, not the caller's", err)
	}
	<-went
}

func TestRedirectIsNotFollowed(t *testing.T) {
	o, other := newOrigin(t), newOrigin(t)
	o.push("main")
	other.push("main")
	var asked atomic.Bool
	other.intercept(func(next http.Handler) http.Handler { asked.Store(true); return next })
	o.intercept(func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, other.server.URL+r.URL.String(), http.StatusFound)
		})
	})
	_, err := open(t, o.config(t.TempDir())).Resolve(t.Context(), project, "refs/heads/main", "")
	notAnEnd(t, "redirect", err)
	if asked.Load() {
		t.Error("the redirect was followed")
	}
}
