package main

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/index"
	names "github.com/imgd/imgd/version"
)

// needed is what the index names at this moment, looked up whole.
func needed(x *index.Index) map[digest.Digest]bool {
	all := map[digest.Digest]bool{}
	for _, rel := range x.Open() {
		all[rel.Root.Digest] = true
		for _, platform := range rel.Platforms {
			all[platform.Digest] = true
		}
	}
	records, _ := x.Records()
	for _, rec := range records {
		all[rec.Root()], all[rec.Digest], all[rec.Previous] = true, true, true
	}
	delete(all, "")
	return all
}

// Whatever is admitted, published, given up and untagged between two looks: all that
// the index names was answered, in one of them.
func TestNaming(t *testing.T) {
	x, err := index.Open(index.Config{Dir: t.TempDir(), Registry: bare{}})
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	random, made, compared, open := rand.New(rand.NewPCG(1, 2)), 0, 0, []imgd.Release{}
	next := func(command imgd.CommandName) error {
		made++
		tag := fmt.Sprint("t", random.IntN(4))
		rel := imgd.Release{Image: "tools/lint", Pushed: command == "", Command: command, Request: imgd.Request{ID: fmt.Sprintf("%032x", made), AskedAt: time.Now()},
			Tags: []imgd.ReleaseTag{{Name: tag, Kind: names.KindOther}}}
		if command == "" {
			rel.Root = ocispec.Descriptor{Digest: digest.FromString(fmt.Sprint("root ", random.IntN(40)))}
			rel.Platforms = []ocispec.Descriptor{{Digest: digest.FromString(fmt.Sprint("platform of ", rel.Root.Digest)), Platform: &ocispec.Platform{OS: "linux", Architecture: "amd64"}}}
		}
		rel, err := x.Admit(t.Context(), rel, "")
		if err == nil {
			open = append(open, rel)
		}
		return err
	}
	end := func() error {
		if len(open) == 0 {
			return nil
		}
		i := random.IntN(len(open))
		rel := open[i]
		open = slices.Delete(open, i, i+1)
		if random.IntN(4) == 0 {
			_, err := x.Abandon(t.Context(), rel.ID, "dropped by ann")
			return err
		}
		_, err := x.Publish(t.Context(), rel.ID)
		return err
	}
	for round := range 30 {
		n := &naming{index: x}
		answered := map[digest.Digest]bool{}
		for range 6 {
			for _, d := range n.roots() {
				answered[d] = true
			}
			for d := range needed(x) {
				compared++
				if !answered[d] {
					t.Fatalf("round %d: %s is named, and was not answered", round, d)
				}
			}
			for range random.IntN(4) {
				err := []func() error{func() error { return next("") }, func() error { return next("") }, func() error { return next(imgd.CommandUntag) }, end, end, end}[random.IntN(6)]()
				if err != nil && !errors.Is(err, imgd.ErrConflict) && !errors.Is(err, imgd.ErrUnchanged) && !errors.Is(err, imgd.ErrNotFound) && !errors.Is(err, imgd.ErrSuperseded) {
					t.Fatal(err)
				}
			}
		}
	}
	if compared < 500 {
		t.Errorf("%d digests in %d entries say little", compared, x.Seq())
	}
}

// Once it has looked at all it says only what is held, until the index goes on.
func TestNamingSaysWhatIsNew(t *testing.T) {
	x := imported(t, 3)
	holds := new(imgd.AuditHolds)
	n := &naming{index: x, holds: holds}
	all := slices.Sorted(maps.Keys(needed(x)))
	if got := slices.Compact(slices.Sorted(slices.Values(n.roots()))); len(all) != 3 || !slices.Equal(got, all) {
		t.Errorf("at first: got %q, want all of %q", got, all)
	}
	if got := n.roots(); len(got) != 0 {
		t.Errorf("nothing is new: got %q", got)
	}
	frozen := digest.FromString("frozen")
	holds.Set(map[digest.Digest]string{frozen: "incident 7"})
	if got := n.roots(); len(got) != 1 || got[0] != frozen {
		t.Errorf("held since: got %q", got)
	}
}

// imported is an index with so many records.
func imported(tb testing.TB, records int) *index.Index {
	tb.Helper()
	dir := filepath.Join(tb.TempDir(), "index")
	var text bytes.Buffer
	for i := range records {
		fmt.Fprintf(&text, `{"ImageName":"demo/app-%d","Tag":"v1.%d.0","Digest":%q,"PublishedAt":"2026-11-21T10:00:00Z","SourceRef":"https://git.example.com/demo/app.git@%040x"}`+"\n",
			i%100, i, digest.FromString(fmt.Sprint(i)), i)
	}
	if _, err := index.ImportInto(dir, index.Import{Name: "past", Text: text.Bytes(), Registry: "registry.test", Now: time.Now()}); err != nil {
		tb.Fatal(err)
	}
	x, err := index.Open(index.Config{Dir: dir, Registry: bare{}})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { x.Close() })
	return x
}

// What a collection asks of an index of 100,000 records: before it begins, and while
// writes are shut out.
func BenchmarkNaming(b *testing.B) {
	x := imported(b, 100_000)
	b.Run("first", func(b *testing.B) {
		for b.Loop() {
			if n := (&naming{index: x}); len(n.roots()) < 100_000 {
				b.Fatal("too few")
			}
		}
	})
	n := &naming{index: x}
	n.roots()
	b.Run("nothing new", func(b *testing.B) {
		for b.Loop() {
			n.roots()
		}
	})
	b.Run("an entry", func(b *testing.B) {
		for b.Loop() {
			n.seq = x.Told() - 1
			n.roots()
		}
	})
}
