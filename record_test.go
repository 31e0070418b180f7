package imgd_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/version"
)

const (
	otherImage = "tools/lint" // no project makes it
	otherRepo  = "registry.test/tools/lint"
)

// push is another CI's: the registry has an image of that name under the tag.
func (w *world) push(repository, tag, name string) digest.Digest {
	w.mu.Lock()
	defer w.mu.Unlock()
	root := digest.FromString(name)
	w.roots[root], w.tags[at(repository, tag)] = true, root
	return root
}

// pushList is push of an image of two platforms.
func (w *world) pushList(repository, tag, name string) (root digest.Digest, platforms []ocispec.Descriptor) {
	root = w.push(repository, tag, name)
	for _, arch := range []string{"amd64", "arm64"} {
		platforms = append(platforms, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString(name + arch), Size: 479,
			Platform: &ocispec.Platform{OS: "linux", Architecture: arch}})
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.lists == nil {
		w.lists = map[digest.Digest][]ocispec.Descriptor{}
	}
	w.lists[root] = platforms
	return root, platforms
}

// pushed is what is said of it.
func pushed(tag string, d digest.Digest) imgd.Pushed {
	return imgd.Pushed{Image: otherImage, Tag: tag, Digest: d, Source: "https://git.test/tools/lint@" + commit("a"), Registry: "registry.test", By: "ada"}
}

// recorder is a pipeline whose clock goes on by a second with each look.
func (w *world) recorder() *imgd.Pipeline {
	p := w.pipeline()
	p.Now = func() time.Time {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.seconds++
		return epoch.Add(time.Duration(w.seconds) * time.Second)
	}
	return p
}

// record records what must be taken or known.
func (w *world) record(in imgd.Pushed, wantNew bool) imgd.Release {
	w.t.Helper()
	rel, created, err := w.recorder().Record(w.t.Context(), in)
	if err != nil || created != wantNew || rel.State != imgd.ReleasePublished {
		w.t.Fatalf("record %s: got %q, new %t, %v; want it published, new %t", in.Tag, rel.State, created, err, wantNew)
	}
	return rel
}

// refuses records what must not be taken.
func (w *world) refusesPush(in imgd.Pushed, want error, words ...string) *imgd.MismatchError {
	w.t.Helper()
	seq := w.index.Seq()
	rel, created, err := w.recorder().Record(w.t.Context(), in)
	if !errors.Is(err, want) || rel.ID != "" || created {
		w.t.Fatalf("record %s: got release %q, new %t, %v; want %v", in.Tag, rel.ID, created, err, want)
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			w.t.Errorf("refusal %q does not say %q", err, word)
		}
	}
	if w.index.Seq() != seq {
		w.t.Error("a refusal entered the index")
	}
	var mismatch *imgd.MismatchError
	errors.As(err, &mismatch)
	return mismatch
}

// neverWrote holds that imgd has left the registry alone.
func (w *world) neverWrote() {
	w.t.Helper()
	for _, effect := range []string{"tag", "untag", "build", "resolve", "ask"} {
		if slices.Contains(w.effects, effect) {
			w.t.Errorf("effects %v: there is a %s", w.effects, effect)
		}
	}
}

