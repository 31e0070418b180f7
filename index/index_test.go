package index_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/index"
)

// names is the root each tag should name, as letters given to candidate.
func names(x *index.Index, roots []string, tags ...string) string {
	var out []string
	for _, tag := range tags {
		rel, _ := x.Wanted(image, tag)
		name := "-"
		for _, r := range roots {
			if rel.Root.Digest == digest.FromString(r) {
				name = r
			}
		}
		out = append(out, tag+"="+name)
	}
	return strings.Join(out, " ")
}

// publish admits and publishes, and fails the test if that is refused.
func publish(t *testing.T, x *index.Index, rel imgd.Release) imgd.Release {
	t.Helper()
	admitted, err := x.Admit(t.Context(), rel, "")
	if err != nil {
		t.Fatalf("admit %s: %v", rel.Request.Ref, err)
	}
	published, err := x.Publish(t.Context(), admitted.ID)
	if err != nil {
		t.Fatalf("publish %s: %v", rel.Request.Ref, err)
	}
	return published
}

func refused(t *testing.T, x *index.Index, rel imgd.Release, want error, words ...string) {
	t.Helper()
	seq := x.Seq()
	_, err := x.Admit(t.Context(), rel, "")
	if !errors.Is(err, want) {
		t.Fatalf("admit %s at %.4s: got %v, want %v", rel.Request.Ref, rel.Request.Commit, err, want)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("refusal %q does not say %q", err, w)
		}
	}
	if x.Seq() != seq {
		t.Errorf("a refusal entered the log: seq %d, was %d", x.Seq(), seq)
	}
}

