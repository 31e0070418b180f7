package index_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/index"
	"github.com/imgd/imgd/version"
)

// command is what an operator asks for at second at: that tags name what the
// release made, or nothing if it is nil.
func command(n int, of *imgd.Release, at int, tags ...string) imgd.Release {
	rel := imgd.Release{Image: image, Repositories: []string{repo}, Source: "https://git.test/hello", Command: imgd.CommandUntag,
		Request: imgd.Request{ID: fmt.Sprintf("%032x", n), By: "ada", Reason: "because", AskedAt: epoch.Add(time.Duration(at) * time.Second)}}
	if of != nil {
		rel.Command, rel.Root, rel.Platforms = imgd.CommandRollback, of.Root, of.Platforms
		rel.Request.Ref, rel.Request.Commit, rel.Request.Version = of.Request.Ref, of.Request.Commit, of.Request.Version
	}
	for _, tag := range tags {
		rel.Tags = append(rel.Tags, imgd.ReleaseTag{Name: tag, Kind: version.KindOf(tag)})
	}
	return rel
}

func forced(rel imgd.Release) imgd.Release {
	rel.Request.Force = true
	return rel
}

// series is a world with v1.1.0 and v1.2.0 published, asked for at 1 and 2.
func series(t *testing.T) (w *world, dir string, x *index.Index, a, b imgd.Release) {
	w, dir = newWorld(), t.TempDir()
	x = open(t, dir, w)
	a = publish(t, x, w.candidate("refs/tags/v1.1.0", "a", "A", 1))
	b = publish(t, x, w.candidate("refs/tags/v1.2.0", "b", "B", 2))
	return w, dir, x, a, b
}

// markOf is the mark of a tag as images.json has it.
func markOf(t *testing.T, dir, tag string) string {
	t.Helper()
	for line := range strings.SplitSeq(images(t, dir), "\n") {
		if strings.Contains(line, `"tag":"`+tag+`","kind"`) {
			_, mark, _ := strings.Cut(line, `"mark":`)
			mark, _, _ = strings.Cut(mark, "}")
			return mark + "}"
		}
	}
	return ""
}

var roots = []string{"A", "B", "C", "D"}

// A command stamps the mark with its time, also while it is a claim only: what
// is not newer than all that the tag ever named does not undo it.
func TestCommandStampsTheMark(t *testing.T) {
	w, dir, x, a, _ := series(t)
	claimed, err := x.Admit(t.Context(), command(1, &a, 10, "latest"), "")
	if err != nil {
		t.Fatal(err)
	}
	between := w.candidate("refs/tags/v1.1.5", "c", "C", 3)
	if rel, err := x.Admit(t.Context(), between, ""); err != nil || !strings.Contains(rel.Reasons(), "latest: has named v1.2.0") {
		t.Fatalf("against a claim: %s, %v", rel.Reasons(), err)
	}
	if _, err := x.Publish(t.Context(), claimed.ID); err != nil {
		t.Fatal(err)
	}
	if got, want := markOf(t, dir, "latest"), `{"version":"v1.2.0","commit":"`+commit("b")+`","askedAt":"2026-11-21T10:00:10Z"}`; got != want {
		t.Errorf("mark %s, want %s", got, want)
	}
	for _, at := range []int{2, 20} { // redelivered, and asked for anew
		again := w.candidate("refs/tags/v1.2.0", "b", "B", at)
		again.Tags = slices.DeleteFunc(again.Tags, func(t imgd.ReleaseTag) bool { return t.Name != "latest" })
		again.Request.ID = digest.FromString(fmt.Sprint(at)).Encoded()[:32]
		refused(t, x, again, imgd.ErrSuperseded, "latest: has named v1.2.0")
		again.Request.Rebuild = true
		if at == 20 {
			publish(t, x, again)
		}
	}
	if got := names(x, roots, "latest"); got != "latest=B" {
		t.Errorf("a rebuild that was asked for later: %s", got)
	}
	early := command(2, &a, 5, "latest")
	publish(t, x, early)
	if got := markOf(t, dir, "latest"); !strings.Contains(got, `"askedAt":"2026-11-21T10:00:20Z"`) {
		t.Errorf("the mark was lowered: %s", got)
	}
	publish(t, x, w.candidate("refs/tags/v1.3.0", "d", "D", 4))
	if got := names(x, roots, "latest", "1.2"); got != "latest=D 1.2=B" {
		t.Errorf("the next newer release: %s", got)
	}
}