func TestRecord(t *testing.T) {
	w := newWorld(t)
	d := w.push(otherRepo, "v1.0.0", "one")
	in := pushed("v1.0.0", d)
	in.Source = "https://ci:secret@git.test/tools/lint.git?token=secret@" + commit("a")
	in.Labels, in.TTL = map[string]string{"env": "prod"}, 7*24*time.Hour
	rel := w.record(in, true)
	want := imgd.Record{Image: otherImage, Tag: "v1.0.0", Digest: d, Platform: "linux/amd64", MediaType: ocispec.MediaTypeImageManifest, Size: 479,
		PublishedAt: epoch, SourceRef: "https://git.test/tools/lint@" + commit("a"), Version: "v1.0.0", Labels: in.Labels, Generation: 1,
		Release: rel.ID, ExpiresAt: rel.Request.AskedAt.Add(in.TTL)}
	records, _ := w.index.Records()
	if len(records) != 1 || fmt.Sprint(records[0]) != fmt.Sprint(want) {
		t.Errorf("got %+v\nwant %+v", records, want)
	}
	if len(rel.Request.ID) != 32 || !rel.Pushed || rel.Request.Project != "" || rel.Request.Ref != "" || rel.Request.By != "ada" {
		t.Errorf("got %+v", rel)
	}
	w.neverWrote()

	t.Run("again", func(t *testing.T) {
		if again := w.record(in, false); again.ID != rel.ID {
			t.Errorf("got %s, want %s", again.ID, rel.ID)
		}
	})
	t.Run("again under fresh provenance: the same, and drift is told", func(t *testing.T) {
		around := w.push(otherRepo, "v1.0.0", "index around one")
		w.lists = map[digest.Digest][]ocispec.Descriptor{around: rel.Platforms}
		if again := w.record(in, false); again.ID != rel.ID {
			t.Errorf("got %s, want %s", again.ID, rel.ID)
		}
		want := []imgd.Drift{{Kind: imgd.DriftMoved, Image: otherImage, Repository: otherRepo, Tag: "v1.0.0", Wanted: d, Found: around, Generation: 1}}
		if !slices.Equal(w.drifts, want) {
			t.Errorf("drifts %+v, want %+v", w.drifts, want)
		}
	})
	w.drifts = nil
	second := w.push(otherRepo, "v1.0.0", "two")
	other := pushed("v1.0.0", second)
	t.Run("another image: a conflict, also of the same commit", func(t *testing.T) {
		m := w.refusesPush(other, imgd.ErrConflict, d.String(), second.String(), rel.ID, "force and a reason")
		if m == nil || m.Wanted != second || m.Found != d {
			t.Errorf("got %+v", m)
		}
		if len(w.drifts) != 1 || w.drifts[0].Found != second || w.drifts[0].Wanted != d {
			t.Errorf("drifts %+v", w.drifts)
		}
	})
	t.Run("forced", func(t *testing.T) {
		w.refusesPush(func() imgd.Pushed { f := other; f.Force = true; return f }(), imgd.ErrInvalid, "reason")
		other.Force, other.Reason = true, "the first was wrong"
		forced := w.record(other, true)
		if tag := forced.Taken()[0]; tag.Generation != 2 || tag.Previous != d || forced.Request.Reason == "" {
			t.Errorf("got %+v", tag)
		}
	})
	w.neverWrote()
}

// A list is unwrapped: all its platforms are recorded, whichever digest was
// said.
func TestRecordList(t *testing.T) {
	w := newWorld(t)
	root, platforms := w.pushList(otherRepo, "v1.0.0", "list")
	amd, arm := platforms[0].Digest, platforms[1].Digest
	for _, test := range []struct {
		digest   digest.Digest
		platform string
		want     error
	}{
		{digest.FromString("strange"), "", imgd.ErrDiffers},
		{arm, "linux/amd64", imgd.ErrDiffers},
		{root, "linux/s390x", imgd.ErrDiffers},
		{arm, "linux", imgd.ErrInvalid},
		{root, "", nil}, {amd, "", nil}, {arm, "linux/arm64/v8", nil}, {root, "linux/x86_64", nil},
	} {
		in := pushed("v1.0.0", test.digest)
		in.Platform = test.platform
		if test.want == nil {
			rel, _, err := w.recorder().Record(t.Context(), in)
			if err != nil || rel.Root.Digest != root || len(rel.Records()) != 2 || rel.Records()[1].IndexDigest != root {
				t.Errorf("%s of %q: got %+v, %v", test.digest, test.platform, rel.Records(), err)
			}
			continue
		}
		m := w.refusesPush(in, test.want)
		if errors.Is(test.want, imgd.ErrDiffers) && (m == nil || m.Wanted != test.digest || m.Found != root) {
			t.Errorf("%s: got %+v, want it and %s", test.digest, m, root)
		}
	}
	if n := len(w.index.Published(0)); n != 1 {
		t.Errorf("%d releases, want 1", n)
	}
}

// What the registry does not have, or has in one place only, is not recorded.
func TestRecordNotThere(t *testing.T) {
	w := newWorld(t)
	w.repos = []string{demoRepo, copyRepo}
	d := w.push(demoRepo, "v9.0.0", "nine")
	in := pushed("v9.0.0", d)
	in.Image = demoImage
	w.refusesPush(in, imgd.ErrNotFound, copyRepo, "push it first")
	other := w.push(copyRepo, "v9.0.0", "another nine")
	if m := w.refusesPush(in, imgd.ErrDiffers, copyRepo, other.String(), d.String()); m == nil || m.Found != other {
		t.Errorf("got %+v", m)
	}
	w.push(copyRepo, "v9.0.0", "nine")
	if rel := w.record(in, true); !slices.Equal(rel.Repositories, []string{copyRepo, demoRepo}) {
		t.Errorf("repositories %q", rel.Repositories)
	}
	w.neverWrote()
}

