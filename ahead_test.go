package imgd_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgd/imgd"
)

// named is the request for the commit that ref names.
func (w *world) named(ref string, at int) imgd.Request {
	req := request(ref, at)
	req.Commit = w.refs[ref]
	req.ID = req.Hash()
	return req
}

// A meeting is a world whose build and whose git wait for each other, as long
// as both run.
type meeting struct {
	*world
	build error // what the build ends with, having met

	building, resolving chan struct{}
}

func newMeeting(t *testing.T) *meeting {
	w := newWorld(t)
	w.peeks = true
	w.refs[tagRef] = commit("a")
	return &meeting{world: w, building: make(chan struct{}), resolving: make(chan struct{})}
}

func (m *meeting) handle(ctx context.Context, req *imgd.Request) (imgd.Release, error) {
	p := m.pipeline()
	p.Peeker, p.Builder = m, m
	return p.Handle(ctx, req, func(imgd.State) {})
}

// Confirm answers when the build has begun.
func (m *meeting) Confirm(ctx context.Context, project, ref, id string) error {
	close(m.resolving)
	select {
	case <-m.building:
	case <-ctx.Done():
		return ctx.Err()
	}
	return m.world.Confirm(ctx, project, ref, id)
}

// Build ends when git is being asked, and where it says no, when it is told to.
func (m *meeting) Build(ctx context.Context, p imgd.Project, req imgd.Request) (ocispec.Descriptor, error) {
	close(m.building)
	select {
	case <-m.resolving:
	case <-ctx.Done():
		return ocispec.Descriptor{}, ctx.Err()
	}
	m.mu.Lock()
	refused := m.refs[req.Ref] != req.Commit
	m.mu.Unlock()
	if refused {
		<-ctx.Done()
		return ocispec.Descriptor{}, ctx.Err()
	}
	if m.build != nil {
		return ocispec.Descriptor{}, m.build
	}
	return m.world.Build(ctx, p, req)
}

// The commit of a tag is built while git is asked.
func TestAhead(t *testing.T) {
	m := newMeeting(t)
	req := m.named(tagRef, 1)
	rel, err := m.handle(t.Context(), &req)
	if err != nil || rel.State != imgd.ReleasePublished || len(rel.Taken()) != 4 {
		t.Fatalf("got %+v, %v", rel, err)
	}
	for _, r := range []imgd.Request{req, rel.Request} {
		if r.Version != "v1.2.3" || !r.CommitTime.Equal(epoch) || r.ID != r.Hash() {
			t.Errorf("the request is %+v", r)
		}
	}
	m.check()
}

// What git says comes before what the build says, and nothing is admitted.
func TestAheadInVain(t *testing.T) {
	failed := &imgd.BuildError{Message: "exit code 1"}
	for _, test := range []struct {
		name        string
		git         func(m *meeting)
		build, want error
	}{
		{"the tag has moved", func(m *meeting) { m.refs[tagRef] = commit("b") }, nil, imgd.ErrSuperseded},
		{"the tag is gone", func(m *meeting) { delete(m.refs, tagRef) }, failed, imgd.ErrSuperseded},
		{"git is away", func(m *meeting) { m.fault = fault{"resolve", "fails", 1} }, nil, errInjected},
		{"git is away and the build fails", func(m *meeting) { m.fault = fault{"resolve", "fails", 1} }, failed, errInjected},
		{"the build fails", func(*meeting) {}, failed, failed},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := newMeeting(t)
			req := m.named(tagRef, 1)
			test.git(m)
			m.build = test.build
			rel, err := m.handle(t.Context(), &req)
			if !errors.Is(err, test.want) || rel.ID != "" {
				t.Errorf("got %q, %v, want %v", rel.ID, err, test.want)
			}
			if _, ok := m.index.Newest(req.ID); ok || slices.Contains(m.effects, "admit") {
				t.Errorf("something was admitted; effects %v", m.effects)
			}
		})
	}
}

// An interrupted one waits for nobody, and leaves nothing.
func TestAheadInterrupted(t *testing.T) {
	m := newMeeting(t)
	req := m.named(tagRef, 1)
	m.refs[tagRef] = commit("b") // the build waits for its end
	ctx, cancel := context.WithCancel(t.Context())
	p := m.pipeline()
	p.Peeker, p.Builder = hanging{m.world}, m
	close(m.resolving)
	go func() { <-m.building; cancel() }()
	if rel, err := p.Handle(ctx, &req, func(imgd.State) {}); !errors.Is(err, context.Canceled) || rel.ID != "" {
		t.Errorf("got %q, %v", rel.ID, err)
	}
	if _, ok := m.index.Newest(req.ID); ok {
		t.Error("something was admitted")
	}
}

// hanging is a git that never answers.
type hanging struct{ *world }

func (hanging) Confirm(ctx context.Context, _, _, _ string) error {
	<-ctx.Done()
	return ctx.Err()
}

// A git that panics fails the request that asked, and nothing else.
func TestAheadConfirmPanics(t *testing.T) {
	m := newMeeting(t)
	req := m.named(tagRef, 1)
	delete(m.refs, tagRef) // the build waits for its end
	close(m.resolving)
	p := m.pipeline()
	p.Peeker, p.Builder = panicking{m}, m
	rel, err := p.Handle(t.Context(), &req, func(imgd.State) {})
	if err == nil || !strings.Contains(err.Error(), "imgd panicked") || isEnd(err) || rel.ID != "" {
		t.Errorf("got %q, %v, want an error that is worth another try", rel.ID, err)
	}
	if _, ok := m.index.Newest(req.ID); ok || !slices.Contains(m.observed, "resolve panicked") {
		t.Errorf("something was admitted, or the stage has not ended: %v", m.observed)
	}
}

