package events_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/events"
)

// Parts are what every request needs, as Config.Ready looks at them. They fail
// the test if they are looked at twice at a time.
type parts struct {
	t *testing.T

	mu      sync.Mutex // guards what follows
	err     error
	looks   int
	looking bool
}

func (p *parts) ready(context.Context) error {
	p.mu.Lock()
	if p.looking {
		p.t.Error("looked at twice at a time")
	}
	p.looking = true
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		p.looking = false
		p.mu.Unlock()
	}()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.looks++
	return p.err
}

func (p *parts) become(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err = err
}

// until waits for what has no signal of its own.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		pauses(t.Context())
	}
}

// lines is a log to look at.
type lines struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) count(what string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), what)
}

// While a common part is away nothing is taken; what failed of it is not given
// up, however old it is, and is tried again soon after; and it is told once.
func TestOutage(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := s.raw()
	p, logged := &parts{t: t}, &lines{}
	delays := make(chan int, 100)
	cfg := dies(ends(s.url()))
	cfg.Ready, cfg.Watch, cfg.Log = p.ready, 50*time.Millisecond, slog.New(slog.NewTextHandler(logged, nil))
	cfg.Retry = func(tries int) time.Duration { delays <- tries; return 20 * time.Millisecond }
	b := connect(t, cfg)
	h := openHandler(t, nil)
	h.do = func(context.Context, *imgd.Request) error {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.err != nil {
			return fmt.Errorf("push: %w", p.err)
		}
		return nil
	}
	running(t, consume(b, h))
	final(t, b, ask(t, b, "refs/heads/before"))
	p.become(errAway)
	req := ask(t, b, "refs/heads/main")
	st := wait(t, b, req.ID, func(st imgd.Status) bool { return st.Error != nil })
	if st.State != imgd.Queued || *st.Error != (imgd.StatusError{Kind: "outage", Message: "push: the registry is away"}) {
		t.Errorf("got %+v, error %+v", st, st.Error)
	}
	if n := receive(t, delays, "delay"); n != 1 {
		t.Errorf("given back with the delay of %d tries, want the shortest", n)
	}
	if err := b.Paused(); !errors.Is(err, errAway) {
		t.Errorf("paused by %v", err)
	}
	later := ask(t, b, "refs/heads/later")
	p.mu.Lock()
	looks := p.looks
	p.mu.Unlock()
	until(t, "some looks at what is away", func() bool { p.mu.Lock(); defer p.mu.Unlock(); return p.looks > looks+4 })
	if n := h.callsOf(req.ID) + h.callsOf(later.ID); n != 1 {
		t.Errorf("handled %d times while it was away, want once", n)
	}
	p.become(nil)
	for _, req := range []imgd.Request{req, later} {
		if st := final(t, b, req); st.State != imgd.Published || st.Tries > 3 { // one may meet the pause on its way
			t.Errorf("got %+v", st)
		}
	}
	if err := b.Paused(); err != nil {
		t.Errorf("paused by %v", err)
	}
	empty(t, js)
	checkEnds(t, js)
	for _, what := range []string{"paused: ", "taken up again"} {
		if n := logged.count(what); n != 1 {
			t.Errorf("%q is logged %d times, want once", what, n)
		}
	}
}

// A monitor notices it by itself, without a request that fails.
func TestOutageIsNoticed(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	p := &parts{t: t}
	b := connect(t, events.Config{URL: s.url(), Ready: p.ready, Watch: 10 * time.Millisecond})
	running(t, consume(b, openHandler(t, nil)))
	until(t, "a look", func() bool { p.mu.Lock(); defer p.mu.Unlock(); return p.looks > 0 })
	for range 3 {
		p.become(errAway)
		until(t, "pause", func() bool { return b.Paused() != nil })
		p.become(nil)
		until(t, "resume", func() bool { return b.Paused() == nil })
	}
	final(t, b, ask(t, b, "refs/heads/main"))
}

// What is away from the start takes nothing, and a shutdown does not wait for it.
func TestOutageAtStart(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	p := &parts{t: t, err: errAway}
	b := connect(t, events.Config{URL: s.url(), Ready: p.ready, Watch: 10 * time.Millisecond})
	req := ask(t, b, "refs/heads/main")
	h := openHandler(t, nil)
	stop := running(t, consume(b, h))
	until(t, "some looks", func() bool { p.mu.Lock(); defer p.mu.Unlock(); return p.looks > 5 })
	if err := stop(); err != nil {
		t.Error(err)
	}
	if n := h.callsOf(req.ID); n != 0 {
		t.Errorf("got %d calls, want none", n)
	}
	if st, _, _ := b.Status(t.Context(), req.ID); st.State != imgd.Queued || st.Tries != 0 {
		t.Errorf("got %+v", st)
	}
	p.become(nil)
	running(t, consume(b, h))
	if st := final(t, b, req); st.Tries != 1 {
		t.Errorf("it was taken %d times, want once", st.Tries)
	}
}

