package imgd_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/version"
)

// claimPushed leaves a pushed release admitted, as a crash after that does.
func (w *world) claimPushed(in imgd.Pushed) imgd.Release {
	w.t.Helper()
	before := w.index.Open()
	w.fault = fault{"publish", "interrupted before", 1}
	w.recordOnce(in)
	for _, rel := range w.index.Open() {
		if !slices.ContainsFunc(before, func(b imgd.Release) bool { return b.ID == rel.ID }) {
			return rel
		}
	}
	w.t.Fatal("nothing more is open")
	return imgd.Release{}
}

func (w *world) sweep() {
	w.t.Helper()
	if err := w.pipeline().DriveOpen(w.t.Context(), epoch.Add(time.Hour), 0); err != nil {
		w.t.Fatal(err)
	}
	if n := len(w.index.Open()); n > 0 {
		w.t.Errorf("%d releases are open", n)
	}
}

// Another hand moves, or removes, what was read: the release is published as it
// was read, and drift is told once.
func TestPushedDrifts(t *testing.T) {
	for name, move := range map[string]func(w *world) digest.Digest{
		"moved": func(w *world) digest.Digest { return w.push(otherRepo, "v1.0.0", "strange") },
		"removed": func(w *world) digest.Digest {
			delete(w.tags, at(otherRepo, "v1.0.0"))
			return ""
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			d := w.push(otherRepo, "v1.0.0", "one")
			w.claimPushed(pushed("v1.0.0", d))
			found := move(w)
			w.fault = fault{"drift", "fails", 1} // it is not told, and goes on
			w.sweep()
			if len(w.index.Published(0)) != 1 || len(w.drifts) > 0 {
				t.Fatalf("published %d, drifts %v", len(w.index.Published(0)), w.drifts)
			}
			again := pushed("v1.0.0", d)
			again.NoVerify = true
			w.record(again, false)
			if len(w.drifts) > 0 {
				t.Errorf("drifts %v: nothing was read", w.drifts)
			}
			// A build that is refused settles the tag back, and so looks again.
			if err := w.settleAgain(); err != nil {
				t.Fatal(err)
			}
			kind := imgd.DriftMoved
			if found == "" {
				kind = imgd.DriftMissing
			}
			want := []imgd.Drift{{Kind: kind, Image: otherImage, Repository: otherRepo, Tag: "v1.0.0", Wanted: d, Found: found, Generation: 1}}
			if !slices.Equal(w.drifts, want) {
				t.Errorf("drifts %+v, want %+v", w.drifts, want)
			}
			w.neverWrote()
		})
	}
}

// settleAgain gives up a forced claim of v1.0.0, which settles the tag back.
func (w *world) settleAgain() error {
	in := pushed("v1.0.0", digest.FromString("unseen"))
	in.NoVerify, in.Force, in.Reason = true, true, "a test"
	rel := w.claimPushed(in)
	_, err := w.pipeline().Drop(w.t.Context(), rel.Request.ID, "dropped by ada")
	return err
}

// What is given up and wanted by nobody stays in the registry, also where imgd
// has made what it names.
func TestPushedIsNotRemoved(t *testing.T) {
	w := newWorld(t)
	w.refs[tagRef] = commit("a")
	built, err := w.deliver(request(tagRef, 1))
	if err != nil {
		t.Fatal(err)
	}
	w.tags["stable"] = built.Root.Digest // tagged by another hand
	in := pushed("stable", built.Root.Digest)
	in.Image, in.Moving = demoImage, true
	rel := w.claimPushed(in)
	w.effects = nil
	dropped, err := w.pipeline().Drop(t.Context(), rel.Request.ID, "dropped by ada: a test")
	if err != nil || dropped.State != imgd.ReleaseAbandoned {
		t.Fatalf("got %q, %v", dropped.State, err)
	}
	w.shows("stable", built.Root.Digest)
	if slices.Contains(w.effects, "untag") || slices.Contains(w.effects, "tag") {
		t.Errorf("effects %v: the tag was written", w.effects)
	}
}

// An abandoned release asks anew for the requests whose claims it had made
// lapse. A pushed one is not the queue's.
func TestLapsedPushedIsNotAsked(t *testing.T) {
	w := newWorld(t)
	first := pushed("stable", w.push(otherRepo, "stable", "one"))
	first.Moving = true
	lapsed := w.claimPushed(first)
	second := pushed("stable", w.push(otherRepo, "stable", "two"))
	second.Moving = true
	over := w.claimPushed(second)
	if !slices.Equal(over.Lapsed, []string{lapsed.ID}) {
		t.Fatalf("lapsed %q, want %s", over.Lapsed, lapsed.ID)
	}
	if _, err := w.pipeline().Drop(t.Context(), over.Request.ID, "dropped by ada"); err != nil {
		t.Fatal(err)
	}
	if err := w.pipeline().DriveOpen(t.Context(), epoch.Add(time.Hour), 0); err != nil { // the lapsed one is over
		t.Fatal(err)
	}
	if len(w.asked) > 0 || len(w.index.Open()) > 0 {
		t.Errorf("asked %v, %d open", w.asked, len(w.index.Open()))
	}
	w.neverWrote()
	w.record(second, true)
}