// panicking is a git that panics while the build runs.
type panicking struct{ *meeting }

func (p panicking) Confirm(context.Context, string, string, string) error {
	<-p.building
	panic(errors.New("meant"))
}

// A build that panics leaves nothing running behind it.
func TestAheadBuildPanics(t *testing.T) {
	w := newWorld(t)
	w.refs[tagRef] = commit("a")
	p, g := w.pipeline(), &left{world: w, asked: make(chan struct{})}
	p.Peeker, p.Builder = g, g
	req := w.named(tagRef, 1)
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic is gone")
			}
		}()
		_, _ = p.Handle(t.Context(), &req, func(imgd.State) {})
	}()
	if !g.gone.Load() {
		t.Error("git is still being asked")
	}
}

// left is a builder that panics while git is asked, and a git that has to be
// told to stop.
type left struct {
	*world
	asked chan struct{}
	gone  atomic.Bool
}

func (l *left) Confirm(ctx context.Context, _, _, _ string) error {
	close(l.asked)
	<-ctx.Done()
	l.gone.Store(true)
	return ctx.Err()
}

func (l *left) Build(context.Context, imgd.Project, imgd.Request) (ocispec.Descriptor, error) {
	<-l.asked
	panic(errors.New("meant"))
}

// Everything else is resolved first.
func TestNotAhead(t *testing.T) {
	for name, change := range map[string]func(w *world, p *imgd.Pipeline, req *imgd.Request){
		"a branch":            func(w *world, _ *imgd.Pipeline, req *imgd.Request) { *req = w.named(mainRef, 1) },
		"no commit":           func(_ *world, _ *imgd.Pipeline, req *imgd.Request) { *req = request(tagRef, 1) },
		"not at hand":         func(w *world, p *imgd.Pipeline, _ *imgd.Request) { p.Peeker = empty{w} },
		"describe in ldflags": func(_ *world, p *imgd.Pipeline, _ *imgd.Request) { template(p, "-X main.v={{.Describe}}", "") },
		"describe in a rule":  func(_ *world, p *imgd.Pipeline, _ *imgd.Request) { rule(p, "type=describe,prefix=x-") },
		"describe in an arg":  func(_ *world, p *imgd.Pipeline, _ *imgd.Request) { template(p, "", "{{.Describe}}") },
		"a release is there": func(w *world, p *imgd.Pipeline, req *imgd.Request) {
			if _, err := w.deliver(*req); err != nil {
				w.t.Fatal(err)
			}
			clear(w.roots) // it is built again
			req.AskedAt = req.AskedAt.Add(1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.refs[tagRef], w.refs[mainRef], w.said = commit("a"), commit("a"), "v1.2.3"
			p, built := w.pipeline(), &builtOf{world: w}
			p.Peeker, p.Builder = w, built
			req := w.named(tagRef, 1)
			change(w, p, &req)
			if _, err := p.Handle(t.Context(), &req, func(imgd.State) {}); err != nil || len(built.requests) != 1 || built.requests[0].Describe != w.said {
				t.Errorf("got %v, built %+v: want one build of what git has described", err, built.requests)
			}
		})
	}
}

// builtOf keeps what it was to build.
type builtOf struct {
	*world
	requests []imgd.Request
}

func (b *builtOf) Build(ctx context.Context, p imgd.Project, req imgd.Request) (ocispec.Descriptor, error) {
	b.requests = append(b.requests, req)
	return b.world.Build(ctx, p, req)
}

// empty has nothing at hand.
type empty struct{ *world }

func (empty) Peek(context.Context, string, string) (imgd.Commit, bool) { return imgd.Commit{}, false }

func template(p *imgd.Pipeline, ldflags, arg string) {
	project, _ := p.Projects.Get("hello")
	project.LDFlags, project.BuildArgs = ldflags, map[string]string{"WHAT": arg}
	p.Projects.Set(map[string]imgd.Project{"hello": project})
}

// A config that comes while git is asked counts: what the new one's templates
// want to know is asked for, and built with.
func TestAheadReloaded(t *testing.T) {
	w := newWorld(t)
	w.refs[tagRef], w.said = commit("a"), "v1.2.3"
	p, built := w.pipeline(), &builtOf{world: w}
	p.Peeker, p.Builder = reloadedFirst{w, p}, built
	req := w.named(tagRef, 1)
	rel, err := p.Handle(t.Context(), &req, func(imgd.State) {})
	if err != nil || rel.State != imgd.ReleasePublished || built.requests[len(built.requests)-1].Describe != w.said {
		t.Errorf("got %v, built %+v", err, built.requests)
	}
}

// reloadedFirst is a git that answers after a reload.
type reloadedFirst struct {
	*world
	p *imgd.Pipeline
}

func (r reloadedFirst) Confirm(ctx context.Context, project, ref, id string) error {
	template(r.p, "-X main.v={{.Describe}}", "")
	return r.world.Confirm(ctx, project, ref, id)
}

// rule has p's project name its images by the rule, and by the commit.
func rule(p *imgd.Pipeline, line string) {
	project, _ := p.Projects.Get("hello")
	project.Tags = []string{line, "type=sha"}
	p.Projects.Set(map[string]imgd.Project{"hello": project})
}
