package imgd_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgd/imgd"
)

const (
	mainRef = "refs/heads/main"
	tagRef  = "refs/tags/v1.2.3"
)

// Whatever befalls whichever effect, the request ends in exactly one published
// release, whose tags the registry has. The world checks the order of effects.
func TestFaults(t *testing.T) {
	for _, ahead := range []bool{false, true} {
		t.Run(fmt.Sprintf("ahead %v", ahead), func(t *testing.T) { faults(t, ahead) })
	}
}

func faults(t *testing.T, ahead bool) {
	effects := []string{"resolve", "build", "capture", "admit", "tag", "publish"}
	modes := []string{"fails", "fails but took effect", "interrupted before", "interrupted after", "repeated"}
	for _, effect := range effects {
		for _, mode := range modes {
			for _, times := range []int{1, 2, 3} {
				t.Run(strings.Join([]string{effect, mode, string(rune('0' + times))}, "/"), func(t *testing.T) {
					w := newWorld(t)
					w.peeks = ahead
					w.refs[tagRef] = commit("a")
					w.fault = fault{effect, mode, times}
					rel, err := w.deliver(w.named(tagRef, 1))
					if err != nil || rel.State != imgd.ReleasePublished {
						t.Fatalf("got %s, %v; effects %v", rel.State, err, w.effects)
					}
					if w.fault.left == times {
						t.Fatalf("the fault was not met; effects %v", w.effects)
					}
					w.check()
					if n := len(w.index.Published(0)); n != 1 {
						t.Errorf("%d releases, want 1", n)
					}
					if got := len(rel.Taken()); got != 4 {
						t.Errorf("%d tags taken, want 4: %s", got, rel.Reasons())
					}
				})
			}
		}
	}
}

// The same for giving a release up whose root the registry lost.
func TestFaultsAfterLoss(t *testing.T) {
	for _, effect := range []string{"capture", "abandon", "untag", "ask"} {
		for _, mode := range []string{"fails", "fails but took effect", "interrupted before", "interrupted after", "repeated"} {
			for _, times := range []int{1, 2, 3} {
				t.Run(fmt.Sprint(effect, "/", mode, "/", times), func(t *testing.T) {
					w := newWorld(t)
					w.refs["refs/tags/v1.0.0"], w.refs["refs/tags/v1.0.1"] = commit("a"), commit("b")
					older := w.admit(request("refs/tags/v1.0.0", 1))
					newer := w.admit(request("refs/tags/v1.0.1", 2)) // makes the older one's claim on latest lapse
					if rel, err := w.pipeline().Drive(t.Context(), older); err != nil || len(rel.Taken()) != 1 {
						t.Fatalf("got %v, %v; want only v1.0.0", rel.Taken(), err)
					}
					delete(w.roots, newer.Root.Digest)
					w.fault = fault{effect, mode, times}
					rel, err := w.deliver(request("refs/tags/v1.0.1", 2))
					if w.fault.left == times {
						t.Fatalf("the fault was not met; effects %v", w.effects)
					}
					if err != nil || rel.ID == newer.ID || rel.State != imgd.ReleasePublished {
						t.Fatalf("got %s %s, %v; want a second release", rel.ID, rel.State, err)
					}
					w.check()
					if len(w.asked) == 0 || w.asked[0].Ref != "refs/tags/v1.0.0" {
						t.Errorf("the request whose claim had lapsed was not asked anew: %v", w.asked)
					}
				})
			}
		}
	}
}

// admit takes req as far as admission, as if the process died then.
func (w *world) admit(req imgd.Request) imgd.Release {
	w.t.Helper()
	w.fault = fault{"tag", "fails", 1}
	if rel, err := w.pipeline().Handle(w.t.Context(), &req, func(imgd.State) {}); !errors.Is(err, errInjected) {
		w.t.Fatalf("got %s, %v", rel.ID, err)
	}
	rel, ok := w.index.Newest(req.ID)
	if !ok || rel.State != imgd.ReleaseAdmitted {
		w.t.Fatalf("got %s, want an admitted release", rel.State)
	}
	return rel
}

