package events_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/events"
)

// A process that has lost its lease may still run what waits for its next try
// elsewhere. It hears the order too; and if that is lost, it finds the state.
func TestCancelReachesWhoLostItsLease(t *testing.T) {
	t.Parallel()
	for _, hears := range []bool{true, false} {
		t.Run(fmt.Sprint(hears), func(t *testing.T) {
			s := startServer(t)
			_, js := s.raw()
			b := connect(t, events.Config{URL: s.url(), Lease: 10 * patience})
			told, found := make(chan struct{}), make(chan error, 1)
			running(t, consume(b, scripted(func(ctx context.Context, _ *imgd.Request, report func(imgd.State)) (imgd.Release, error) {
				report(imgd.Resolving)
				if !hears {
					<-told
					report(imgd.Building)
				}
				select {
				case <-ctx.Done():
					found <- nil
				case <-time.After(patience):
					found <- errors.New("the handler is not interrupted")
				}
				return imgd.Release{}, ctx.Err()
			})))
			req := ask(t, b, "refs/heads/main")
			wait(t, b, req.ID, func(st imgd.Status) bool { return st.State == imgd.Resolving })
			st := imgd.StatusOf(req, imgd.Queued) // the other's try has failed
			st.Tries = 2
			if hears {
				writeStatus(t, s, st)
				if _, err := b.Cancel(t.Context(), req.ID, "ann"); err != nil {
					t.Error(err)
				}
			} else {
				st.State, st.Error = imgd.Cancelled, &imgd.StatusError{Kind: "cancelled", Message: "cancelled by ann"}
				writeStatus(t, s, st)
			}
			if !hears {
				close(told)
			}
			if err := receive(t, found, "interruption"); err != nil {
				t.Error(err)
			}
			empty(t, js)
			if st, _, _ := b.Status(t.Context(), req.ID); st.State != imgd.Cancelled || st.Tries != 2 {
				t.Errorf("got %+v, want the state that was written", st)
			}
		})
	}
}

// If such a one has admitted a release, that is driven, and published.
func TestAdmittedGoesBeforeCancelled(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := s.raw()
	b := connect(t, events.Config{URL: s.url(), Lease: 10 * patience})
	written := make(chan struct{})
	tries := 0
	running(t, consume(b, scripted(func(ctx context.Context, req *imgd.Request, report func(imgd.State)) (imgd.Release, error) {
		rel := imgd.Release{ID: req.ID + "-1", State: imgd.ReleaseAdmitted}
		if tries++; tries > 1 {
			return rel, nil
		}
		report(imgd.Building)
		<-written
		report(imgd.Publishing)
		return rel, errAway
	})))
	req := ask(t, b, "refs/heads/main")
	wait(t, b, req.ID, func(st imgd.Status) bool { return st.State == imgd.Building })
	st := imgd.StatusOf(req, imgd.Cancelled)
	st.Tries = 1
	writeStatus(t, s, st)
	close(written)
	wait(t, b, req.ID, func(st imgd.Status) bool { return st.State == imgd.Published })
	empty(t, js)
}

// At any moment: whatever Cancel says is what comes of it.
func TestCancelAtAnyMoment(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := s.raw()
	b := connect(t, events.Config{URL: s.url(), Slots: 4})
	h := openHandler(t, func(ctx context.Context, req *imgd.Request) error {
		pauses(ctx)
		if ctx.Err() != nil && rand.N(2) == 0 {
			return ctx.Err()
		}
		return nil // admitted, cancelled or not
	})
	h.drive = func(ctx context.Context, _ *imgd.Request) error {
		pauses(ctx)
		return ctx.Err()
	}
	running(t, consume(b, h))
	const requests = 60
	ended := make(chan error, requests)
	for i := range requests {
		go func() {
			ended <- func() error {
				req, err := b.Submit(t.Context(), imgd.Request{Project: "hello", Ref: fmt.Sprintf("refs/heads/b%d", i), Commit: commit}, "")
				if err != nil {
					return err
				}
				for range rand.N(4) {
					pauses(t.Context())
				}
				st, err := b.Cancel(t.Context(), req.ID, "ann")
				switch {
				case err == nil && st.State == imgd.Cancelled, errors.Is(err, imgd.ErrConflict):
				default:
					return fmt.Errorf("%s: got %+v, error %w", req.Ref, st, err)
				}
				end := final(t, b, req)
				if cancelled := end.State == imgd.Cancelled; cancelled != (err == nil) || cancelled == h.is(h.published, req.ID) {
					return fmt.Errorf("%s: Cancel said %w, the end is %+v, published %v", req.Ref, err, end, h.is(h.published, req.ID))
				}
				return nil
			}()
		}()
	}
	for range requests {
		if err := receive(t, ended, "end of a request"); err != nil {
			t.Error(err)
		}
	}
	empty(t, js)
}

// pauses waits for some milliseconds.
func pauses(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(rand.N(5 * time.Millisecond)):
	}
}