// Which repositories hold the image: config, earlier releases and what is said,
// in this order.
func TestRecordWhere(t *testing.T) {
	w := newWorld(t)
	d := w.push(otherRepo, "v1.0.0", "one")
	nowhere := pushed("v1.0.0", d)
	nowhere.Registry = ""
	w.refusesPush(nowhere, imgd.ErrInvalid, "--registry", "--no-verify")
	strange := pushed("v1.0.0", d)
	strange.Image, strange.Registry = demoImage, "other.test:5000"
	w.refusesPush(strange, imgd.ErrInvalid, "other.test:5000", demoRepo)

	p := w.recorder()
	p.Registry = "registry.test" // the daemon's own
	if rel, _, err := p.Record(t.Context(), nowhere); err != nil || rel.Repositories[0] != otherRepo {
		t.Fatalf("got %q, %v", rel.Repositories, err)
	}
	p.Registry = "other.test"
	nowhere.Tag, nowhere.Digest = "v1.1.0", w.push(otherRepo, "v1.1.0", "two")
	if rel, _, err := p.Record(t.Context(), nowhere); err != nil || rel.Repositories[0] != otherRepo {
		t.Errorf("got %q, %v; want where it was", rel.Repositories, err)
	}
	strange = pushed("v1.2.0", d)
	strange.Registry = "other.test:5000"
	w.refusesPush(strange, imgd.ErrInvalid, "other.test:5000", otherRepo)
}

func TestRecordRefusesInput(t *testing.T) {
	w := newWorld(t)
	d := w.push(otherRepo, "v1.0.0", "one")
	for name, spoil := range map[string]func(*imgd.Pushed){
		"image":       func(in *imgd.Pushed) { in.Image = "tools/Lint" },
		"no image":    func(in *imgd.Pushed) { in.Image = "" },
		"tag":         func(in *imgd.Pushed) { in.Tag = "-v1" },
		"digest":      func(in *imgd.Pushed) { in.Digest = "sha256:12" },
		"algorithm":   func(in *imgd.Pushed) { in.Digest = digest.Digest("sha512:" + strings.Repeat("a", 128)) },
		"short":       func(in *imgd.Pushed) { in.Source = "https://git.test/x@abc" },
		"no commit":   func(in *imgd.Pushed) { in.Source = "https://git.test/x" },
		"no URL":      func(in *imgd.Pushed) { in.Source = "x@" + commit("a") },
		"bare user":   func(in *imgd.Pushed) { in.Source = "ci:secret@git.test/x@" + commit("a") },
		"opaque":      func(in *imgd.Pushed) { in.Source = "https:ci:secret@git.test/x@" + commit("a") },
		"platform":    func(in *imgd.Pushed) { in.Platform = "a/b/c/d" },
		"registry":    func(in *imgd.Pushed) { in.Registry = "https://registry.test" },
		"its path":    func(in *imgd.Pushed) { in.Registry = "registry.test/tools" },
		"TTL":         func(in *imgd.Pushed) { in.TTL = -time.Second },
		"empty label": func(in *imgd.Pushed) { in.Labels = map[string]string{"": "x"} },
	} {
		t.Run(name, func(t *testing.T) {
			in := pushed("v1.0.0", d)
			spoil(&in)
			w.refusesPush(in, imgd.ErrInvalid)
			if _, _, err := w.recorder().Record(t.Context(), in); strings.Contains(err.Error(), "secret") {
				t.Errorf("it tells a secret: %v", err)
			}
		})
	}
	in := pushed("v1.0.0", d)
	in.Source = "git@git.test:tools/lint.git@" + commit("b")
	if rel := w.record(in, true); rel.Source != "git@git.test:tools/lint" || rel.Request.Commit != commit("b") {
		t.Errorf("got %s@%s", rel.Source, rel.Request.Commit)
	}
}

func TestRecordUnverified(t *testing.T) {
	w := newWorld(t)
	in := pushed("build-7", digest.FromString("unseen"))
	in.Registry, in.NoVerify, in.Platform = "", true, "linux/arm64"
	rel := w.record(in, true)
	if slices.Contains(w.effects, "read") || slices.Contains(w.effects, "capture") {
		t.Errorf("effects %v: the registry was asked", w.effects)
	}
	if rec := rel.Records()[0]; rec.Platform != "linux/arm64" || rec.MediaType != "" || rec.Size != 0 || rec.Version != "" || len(rel.Repositories) != 0 {
		t.Errorf("got %+v in %q", rec, rel.Repositories)
	}
	w.record(in, false)
	in.Digest = digest.FromString("another")
	w.refusesPush(in, imgd.ErrConflict)
	root, platforms := w.pushList(otherRepo, "v2.0.0", "list")
	w.record(pushed("v2.0.0", root), true)
	known := pushed("v2.0.0", platforms[1].Digest)
	known.NoVerify = true
	w.record(known, false) // it is one of those that were read
	w.neverWrote()
	if len(w.drifts) > 0 {
		t.Errorf("drifts %+v", w.drifts)
	}
}

