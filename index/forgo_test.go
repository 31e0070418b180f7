package index_test

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/index"
)

// tagLine is what images.json says of a tag, without its claim.
func tagLine(t *testing.T, dir, tag string) string {
	t.Helper()
	b, err := index.Export(dir)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		var state map[string]any
		line = strings.TrimRight(line, ",]\n") // the last one closes the list
		if i := strings.LastIndex(line, "}"); i < 0 || json.Unmarshal([]byte(line[:i+1]), &state) != nil || state["tag"] != tag || state["kind"] == nil {
			continue
		}
		delete(state, "claim")
		b, _ := json.Marshal(state)
		return string(b)
	}
	return ""
}

// A claim that is given back leaves the tag as it was; the rest of the release
// is published.
func TestForgo(t *testing.T) {
	w, dir := newWorld(), t.TempDir()
	x := open(t, dir, w)
	roots := []string{"A", "B"}
	older := publish(t, x, w.candidate("refs/tags/v1.0.0", "a", "A", 1))
	before := tagLine(t, dir, "latest")
	if !strings.Contains(before, older.ID) {
		t.Fatalf("images.json says %q of latest", before)
	}
	newer, err := x.Admit(t.Context(), w.candidate("refs/tags/v1.1.0", "b", "B", 2), "")
	if err != nil {
		t.Fatal(err)
	}
	const reason = "refused: it is immutable \xff" // what a registry says need not be UTF-8
	var forgone imgd.Release
	for n := range 2 {
		seq := x.Seq()
		if forgone, err = x.Forgo(t.Context(), newer.ID, "latest", reason); err != nil || x.Seq() != seq+uint64(1-n) {
			t.Fatalf("forgo: %v, seq %d after %d", err, x.Seq(), seq)
		}
	}
	if want := "latest: refused: it is immutable \ufffd"; forgone.ID != newer.ID || forgone.Reasons() != want || forgone.State != imgd.ReleaseAdmitted {
		t.Errorf("got %s %s %q, want %q", forgone.ID, forgone.State, forgone.Reasons(), want)
	}
	if after := tagLine(t, dir, "latest"); after != before {
		t.Errorf("latest was %s, is %s", before, after)
	}
	if got, want := names(x, roots, "v1.1.0", "1.1", "latest"), "v1.1.0=B 1.1=B latest=A"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if _, err := x.Forgo(t.Context(), newer.ID, "1.1", "refused"); err != nil {
		t.Fatal(err)
	}
	if line := tagLine(t, dir, "1.1"); line != "" {
		t.Errorf("1.1, which nobody ever held, stays as %s", line)
	}
	x.Close()
	x = open(t, dir, w)
	if got, _ := x.Release(newer.ID); got.Reasons() != "1.1: refused; "+forgone.Reasons() {
		t.Errorf("opened again: reasons %q", got.Reasons())
	}
	if rel, err := x.Publish(t.Context(), newer.ID); err != nil || len(rel.Taken()) != 1 || rel.Taken()[0].Name != "v1.1.0" {
		t.Errorf("published with %v, %v; want v1.1.0 alone", rel.Taken(), err)
	}
	if after := tagLine(t, dir, "latest"); after != before {
		t.Errorf("published: latest was %s, is %s", before, after)
	}
	records, _ := x.Records()
	if n := len(records); n != 4 { // v1.0.0 1.0 latest of the older, v1.1.0 of the newer
		t.Errorf("%d records, want 4", n)
	}
}

