package imgd_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgd/imgd"
)

const (
	oldRef = "refs/tags/v1.2.2"
	newRef = "refs/tags/v1.2.3"
)

// withOld is a world of two repositories, of which v1.2.2 is admitted and has
// lost 1.2 and latest to v1.2.3, which is admitted too.
func withOld(t *testing.T) (w *world, older, newer imgd.Release) {
	w = newWorld(t)
	w.repos = []string{demoRepo, copyRepo}
	w.refs[oldRef], w.refs[newRef] = commit("a"), commit("b")
	return w, w.admit(request(oldRef, 1)), w.admit(request(newRef, 2))
}

// Whatever befalls whichever effect of giving up a tag or a release: what the
// registry refuses, or an operator drops, ends as it should, once.
func TestFaultsAfterRefusal(t *testing.T) {
	rows := []struct {
		name    string
		effects []string
		refuses []string // tags of demoRepo, which comes after copyRepo
		end     func(w *world, newer imgd.Release)
	}{
		{"moving", []string{"tag", "untag", "forgo", "publish"}, []string{"latest", "1.2", "1"}, func(w *world, newer imgd.Release) {
			rel, err := w.deliver(request(newRef, 2))
			if err != nil || rel.ID != newer.ID || len(rel.Taken()) != 1 || !strings.Contains(rel.Reasons(), "latest is immutable") {
				w.t.Errorf("got %s with %v (%s), %v; want it published with its version alone", rel.ID, rel.Taken(), rel.Reasons(), err)
			}
			w.shows("v1.2.3", newer.Root.Digest)
			w.shows("latest", "")
		}},
		{"immutable", []string{"tag", "untag", "abandon", "ask"}, []string{"v1.2.3"}, func(w *world, _ imgd.Release) {
			rel, err := w.deliver(request(newRef, 2))
			if !errors.Is(err, imgd.ErrRefused) || rel.State != imgd.ReleaseAbandoned || !strings.Contains(err.Error(), "v1.2.3 is immutable") {
				w.t.Errorf("got %s %s, %v; want it refused", rel.ID, rel.State, err)
			}
			w.gone()
		}},
		{"drop", []string{"untag", "abandon", "ask"}, nil, func(w *world, newer imgd.Release) {
			rel, err := w.drop(newer.Request.ID)
			if err != nil || rel.ID != newer.ID || rel.State != imgd.ReleaseAbandoned || rel.Why != "dropped by ada: wrong" {
				w.t.Errorf("got %s %s (%s), %v; want it dropped", rel.ID, rel.State, rel.Why, err)
			}
			if _, err := w.deliver(request(newRef, 2)); !errors.Is(err, imgd.ErrRefused) {
				w.t.Errorf("the request ends as %v, want refused", err)
			}
			w.gone()
		}},
	}
	for _, row := range rows {
		for _, effect := range row.effects {
			for _, mode := range []string{"fails", "fails but took effect", "interrupted before", "interrupted after", "repeated"} {
				for _, times := range []int{1, 2, 3} {
					t.Run(fmt.Sprint(row.name, "/", effect, "/", mode, "/", times), func(t *testing.T) {
						w, older, newer := withOld(t)
						if row.name != "moving" { // there older's root is shown instead
							if _, err := w.deliver(older.Request); err != nil {
								t.Fatal(err)
							}
						}
						for _, tag := range row.refuses {
							w.refuses[at(demoRepo, tag)] = -1
						}
						if row.name == "drop" { // and two of the tags are there by now
							w.tags["v1.2.3"], w.tags["latest"] = newer.Root.Digest, newer.Root.Digest
						}
						w.fault = fault{effect, mode, times}
						row.end(w, newer)
						if w.fault.left == times {
							t.Fatalf("the fault was not met; effects %v", w.effects)
						}
						if row.name == "moving" {
							if _, err := w.deliver(older.Request); err != nil {
								t.Fatal(err)
							}
						}
						w.check()
					})
				}
			}
		}
	}
}

// shows holds that every repository has the tag so.
func (w *world) shows(tag string, root digest.Digest) {
	w.t.Helper()
	for _, repository := range w.repos {
		if got := w.tags[at(repository, tag)]; got != root {
			w.t.Errorf("%s:%s names %q, want %q", repository, tag, got, root)
		}
	}
}