// A moving tag names what the registry has at the moment.
func TestRecordMoving(t *testing.T) {
	w := newWorld(t)
	moving := func(name string) imgd.Pushed {
		in := pushed("stable", w.push(otherRepo, "stable", name))
		in.Moving = true
		return in
	}
	first := w.record(moving("one"), true)
	w.record(moving("one"), false)
	second := w.record(moving("two"), true)
	back := w.record(moving("one"), true) // rolled back there
	if tag := back.Taken()[0]; tag.Generation != 3 || tag.Previous != second.Root.Digest || tag.Kind != version.KindOther || back.Root.Digest != first.Root.Digest {
		t.Errorf("got %+v", tag)
	}
	fixed := pushed("stable", first.Root.Digest)
	w.refusesPush(fixed, imgd.ErrConflict, "kind other")
	w.record(pushed("v1.0.0", w.push(otherRepo, "v1.0.0", "one")), true)
	in := pushed("v1.0.0", first.Root.Digest)
	in.Moving = true
	w.refusesPush(in, imgd.ErrConflict, "kind version")
	w.neverWrote()
}

// What imgd itself has built keeps its tags, and gets what another CI has pushed
// only by force.
func TestRecordBesideBuilds(t *testing.T) {
	w := newWorld(t)
	w.refs[tagRef] = commit("a")
	built, err := w.deliver(request(tagRef, 1))
	if err != nil {
		t.Fatal(err)
	}
	there := func(tag, name string) imgd.Pushed {
		in := pushed(tag, w.push(demoRepo, tag, name))
		in.Image = demoImage
		return in
	}
	t.Run("its version tag", func(t *testing.T) {
		same := pushed("v1.2.3", built.Root.Digest)
		same.Image = demoImage
		if rel := w.record(same, false); rel.ID != built.ID {
			t.Errorf("got %s", rel.ID)
		}
		w.refusesPush(there("v1.2.3", "strange"), imgd.ErrConflict, built.ID)
		w.shows("v1.2.3", digest.FromString("strange")) // the registry is left alone
	})
	t.Run("its series", func(t *testing.T) {
		in := there("latest", "strange")
		in.Moving = true
		w.refusesPush(in, imgd.ErrConflict, "kind series")
	})
	if len(w.drifts) != 2 {
		t.Errorf("drifts %+v, want two", w.drifts)
	}
	t.Run("a build of a tag that was pushed", func(t *testing.T) {
		w.record(there("v2.0.0", "pushed"), true)
		w.refs["refs/tags/v2.0.0"] = commit("b")
		if _, err := w.deliver(request("refs/tags/v2.0.0", 2)); !errors.Is(err, imgd.ErrConflict) || !strings.Contains(err.Error(), "pushed by another CI") {
			t.Errorf("got %v, want a conflict", err)
		}
		req := request("refs/tags/v2.0.0", 3)
		req.Force, req.Nonce, req.Reason = true, "n", "we build it now"
		rel, err := w.deliver(req)
		if err != nil {
			t.Fatal(err)
		}
		w.shows("v2.0.0", rel.Root.Digest)
	})
}

// Each effect of Record fails, fails but took effect, dies before and after:
// then the same command ends well, or the sweep does.
func TestRecordFaults(t *testing.T) {
	for _, effect := range []string{"read", "capture", "admit", "publish"} {
		for _, mode := range []string{"fails", "fails but took effect", "interrupted before", "interrupted after", "repeated"} {
			for _, how := range []string{"command again", "sweep"} {
				t.Run(effect+" "+mode+", "+how, func(t *testing.T) {
					w := newWorld(t)
					in := pushed("v1.0.0", w.push(otherRepo, "v1.0.0", "one"))
					w.fault = fault{effect, mode, 1}
					if effect == "publish" && mode == "repeated" {
						w.fault.left = 0 // the index has its own test
					}
					w.recordOnce(in)
					if how == "sweep" && len(w.index.Open()) > 0 {
						if err := w.pipeline().DriveOpen(t.Context(), epoch.Add(time.Hour), 0); err != nil {
							t.Fatal(err)
						}
					} else if _, _, err := w.recorder().Record(t.Context(), in); err != nil {
						t.Fatal(err)
					}
					published := w.index.Published(0)
					if len(published) != 1 || len(w.index.Open()) != 0 {
						t.Errorf("%d releases published, %d open, want one and none", len(published), len(w.index.Open()))
					}
					w.record(in, false)
					w.neverWrote()
				})
			}
		}
	}
}

// recordOnce is one command, whose process may die of it.
func (w *world) recordOnce(in imgd.Pushed) {
	w.t.Helper()
	ctx, die := context.WithCancel(w.t.Context())
	defer die()
	w.die = die
	rel, _, err := w.recorder().Record(ctx, in)
	if err == nil && rel.State != imgd.ReleasePublished {
		w.t.Errorf("no error comes with %q", rel.State)
	}
	if ctx.Err() != nil {
		w.index.Close()
		w.open()
	}
}