func TestKnown(t *testing.T) {
	w := newWorld(t)
	w.refs[mainRef], w.past[commit("b")] = commit("b"), commit("a")
	first, err := w.deliver(request(mainRef, 1))
	if err != nil {
		t.Fatal(err)
	}
	builds := w.made

	t.Run("redelivered", func(t *testing.T) {
		rel, err := w.deliver(request(mainRef, 1))
		if err != nil || rel.ID != first.ID {
			t.Errorf("got %s, %v; want %s", rel.ID, err, first.ID)
		}
	})
	t.Run("asked later", func(t *testing.T) {
		if _, err := w.deliver(request(mainRef, 2)); !errors.Is(err, imgd.ErrUnchanged) {
			t.Errorf("got %v, want unchanged", err)
		}
	})
	t.Run("branch reset and forth", func(t *testing.T) {
		old := request(mainRef, 1)
		old.Commit = commit("a")
		older, err := w.deliver(old)
		if err != nil || w.tags["main"] != first.Root.Digest {
			t.Fatalf("the older commit took main: %v", err)
		}
		built := w.made
		w.refs[mainRef], w.said = commit("a"), "v9.9.9"
		reset, err := w.deliver(request(mainRef, 5))
		if err != nil || w.tags["main"] != older.Root.Digest || reset.ID == older.ID {
			t.Fatalf("after the reset main is %s, %v", w.tags["main"], err)
		}
		if reset.Request.Version != older.Request.Version {
			t.Errorf("the record says version %s, the image has %s", reset.Request.Version, older.Request.Version)
		}
		w.refs[mainRef] = commit("b")
		if _, err := w.deliver(request(mainRef, 6)); err != nil || w.tags["main"] != first.Root.Digest {
			t.Fatalf("and forth again: main is %s, %v", w.tags["main"], err)
		}
		if w.made != built {
			t.Errorf("%d builds for what was built already", w.made-built)
		}
		w.check()
	})
	t.Run("root gone", func(t *testing.T) {
		delete(w.roots, first.Root.Digest)
		delete(w.tags, "main")
		w.refs[mainRef] = commit("a")
		if _, err := w.deliver(request(mainRef, 7)); err != nil {
			t.Fatal(err)
		}
		w.refs[mainRef] = commit("b")
		rel, err := w.deliver(request(mainRef, 8))
		if err != nil || w.made <= builds || w.tags["main"] != rel.Root.Digest || rel.Root.Digest == first.Root.Digest {
			t.Fatalf("main is %s, %v; want a new build", w.tags["main"], err)
		}
		w.check()
	})
}

func TestConflict(t *testing.T) {
	w := newWorld(t)
	w.refs[tagRef] = commit("a")
	first, err := w.deliver(request(tagRef, 1))
	if err != nil {
		t.Fatal(err)
	}
	w.refs[tagRef] = commit("b")
	if _, err := w.deliver(request(tagRef, 2)); !errors.Is(err, imgd.ErrConflict) {
		t.Fatalf("got %v, want a conflict", err)
	}
	if w.tags["v1.2.3"] != first.Root.Digest {
		t.Errorf("the registry says %s, want %s", w.tags["v1.2.3"], first.Root.Digest)
	}
	w.check()
}

// A run that fails while another run of the same request has made a release
// answers with that.
func TestOvertaken(t *testing.T) {
	w := newWorld(t)
	w.refs[tagRef] = commit("a")
	slow := w.pipeline()
	slow.Builder = failing{func() {
		if _, err := w.deliver(request(tagRef, 1)); err != nil {
			t.Error(err)
		}
	}}
	req := request(tagRef, 1)
	rel, err := slow.Handle(t.Context(), &req, func(imgd.State) {})
	if err != nil || rel.State != imgd.ReleasePublished {
		t.Errorf("got %s, %v; want the other run's release", rel.State, err)
	}
	w.check()
}

// So does one that may not begin any more.
func TestOvertakenBeforeItBegan(t *testing.T) {
	w := newWorld(t)
	w.refs[tagRef] = commit("a")
	req := request(tagRef, 1)
	req.Commit = commit("a")
	req.ID = req.Hash()
	slow := w.pipeline()
	slow.Git = gone{first: func() { w.admit(request(tagRef, 1)) }}
	rel, err := slow.Handle(t.Context(), &req, func(imgd.State) {})
	if err != nil || rel.State != imgd.ReleasePublished {
		t.Errorf("got %s, %v; want the other run's release published", rel.State, err)
	}
	w.check()
}

// gone is a ref that names the commit no more after something else has happened.
type gone struct {
	imgd.Git
	first func()
}

func (g gone) Resolve(context.Context, string, string, string) (imgd.Commit, error) {
	g.first()
	return imgd.Commit{}, imgd.ErrSuperseded
}

// failing is a Dockerfile that fails after something else has happened.
type failing struct{ first func() }

func (f failing) Build(context.Context, imgd.Project, imgd.Request) (ocispec.Descriptor, error) {
	f.first()
	return ocispec.Descriptor{}, &imgd.BuildError{Message: "exit 1"}
}

func TestBranchAndTagOfOneCommit(t *testing.T) {
	w := newWorld(t)
	w.refs[mainRef], w.refs[tagRef] = commit("a"), commit("a")
	branch, err := w.deliver(request(mainRef, 1))
	if err != nil {
		t.Fatal(err)
	}
	tag, err := w.deliver(request(tagRef, 2))
	if err != nil || tag.Request.ID == branch.Request.ID {
		t.Fatalf("got %s and %s, %v; want two releases", branch.ID, tag.ID, err)
	}
	w.check()
}