func TestVersionTag(t *testing.T) {
	w := newWorld()
	x := open(t, t.TempDir(), w)
	first := publish(t, x, w.candidate("refs/tags/v1.2.3", "a", "A", 1))
	if got, want := names(x, []string{"A"}, "v1.2.3", "1.2", "latest"), "v1.2.3=A 1.2=A latest=A"; got != want {
		t.Fatalf("got %s, want %s", got, want)
	}
	t.Run("another commit is a conflict that names both", func(t *testing.T) {
		refused(t, x, w.candidate("refs/tags/v1.2.3", "b", "B", 2), imgd.ErrConflict, first.ID, digest.FromString("A").String(), digest.FromString("B").String())
	})
	t.Run("the same digests are taken with the held root", func(t *testing.T) {
		again := w.candidate("refs/tags/v1.2.3", "b", "A", 2)
		again.Root.Digest = digest.FromString("index around A")
		rel, err := x.Admit(t.Context(), again, "")
		if err != nil || rel.Root.Digest != first.Root.Digest {
			t.Fatalf("got root %s, %v; want %s", rel.Root.Digest, err, first.Root.Digest)
		}
		if _, err := x.Abandon(t.Context(), rel.ID, imgd.RootLost); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("the same commit with other digests is not reproducible", func(t *testing.T) {
		other := w.candidate("refs/tags/v1.2.3", "a", "A2", 3)
		other.Request.Args = map[string]string{"X": "1"}
		other.Request.ID = other.Request.Hash()
		refused(t, x, other, imgd.ErrUnchanged, "not reproducible")
		var built *imgd.BuiltError
		if _, err := x.Admit(t.Context(), other, ""); !errors.As(err, &built) || built.Root != other.Root.Digest {
			t.Errorf("got %v, want an error that knows what was built", err)
		}
		delete(w.roots, first.Root.Digest)
		if rel, err := x.Admit(t.Context(), other, ""); err != nil || len(rel.Taken()) == 0 {
			t.Errorf("a lost root is not replaced: %v", err)
		}
	})
	t.Run("force takes it", func(t *testing.T) {
		forced := w.candidate("refs/tags/v1.2.3", "b", "B", 9)
		forced.Request.Force, forced.Request.Reason = true, "bad release"
		rel := publish(t, x, forced)
		if rel.Taken()[0].Previous != first.Root.Digest || rel.Taken()[0].Generation != 2 {
			t.Errorf("got %+v, want previous %s in generation 2", rel.Taken()[0], first.Root.Digest)
		}
	})
}

func TestVersionTagOfAnotherHand(t *testing.T) {
	w := newWorld()
	x := open(t, t.TempDir(), w)
	w.tags["v1.0.0"] = digest.FromString("strange")
	w.roots[digest.FromString("strange")] = []string{"strange"}
	refused(t, x, w.candidate("refs/tags/v1.0.0", "a", "A", 1), imgd.ErrConflict, "another hand", repo)
	w.roots[digest.FromString("strange")] = []string{"A"}
	publish(t, x, w.candidate("refs/tags/v1.0.0", "a", "A", 1))
}

func TestSeries(t *testing.T) {
	w := newWorld()
	x := open(t, t.TempDir(), w)
	publish(t, x, w.candidate("refs/tags/v1.2.3", "a", "A", 1))
	older := publish(t, x, w.candidate("refs/tags/v1.2.2", "b", "B", 5))
	if got, want := names(x, []string{"A", "B"}, "v1.2.2", "1.2", "latest"), "v1.2.2=B 1.2=A latest=A"; got != want {
		t.Errorf("a late older version: got %s, want %s", got, want)
	}
	if !strings.Contains(older.Reasons(), "v1.2.3") {
		t.Errorf("reasons %q do not name v1.2.3", older.Reasons())
	}
	publish(t, x, w.candidate("refs/tags/v2.0.0", "c", "C", 6))
	if got, want := names(x, []string{"A", "B", "C"}, "1.2", "latest"), "1.2=A latest=C"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestBranch(t *testing.T) {
	const main = "refs/heads/main"
	w := newWorld()
	w.parents = map[string]string{commit("b"): commit("a"), commit("c"): commit("b")}
	x := open(t, t.TempDir(), w)
	roots := []string{"A", "B", "C"}
	w.heads[main] = commit("b")
	publish(t, x, w.candidate(main, "b", "B", 2))
	rel := publish(t, x, w.candidate(main, "a", "A", 3))
	if got, want := names(x, roots, "main", strings.Repeat("a", 12)), "main=B aaaaaaaaaaaa=A"; got != want {
		t.Errorf("a late older commit: got %s, want %s (%s)", got, want, rel.Reasons())
	}

	w.heads[main] = commit("a") // force push back
	reset := w.candidate(main, "a", "A", 4)
	reset.Tags = reset.Tags[1:]
	again, err := x.Admit(t.Context(), reset, rel.ID)
	if err != nil || again.ID == rel.ID {
		t.Fatalf("reset to an older commit: %s, %v", again.ID, err)
	}
	if _, err := x.Publish(t.Context(), again.ID); err != nil {
		t.Fatal(err)
	}
	if got, want := names(x, roots, "main"), "main=A"; got != want {
		t.Errorf("after the reset: got %s, want %s", got, want)
	}

	w.heads[main] = commit("c")
	publish(t, x, w.candidate(main, "c", "C", 1)) // asked earlier, but newer
	if got, want := names(x, roots, "main"), "main=C"; got != want {
		t.Errorf("the next commit: got %s, want %s", got, want)
	}
}

// A branch that is reset and put back before the reset is published ends where
// its head is.
func TestBranchResetAndPutBack(t *testing.T) {
	const main = "refs/heads/main"
	w := newWorld()
	w.parents = map[string]string{commit("f"): commit("d")}
	x := open(t, t.TempDir(), w)
	w.heads[main] = commit("f")
	first := publish(t, x, w.candidate(main, "f", "F", 1))
	w.heads[main] = commit("d")
	reset, err := x.Admit(t.Context(), w.candidate(main, "d", "D", 2), "")
	if err != nil {
		t.Fatal(err)
	}
	w.heads[main] = commit("f")
	back := w.candidate(main, "f", "F", 3)
	back.Tags = back.Tags[1:]
	again, err := x.Admit(t.Context(), back, first.ID)
	if err != nil {
		t.Fatalf("put back: %v", err)
	}
	for _, rel := range []imgd.Release{reset, again} {
		if _, err := x.Publish(t.Context(), rel.ID); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := names(x, []string{"D", "F"}, "main"), "main=F"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// A repository that was added to a project has no images yet. That does not let
// an immutable tag change in the others.
func TestRepositoryAdded(t *testing.T) {
	w := newWorld()
	x := open(t, t.TempDir(), w)
	publish(t, x, w.candidate("refs/tags/v1.0.0", "a", "A", 1))
	w.lacks = "registry.test/added"
	again := w.candidate("refs/tags/v1.0.0", "a", "A2", 2)
	again.Repositories = append(again.Repositories, w.lacks)
	again.Request.Args = map[string]string{"N": "2"}
	again.Request.ID = again.Request.Hash()
	refused(t, x, again, imgd.ErrUnchanged, "not reproducible")
}

// What is no image under a version tag is another hand's, and no outage.
func TestVersionTagOfNoImage(t *testing.T) {
	w := newWorld()
	x := open(t, t.TempDir(), w)
	w.tags["v1.0.0"] = digest.FromString("chart")
	w.noImage = digest.FromString("chart")
	refused(t, x, w.candidate("refs/tags/v1.0.0", "a", "A", 1), imgd.ErrConflict, "another hand")
}

// What is not UTF-8 is written as it will be read.
func TestNotUTF8(t *testing.T) {
	w, dir := newWorld(), t.TempDir()
	x := open(t, dir, w)
	rel := w.candidate("refs/tags/v1.0.0", "a", "A", 1)
	rel.Request.Nonce, rel.Request.Reason = "a\xffb", "\xfe"
	publish(t, x, rel)
	x.Close()
	if n := len(open(t, dir, w).Published(0)); n != 1 {
		t.Errorf("%d releases after opening again, want 1", n)
	}
}

// An index that was here and is gone is not silently begun anew.
func TestIndexGone(t *testing.T) {
	w, dir := newWorld(), t.TempDir()
	x := open(t, dir, w)
	id := x.ID()
	x.Close()
	if err := os.Remove(filepath.Join(dir, "images.json")); err != nil {
		t.Fatal(err)
	}
	_, err := index.Open(index.Config{Dir: dir, History: w, Registry: w})
	if err == nil || !strings.Contains(err.Error(), id) {
		t.Errorf("got %v, want a refusal that names index %s", err, id)
	}
}

func TestOtherKindAndOtherRef(t *testing.T) {
	w := newWorld()
	x := open(t, t.TempDir(), w)
	publish(t, x, w.candidate("refs/tags/v1.0.0", "a", "A", 1))
	w.heads["refs/heads/latest"] = commit("b")
	rel := publish(t, x, w.candidate("refs/heads/latest", "b", "B", 2))
	if !strings.Contains(rel.Reasons(), "series") {
		t.Errorf("reasons %q do not say that latest is a series tag", rel.Reasons())
	}
	w.heads["refs/heads/f-x"], w.heads["refs/heads/f/x"] = commit("c"), commit("d")
	publish(t, x, w.candidate("refs/heads/f/x", "d", "D", 3))
	rel = publish(t, x, w.candidate("refs/heads/f-x", "c", "C", 4))
	if !strings.Contains(rel.Reasons(), "refs/heads/f/x") {
		t.Errorf("reasons %q do not name the ref that has f-x", rel.Reasons())
	}
	refused(t, x, w.candidate("refs/tags/f-x", "d", "E", 5), imgd.ErrConflict, "branch tag")
}

// One request makes one release, whoever works on it.
func TestSameRequest(t *testing.T) {
	w := newWorld()
	x := open(t, t.TempDir(), w)
	first, err := x.Admit(t.Context(), w.candidate("refs/tags/v1.0.0", "a", "A", 1), "")
	if err != nil {
		t.Fatal(err)
	}
	second, err := x.Admit(t.Context(), w.candidate("refs/tags/v1.0.0", "a", "not reproducible", 1), "")
	if err != nil || second.ID != first.ID || second.Root.Digest != first.Root.Digest {
		t.Fatalf("got %s %v, want %s", second.ID, err, first.ID)
	}
	for range 2 {
		if _, err := x.Publish(t.Context(), first.ID); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(x.Published(0)); n != 1 {
		t.Errorf("got %d releases, want 1", n)
	}
	if rel, err := x.Abandon(t.Context(), first.ID, imgd.RootLost); err != nil || rel.State != imgd.ReleasePublished {
		t.Errorf("abandoning a published release: %s, %v", rel.State, err)
	}
}

func TestLapseAndAbandon(t *testing.T) {
	w := newWorld()
	x := open(t, t.TempDir(), w)
	older, err := x.Admit(t.Context(), w.candidate("refs/tags/v1.0.0", "a", "A", 1), "")
	if err != nil {
		t.Fatal(err)
	}
	newer, err := x.Admit(t.Context(), w.candidate("refs/tags/v1.0.1", "b", "B", 2), "")
	if err != nil {
		t.Fatal(err)
	}
	if len(newer.Lapsed) != 1 || newer.Lapsed[0] != older.ID {
		t.Errorf("lapsed: got %v, want [%s]", newer.Lapsed, older.ID)
	}
	older, err = x.Publish(t.Context(), older.ID)
	if err != nil || len(older.Taken()) != 1 {
		t.Fatalf("the older release goes on with the rest: %v, %v", older.Taken(), err)
	}
	if _, err := x.Abandon(t.Context(), newer.ID, imgd.RootLost); err != nil {
		t.Fatal(err)
	}
	if got, want := names(x, []string{"A", "B"}, "v1.0.0", "v1.0.1", "latest"), "v1.0.0=A v1.0.1=- latest=-"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if _, err := x.Publish(t.Context(), newer.ID); !errors.Is(err, imgd.ErrSuperseded) {
		t.Errorf("publishing an abandoned release: got %v, want ErrSuperseded", err)
	}
}

// An answer that git or the registry did not give is an outage, not a decision.
func TestFactsFail(t *testing.T) {
	w := newWorld()
	x := open(t, t.TempDir(), w)
	w.broken = errors.New("connection refused")
	rel := w.candidate("refs/heads/main", "a", "A", 1)
	_, err := x.Admit(t.Context(), rel, "")
	if !errors.Is(err, w.broken) || x.Seq() != 0 {
		t.Errorf("got %v at seq %d, want the outage and no entry", err, x.Seq())
	}
}

// What was answered is there after opening again, with the same ID.
func TestReopen(t *testing.T) {
	w, dir := newWorld(), t.TempDir()
	x := open(t, dir, w)
	publish(t, x, w.candidate("refs/tags/v1.2.3", "a", "A", 1))
	if _, err := x.Admit(t.Context(), w.candidate("refs/tags/v1.2.4", "b", "B", 2), ""); err != nil {
		t.Fatal(err)
	}
	if err := x.SetTold(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	before, seq := x.Records()
	if _, err := index.Open(index.Config{Dir: dir, History: w, Registry: w}); err == nil || !strings.Contains(err.Error(), fmt.Sprint(os.Getpid())) {
		t.Errorf("a second opener: got %v, want a refusal that names process %d", err, os.Getpid())
	}
	id := x.ID()
	x.Close()
	if err := os.WriteFile(filepath.Join(dir, "images.json.tmp"), []byte("half a wri"), 0o644); err != nil {
		t.Fatal(err)
	}
	x = open(t, dir, w)
	after, seq2 := x.Records()
	if x.ID() != id || seq2 != seq || x.Told() != 2 || len(x.Open()) != 1 {
		t.Errorf("reopened: id %s seq %d told %d open %d", x.ID(), seq2, x.Told(), len(x.Open()))
	}
	a, _ := json.Marshal(before)
	b, _ := json.Marshal(after)
	if string(a) != string(b) {
		t.Errorf("records:\n%s\nwere\n%s", b, a)
	}
}
