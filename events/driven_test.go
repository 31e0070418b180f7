package events_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/imgd/imgd"
)

// A handlerFunc is a Handler of requests that name their commit.
type handlerFunc func(ctx context.Context, req *imgd.Request, report func(imgd.State)) (imgd.Release, error)

func (f handlerFunc) Resolve(context.Context, *imgd.Request) error { return errAway }

func (f handlerFunc) Handle(ctx context.Context, req *imgd.Request, report func(imgd.State)) (imgd.Release, error) {
	return f(ctx, req, report)
}

// A release that was abandoned and has not given all back yet, or is to be built
// again, is gone on with however old its request is, and nobody cancels it.
func TestAbandonedIsNotGivenUp(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := s.raw()
	cfg := ends(s.url())
	cfg.RetryFor, cfg.Tries = time.Nanosecond, 1
	b := connect(t, cfg)
	var tries atomic.Int64
	cancelled := make(chan error, 1)
	running(t, consume(b, handlerFunc(func(ctx context.Context, req *imgd.Request, report func(imgd.State)) (imgd.Release, error) {
		report(imgd.Publishing)
		rel := imgd.Release{ID: req.ID + "-1", State: imgd.ReleaseAbandoned, Why: "dropped by ann"}
		switch tries.Add(1) {
		case 1, 2, 3:
			return rel, errAway
		case 4:
			_, err := b.Cancel(ctx, req.ID, "ann")
			cancelled <- err
			return rel, errAway
		}
		return rel, imgd.ErrRefused
	})))
	req := ask(t, b, "refs/tags/v1")
	st := final(t, b, req)
	if st.State != imgd.Failed || st.Error.Kind != "refused" || tries.Load() != 5 {
		t.Errorf("got %+v after %d tries", st, tries.Load())
	}
	if err := receive(t, cancelled, "cancel"); !errors.Is(err, imgd.ErrConflict) {
		t.Errorf("cancel: got %v, want a conflict", err)
	}
	empty(t, js)
	checkEnds(t, js, st)
}

// The daemon died after it had admitted, before the state said so.
func TestDropBehindState(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := s.raw()
	b := connect(t, ends(s.url()))
	req := ask(t, b, "refs/tags/v1")
	writeStatus(t, s, imgd.StatusOf(req, imgd.Building))
	st, err := b.Drop(t.Context(), req.ID, "ann", "it hangs", dropper{})
	if err != nil || st.State != imgd.Failed || st.Error.Kind != "dropped" {
		t.Errorf("got %+v, error %v", st, err)
	}
	running(t, consume(b, newHandler(t))) // it would hang if it were handled
	empty(t, js)
	checkEnds(t, js, st)
}

// One request that panics takes no other down, and ends as what keeps failing
// does.
func TestPanic(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := s.raw()
	cfg := ends(s.url())
	cfg.RetryFor, cfg.Tries = time.Nanosecond, 3
	b := connect(t, cfg)
	running(t, consume(b, openHandler(t, func(_ context.Context, req *imgd.Request) error {
		if req.Ref == "refs/heads/bad" {
			panic("a panic that is meant")
		}
		return nil
	})))
	bad, good := ask(t, b, "refs/heads/bad"), ask(t, b, "refs/heads/good")
	if st := final(t, b, good); st.State != imgd.Published {
		t.Errorf("got %+v", st)
	}
	st := final(t, b, bad)
	if st.State != imgd.Dead || st.Tries != 3 {
		t.Errorf("got %+v", st)
	}
	empty(t, js)
	checkEnds(t, js, st)
}
