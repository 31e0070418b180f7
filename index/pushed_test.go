package index_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/index"
	"github.com/imgd/imgd/version"
)

// pushed is what another CI has pushed under a tag for commit c, one platform
// for each of the names, recorded at second at.
func pushed(tag string, kind version.Kind, c string, at int, names ...string) imgd.Release {
	root := digest.FromString(strings.Join(names, "+"))
	return imgd.Release{
		Image: image, Repositories: []string{repo}, Source: "https://git.test/hello", Pushed: true,
		Request: imgd.Request{ID: digest.FromString(fmt.Sprint(tag, c, root, kind, at)).Encoded()[:32], Commit: commit(c), AskedAt: epoch.Add(time.Duration(at) * time.Second)},
		Root:    ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: root, Size: 479}, Platforms: platforms(names...),
		Tags: []imgd.ReleaseTag{{Name: tag, Kind: kind}},
	}
}

func TestPushedVersion(t *testing.T) {
	w := newWorld()
	w.broken = errors.New("the registry must not be asked")
	x := open(t, t.TempDir(), w)
	first := pushed("v1.0.0", version.KindVersion, "a", 1, "A")
	claimed, err := x.Admit(t.Context(), first, "")
	if err != nil {
		t.Fatal(err)
	}
	again := pushed("v1.0.0", version.KindVersion, "b", 2, "A")
	refused(t, x, again, imgd.ErrUnchanged, claimed.ID) // a claim counts like a hold
	if _, err := x.Publish(t.Context(), claimed.ID); err != nil {
		t.Fatal(err)
	}
	refused(t, x, again, imgd.ErrUnchanged, claimed.ID)
	fresh := pushed("v1.0.0", version.KindVersion, "b", 3, "A")
	fresh.Root.Digest = digest.FromString("index around A")
	refused(t, x, fresh, imgd.ErrUnchanged)
	for _, c := range []string{"a", "b"} {
		refused(t, x, pushed("v1.0.0", version.KindVersion, c, 4, "B"), imgd.ErrConflict,
			digest.FromString("A").String(), digest.FromString("B").String(), claimed.ID, "pushed by another CI")
	}
	refused(t, x, pushed("v1.0.0", version.KindOther, "b", 5, "A"), imgd.ErrConflict, "kind version")
	forced := pushed("v1.0.0", version.KindVersion, "b", 6, "B")
	forced.Request.Force, forced.Request.Reason = true, "the first was wrong"
	if tag := publish(t, x, forced).Taken()[0]; tag.Generation != 2 || tag.Previous != first.Root.Digest {
		t.Errorf("got %+v", tag)
	}
	if got := x.Generation(image, "v1.0.0"); got != 2 {
		t.Errorf("generation %d, want 2", got)
	}
}

// What nobody has read is known by one digest.
func TestPushedUnread(t *testing.T) {
	w := newWorld()
	x := open(t, t.TempDir(), w)
	list := publish(t, x, pushed("v1.0.0", version.KindVersion, "a", 1, "A", "B"))
	for _, d := range []digest.Digest{list.Root.Digest, digest.FromString("A"), digest.FromString("B")} {
		unread := pushed("v1.0.0", version.KindVersion, "a", 2, "A")
		unread.Root, unread.Platforms[0].Digest, unread.Platforms[0].MediaType = ocispec.Descriptor{Digest: d}, d, ""
		refused(t, x, unread, imgd.ErrUnchanged)
	}
	unread := pushed("v1.0.0", version.KindVersion, "a", 2, "C")
	unread.Root.MediaType = ""
	refused(t, x, unread, imgd.ErrConflict)
}

// Whoever reads later what nobody had read finds the same image by that digest,
// whatever was said of its platform; a build keeps the root that it made.
func TestPushedUnreadIsRead(t *testing.T) {
	for _, d := range []string{"A+B", "A", "B"} {
		w := newWorld()
		x := open(t, t.TempDir(), w)
		unread := pushed("v1.2.3", version.KindVersion, "a", 1, "A")
		unread.Root, unread.Platforms[0].Digest, unread.Platforms[0].MediaType = ocispec.Descriptor{Digest: digest.FromString(d)}, digest.FromString(d), ""
		held := publish(t, x, unread)
		refused(t, x, pushed("v1.2.3", version.KindVersion, "a", 2, "A", "B"), imgd.ErrUnchanged, held.ID)
		refused(t, x, pushed("v1.2.3", version.KindVersion, "a", 3, "C"), imgd.ErrConflict, held.ID)
		build := w.candidate("refs/tags/v1.2.3", "b", "A", 4)
		build.Root, build.Platforms = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromString("A+B"), Size: 900}, platforms("A", "B")
		w.roots[unread.Root.Digest] = []string{"A"}
		if built := publish(t, x, build); built.Root.Digest != build.Root.Digest || !built.Read() {
			t.Errorf("unread %s: the build's root is %+v", d, built.Root)
		}
	}
}