// A claim that a build takes over while Record drives it ends as the build's.
func TestPushedIsOvertaken(t *testing.T) {
	w := newWorld(t)
	in := pushed("v1.2.3", w.push(demoRepo, "v1.2.3", "build 1"))
	in.Image = demoImage
	w.refs[tagRef] = commit("a")
	p := w.recorder()
	p.Index = overtaken{w, func() {
		if _, err := w.deliver(request(tagRef, 1)); err != nil { // makes the very same image
			t.Error(err)
		}
	}}
	rel, created, err := p.Record(t.Context(), in)
	if err != nil || created || rel.Pushed || rel.State != imgd.ReleasePublished {
		t.Errorf("got %s pushed %t, new %t, %v; want the build's", rel.ID, rel.Pushed, created, err)
	}
	if kind := rel.Taken()[0].Kind; kind != version.KindVersion {
		t.Errorf("kind %s", kind)
	}
	w.check()
}

// Who has the tag by the time it is looked up may be another than who had it when
// the index said that nothing is new: that one's release is no answer.
func TestRecordAnswersItsOwn(t *testing.T) {
	w := newWorld(t)
	in := pushed("v1.0.0", w.push(otherRepo, "v1.0.0", "one"))
	w.record(in, true)
	p, once := w.recorder(), false
	p.Index = refusing{w, func() {
		if once {
			return
		}
		once = true
		forced := pushed("v1.0.0", w.push(otherRepo, "v1.0.0", "two"))
		forced.Force, forced.Reason = true, "the first was wrong"
		w.record(forced, true)
	}}
	rel, created, err := p.Record(t.Context(), in)
	if !errors.Is(err, imgd.ErrDiffers) || created || rel.ID != "" {
		t.Errorf("got release of %s, new %t, %v; want that the registry has something else", rel.Root.Digest, created, err)
	}
}

// In refusing something happens right after a release is not admitted.
type refusing struct {
	*world
	happens func()
}

func (r refusing) Admit(ctx context.Context, rel imgd.Release, known string) (imgd.Release, error) {
	out, err := r.world.Admit(ctx, rel, known)
	if err != nil {
		r.happens()
	}
	return out, err
}

// In overtaken something happens right after a release is admitted.
type overtaken struct {
	*world
	happens func()
}

func (o overtaken) Admit(ctx context.Context, rel imgd.Release, known string) (imgd.Release, error) {
	out, err := o.world.Admit(ctx, rel, known)
	if err == nil {
		o.happens()
	}
	return out, err
}

// What an operator gives up while it is recorded is not taken up again.
func TestRecordIsDropped(t *testing.T) {
	w := newWorld(t)
	in := pushed("v1.0.0", w.push(otherRepo, "v1.0.0", "one"))
	p := w.recorder()
	p.Index = overtaken{w, func() {
		if _, err := w.pipeline().Drop(t.Context(), w.index.Open()[0].Request.ID, "dropped by ada"); err != nil {
			t.Error(err)
		}
	}}
	rel, _, err := p.Record(t.Context(), in)
	if !errors.Is(err, imgd.ErrRefused) || rel.State != imgd.ReleaseAbandoned {
		t.Errorf("got %q, %v; want it abandoned", rel.State, err)
	}
	if n := len(w.index.Published(0)); n != 0 {
		t.Errorf("%d releases are published", n)
	}
	w.record(in, true)
}

// Two commands about one image do not work at a time: what is read last of a
// moving tag is entered last.
func TestRecordInOrder(t *testing.T) {
	w := newWorld(t)
	p := w.recorder()
	in := pushed("stable", w.push(otherRepo, "stable", "one"))
	in.Moving = true
	second := make(chan error, 1)
	p.Index = overtaken{w, func() {
		next := pushed("stable", w.push(otherRepo, "stable", "two"))
		next.Moving = true
		p.Index = w
		go func() {
			_, _, err := p.Record(t.Context(), next)
			second <- err
		}()
	}}
	if _, created, err := p.Record(t.Context(), in); err != nil || !created {
		t.Errorf("the first: new %t, %v", created, err)
	}
	if err := <-second; err != nil {
		t.Errorf("the second: %v", err)
	}
	if rel, _ := w.index.Wanted(otherImage, "stable"); rel.Root.Digest != digest.FromString("two") {
		t.Errorf("the tag names %s", rel.Root.Digest)
	}
	if n := len(w.index.Published(0)); n != 2 {
		t.Errorf("%d releases, want 2", n)
	}
	w.neverWrote()
}

// The registry is away after a release is admitted: the command says so, with
// the release, and the sweep ends it.
func TestRecordRegistryAway(t *testing.T) {
	w := newWorld(t)
	in := pushed("v1.0.0", w.push(otherRepo, "v1.0.0", "one"))
	p := w.recorder()
	p.Index = overtaken{w, func() { w.fault = fault{"read", "fails", 1} }}
	rel, _, err := p.Record(t.Context(), in)
	if !errors.Is(err, errInjected) || rel.State != imgd.ReleaseAdmitted {
		t.Errorf("got %q, %v; want the admitted release and the fault", rel.State, err)
	}
	w.sweep()
	w.record(in, false)
}
