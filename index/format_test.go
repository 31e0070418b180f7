package index_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/imgd/imgd/index"
)

// The files that the first imgd of format 1 wrote, without a journal (at commit
// b701a38, with a claim and without anything), open as they are, and go on.
func TestFirstOfFormat(t *testing.T) {
	for _, name := range []string{"first.json", "first-empty.json"} {
		text, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		w, dir := newWorld(), t.TempDir()
		putBack(t, dir, string(text))
		before, err := index.Check(dir)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		x := open(t, dir, w)
		for _, rel := range x.Open() {
			if _, err := x.Publish(t.Context(), rel.ID); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		publish(t, x, w.candidate("refs/tags/v2.0.0", "d", "D", 4))
		if err := x.Close(); err != nil {
			t.Fatal(err)
		}
		after, err := index.Check(dir)
		if err != nil || after.ID != before.ID || after.Releases != before.Releases+1 || after.Seq <= before.Seq {
			t.Errorf("%s: got %+v, %v, after %+v", name, after, err, before)
		}
	}
}
