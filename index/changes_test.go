package index_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/index"
	"github.com/imgd/imgd/version"
)

// A mirror is what a reader of changes knows of the records.
type mirror struct {
	records map[string]imgd.Record
	seq     uint64
}

func keyOf(r imgd.Record) string { return r.Image + ":" + r.Tag + " " + r.Platform }

// read takes in what came since, so many at a time.
func (m *mirror) read(t *testing.T, x *index.Index, limit int) {
	t.Helper()
	for {
		changes, upTo := x.Changes(m.seq, "", limit)
		for _, c := range changes {
			if c.Seq <= m.seq {
				t.Fatalf("change %d comes after %d", c.Seq, m.seq)
			}
			m.seq = c.Seq
			for _, r := range c.Removed {
				if was, ok := m.records[keyOf(r)]; !ok || was.Digest != r.Digest {
					t.Errorf("change %d removes %s %s, which is not there", c.Seq, keyOf(r), r.Digest)
				}
				delete(m.records, keyOf(r))
			}
			for _, r := range c.Set {
				m.records[keyOf(r)] = r
			}
		}
		if upTo == x.Seq() {
			m.seq = upTo
			return
		}
	}
}

// Who reads the changes, from wherever and in whatever steps, knows the records.
func TestChanges(t *testing.T) {
	w, _, x, a, b := series(t)
	list := w.candidate("refs/tags/v1.3.0", "c", "C", 3)
	list.Root = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromString("CD"), Size: 900}
	list.Platforms = platforms("C", "D")
	readers := []*mirror{{}, {}, {}}
	for _, m := range readers {
		m.records = map[string]imgd.Record{}
	}
	readers[1].read(t, x, 2) // it comes early, and again at the end
	publish(t, x, list)
	if changes, _ := x.Changes(x.Seq()-1, "", 9); len(changes) != 1 || len(changes[0].Set) != 6 || len(changes[0].Removed) != 0 {
		t.Errorf("of a list: %+v", changes)
	}
	publish(t, x, command(1, &a, 10, "latest"))
	if changes, _ := x.Changes(x.Seq()-1, "", 9); len(changes) != 1 || len(changes[0].Set) != 1 || len(changes[0].Removed) != 1 || changes[0].Removed[0].Platform != "linux/arm64" {
		t.Errorf("of a rollback to one platform: %+v", changes)
	}
	readers[1].read(t, x, 1)
	publish(t, x, command(2, &b, 11, "latest", "stable"))
	publish(t, x, command(3, nil, 12, "latest"))
	if changes, _ := x.Changes(x.Seq()-1, "", 9); len(changes) != 1 || len(changes[0].Set) != 0 || len(changes[0].Removed) != 1 {
		t.Errorf("of an untag: %+v", changes)
	}
	publish(t, x, pushed("tool", version.KindOther, "e", 13, "E"))
	if err := x.SetTold(t.Context(), 4); err != nil {
		t.Fatal(err)
	}
	for i, m := range readers {
		m.read(t, x, i+1)
		records, _ := x.Records()
		want := map[string]imgd.Record{}
		for _, r := range records {
			want[keyOf(r)] = r
		}
		if !maps.EqualFunc(m.records, want, func(a, b imgd.Record) bool { return fmt.Sprint(a) == fmt.Sprint(b) }) {
			t.Errorf("reader %d knows %v, want %v", i, slices.Sorted(maps.Keys(m.records)), slices.Sorted(maps.Keys(want)))
		}
	}
	if changes, upTo := x.Changes(0, "none", 9); len(changes) != 0 || upTo != x.Seq() {
		t.Errorf("of no image: %+v", changes)
	}
}