// gone holds that nothing of v1.2.3 is left, and that v1.2.2 was asked for anew
// as the same request and gets what it had lost.
func (w *world) gone() {
	w.t.Helper()
	w.shows("v1.2.3", "")
	if len(w.asked) == 0 || w.asked[0].Ref != oldRef || w.asked[0].Hash() != w.asked[0].ID {
		w.t.Fatalf("asked anew: %v, want v1.2.2", w.asked)
	}
	again := w.asked[0]
	again.AskedAt = epoch.Add(time.Minute)
	rel, err := w.deliver(again)
	if err != nil || rel.Request.Ref != oldRef {
		w.t.Fatalf("asked anew v1.2.2 ends as %v", err)
	}
	w.shows("latest", rel.Root.Digest)
}

// A tag that is refused goes back to what held it, in the repositories that had
// taken the new one too.
func TestRefusedGoesBack(t *testing.T) {
	for _, refusing := range []string{demoRepo, copyRepo} {
		t.Run(refusing, func(t *testing.T) {
			w := newWorld(t)
			w.repos = []string{copyRepo, demoRepo}
			w.refs[oldRef], w.refs[newRef] = commit("a"), commit("b")
			older, err := w.deliver(request(oldRef, 1))
			if err != nil {
				t.Fatal(err)
			}
			w.refuses[at(refusing, "latest")] = -1
			newer, err := w.deliver(request(newRef, 2))
			if err != nil || len(newer.Taken()) != 3 {
				t.Fatalf("got %v, %v; want all but latest", newer.Taken(), err)
			}
			w.shows("latest", older.Root.Digest)
			w.shows("1.2", newer.Root.Digest)
			if rel, _ := w.index.Wanted(demoImage, "latest"); rel.ID != older.ID {
				t.Errorf("the index says %s for latest, want %s", rel.ID, older.ID)
			}
			w.check()

			// The refusal goes away: the request, asked for again, gets its tag.
			w.refuses[at(refusing, "latest")] = 0
			again, err := w.deliver(request(newRef, 3))
			if err != nil || again.ID == newer.ID || len(again.Taken()) != 1 {
				t.Fatalf("asked later: %s with %v, %v", again.ID, again.Taken(), err)
			}
			w.shows("latest", newer.Root.Digest)
			w.check()
		})
	}
}

// With every moving tag refused and no other left, there is nothing to publish.
func TestAllRefused(t *testing.T) {
	w := newWorld(t)
	w.past[commit("b")] = commit("a")
	w.refs[mainRef] = commit("a")
	first, err := w.deliver(request(mainRef, 1))
	if err != nil {
		t.Fatal(err)
	}
	w.refs[mainRef] = commit("b")
	second, err := w.deliver(request(mainRef, 2))
	if err != nil {
		t.Fatal(err)
	}
	w.refs[mainRef] = commit("a") // the branch is reset, and its tag is all there is to do
	w.refuses["main"] = -1
	for range 2 {
		rel, err := w.deliver(request(mainRef, 3))
		if !errors.Is(err, imgd.ErrRefused) || !strings.Contains(err.Error(), "tag main: main is immutable") || rel.ID == first.ID {
			t.Fatalf("got %s, %v; want it refused", rel.ID, err)
		}
	}
	w.shows("main", second.Root.Digest)
	w.check()
}