// A branch that was rolled back stays so until a commit comes that is newer than
// all that it ever named.
func TestCommandOverBranch(t *testing.T) {
	w := newWorld()
	dir := t.TempDir()
	x := open(t, dir, w)
	const main = "refs/heads/main"
	w.parents[commit("b")], w.parents[commit("c")], w.heads[main] = commit("a"), commit("b"), commit("c")
	a := publish(t, x, w.candidate(main, "a", "A", 1))
	publish(t, x, w.candidate(main, "b", "B", 2))
	publish(t, x, command(1, &a, 10, "main"))
	if got := markOf(t, dir, "main"); !strings.Contains(got, commit("b")) || !strings.Contains(got, "10:00:10Z") {
		t.Errorf("mark %s", got)
	}
	again := w.candidate(main, "b", "B", 11)
	again.Request.ID = fmt.Sprintf("%032x", 11)
	refused(t, x, again, imgd.ErrSuperseded, "main: has named")
	publish(t, x, w.candidate(main, "c", "C", 3))
	publish(t, x, command(2, nil, 20, "main"))
	if got := markOf(t, dir, "main"); !strings.Contains(got, commit("c")) || !strings.Contains(got, "10:00:20Z") {
		t.Errorf("mark %s", got)
	}
	late := w.candidate(main, "c", "D", 15)
	late.Tags, late.Request.ID = late.Tags[1:], fmt.Sprintf("%032x", 15)
	refused(t, x, late, imgd.ErrSuperseded)
	late.Request.AskedAt = epoch.Add(time.Minute)
	publish(t, x, late)
	if got := names(x, roots, "main"); got != "main=D" || x.Generation(image, "main") != 5 {
		t.Errorf("asked for after the removal: %s in generation %d", got, x.Generation(image, "main"))
	}
}

// No generation is used twice, and what was removed is kept for what it named.
func TestRemovedVersion(t *testing.T) {
	w, dir, x, a, b := series(t)
	refused(t, x, command(1, nil, 10, "v1.1.0"), imgd.ErrConflict, "force and a reason", a.ID)
	removed := publish(t, x, forced(command(1, nil, 10, "v1.1.0")))
	if removed.Removes != a.ID || removed.Taken()[0].Generation != 1 || removed.Taken()[0].Previous != a.Root.Digest {
		t.Errorf("removed by %+v", removed)
	}
	refused(t, x, command(2, nil, 11, "v1.1.0"), imgd.ErrUnchanged, "removed by release "+removed.ID)
	for range 2 {
		other := w.candidate("refs/tags/v1.1.0", "c", "C", 12)
		refused(t, x, other, imgd.ErrConflict, a.Root.Digest.String(), "removed by release "+removed.ID)
		refused(t, x, w.candidate("refs/tags/v1.1.0", "d", "A", 9), imgd.ErrSuperseded, "after this was asked for")
		refused(t, x, forced(w.candidate("refs/tags/v1.1.0", "d", "D", 9)), imgd.ErrSuperseded, "after this was asked for")
		refused(t, x, command(3, &b, 13, "v1.1.0"), imgd.ErrConflict, a.Root.Digest.String())
		refused(t, x, pushed("v1.1.0", version.KindVersion, "c", 14, "C"), imgd.ErrConflict, a.Root.Digest.String())
		if got := names(x, roots, "v1.1.0"); got != "v1.1.0=-" {
			t.Error(got)
		}
		if err := x.Close(); err != nil { // and it is the same when it is read back
			t.Fatal(err)
		}
		x = open(t, dir, w)
	}
	back := publish(t, x, w.candidate("refs/tags/v1.1.0", "d", "A", 15))
	if tag := back.Taken()[0]; tag.Name != "v1.1.0" || tag.Generation != 2 || tag.Previous != "" {
		t.Errorf("it came back as %+v", tag)
	}
	publish(t, x, forced(command(4, nil, 16, "v1.1.0")))
	if rel := publish(t, x, pushed("v1.1.0", version.KindVersion, "a", 17, "A")); rel.Taken()[0].Generation != 3 {
		t.Errorf("pushed again: %+v", rel.Taken())
	}
	publish(t, x, forced(command(5, nil, 18, "v1.1.0")))
	if rel := publish(t, x, forced(command(6, &b, 19, "v1.1.0"))); rel.Taken()[0].Generation != 4 {
		t.Errorf("forced: %+v", rel.Taken())
	}
	late := forced(w.candidate("refs/tags/v1.1.0", "e", "D", 18))
	refused(t, x, late, imgd.ErrSuperseded, "after this was asked for")
	var past []string
	for _, s := range imgd.Steps("v1.1.0", x.History(image, "v1.1.0")) {
		past = append(past, fmt.Sprint(s.Generation, s.Root == "", s.Forced))
	}
	if got, want := strings.Join(past, ", "), "4 false true, 3 true true, 3 false false, 2 true true, 2 false false, 1 true true, 1 false false"; got != want {
		t.Errorf("history %s, want %s", got, want)
	}
}