func TestRefused(t *testing.T) {
	w := newWorld(t)
	w.refs["refs/heads/main"] = commit("a")
	for _, tt := range []struct {
		name string
		req  imgd.Request
		want error
	}{
		{"no such project", imgd.Request{Project: "other", Ref: mainRef}, imgd.ErrInvalid},
		{"ref not allowed", imgd.Request{Project: "hello", Ref: "refs/pull/1/head"}, imgd.ErrInvalid},
		{"ref is gone", imgd.Request{Project: "hello", Ref: "refs/heads/gone", Commit: commit("a")}, imgd.ErrSuperseded},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := w.deliver(tt.req); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if len(w.tags) != 0 || w.made != 0 {
				t.Error("it was built all the same")
			}
		})
	}
}

// An admitted release is driven to its end although its request cannot be
// resolved any more, and although nobody handles it.
func TestAdmittedIsDriven(t *testing.T) {
	for _, way := range []string{"redelivered", "swept"} {
		t.Run(way, func(t *testing.T) {
			w := newWorld(t)
			w.refs[tagRef] = commit("a")
			rel := w.admit(request(tagRef, 1))
			delete(w.refs, tagRef)
			if way == "swept" {
				if err := w.pipeline().DriveOpen(t.Context(), epoch.Add(1), 0); err != nil {
					t.Fatal(err)
				}
			} else {
				req := request(tagRef, 1)
				req.Commit = commit("a")
				req.ID = req.Hash()
				if _, err := w.deliver(req); err != nil {
					t.Fatal(err)
				}
			}
			if got, _ := w.index.Release(rel.ID); got.State != imgd.ReleasePublished {
				t.Errorf("got %s, want published", got.State)
			}
			w.check()
		})
	}
}

// An ask that comes later is not answered by the admitted release of an earlier
// one, which may have lost its tag meanwhile.
func TestAskedAgainWhileAdmitted(t *testing.T) {
	w := newWorld(t)
	w.past[commit("b")] = commit("a")
	w.refs[mainRef] = commit("a")
	w.admit(request(mainRef, 1)) // and the registry is down
	w.refs[mainRef] = commit("b")
	if _, err := w.deliver(request(mainRef, 2)); err != nil {
		t.Fatal(err)
	}
	w.refs[mainRef] = commit("a") // the branch is reset
	rel, err := w.deliver(request(mainRef, 3))
	if err != nil || w.tags["main"] != rel.Root.Digest || rel.Request.Commit != commit("a") {
		t.Errorf("main is %s, %v; want the root of the commit it was reset to", w.tags["main"], err)
	}
	w.check()
}

// What abandoning asks anew for gets its tag, even while its own release is
// still admitted.
func TestAskedAnewWhileAdmitted(t *testing.T) {
	w := newWorld(t)
	w.refs["refs/tags/v1.0.0"], w.refs["refs/tags/v1.0.1"] = commit("a"), commit("b")
	w.admit(request("refs/tags/v1.0.0", 1))
	newer := w.admit(request("refs/tags/v1.0.1", 2))
	delete(w.roots, newer.Root.Digest)
	if _, err := w.pipeline().Drive(t.Context(), newer); err == nil || len(w.asked) != 1 {
		t.Fatalf("got %v and asked %v, want a lost root and one ask", err, w.asked)
	}
	again := w.asked[0]
	again.AskedAt = epoch.Add(time.Minute)
	rel, err := w.deliver(again)
	if err != nil || w.tags["latest"] != rel.Root.Digest {
		t.Errorf("latest is %q, %v; want %s", w.tags["latest"], err, rel.Root.Digest)
	}
	w.check()
}

// Asked again after the registry was wiped, an image comes back.
func TestRegistryWiped(t *testing.T) {
	for _, ref := range []string{mainRef, tagRef} {
		for _, reproducible := range []bool{false, true} {
			t.Run(fmt.Sprint(ref, "/", reproducible), func(t *testing.T) {
				w := newWorld(t)
				w.refs[ref], w.reproducible = commit("a"), reproducible
				first, err := w.deliver(request(ref, 1))
				if err != nil {
					t.Fatal(err)
				}
				clear(w.roots)
				clear(w.tags)
				if _, err := w.deliver(request(ref, 2)); err != nil && !errors.Is(err, imgd.ErrUnchanged) {
					t.Fatal(err)
				}
				for _, tag := range first.Taken() {
					if w.tags[tag.Name] == "" {
						t.Errorf("%s is not back", tag.Name)
					}
				}
				w.check()
			})
		}
	}
}