// What is not claimed cannot be forgone.
func TestForgoNothing(t *testing.T) {
	w := newWorld()
	x := open(t, t.TempDir(), w)
	published := publish(t, x, w.candidate("refs/tags/v1.0.0", "a", "A", 1))
	loser, err := x.Admit(t.Context(), w.candidate("refs/tags/v1.0.1", "b", "B", 2), "")
	if err != nil {
		t.Fatal(err)
	}
	winner, err := x.Admit(t.Context(), w.candidate("refs/tags/v1.0.2", "c", "C", 3), "")
	if err != nil {
		t.Fatal(err)
	}
	abandoned, err := x.Admit(t.Context(), w.candidate("refs/tags/v0.1.0", "d", "D", 4), "")
	if err == nil {
		abandoned, err = x.Abandon(t.Context(), abandoned.ID, "dropped")
	}
	if err != nil {
		t.Fatal(err)
	}
	loser, _ = x.Release(loser.ID)
	seq := x.Seq()
	for _, row := range []struct {
		what string
		rel  imgd.Release
		tag  string
	}{
		{"held", published, "v1.0.0"},
		{"held by a published one", published, "latest"},
		{"lost to another's claim", loser, "latest"},
		{"never asked for", winner, "main"},
		{"of an abandoned one", abandoned, "v0.1.0"},
	} {
		got, err := x.Forgo(t.Context(), row.rel.ID, row.tag, "refused")
		if err != nil || got.ID != row.rel.ID || got.State != row.rel.State || got.Reasons() != row.rel.Reasons() {
			t.Errorf("%s: got %s %s %q, %v; want it as it was", row.what, got.ID, got.State, got.Reasons(), err)
		}
	}
	if _, err := x.Forgo(t.Context(), winner.ID, "latest", ""); !errors.Is(err, imgd.ErrInvalid) {
		t.Errorf("without a reason: %v, want it invalid", err)
	}
	if _, err := x.Forgo(t.Context(), "none-1", "latest", "refused"); !errors.Is(err, imgd.ErrNotFound) {
		t.Errorf("of no release: %v, want it not found", err)
	}
	if x.Seq() != seq {
		t.Errorf("%d entries for nothing", x.Seq()-seq)
	}
	if rel, _ := x.Wanted(image, "latest"); rel.ID != winner.ID {
		t.Errorf("latest is wanted of %s, want %s", rel.ID, winner.ID)
	}
}

