package events_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/events"
)

// A scripted handler does as the test says.
type scripted func(ctx context.Context, req *imgd.Request, report func(imgd.State)) (imgd.Release, error)

func (scripted) Resolve(context.Context, *imgd.Request) error { return errors.New("not scripted") }

func (s scripted) Handle(ctx context.Context, req *imgd.Request, report func(imgd.State)) (imgd.Release, error) {
	return s(ctx, req, report)
}

// New work never waits for what is being published, and a try of what was
// admitted before needs a slot for a moment only.
func TestPublishingNeedsNoSlot(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := s.raw()
	b := connect(t, events.Config{URL: s.url(), Slots: 1, Lease: 10 * patience})
	h := openHandler(t, nil)
	answers := make(chan error)
	h.drive = func(_ context.Context, req *imgd.Request) error {
		if req.Ref == "refs/heads/stuck" {
			return <-answers
		}
		return nil
	}
	running(t, consume(b, h))
	stuck := ask(t, b, "refs/heads/stuck")
	wait(t, b, stuck.ID, func(st imgd.Status) bool { return st.State == imgd.Publishing })
	for i := range 3 {
		final(t, b, ask(t, b, fmt.Sprintf("refs/heads/first%d", i)))
	}
	answers <- errors.New("the registry is away")
	wait(t, b, stuck.ID, func(st imgd.Status) bool { return st.State == imgd.Publishing && st.Tries == 2 })
	for i := range 3 {
		final(t, b, ask(t, b, fmt.Sprintf("refs/heads/second%d", i)))
	}
	answers <- nil
	if st := final(t, b, stuck); st.State != imgd.Published {
		t.Errorf("got %+v", st)
	}
	empty(t, js)
}

// What publishes without a slot is bounded; what is too many keeps its slot.
func TestPublishingIsBounded(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := connect(t, events.Config{URL: s.url(), Slots: 1, Lease: 10 * patience})
	h := openHandler(t, nil)
	answers := make(chan error)
	h.drive = func(context.Context, *imgd.Request) error { return <-answers }
	running(t, consume(b, h))
	const most = 64 + 1 // the last with the slot
	var asked []imgd.Request
	for i := range most + 1 {
		asked = append(asked, ask(t, b, fmt.Sprintf("refs/heads/b%d", i)))
	}
	for range most {
		receive(t, h.started, "start of a request")
	}
	wait(t, b, asked[most-1].ID, func(st imgd.Status) bool { return st.State == imgd.Publishing })
	select {
	case req := <-h.started:
		t.Errorf("%s is started too", req.Ref)
	case <-time.After(300 * time.Millisecond): // three polls
	}
	close(answers)
	for _, req := range asked {
		final(t, b, req)
	}
}

// A release that is lost while it is published is built again, in a slot.
func TestBuildingAgainTakesASlot(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := connect(t, events.Config{URL: s.url(), Slots: 1, Lease: 10 * patience})
	published, other, rebuilt := make(chan struct{}), make(chan struct{}), make(chan struct{})
	running(t, consume(b, scripted(func(_ context.Context, req *imgd.Request, report func(imgd.State)) (imgd.Release, error) {
		report(imgd.Building)
		if req.Ref == "refs/heads/other" {
			close(other)
			<-published
			select {
			case <-rebuilt:
				t.Error("two are built at a time, in one slot")
			case <-time.After(100 * time.Millisecond):
			}
			return imgd.Release{}, nil
		}
		report(imgd.Publishing)
		<-other
		close(published)
		report(imgd.Building)
		close(rebuilt)
		return imgd.Release{}, nil
	})))
	lost := ask(t, b, "refs/heads/lost")
	wait(t, b, lost.ID, func(st imgd.Status) bool { return st.State == imgd.Publishing })
	final(t, b, ask(t, b, "refs/heads/other"))
	final(t, b, lost)
}

// A request that waits for a slot to be built in again is interrupted with the
// others.
func TestBuildingAgainIsInterrupted(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := connect(t, events.Config{URL: s.url(), Slots: 1, Lease: 10 * patience, Grace: 50 * time.Millisecond})
	other, waits := make(chan struct{}), make(chan struct{})
	stop := running(t, consume(b, scripted(func(ctx context.Context, req *imgd.Request, report func(imgd.State)) (imgd.Release, error) {
		report(imgd.Building)
		if req.Ref == "refs/heads/other" {
			close(other)
			<-ctx.Done()
			return imgd.Release{}, ctx.Err()
		}
		report(imgd.Publishing)
		<-other
		close(waits)
		report(imgd.Building)
		return imgd.Release{}, ctx.Err()
	})))
	lost := ask(t, b, "refs/heads/lost")
	wait(t, b, lost.ID, func(st imgd.Status) bool { return st.State == imgd.Publishing })
	ask(t, b, "refs/heads/other")
	receive(t, waits, "second build")
	if err := stop(); err != nil {
		t.Error(err)
	}
	if st, _, _ := b.Status(t.Context(), lost.ID); st.State != imgd.Queued || st.Error == nil || st.Error.Kind != "interrupted" {
		t.Errorf("got %+v", st)
	}
}

// Shutdown waits for what publishes, too.
func TestShutdownLetsPublish(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := connect(t, events.Config{URL: s.url(), Slots: 1, Grace: patience})
	h := openHandler(t, nil)
	answers, driving := make(chan error), make(chan struct{})
	h.drive = func(context.Context, *imgd.Request) error { close(driving); return <-answers }
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Consume(ctx, h) }()
	req := ask(t, b, "refs/heads/main")
	receive(t, driving, "publishing")
	cancel()
	select {
	case <-done:
		t.Error("Consume did not wait")
	case answers <- nil:
		if err := receive(t, done, "end of Consume"); err != nil {
			t.Error(err)
		}
	}
	if st, _, _ := b.Status(t.Context(), req.ID); st.State != imgd.Published {
		t.Errorf("got %+v, want it published", st)
	}
}

// One that was interrupted while it published stays so.
func TestShutdownWhilePublishing(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := connect(t, events.Config{URL: s.url(), Slots: 1, Lease: 10 * patience, Grace: -1})
	h := openHandler(t, nil)
	driving := make(chan struct{})
	h.drive = func(ctx context.Context, _ *imgd.Request) error { close(driving); <-ctx.Done(); return ctx.Err() }
	stop := running(t, consume(b, h))
	req := ask(t, b, "refs/heads/main")
	receive(t, driving, "publishing")
	if err := stop(); err != nil {
		t.Error(err)
	}
	st, _, _ := b.Status(t.Context(), req.ID)
	if st.State != imgd.Publishing || st.Release != req.ID+"-1" || st.Error == nil || st.Error.Kind != "interrupted" {
		t.Errorf("got %+v", st)
	}
	h.drive = nil
	running(t, consume(b, h))
	if st := final(t, b, req); st.State != imgd.Published || st.Tries < 2 || st.Error != nil {
		t.Errorf("got %+v, want it published at the second try", st)
	}
}