// A write that the client gave up on and that comes late is put right by the
// release that made it.
func TestLateWrite(t *testing.T) {
	w := newWorld(t)
	w.refs["refs/tags/v1.0.0"], w.refs["refs/tags/v1.0.1"] = commit("a"), commit("b")
	older := w.admit(request("refs/tags/v1.0.0", 1))
	newer, err := w.deliver(request("refs/tags/v1.0.1", 2))
	if err != nil {
		t.Fatal(err)
	}
	w.tags["latest"] = older.Root.Digest
	if _, err := w.deliver(request("refs/tags/v1.0.0", 1)); err != nil {
		t.Fatal(err)
	}
	if w.tags["latest"] != newer.Root.Digest {
		t.Errorf("latest is %s, want %s", w.tags["latest"], newer.Root.Digest)
	}
	w.check()
}

// A registry that does not delete tags does not keep a lost root from being
// built again.
func TestLostWithoutDelete(t *testing.T) {
	w := newWorld(t)
	w.refs[tagRef] = commit("a")
	lost := w.admit(request(tagRef, 1))
	w.tags["v1.2.3"] = lost.Root.Digest
	delete(w.roots, lost.Root.Digest)
	w.fault = fault{"untag", "fails", 100}
	rel, err := w.deliver(request(tagRef, 1))
	if err != nil || rel.ID == lost.ID {
		t.Fatalf("got %s, %v; want a second release", rel.ID, err)
	}
	w.check()
}

// A release whose project was taken out of the config is not published
// without its tags.
func TestProjectGone(t *testing.T) {
	w := newWorld(t)
	w.refs[tagRef] = commit("a")
	rel := w.admit(request(tagRef, 1))
	p := w.pipeline()
	p.Projects.Set(nil)
	if _, err := p.Drive(t.Context(), rel); err == nil {
		t.Error("got no error")
	}
	if got, _ := w.index.Release(rel.ID); got.State != imgd.ReleaseAdmitted {
		t.Errorf("got %s, want admitted", got.State)
	}
}

func TestHash(t *testing.T) {
	req := imgd.Request{Project: "hello", Ref: mainRef, Commit: commit("a"), Platforms: []string{"linux/arm64", "linux/amd64"}, Args: map[string]string{"B": "2", "A": "1"}}
	same := req
	same.Platforms = []string{"linux/amd64", "linux/arm64"}
	same.Version, same.By, same.Reason = "v1", "alice", "why"
	if req.Hash() != same.Hash() || len(req.Hash()) != 32 {
		t.Errorf("got %s and %s, want the same 32 digits", req.Hash(), same.Hash())
	}
	// sha256 of ["hello","refs/heads/main","aaaa…",["linux/amd64","linux/arm64"],{"A":"1","B":"2"},"",""], first 32 digits.
	want := digest.FromString(`["hello","refs/heads/main","` + commit("a") + `",["linux/amd64","linux/arm64"],{"A":"1","B":"2"},"",""]`).Encoded()[:32]
	if req.Hash() != want {
		t.Errorf("got %s, want %s", req.Hash(), want)
	}
	req.Nonce = "1"
	if req.Hash() == want {
		t.Error("the nonce makes no other request")
	}
}

func TestAllows(t *testing.T) {
	p := imgd.Project{Refs: []string{"refs/heads/*", "refs/tags/v*.0"}}
	for ref, want := range map[string]bool{
		"refs/heads/main": true, "refs/heads/feature/x": true, "refs/tags/v1.0": true, "refs/tags/v1.1": false,
		"refs/pull/1/head": false, "xrefs/heads/main": false, "refs/tags/v1.0.0": true,
	} {
		if got := p.Allows(ref); got != want {
			t.Errorf("%s: got %t, want %t", ref, got, want)
		}
	}
}

func TestSource(t *testing.T) {
	for git, want := range map[string]string{
		"https://user:secret@git.test/a/b.git": "https://git.test/a/b",
		"http://127.0.0.1:8080/hello.git":      "http://127.0.0.1:8080/hello",
		"https://git.test/a/b":                 "https://git.test/a/b",
	} {
		if got := (imgd.Project{Git: git}).Source(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// A request that is asked again from its state is the same, whole.
func TestAgain(t *testing.T) {
	req := imgd.Request{ID: "1", Project: "hello", Ref: "refs/pull/7/head", Commit: commit("a"), By: "ann", Reason: "why", Force: true, Rebuild: true,
		Nonce: "n", Args: map[string]string{"A": "b"}, Target: "x", Platforms: []string{"linux/amd64"}, Base: "main"}
	if got := imgd.StatusOf(req, imgd.Failed).Again(); !reflect.DeepEqual(got, req) {
		t.Errorf("got %+v, want %+v", got, req)
	}
}