// A release that gave all its tags back is not published.
func TestForgoAll(t *testing.T) {
	w := newWorld()
	x := open(t, t.TempDir(), w)
	rel, err := x.Admit(t.Context(), w.candidate("refs/tags/v1.0.0", "a", "A", 1), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, tag := range rel.Tags {
		if _, err := x.Forgo(t.Context(), rel.ID, tag.Name, "refused"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := x.Publish(t.Context(), rel.ID); !errors.Is(err, imgd.ErrSuperseded) {
		t.Errorf("got %v, want it superseded", err)
	}
	publish(t, x, w.candidate("refs/tags/v1.0.0", "b", "B", 2)) // its names are free
}

// A decision that a forgoing has overtaken is made anew: what had lost to the
// claim takes the tag.
func TestForgoWhileDeciding(t *testing.T) {
	w := newWorld()
	x := open(t, t.TempDir(), w)
	newer, err := x.Admit(t.Context(), w.candidate("refs/tags/v1.1.0", "b", "B", 1), "")
	if err != nil {
		t.Fatal(err)
	}
	w.asked = func() { // while the older one asks the registry about its version tag
		w.asked = nil
		if _, err := x.Forgo(t.Context(), newer.ID, "latest", "refused"); err != nil {
			t.Error(err)
		}
	}
	older := publish(t, x, w.candidate("refs/tags/v1.0.0", "a", "A", 2))
	if !slices.ContainsFunc(older.Taken(), func(t imgd.ReleaseTag) bool { return t.Name == "latest" }) {
		t.Errorf("took %v (%s), want latest too", older.Taken(), older.Reasons())
	}
}

// The same platforms under another root are taken with the root that the tag
// has; but not if the registry lost that.
func TestSameDigestsOfALostRoot(t *testing.T) {
	held := digest.FromString("index around A")
	for _, lost := range []bool{false, true} {
		w := newWorld()
		x := open(t, t.TempDir(), w)
		first := w.candidate("refs/tags/v1.0.0", "a", "A", 1)
		first.Root.Digest = held
		w.roots[held] = []string{"A"}
		publish(t, x, first)
		if lost {
			delete(w.roots, held)
		}
		again := w.candidate("refs/tags/v1.0.0", "a", "A", 2)
		again.Root.Digest = digest.FromString("another index around A")
		again.Request.Nonce = "rebuild"
		again.Request.ID = again.Request.Hash()
		rel, err := x.Admit(t.Context(), again, "")
		want := held
		if lost {
			want = again.Root.Digest
		}
		if err != nil || rel.Root.Digest != want {
			t.Errorf("lost %t: got root %s, %v; want %s", lost, rel.Root.Digest, err, want)
		}
	}
	t.Run("equal roots need no question", func(t *testing.T) {
		w := newWorld()
		x := open(t, t.TempDir(), w)
		publish(t, x, w.candidate("refs/tags/v1.0.0", "a", "A", 1))
		w.broken = errors.New("connection refused")
		again := w.candidate("refs/tags/v1.0.0", "a", "A", 2)
		again.Tags, again.Request.Nonce = again.Tags[:1], "rebuild"
		again.Request.ID = again.Request.Hash()
		if _, err := x.Admit(t.Context(), again, ""); err != nil {
			t.Error(err)
		}
		again.Root.Digest = held
		again.Request.Nonce = "once more"
		again.Request.ID = again.Request.Hash()
		if _, err := x.Admit(t.Context(), again, ""); !errors.Is(err, w.broken) {
			t.Errorf("got %v, want the outage", err)
		}
	})
}

// A forced claim gives nobody else a right to what is held (I4): not when its
// root is lost, and not to the same image.
func TestClaimOverHold(t *testing.T) {
	const ref = "refs/tags/v1.0.0"
	setup := func(t *testing.T, lost bool) (*world, *index.Index, imgd.Release) {
		w := newWorld()
		x := open(t, t.TempDir(), w)
		held := publish(t, x, w.candidate(ref, "a", "A", 1))
		forced := w.candidate(ref, "b", "B", 2)
		forced.Request.Force, forced.Request.Nonce = true, "n"
		forced.Request.ID = forced.Request.Hash()
		if _, err := x.Admit(t.Context(), forced, ""); err != nil {
			t.Fatal(err)
		}
		if lost {
			delete(w.roots, forced.Root.Digest)
		}
		return w, x, held
	}
	t.Run("its root is lost", func(t *testing.T) {
		w, x, held := setup(t, true)
		refused(t, x, w.candidate(ref, "b", "B2", 3), imgd.ErrConflict, held.ID)
	})
	t.Run("the same image", func(t *testing.T) {
		w, x, held := setup(t, false)
		refused(t, x, w.candidate(ref, "b", "B", 3), imgd.ErrConflict, held.ID)
	})
	t.Run("both roots are lost", func(t *testing.T) {
		w, x, held := setup(t, true)
		delete(w.roots, held.Root.Digest)
		refused(t, x, w.candidate(ref, "b", "B2", 3), imgd.ErrConflict, held.ID) // held by another commit all the same
	})
	t.Run("a commit tag", func(t *testing.T) {
		w, x, _ := setup(t, true)
		other := w.candidate("refs/heads/main", "c", "C", 3)
		w.heads["refs/heads/main"] = commit("c")
		publish(t, x, other)
		again := w.candidate("refs/heads/main", "c", "C2", 4)
		again.Request.Force, again.Request.Nonce, again.Tags = true, "n", again.Tags[:1]
		again.Request.ID = again.Request.Hash()
		if _, err := x.Admit(t.Context(), again, ""); err != nil {
			t.Fatal(err)
		}
		delete(w.roots, again.Root.Digest)
		third := w.candidate("refs/heads/main", "c", "C3", 5)
		third.Request.Args, third.Tags = map[string]string{"N": "3"}, third.Tags[:1]
		third.Request.ID = third.Request.Hash()
		refused(t, x, third, imgd.ErrSuperseded, "held by release")
	})
}
