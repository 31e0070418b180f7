package imgd_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgd/imgd"
)

func TestRetryDelay(t *testing.T) {
	for tries, want := range map[int]time.Duration{
		-1: 5 * time.Second, 0: 5 * time.Second, 1: 5 * time.Second, 2: 15 * time.Second, 3: time.Minute,
		4: 5 * time.Minute, 5: 15 * time.Minute, 6: 15 * time.Minute, 1 << 40: 15 * time.Minute,
	} {
		if got := imgd.RetryDelay(tries); got != want {
			t.Errorf("after %d tries: got %s, want %s", tries, got, want)
		}
	}
}

// A registry is a Tagger whose answers a test sets, per tag or for all.
type registry struct {
	*world
	answers map[string]func(ctx context.Context) error // tag -> what comes before the write
	tried   int
}

func (r *registry) Tag(ctx context.Context, repository, tag string, root ocispec.Descriptor) error {
	r.mu.Lock()
	r.tried++
	answer := r.answers[tag]
	r.mu.Unlock()
	if answer != nil {
		if err := answer(ctx); err != nil {
			return err
		}
	}
	return r.put(at(repository, tag), root.Digest)
}

func broken(context.Context) error { return errInjected }

// silent is a registry that takes requests and does not answer them.
func silent(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// A release that cannot be driven is left alone for a growing delay, and that
// is forgotten once it is not open any more.
func TestDriveOpenDelays(t *testing.T) {
	w := newWorld(t)
	w.refs[tagRef] = commit("a")
	w.admit(request(tagRef, 1))
	r := &registry{world: w, answers: map[string]func(context.Context) error{"v1.2.3": broken}}
	p := w.pipeline()
	p.Tagger = r
	now := epoch
	sweep := func(tries int, want error) {
		t.Helper()
		r.tried = 0
		if err := p.DriveOpen(t.Context(), now, time.Minute); !errors.Is(err, want) || r.tried != tries {
			t.Errorf("at %s: %d tries, %v; want %d, %v", now.Sub(epoch), r.tried, err, tries, want)
		}
	}
	now = now.Add(time.Minute)
	sweep(0, nil) // it has not stood for more than a minute
	now = now.Add(time.Millisecond)
	for n := 1; n < 8; n++ {
		sweep(1, errInjected)
		now = now.Add(imgd.RetryDelay(n) - time.Nanosecond)
		sweep(0, nil)
		now = now.Add(time.Nanosecond)
	}
	ctx, stop := context.WithCancel(t.Context())
	r.answers["v1.2.3"] = func(context.Context) error { stop(); return context.Canceled }
	if err := p.DriveOpen(ctx, now, time.Minute); err != nil {
		t.Errorf("an interruption is reported as %v", err)
	}
	delete(r.answers, "v1.2.3")
	sweep(4, nil) // so that was no failure
	w.check()

	// The next release begins with the shortest delay.
	w.refs[oldRef] = commit("b")
	w.admit(request(oldRef, 2))
	r.answers["v1.2.2"] = broken
	sweep(1, errInjected)
	now = now.Add(imgd.RetryDelay(1))
	sweep(1, errInjected)
}

// A registry that hangs for one image keeps neither the others' releases nor
// the next sweep.
func TestDriveOpenHangs(t *testing.T) { synctest.Test(t, driveOpenHangs) }

func driveOpenHangs(t *testing.T) {
	w := newWorld(t)
	w.refs[tagRef], w.refs[oldRef] = commit("a"), commit("b")
	w.admit(request(oldRef, 1))
	stuck := w.admit(request(tagRef, 1))
	req := request("refs/tags/v9.0.0", 1)
	req.Project, w.refs[req.Ref] = "other", commit("c")
	p := w.pipeline()
	hello, _ := p.Projects.Get("hello")
	other := hello
	other.Name, other.Image, other.Repositories = "other", "demo/other", []string{copyRepo}
	p.Projects.Set(map[string]imgd.Project{"hello": hello, "other": other})
	r := &registry{world: w, answers: map[string]func(context.Context) error{"v9.0.0": broken, "v1.2.2": silent, "v1.2.3": silent}}
	p.Tagger = r
	if rel, err := p.Handle(t.Context(), &req, func(imgd.State) {}); !errors.Is(err, errInjected) || rel.State != imgd.ReleaseAdmitted {
		t.Fatalf("got %s, %v", rel.State, err)
	}
	delete(r.answers, "v9.0.0")
	start := time.Now()
	err := p.DriveOpen(t.Context(), epoch.Add(time.Hour), time.Minute)
	if err == nil || !strings.Contains(err.Error(), stuck.ID) || strings.Contains(err.Error(), req.ID) {
		t.Errorf("got %v, want a failure of the two that hang", err)
	}
	if took := time.Since(start); took > 5*time.Minute {
		t.Errorf("the sweep took %s, and the next would wait so long", took)
	}
	if rel, _ := w.index.Newest(req.ID); rel.State != imgd.ReleasePublished {
		t.Errorf("the other image's release is %s, want published", rel.State)
	}
	r.tried, r.answers = 0, nil
	if err := p.DriveOpen(t.Context(), epoch.Add(time.Hour+time.Second), time.Minute); err != nil || r.tried != 0 {
		t.Errorf("right after: %d tries, %v; want both left alone", r.tried, err)
	}
	if err := p.DriveOpen(t.Context(), epoch.Add(2*time.Hour), time.Minute); err != nil {
		t.Error(err)
	}
	if open := w.index.Open(); len(open) != 0 {
		t.Errorf("%d releases are open", len(open))
	}
}

// One release that hangs does not keep the others of its image waiting for ever.
func TestDriveOpenOneHangs(t *testing.T) { synctest.Test(t, driveOpenOneHangs) }

func driveOpenOneHangs(t *testing.T) {
	w := newWorld(t)
	w.refs[tagRef], w.refs["refs/tags/v2.0.0"] = commit("a"), commit("b")
	w.admit(request(tagRef, 1))
	w.admit(request("refs/tags/v2.0.0", 1))
	open := w.index.Open()
	stuck, other := open[0], open[1]
	p := w.pipeline()
	p.Tagger = &registry{world: w, answers: map[string]func(context.Context) error{stuck.Request.Version: silent}}
	for n := range 3 {
		if err := p.DriveOpen(t.Context(), epoch.Add(time.Duration(n+1)*time.Hour), time.Minute); err == nil || !strings.Contains(err.Error(), stuck.ID) {
			t.Errorf("got %v, want a failure of %s", err, stuck.ID)
		}
	}
	if rel, _ := w.index.Release(other.ID); rel.State != imgd.ReleasePublished {
		t.Errorf("%s is %s, want published", rel.ID, rel.State)
	}
}

// What the registry refuses, or newer releases have taken, is no failure of the
// sweep.
func TestDriveOpenEnds(t *testing.T) {
	w := newWorld(t)
	w.refs[tagRef] = commit("a")
	rel := w.admit(request(tagRef, 1))
	w.refuses["v1.2.3"] = -1
	if err := w.pipeline().DriveOpen(t.Context(), epoch.Add(time.Hour), time.Minute); err != nil {
		t.Error(err)
	}
	if got, _ := w.index.Release(rel.ID); got.State != imgd.ReleaseAbandoned {
		t.Errorf("got %s, want abandoned", got.State)
	}
	if _, err := w.deliver(request(tagRef, 1)); !errors.Is(err, imgd.ErrRefused) {
		t.Errorf("its request ends as %v, want refused", err)
	}
}
