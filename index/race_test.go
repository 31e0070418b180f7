package index_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/imgd/imgd"
)

const writers = 64

// Of many writers that ask at once for one immutable tag, each with another image
// of another commit, one gets it; the others are told who, while it claims the
// tag and once it holds it.
func TestRace(t *testing.T) {
	for round := range 8 {
		w := newWorld()
		x := open(t, t.TempDir(), w)
		asks := make([]imgd.Release, writers)
		for i := range asks {
			asks[i] = w.candidate("refs/tags/v1.0.0", "a", fmt.Sprint("root ", i), i)
			asks[i].Request.Commit = fmt.Sprintf("%040x", i)
			asks[i].Request.ID = asks[i].Request.Hash()
		}
		admitted, errs := race(t, asks, func(rel imgd.Release) (imgd.Release, error) {
			got, err := x.Admit(t.Context(), rel, "")
			if err == nil && round%2 == 0 { // while the others still ask
				_, err = x.Publish(t.Context(), got.ID)
			}
			return got, err
		})
		winner := onlyWinner(t, admitted, errs)
		if round%2 != 0 {
			conflicts(t, errs, winner, "claimed by")
			if _, err := x.Publish(t.Context(), winner.ID); err != nil {
				t.Fatal(err)
			}
		}
		conflicts(t, errs, winner, "")
		var losers []imgd.Release
		for i, err := range errs {
			if err != nil {
				losers = append(losers, asks[i])
			}
		}
		_, errs = race(t, losers, func(rel imgd.Release) (imgd.Release, error) { return x.Admit(t.Context(), rel, "") })
		conflicts(t, errs, winner, "held by")
		if rel, _ := x.Wanted(image, "v1.0.0"); rel.ID != winner.ID || rel.Root.Digest != winner.Root.Digest || x.Generation(image, "v1.0.0") != 1 || x.Seq() != 2 {
			t.Errorf("v1.0.0 is of %s, root %s, at seq %d; want %s, %s, 2", rel.ID, rel.Root.Digest, x.Seq(), winner.ID, winner.Root.Digest)
		}
	}
}

// race does it to all of the releases at once.
func race(t *testing.T, rels []imgd.Release, do func(imgd.Release) (imgd.Release, error)) ([]imgd.Release, []error) {
	t.Helper()
	answers, errs := make([]imgd.Release, len(rels)), make([]error, len(rels))
	begin := make(chan struct{})
	var running sync.WaitGroup
	for i, rel := range rels {
		running.Go(func() {
			<-begin
			answers[i], errs[i] = do(rel)
		})
	}
	close(begin)
	running.Wait()
	return answers, errs
}

func onlyWinner(t *testing.T, admitted []imgd.Release, errs []error) (winner imgd.Release) {
	t.Helper()
	won := 0
	for i, err := range errs {
		if err == nil {
			won, winner = won+1, admitted[i]
		}
	}
	if won != 1 {
		t.Fatalf("%d writers won, want 1", won)
	}
	return winner
}

// conflicts holds that all errors but the winner's nil are conflicts that name
// it, and say how it has the tag.
func conflicts(t *testing.T, errs []error, winner imgd.Release, how string) {
	t.Helper()
	told := 0
	for _, err := range errs {
		if err == nil {
			continue
		}
		told++
		for _, name := range []string{winner.ID, winner.Root.Digest.String(), how} {
			if !errors.Is(err, imgd.ErrConflict) || !strings.Contains(err.Error(), name) {
				t.Errorf("got %v, want a conflict that names %s", err, name)
			}
		}
	}
	if told != writers-1 {
		t.Errorf("%d conflicts, want %d", told, writers-1)
	}
}
