package index_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/index"
)

var _ imgd.Truth = (*index.View)(nil)

// A view has what the journal has, beside the process that writes it, and stays as
// it was.
func TestRead(t *testing.T) {
	dir, w := t.TempDir(), newWorld()
	x := open(t, dir, w)
	first := publish(t, x, w.candidate("refs/tags/v1.2.3", "a", "A", 0))
	before, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	v, err := index.Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, tag := range []string{"v1.2.3", "latest", "v9"} {
		if got, want := v.Tag(image, tag), x.Tag(image, tag); !slices.EqualFunc(got, want, func(a, b imgd.Record) bool { return a.Digest == b.Digest && a.Release == b.Release }) {
			t.Errorf("%s: got %v, want %v", tag, got, want)
		}
	}
	if rel, ok := v.Release(first.ID); !ok || rel.Root.Digest != first.Root.Digest {
		t.Errorf("got release %+v, %v", rel, ok)
	}
	if rel, ok := v.Wanted(image, "latest"); !ok || rel.ID != first.ID {
		t.Errorf("latest is wanted by %+v, %v", rel, ok)
	}
	found, _, _ := v.Find(imgd.Find{Image: image})
	want, _, seq := x.Find(imgd.Find{Image: image})
	if len(found) != len(want) || len(found) == 0 || v.Seq() != seq {
		t.Errorf("found %d at %d, want %d at %d", len(found), v.Seq(), len(want), seq)
	}
	publish(t, x, w.candidate("refs/tags/v1.2.4", "b", "B", 1))
	if len(v.Tag(image, "v1.2.4")) > 0 || v.Wait(t.Context(), seq) != nil || v.Wait(t.Context(), seq+1) == nil {
		t.Error("a view is of one moment")
	}
	after, err := os.ReadDir(dir)
	if err != nil || len(after) != len(before) {
		t.Errorf("%d files, before %d: %v", len(after), len(before), err)
	}
}

func TestReadRefuses(t *testing.T) {
	dir := t.TempDir()
	if _, err := index.Read(dir); err == nil || !strings.Contains(err.Error(), "images.json") {
		t.Errorf("nothing there: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "images.json"), []byte("{}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := index.Read(dir); err == nil {
		t.Error("damage is read")
	}
	if files, _ := os.ReadDir(dir); len(files) != 1 {
		t.Errorf("%d files", len(files))
	}
}
