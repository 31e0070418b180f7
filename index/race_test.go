package index_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/imgd/imgd"
)

// Of 64 that want one immutable tag for 64 commits at a time, one gets it, and
// the others are told which.
func TestRaceForVersion(t *testing.T) {
	const writers = 64
	w := newWorld()
	x := open(t, t.TempDir(), w)
	var racers []imgd.Release
	for n := range writers {
		rel := w.candidate("refs/tags/v1.2.3", "a", fmt.Sprint("root ", n), n)
		rel.Request.Commit = fmt.Sprintf("%040x", n)
		rel.Request.ID = rel.Request.Hash()
		racers = append(racers, rel)
	}
	start, errs := make(chan struct{}), make([]error, writers)
	won := make([]imgd.Release, writers)
	var group sync.WaitGroup
	for n, rel := range racers {
		group.Go(func() {
			<-start
			claimed, err := x.Admit(t.Context(), rel, "")
			if err == nil {
				won[n], err = x.Publish(t.Context(), claimed.ID)
			}
			errs[n] = err
		})
	}
	close(start)
	group.Wait()
	winner := ""
	for _, rel := range won {
		if rel.ID != "" && winner != "" {
			t.Fatalf("%s and %s have won", winner, rel.ID)
		}
		winner += rel.ID
	}
	if winner == "" {
		t.Fatalf("nobody has won: %v", errs)
	}
	lost := 0
	for n, err := range errs {
		if won[n].ID != "" {
			continue
		}
		if lost++; !errors.Is(err, imgd.ErrConflict) || !strings.Contains(err.Error(), winner) {
			t.Errorf("racer %d: got %v, want a conflict that names %s", n, err, winner)
		}
	}
	if holder, _ := x.Wanted(image, "v1.2.3"); lost != writers-1 || holder.ID != winner || x.Generation(image, "v1.2.3") != 1 {
		t.Errorf("%d have lost, and %s holds the tag; %s has won", lost, holder.ID, winner)
	}
}