// One try that the registry refuses for good, after a crash between forgoing the
// last tag and abandoning, ends no other way.
func TestCrashAfterForgoingAll(t *testing.T) {
	w := newWorld(t)
	w.refs[mainRef] = commit("a")
	rel := w.admit(request(mainRef, 1))
	for _, tag := range rel.Tags {
		if _, err := w.index.Forgo(t.Context(), rel.ID, tag.Name, "refused: it is immutable"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.deliver(request(mainRef, 1)); !errors.Is(err, imgd.ErrRefused) || !strings.Contains(err.Error(), "refuses tag main: it is immutable") {
		t.Errorf("got %v, want it refused", err)
	}
	w.check()
}

// A refused request that is asked for later tries again, with the root that it
// has and under the next number.
func TestRefusedAskedLater(t *testing.T) {
	w := newWorld(t)
	w.refs[tagRef] = commit("a")
	w.refuses["v1.2.3"] = -1
	first, err := w.deliver(request(tagRef, 1))
	if !errors.Is(err, imgd.ErrRefused) {
		t.Fatal(err)
	}
	if _, err := w.deliver(request(tagRef, 1)); !errors.Is(err, imgd.ErrRefused) {
		t.Errorf("delivered again it ends as %v", err)
	}
	second, err := w.deliver(request(tagRef, 2))
	if !errors.Is(err, imgd.ErrRefused) || second.ID == first.ID {
		t.Errorf("asked later: %s, %v; want another release refused", second.ID, err)
	}
	w.refuses["v1.2.3"] = 0
	third, err := w.deliver(request(tagRef, 3))
	if err != nil || third.ID != first.Request.ID+"-3" || third.Root.Digest != first.Root.Digest || len(third.Taken()) != 4 {
		t.Errorf("got %s with %v, %v; want the third release of the same root", third.ID, third.Taken(), err)
	}
	if w.made != 1 {
		t.Errorf("%d builds, want 1", w.made)
	}
	w.check()
}

// An ask that comes later than the one whose release is refused has its own
// try.
func TestRefusedToAnEarlierAsk(t *testing.T) {
	w := newWorld(t)
	w.refs[tagRef] = commit("a")
	w.admit(request(tagRef, 1))
	w.refuses["v1.2.3"] = 1
	req := request(tagRef, 2)
	req.Commit = commit("a")
	req.ID = req.Hash()
	if rel, err := w.deliver(req); err != nil || rel.ID != req.ID+"-2" {
		t.Errorf("got %s, %v; want the second release", rel.ID, err)
	}
	w.check()
}

// A registry that refuses to settle back keeps no request: it ends, and the
// other repository is put right.
func TestRefusedToGoBack(t *testing.T) {
	w := newWorld(t)
	w.repos = []string{demoRepo, copyRepo, "registry.test/demo/third"}
	w.refs[tagRef] = commit("a")
	rel := w.admit(request(tagRef, 1))
	for _, repository := range w.repos[:2] {
		w.tags[at(repository, "v1.2.3")] = rel.Root.Digest
		w.refuses[at(w.repos[0], "v1.2.3")] = -1
	}
	w.refuses[at(w.repos[2], "v1.2.3")] = -1
	if _, err := w.deliver(request(tagRef, 1)); !errors.Is(err, imgd.ErrRefused) {
		t.Fatalf("got %v, want it refused", err)
	}
	if w.tags["v1.2.3"] != rel.Root.Digest || w.tags[at(copyRepo, "v1.2.3")] != "" {
		t.Errorf("tags are %v; want the one that cannot be removed, and no other", w.tags)
	}
	w.check()
}

// What one repository refuses the others do not take first, if they come later.
func TestRefusedBeforeOthers(t *testing.T) {
	w := newWorld(t)
	w.repos = []string{demoRepo, copyRepo}
	w.refs[tagRef] = commit("a")
	w.refuses[at(copyRepo, "v1.2.3")] = -1
	if _, err := w.deliver(request(tagRef, 1)); !errors.Is(err, imgd.ErrRefused) {
		t.Fatal(err)
	}
	if w.written["v1.2.3"] {
		t.Error("the other repository had the tag for a while")
	}
}

// A refusal counts only while the tag is claimed: a release that has lost it to
// another meanwhile does not end by what the registry says to that.
func TestRefusedToTheWinner(t *testing.T) {
	w := newWorld(t)
	w.refs[tagRef] = commit("a")
	w.admit(request(tagRef, 1))
	w.refs[tagRef] = commit("b")
	forced := request(tagRef, 2)
	forced.Force, forced.Nonce, forced.Reason = true, "n", "bad release"
	p := w.pipeline()
	p.Tagger = &first{w, func() { w.admit(forced) }}
	w.refuses["v1.2.3"] = -1
	req := request(tagRef, 1)
	req.Commit = commit("a")
	req.ID = req.Hash()
	if rel, err := p.Handle(t.Context(), &req, func(imgd.State) {}); err != nil || len(rel.Taken()) != 3 {
		t.Errorf("got %s with %v, %v; want it published with the rest", rel.State, rel.Taken(), err)
	}
}

// first is a Tagger where something else comes before the first write.
type first struct {
	*world
	do func()
}

func (f *first) Tag(ctx context.Context, repository, tag string, root ocispec.Descriptor) error {
	if f.do != nil {
		f.do()
		f.do = nil
	}
	return f.put(at(repository, tag), root.Digest)
}

// A refusal that comes late does not hide that a tag has been written over
// meanwhile: the index is looked at again.
func TestRefusedLate(t *testing.T) {
	w := newWorld(t)
	w.repos = []string{demoRepo, copyRepo}
	w.refs[oldRef], w.refs[newRef] = commit("a"), commit("b")
	older, err := w.deliver(request(oldRef, 1))
	if err != nil {
		t.Fatal(err)
	}
	p := w.pipeline()
	p.Tagger = &lateRefusal{world: w, then: func() {
		if _, err := w.deliver(request(newRef, 2)); err != nil {
			t.Error(err)
		}
		w.tags[at(copyRepo, "latest")] = older.Root.Digest // the write before comes only now
	}}
	again := older.Request
	again.AskedAt = again.AskedAt.Add(time.Millisecond) // unchanged, so its tags are settled
	if _, err := p.Handle(t.Context(), &again, func(imgd.State) {}); !errors.Is(err, imgd.ErrUnchanged) {
		t.Errorf("got %v, want unchanged", err)
	}
	w.check()
}

// lateRefusal refuses to settle latest in demoRepo, after something else.
type lateRefusal struct {
	*world
	then func()
}

func (l *lateRefusal) Tag(ctx context.Context, repository, tag string, root ocispec.Descriptor) error {
	if then := l.then; then != nil && at(repository, tag) == "latest" {
		l.then = nil
		then()
		return imgd.ErrRefused
	}
	return l.put(at(repository, tag), root.Digest)
}

// A lost root's release comes along abandoned: it is never given up, but built
// again.
func TestLostComesAbandoned(t *testing.T) {
	w := newWorld(t)
	w.refs[tagRef] = commit("a")
	lost := w.admit(request(tagRef, 1))
	delete(w.roots, lost.Root.Digest)
	req := lost.Request
	if rel, err := w.pipeline().Handle(t.Context(), &req, func(imgd.State) {}); rel.State != imgd.ReleaseAbandoned || err == nil || isEnd(err) || !strings.Contains(err.Error(), "built again") {
		t.Errorf("got %+v, %v; want it abandoned, and that it is built again", rel, err)
	}
}

// Of a tag that is as it should be nothing is refused.
func TestRefusedIsThereAlready(t *testing.T) {
	w := newWorld(t)
	w.refs[tagRef] = commit("a")
	rel := w.admit(request(tagRef, 1))
	for _, tag := range rel.Taken() {
		w.tags[tag.Name], w.refuses[tag.Name] = rel.Root.Digest, -1
	}
	if got, err := w.deliver(request(tagRef, 1)); err != nil || len(got.Taken()) != 4 {
		t.Errorf("got %v, %v; want every tag", got.Taken(), err)
	}
}

// What the registry has under a tag may be invalid; the request that meets it
// is not.
func TestInvalidInTheRegistry(t *testing.T) {
	w := newWorld(t)
	w.refs[tagRef] = commit("a")
	rel := w.admit(request(tagRef, 1))
	p := w.pipeline()
	p.Tagger = invalid{w}
	req := request(tagRef, 1)
	got, err := p.Handle(t.Context(), &req, func(imgd.State) {})
	if err == nil || isEnd(err) || got.ID != rel.ID {
		t.Errorf("got %s, %v; want the admitted release and no end", got.ID, err)
	}
}

type invalid struct{ imgd.Tagger }

func (invalid) Tag(context.Context, string, string, ocispec.Descriptor) error {
	return fmt.Errorf("chart: %w", imgd.ErrInvalid)
}