// A moving tag is taken as it is now: rule 5 is not asked, other claims lapse,
// and the mark is never lowered.
func TestPushedMoving(t *testing.T) {
	w := newWorld()
	dir := t.TempDir()
	x := open(t, dir, w)
	moving := func(name string, at int) imgd.Release { return pushed("stable", version.KindOther, "a", at, name) }
	publish(t, x, moving("A", 5))
	refused(t, x, moving("A", 6), imgd.ErrUnchanged)
	publish(t, x, moving("B", 3)) // by a clock that went back
	if mark := images(t, dir); !strings.Contains(mark, `"tag":"stable","kind":"other","generation":2,"mark":{"commit":"`+commit("a")+`","askedAt":"2026-11-21T10:00:05Z"}`) {
		t.Errorf("the mark was lowered: %s", mark)
	}
	claimed, err := x.Admit(t.Context(), moving("C", 7), "")
	if err != nil {
		t.Fatal(err)
	}
	over, err := x.Admit(t.Context(), moving("D", 8), "")
	if err != nil || !slices.Equal(over.Lapsed, []string{claimed.ID}) {
		t.Fatalf("lapsed %q, %v; want %s", over.Lapsed, err, claimed.ID)
	}
	if _, err := x.Publish(t.Context(), claimed.ID); !errors.Is(err, imgd.ErrSuperseded) {
		t.Errorf("the lapsed one: got %v", err)
	}
	if _, err := x.Publish(t.Context(), over.ID); err != nil {
		t.Error(err)
	}
	refused(t, x, pushed("stable", version.KindVersion, "a", 9, "D"), imgd.ErrConflict, "kind other")
}

// What another CI has pushed is not imgd's: not to be removed, and not to be
// taken for its own under a tag that nobody holds.
func TestPushedIsNotMade(t *testing.T) {
	w := newWorld()
	dir := t.TempDir()
	x := open(t, dir, w)
	theirs := publish(t, x, pushed("stable", version.KindOther, "a", 1, "A"))
	w.tags["v1.2.3"], w.roots[theirs.Root.Digest] = theirs.Root.Digest, []string{"A"}
	build := w.candidate("refs/tags/v1.2.3", "b", "B", 2)
	for range 2 {
		if x.Made(image, "v1.2.3", theirs.Root.Digest) {
			t.Error("what another CI pushed is said to be made by imgd")
		}
		refused(t, x, build, imgd.ErrConflict, "another hand")
		if got := x.Repositories(image); !slices.Equal(got, []string{repo}) {
			t.Errorf("repositories %q", got)
		}
		if err := x.Close(); err != nil { // and it is the same when it is read back
			t.Fatal(err)
		}
		x = open(t, dir, w)
	}
	delete(w.tags, "v1.2.3")
	publish(t, x, build)
	refused(t, x, pushed("1.2", version.KindOther, "b", 3, "B"), imgd.ErrConflict, "kind series")
	same := pushed("v1.2.3", version.KindVersion, "c", 4, "B")
	refused(t, x, same, imgd.ErrUnchanged)
	if got := x.Repositories("nobody's"); got != nil {
		t.Errorf("repositories %q of an image that is not there", got)
	}
}

// A build that made just the same takes a pushed claim over.
func TestBuildTakesPushedClaim(t *testing.T) {
	w := newWorld()
	x := open(t, t.TempDir(), w)
	claimed, err := x.Admit(t.Context(), pushed("v1.2.3", version.KindVersion, "a", 1, "A"), "")
	if err != nil {
		t.Fatal(err)
	}
	built := publish(t, x, w.candidate("refs/tags/v1.2.3", "a", "A", 2))
	if !slices.Contains(built.Lapsed, claimed.ID) || built.Pushed {
		t.Errorf("lapsed %q, want %s", built.Lapsed, claimed.ID)
	}
}

func images(t *testing.T, dir string) string {
	t.Helper()
	b, err := index.Export(dir)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
