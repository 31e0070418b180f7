package index_test

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/index"
	"github.com/imgd/imgd/version"
)

// patch is the last number of the version that the tag names, -1 if it names none.
func patch(t *testing.T, records []imgd.Record) int {
	t.Helper()
	n := -1
	for _, r := range records {
		if _, err := fmt.Sscanf(r.Version, "v1.0.%d", &n); err != nil {
			t.Errorf("record of version %s: %v", r.Version, err)
		}
	}
	return n
}

// Readers that look at one tag of a release, and then at another, never see the
// second one as it was before, while releases are published that take them all.
func TestLookupsSeeWholeReleases(t *testing.T) {
	const releases, tags = 100, 100 // so many that to fold them takes a while
	w := newWorld()
	x := open(t, t.TempDir(), w)
	var done atomic.Bool
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for last := -1; !done.Load(); {
				name := fmt.Sprint("t", rand.IntN(tags))
				n := patch(t, x.Tag(image, name))
				if n < last {
					t.Errorf("%s names v1.0.%d after another tag named v1.0.%d", name, n, last)
					return
				}
				last = n
			}
		})
	}
	for i := range releases {
		rel := w.candidate(fmt.Sprintf("refs/tags/v1.0.%d", i), "a", fmt.Sprint("root ", i), i)
		rel.Tags = nil
		for n := range tags {
			rel.Tags = append(rel.Tags, imgd.ReleaseTag{Name: fmt.Sprint("t", n), Kind: version.KindOther})
		}
		publish(t, x, rel)
	}
	done.Store(true)
	readers.Wait()
}

// Of many tags each is found, and none that was never held and is claimed no more,
// also by the next process.
func TestLookupOfManyTags(t *testing.T) {
	const images, each = 64, 24 // more than a table has room for that is made for none
	w, dir := newWorld(), t.TempDir()
	x := open(t, dir, w)
	var all sync.WaitGroup
	for i := range images {
		all.Go(func() {
			for n := range each {
				rel := w.candidate(fmt.Sprintf("refs/tags/v1.0.%d", n), "a", fmt.Sprint("root ", i, n), n)
				rel.Image, rel.Tags = fmt.Sprint("demo/", i), rel.Tags[:1]
				rel.Request.Project = fmt.Sprint("project ", i)
				rel.Request.ID = rel.Request.Hash()
				admitted, err := x.Admit(t.Context(), rel, "")
				if err == nil && n%3 == 0 {
					_, err = x.Abandon(t.Context(), admitted.ID, "not wanted")
				} else if err == nil {
					_, err = x.Publish(t.Context(), admitted.ID)
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	found := func(x *index.Index) {
		t.Helper()
		for i := range images {
			for n := range each {
				want := n
				if n%3 == 0 {
					want = -1
				}
				if got := patch(t, x.Tag(fmt.Sprint("demo/", i), fmt.Sprintf("v1.0.%d", n))); got != want {
					t.Errorf("v1.0.%d of image %d names patch %d, want %d", n, i, got, want)
				}
			}
		}
	}
	found(x)
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	found(open(t, dir, w))
}
