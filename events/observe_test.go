package events_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/events"
)

// An audience takes what an Observer is told.
type audience struct {
	ended, retried chan imgd.Status
	announced      chan imgd.Release
	drifted        chan imgd.Drift
	lost           chan events.Loss
}

func newAudience() audience {
	const room = 1000
	return audience{make(chan imgd.Status, room), make(chan imgd.Status, room), make(chan imgd.Release, room),
		make(chan imgd.Drift, room), make(chan events.Loss, room)}
}

func (a audience) observer() events.Observer {
	return events.Observer{
		Ended:     func(st imgd.Status) { a.ended <- st },
		Retried:   func(st imgd.Status) { a.retried <- st },
		Announced: func(rel imgd.Release) { a.announced <- rel },
		Drifted:   func(d imgd.Drift) { a.drifted <- d },
		LeaseLost: func(l events.Loss) { a.lost <- l },
	}
}

// Each try that another follows is told, and the end once.
func TestObserveEnds(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := s.raw()
	a := newAudience()
	cfg := ends(s.url())
	cfg.Observe = a.observer()
	b := connect(t, cfg)
	var tries int
	running(t, consume(b, openHandler(t, func(context.Context, *imgd.Request) error {
		if tries++; tries < 3 {
			return errAway
		}
		return fmt.Errorf("v1 names another: %w", imgd.ErrConflict)
	})))
	req := ask(t, b, "refs/tags/v1")
	for range 2 {
		if st := receive(t, a.retried, "retry"); st.Request != req.ID || st.Error.Kind != "error" || st.State.Final() {
			t.Errorf("retried: got %+v", st)
		}
	}
	if st := receive(t, a.ended, "end"); st.Request != req.ID || st.State != imgd.Conflicted || st.Project != "hello" {
		t.Errorf("ended: got %+v", st)
	}
	empty(t, js)
	if len(a.ended)+len(a.retried)+len(a.lost) > 0 {
		t.Errorf("told more: %d ends, %d retries, %d losses", len(a.ended), len(a.retried), len(a.lost))
	}
}

// An end whose acknowledgement is lost is settled later, and told then.
func TestObserveEndCutOff(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := s.raw()
	g := newGate(t, s)
	a := newAudience()
	cfg := ends(g.url)
	cfg.Observe, cfg.Lease, cfg.Timeout = a.observer(), 600*time.Millisecond, 300*time.Millisecond
	b := connect(t, cfg)
	tripped := g.lose("+ACK", false)
	running(t, consume(b, openHandler(t, nil)))
	req := ask(t, connect(t, ends(s.url())), "refs/tags/v1")
	receive(t, tripped, "cut")
	if st := receive(t, a.ended, "end"); st.Request != req.ID || st.State != imgd.Published {
		t.Errorf("ended: got %+v", st)
	}
	empty(t, js)
	if len(a.ended) > 0 {
		t.Errorf("the end is told %d times more", len(a.ended))
	}
}

// A release that is announced is told, and so is a drift.
func TestObserveEvents(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	l, a := newLog(t, s), newAudience()
	rel := l.publish()
	b := connect(t, events.Config{URL: s.url(), Observe: a.observer()})
	running(t, relay(b, l))
	if got := receive(t, a.announced, "announcement"); got.ID != rel.ID {
		t.Errorf("announced: got %s, want %s", got.ID, rel.ID)
	}
	if err := b.ReportDrift(t.Context(), drift()); err != nil {
		t.Fatal(err)
	}
	if got := receive(t, a.drifted, "drift"); got != drift() {
		t.Errorf("drifted: got %+v", got)
	}
	bad := drift()
	bad.Tag = ""
	if err := b.ReportDrift(t.Context(), bad); err == nil || len(a.drifted) > 0 {
		t.Errorf("a drift that was not reported is told, error %v", err)
	}
}

// A sign of life that cannot be sent, and a request that comes again while it
// runs, are losses of its lease; another ask for the same is none.
func TestObserveLeases(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := s.raw()
	a := newAudience()
	b := connect(t, events.Config{URL: s.url(), Lease: 10 * patience, Slots: 2, Observe: a.observer()})
	h, acks := newHandler(t), tap(t, s)
	running(t, consume(b, h))
	req := ask(t, b, "refs/heads/main")
	receive(t, h.started, "start")
	ask(t, b, "refs/heads/main")
	untilAck(t, acks, "-NAK")
	if len(a.lost) > 0 {
		t.Errorf("lost %s by another ask", <-a.lost)
	}
	cons, err := js.Consumer(t.Context(), "IMGD_REQUESTS", "imgd")
	if err != nil {
		t.Fatal(err)
	}
	short := cons.CachedInfo().Config
	short.AckWait = 200 * time.Millisecond
	if _, err := js.UpdateConsumer(t.Context(), "IMGD_REQUESTS", short); err != nil {
		t.Fatal(err)
	}
	if l := receive(t, a.lost, "loss"); l != events.Expired {
		t.Errorf("got %s", l)
	}
	h.letGo()
	final(t, b, req)
}

func TestObserveUnsent(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	a := newAudience()
	b := connect(t, events.Config{URL: s.url(), Lease: 300 * time.Millisecond, Observe: a.observer()})
	h := newHandler(t)
	running(t, consume(b, h))
	req := ask(t, b, "refs/heads/main")
	receive(t, h.started, "start")
	s.stop()
	if l := receive(t, a.lost, "loss"); l != events.Unsent {
		t.Errorf("got %s", l)
	}
	s.start()
	h.letGo()
	final(t, b, req)
}
