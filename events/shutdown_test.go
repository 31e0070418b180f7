package events_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/events"
)

func TestShutdownGivesBackAtOnce(t *testing.T) {
	s := startServer(t)
	lease := 10 * patience // only a request that was given back comes again in time
	b := connect(t, events.Config{URL: s.url(), Lease: lease, Slots: 1, Grace: 50 * time.Millisecond})
	h := newHandler(t)
	stop := running(t, consume(b, h))
	req := ask(t, b, "refs/heads/main")
	receive(t, h.started, "first try")
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	st, _, err := b.Status(t.Context(), req.ID)
	if err != nil || st.State != imgd.Queued || st.Error == nil || st.Error.Kind != "interrupted" {
		t.Errorf("after the shutdown: got %+v, error %v", st, err)
	}
	running(t, consume(b, openHandler(t, nil)))
	if st := final(t, b, req); st.State != imgd.Published || st.Tries != 2 {
		t.Errorf("got %+v, want it published at the second try", st)
	}
}

// A build that the shutdown killed looks like one that failed.
func TestShutdownIsNoFailure(t *testing.T) {
	s := startServer(t)
	b := connect(t, events.Config{URL: s.url(), Lease: 10 * patience, Slots: 1, Grace: -1})
	started := make(chan struct{})
	stop := running(t, consume(b, openHandler(t, func(ctx context.Context, _ *imgd.Request) error {
		close(started)
		<-ctx.Done()
		return &imgd.BuildError{Message: "killed", ExitCode: 137}
	})))
	req := ask(t, b, "refs/heads/main")
	receive(t, started, "build")
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	running(t, consume(b, openHandler(t, nil)))
	if st := final(t, b, req); st.State != imgd.Published {
		t.Errorf("got %+v, want it published", st)
	}
}

func TestShutdownLetsFinish(t *testing.T) {
	s := startServer(t)
	_, js := s.raw()
	b := connect(t, events.Config{URL: s.url(), Grace: patience})
	h := newHandler(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Consume(ctx, h) }()
	req := ask(t, b, "refs/heads/main")
	receive(t, h.started, "start")
	cancel()
	later := ask(t, b, "refs/heads/later")
	h.letGo()
	if err := receive(t, done, "end of Consume"); err != nil {
		t.Error(err)
	}
	if st, _, _ := b.Status(t.Context(), req.ID); st.State != imgd.Published {
		t.Errorf("got %+v, want it published", st)
	}
	if n := h.callsOf(later.ID); n != 0 || count(t, js, "IMGD_REQUESTS") != 1 {
		t.Errorf("a request that came after the shutdown was taken")
	}
}

// What is on its way at the moment of the shutdown must not wait for its lease.
func TestShutdownLeavesNothingTaken(t *testing.T) {
	s := startServer(t)
	g := newGate(t, s)
	leaving := connect(t, events.Config{URL: g.url, Lease: 10 * patience, Slots: 1})
	held, release := g.holdBack("$JS.ACK.IMGD_REQUESTS.")
	defer release()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- leaving.Consume(ctx, openHandler(t, nil)) }()
	b := connect(t, events.Config{URL: s.url(), Lease: 10 * patience})
	req := ask(t, b, "refs/heads/main")
	receive(t, held, "delivery")
	cancel()
	release()
	if err := receive(t, done, "end of Consume"); err != nil {
		t.Error(err)
	}
	running(t, consume(b, openHandler(t, nil)))
	if st := final(t, b, req); st.Tries != 2 {
		t.Errorf("got it at try %d, want 2", st.Tries)
	}
}

// The same in passing, many times.
func TestShutdownAtAnyMoment(t *testing.T) {
	s := startServer(t)
	_, js := s.raw()
	b := connect(t, events.Config{URL: s.url(), Lease: 10 * patience, Slots: 1})
	var asked []imgd.Request
	for i := range 10 {
		stop := running(t, consume(b, openHandler(t, nil)))
		asked = append(asked, ask(t, b, fmt.Sprintf("refs/heads/b%d", i)))
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	}
	running(t, consume(b, openHandler(t, nil)))
	for _, req := range asked {
		final(t, b, req)
	}
	empty(t, js)
}