// A request that was on its way when the outage began is not handled.
func TestOutageMeetsADelivery(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	g := newGate(t, s)
	p := &parts{t: t}
	b := connect(t, events.Config{URL: g.url, Ready: p.ready, Watch: 20 * time.Millisecond, Lease: 10 * patience, Slots: 1})
	operator := connect(t, events.Config{URL: s.url()})
	h := openHandler(t, nil)
	running(t, consume(b, h))
	held, release := g.holdBack("$JS.ACK.IMGD_REQUESTS.")
	defer release()
	req := ask(t, operator, "refs/heads/main")
	receive(t, held, "delivery")
	p.become(errAway)
	until(t, "pause", func() bool { return b.Paused() != nil })
	acks := tap(t, s)
	release()
	untilAck(t, acks, "-NAK")
	if n := h.callsOf(req.ID); n != 0 {
		t.Errorf("got %d calls, want none", n)
	}
	p.become(nil)
	final(t, operator, req)
}

// A look that hangs counts as an outage, holds up nobody for long, and is
// believed when it answers at last.
func TestReadyHangs(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	hang, asked := make(chan struct{}), make(chan struct{}, 1000)
	b := connect(t, events.Config{URL: s.url(), Watch: 20 * time.Millisecond, Ready: func(context.Context) error { // heeds nothing
		asked <- struct{}{}
		<-hang
		return nil
	}})
	h := openHandler(t, nil)
	stop := running(t, consume(b, h))
	req := ask(t, b, "refs/heads/main")
	receive(t, asked, "look")
	until(t, "pause", func() bool { return b.Paused() != nil }) // some seconds
	if n := len(asked); n != 0 {
		t.Errorf("asked %d more times while it hangs", n)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	close(hang)
	until(t, "resume", func() bool { return b.Paused() == nil })
	running(t, consume(b, h))
	final(t, b, req)
}

// What was admitted is driven through an outage, and a Dockerfile that fails in
// one may have failed of it. What the index or the asker decides is an end.
func TestOutageAndTheTable(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		build error
		drive error
		want  imgd.State
		kind  string
	}{
		{"build", &imgd.BuildError{Message: "no space left on device"}, nil, imgd.Queued, "outage"},
		{"admitted", nil, errAway, imgd.Publishing, "outage"},
		{"conflict", imgd.ErrConflict, nil, imgd.Conflicted, "conflict"},
		{"invalid", imgd.ErrInvalid, nil, imgd.Failed, "invalid"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := startServer(t)
			p := &parts{t: t}
			cfg := dies(events.Config{URL: s.url(), Ready: p.ready, Watch: time.Hour})
			b := connect(t, cfg)
			h := openHandler(t, func(context.Context, *imgd.Request) error {
				p.become(errAway)
				return test.build
			})
			h.drive = func(context.Context, *imgd.Request) error { return test.drive }
			running(t, consume(b, h))
			st := wait(t, b, ask(t, b, "refs/heads/main").ID, func(st imgd.Status) bool { return st.Error != nil })
			if st.State != test.want || st.Error.Kind != test.kind {
				t.Errorf("got %+v, error %+v; want %s, %s", st, st.Error, test.want, test.kind)
			}
		})
	}
}

// A look that began before a handler failed says nothing of why.
func TestOutageIsAskedAfterTheFailure(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	looks, late := make(chan int, 1), make(chan struct{})
	looks <- 0
	began := make(chan struct{})
	cfg := dies(events.Config{URL: s.url(), Watch: 10 * time.Millisecond})
	cfg.Ready = func(context.Context) error {
		n := <-looks
		looks <- n + 1
		switch n {
		case 0:
			return nil
		case 1: // of the monitor
			close(began)
			<-late
			return nil
		default:
			return errAway
		}
	}
	b := connect(t, cfg)
	running(t, consume(b, openHandler(t, func(context.Context, *imgd.Request) error {
		<-began
		return errAway
	})))
	req := ask(t, b, "refs/heads/main")
	receive(t, began, "look of the monitor")
	select {
	case <-t.Context().Done():
	case <-time.After(100 * time.Millisecond): // the handler's failure is looked into meanwhile
	}
	close(late)
	st := wait(t, b, req.ID, func(st imgd.Status) bool { return st.Error != nil })
	if st.State != imgd.Queued || st.Error.Kind != "outage" {
		t.Errorf("got %+v, error %+v", st, st.Error)
	}
}