// A commit tag comes back by what was asked for after it was removed.
func TestRemovedCommit(t *testing.T) {
	w := newWorld()
	x := open(t, t.TempDir(), w)
	const main = "refs/heads/main"
	w.heads[main] = commit("a")
	publish(t, x, w.candidate(main, "a", "A", 1))
	publish(t, x, forced(command(1, nil, 10, commit("a")[:12])))
	late := w.candidate(main, "a", "B", 5)
	late.Request.ID = fmt.Sprintf("%032x", 5)
	refused(t, x, late, imgd.ErrSuperseded, "after this was asked for")
	late.Request.AskedAt = epoch.Add(time.Minute)
	publish(t, x, late)
	if got := names(x, roots, commit("a")[:12]); got != commit("a")[:12]+"=B" {
		t.Error(got)
	}
}

func TestCommandTakesClaims(t *testing.T) {
	w, _, x, a, b := series(t)
	claimed, err := x.Admit(t.Context(), w.candidate("refs/tags/v2.0.0", "c", "C", 3), "")
	if err != nil {
		t.Fatal(err)
	}
	refused(t, x, command(1, nil, 10, "v2.0.0"), imgd.ErrNotFound, "claimed by release "+claimed.ID)
	refused(t, x, command(1, &b, 10, "v1.2.0"), imgd.ErrUnchanged)
	rel, err := x.Admit(t.Context(), command(2, &a, 10, "latest", "stable"), "")
	if err != nil || !slices.Equal(rel.Lapsed, []string{claimed.ID}) || len(rel.Taken()) != 2 {
		t.Fatalf("got %+v, %v", rel, err)
	}
	refused(t, x, command(3, &a, 11, "latest"), imgd.ErrUnchanged, rel.Root.Digest.String())
	if _, err := x.Publish(t.Context(), rel.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := x.Publish(t.Context(), claimed.ID); err != nil { // without latest
		t.Fatal(err)
	}
	if got := names(x, roots, "latest", "stable", "v2.0.0", "2.0"); got != "latest=A stable=A v2.0.0=C 2.0=C" {
		t.Error(got)
	}
	if !x.Made(image, "stable", a.Root.Digest) || x.Made(image, "stable", digest.FromString("D")) {
		t.Error("Made does not know what was made")
	}
}

// What a command put under a tag is imgd's under that tag only, if imgd has not
// built it.
func TestCommandMakesTheTagImgds(t *testing.T) {
	w := newWorld()
	x := open(t, t.TempDir(), w)
	theirs := publish(t, x, pushed("stable", version.KindOther, "a", 1, "A"))
	publish(t, x, command(1, &theirs, 10, "prod"))
	if !x.Made(image, "prod", theirs.Root.Digest) || x.Made(image, "stable", theirs.Root.Digest) {
		t.Error("Made of what another CI pushed and a command has named")
	}
	w.tags["v1.2.3"], w.roots[theirs.Root.Digest] = theirs.Root.Digest, []string{"A"}
	refused(t, x, command(2, &imgd.Release{Root: ocispec.Descriptor{Digest: digest.FromString("B")}, Platforms: platforms("B")}, 11, "v1.2.3"), imgd.ErrConflict, "another hand")
}

// However often a command is given under one ID, it makes one release.
func TestCommandOnce(t *testing.T) {
	_, _, x, a, _ := series(t)
	var group sync.WaitGroup
	ids := make([]string, 16)
	for i := range ids {
		group.Go(func() {
			rel, err := x.Admit(t.Context(), command(1, &a, 10, "latest"), "")
			if err == nil {
				rel, err = x.Publish(t.Context(), rel.ID)
			}
			if err != nil && !errors.Is(err, imgd.ErrUnchanged) {
				t.Error(err)
			}
			ids[i] = rel.ID
		})
	}
	group.Wait()
	for _, id := range ids {
		if id != ids[0] {
			t.Fatalf("releases %v", ids)
		}
	}
	if got := len(x.History(image, "latest")); got != 3 {
		t.Errorf("%d releases took latest, want 3", got)
	}
}

// A command whose release was abandoned just before it is given again under its
// ID makes no second one.
func TestCommandOnceAbandoned(t *testing.T) {
	w := newWorld()
	x := open(t, t.TempDir(), w)
	rel := w.candidate("refs/tags/v1.0.0", "a", "root", 1)
	rel.Command = imgd.CommandTag
	first, err := x.Admit(t.Context(), rel, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := x.Abandon(t.Context(), first.ID, "dropped"); err != nil {
		t.Fatal(err)
	}
	again, err := x.Admit(t.Context(), rel, "")
	if err != nil || again.ID != first.ID || again.State != imgd.ReleaseAbandoned {
		t.Errorf("given again: %s, %s, %v; want %s, abandoned", again.ID, again.State, err, first.ID)
	}
}
