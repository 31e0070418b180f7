package imgd_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/imgd/imgd"
)

// beside is another CI at work on the tags of a play, with the same image.
type beside struct {
	*play
	recorder *imgd.Pipeline

	mu     sync.Mutex               // guards theirs
	theirs map[string]digest.Digest // tag -> what it was last pushed with
}

func (b *beside) said(tag string, force bool) imgd.Pushed {
	b.mu.Lock()
	defer b.mu.Unlock()
	in := pushed(tag, b.theirs[tag])
	in.Image, in.Registry, in.Moving, in.Force, in.Reason = demoImage, "", tag == "stable", force, "a test"
	return in
}

// work pushes something under a tag, in every repository, and records it.
func (b *beside) work() {
	tag := []string{"v1.0.0", "v1.0.1", "v1.0.2", "v2.0.0", "stable", "stable"}[b.roll(6)]
	name := fmt.Sprint("theirs ", b.roll(3))
	var d digest.Digest
	for _, repository := range b.repos {
		d = b.world.push(repository, tag, name)
	}
	b.mu.Lock()
	b.theirs[tag] = d
	b.mu.Unlock()
	_, _, err := b.recorder.Record(context.Background(), b.said(tag, b.roll(4) == 0))
	// A build may put its own there meanwhile, and take it away again.
	if err != nil && !errors.Is(err, errInjected) && !isEnd(err) && !errors.Is(err, imgd.ErrDiffers) && !errors.Is(err, imgd.ErrNotFound) {
		b.t.Errorf("record %s: %v", tag, err)
	}
}

// explained holds that where a tag names something else than the index wants,
// somebody was told.
func (b *beside) explained() {
	b.t.Helper()
	for key, root := range b.tags {
		tag := key[strings.LastIndex(key, ":")+1:]
		rel, ok := b.index.Wanted(demoImage, tag)
		told := slices.ContainsFunc(b.drifts, func(d imgd.Drift) bool { return d.Tag == tag && d.Wanted == rel.Root.Digest && d.Found == root })
		if ok && rel.Root.Digest != root && !told {
			b.t.Errorf("the registry says %s for %s, the index %s, and no drift is told (I6)", root, key, rel.Root.Digest)
		}
		if !ok && b.theirs[tag] != root {
			b.t.Errorf("the registry says %s for %s, and nobody has put it there", root, key)
		}
	}
}

// However builds and another CI's records interleave, with faults: everything
// ends, and where registry and index differ, drift is told.
func TestRecordInterleavings(t *testing.T) {
	for seed := range uint64(40) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			p := newPlay(t, seed, 1)
			b := &beside{play: p, recorder: p.daemons[0], theirs: map[string]digest.Digest{}}
			var clock sync.Mutex
			b.recorder.Now = func() time.Time {
				clock.Lock()
				defer clock.Unlock()
				p.seconds++
				return epoch.Add(time.Duration(p.seconds) * time.Second)
			}
			for range 8 {
				p.push()
				var running sync.WaitGroup
				running.Go(b.work)
				running.Go(b.work)
				p.round()
				running.Wait()
			}
			p.settle()
			for tag := range b.theirs { // what failed on the way is said again
				if _, _, err := b.recorder.Record(t.Context(), b.said(tag, false)); err != nil && !errors.Is(err, imgd.ErrConflict) && !errors.Is(err, imgd.ErrDiffers) && !errors.Is(err, imgd.ErrNotFound) {
					t.Errorf("record %s again: %v", tag, err)
				}
			}
			if n := len(b.index.Open()); n > 0 {
				t.Errorf("%d releases are open", n)
			}
			b.explained()
		})
	}
}
