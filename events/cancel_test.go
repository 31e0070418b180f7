package events_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/events"
)

// isCancelled wants that state, by ann, in the stream too, and no event.
func isCancelled(t *testing.T, s *natsServer, b *events.Bus, st imgd.Status, err error) {
	t.Helper()
	_, js := s.raw()
	if err != nil || st.State != imgd.Cancelled || st.EndedAt.IsZero() || st.Error == nil || *st.Error != (imgd.StatusError{Kind: "cancelled", Message: "cancelled by ann"}) {
		t.Errorf("got %+v, error %v, want it cancelled", st, err)
	}
	if stands, _, _ := b.Status(t.Context(), st.Request); stands.State != imgd.Cancelled {
		t.Errorf("got %+v", stands)
	}
	checkEnds(t, js)
}

// isConflict wants ErrConflict with those words, and the state.
func isConflict(t *testing.T, st imgd.Status, err error, state imgd.State, words string) {
	t.Helper()
	if !errors.Is(err, imgd.ErrConflict) || !strings.Contains(err.Error(), words) || st.State != state {
		t.Errorf("got %+v, error %v, want ErrConflict with %q and state %s", st, err, words, state)
	}
}

func TestCancelUnknown(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := connect(t, events.Config{URL: s.url()})
	for _, id := range []string{"", "*", ">", "x", "dead-1", strings.Repeat("0", 32)} {
		if _, err := b.Cancel(t.Context(), id, "ann"); !errors.Is(err, imgd.ErrNotFound) {
			t.Errorf("%q: got error %v, want ErrNotFound", id, err)
		}
	}
}

// A request that waits, whether for its first try or for its next, is cancelled
// at once; its message goes without being handled.
func TestCancelWaiting(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := s.raw()
	b := connect(t, events.Config{URL: s.url(), Retry: func(int) time.Duration { return 500 * time.Millisecond }})
	first := ask(t, b, "refs/heads/first")
	st, err := b.Cancel(t.Context(), first.ID, "ann")
	isCancelled(t, s, b, st, err)
	h := openHandler(t, func(context.Context, *imgd.Request) error { return errAway })
	running(t, consume(b, h))
	next := ask(t, b, "refs/heads/next")
	wait(t, b, next.ID, func(st imgd.Status) bool { return st.State == imgd.Queued && st.Error != nil })
	st, err = b.Cancel(t.Context(), next.ID, "ann")
	isCancelled(t, s, b, st, err)
	if st.Tries != 1 {
		t.Errorf("got %d tries, want 1", st.Tries)
	}
	st, err = b.Cancel(t.Context(), next.ID, "ann") // repeated
	isConflict(t, st, err, imgd.Cancelled, "has ended cancelled")
	empty(t, js)
	if h.callsOf(first.ID) != 0 || h.callsOf(next.ID) != 1 {
		t.Errorf("got %d and %d calls, want 0 and 1", h.callsOf(first.ID), h.callsOf(next.ID))
	}
	h.mu.Lock()
	h.do = nil
	h.mu.Unlock()
	for _, ref := range []string{"refs/heads/first", "refs/heads/next"} { // asked later
		if st := final(t, b, ask(t, b, ref)); st.State != imgd.Published {
			t.Errorf("asked again: got %+v", st)
		}
	}
}

// A running one is interrupted wherever it is before it is admitted.
func TestCancelRunning(t *testing.T) {
	t.Parallel()
	for _, stage := range []imgd.State{imgd.Resolving, imgd.Building} {
		t.Run(string(stage), func(t *testing.T) {
			s := startServer(t)
			_, js := s.raw()
			b := connect(t, events.Config{URL: s.url(), Lease: 10 * patience})
			var cause error
			running(t, consume(b, scripted(func(ctx context.Context, _ *imgd.Request, report func(imgd.State)) (imgd.Release, error) {
				report(stage)
				<-ctx.Done()
				cause = context.Cause(ctx)
				return imgd.Release{}, &imgd.BuildError{Message: "killed", ExitCode: 137}
			})))
			operator := connect(t, events.Config{URL: s.url()}) // another daemon
			req := ask(t, b, "refs/heads/main")
			wait(t, b, req.ID, func(st imgd.Status) bool { return st.State == stage })
			st, err := operator.Cancel(t.Context(), req.ID, "ann")
			isCancelled(t, s, b, st, err)
			empty(t, js)
			if cause == nil || cause.Error() != "cancelled by ann" {
				t.Errorf("the handler's context was cancelled for %v", cause)
			}
		})
	}
}

// A request that names no commit yet is cancelled like the others.
func TestCancelResolvingACommit(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := s.raw()
	b := connect(t, events.Config{URL: s.url(), Lease: 10 * patience})
	h := newHandler(t)
	resolving := make(chan struct{})
	h.resolve = func(ctx context.Context, _ *imgd.Request) error {
		close(resolving)
		<-ctx.Done()
		return nil // as if it had not noticed
	}
	running(t, consume(b, h))
	req, err := b.Submit(t.Context(), imgd.Request{Project: "hello", Ref: "refs/heads/main"}, "")
	if err != nil {
		t.Fatal(err)
	}
	receive(t, resolving, "resolving")
	st, err := b.Cancel(t.Context(), req.ID, "ann")
	isCancelled(t, s, b, st, err)
	empty(t, js)
}

func TestCancelPublishing(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := connect(t, events.Config{URL: s.url(), Lease: 10 * patience})
	h := openHandler(t, nil)
	answers := make(chan error)
	h.drive = func(context.Context, *imgd.Request) error { return <-answers }
	running(t, consume(b, h))
	req := ask(t, b, "refs/heads/main")
	wait(t, b, req.ID, func(st imgd.Status) bool { return st.State == imgd.Publishing })
	st, err := b.Cancel(t.Context(), req.ID, "ann")
	isConflict(t, st, err, imgd.Publishing, "being published")
	answers <- errAway // and so on while it waits for its next try
	wait(t, b, req.ID, func(st imgd.Status) bool { return st.State == imgd.Publishing && st.Tries == 2 })
	st, err = b.Cancel(t.Context(), req.ID, "ann")
	isConflict(t, st, err, imgd.Publishing, "drop gives it up")
	answers <- nil
	final(t, b, req)
	st, err = b.Cancel(t.Context(), req.ID, "ann")
	isConflict(t, st, err, imgd.Published, "has ended published")
}

func TestCancelEnded(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := connect(t, dies(events.Config{URL: s.url()}))
	answers := map[string]error{"a": imgd.ErrUnchanged, "b": imgd.ErrSuperseded, "c": imgd.ErrConflict, "d": imgd.ErrInvalid, "e": errAway}
	running(t, consume(b, openHandler(t, func(_ context.Context, req *imgd.Request) error {
		return answers[strings.TrimPrefix(req.Ref, "refs/heads/")]
	})))
	for ref := range answers {
		ended := final(t, b, ask(t, b, "refs/heads/"+ref))
		st, err := b.Cancel(t.Context(), ended.Request, "ann")
		isConflict(t, st, err, ended.State, "has ended "+string(ended.State))
	}
}

// One that was admitted when the order came is driven on, and published.
func TestCancelComesTooLate(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := s.raw()
	b := connect(t, events.Config{URL: s.url(), Lease: 10 * patience, Retry: func(int) time.Duration { return time.Hour }})
	tries := 0
	running(t, consume(b, scripted(func(ctx context.Context, req *imgd.Request, report func(imgd.State)) (imgd.Release, error) {
		rel := imgd.Release{ID: req.ID + "-1", State: imgd.ReleaseAdmitted}
		if tries++; tries > 1 {
			return rel, nil
		}
		report(imgd.Building)
		<-ctx.Done() // comes after it was admitted, and before that is told
		report(imgd.Publishing)
		return rel, fmt.Errorf("settle: %w", ctx.Err())
	})))
	req := ask(t, b, "refs/heads/main")
	wait(t, b, req.ID, func(st imgd.Status) bool { return st.State == imgd.Building })
	st, err := b.Cancel(t.Context(), req.ID, "ann")
	if st.State != imgd.Publishing && st.State != imgd.Published || !errors.Is(err, imgd.ErrConflict) {
		t.Errorf("got %+v, error %v, want ErrConflict", st, err)
	}
	if st := final(t, b, req); st.State != imgd.Published {
		t.Errorf("got %+v", st)
	}
	empty(t, js)
}

// If the handler fails on its own just before, the request waits and is
// cancelled all the same; if it ends, that is the answer.
func TestCancelMeetsAnEnd(t *testing.T) {
	t.Parallel()
	for _, end := range []error{errAway, imgd.ErrInvalid} {
		t.Run(end.Error(), func(t *testing.T) {
			s := startServer(t)
			b := connect(t, events.Config{URL: s.url(), Lease: 10 * patience, Retry: func(int) time.Duration { return time.Hour }})
			g := newGate(t, s)
			operator := connect(t, events.Config{URL: g.url})
			h := newHandler(t)
			h.do = func(context.Context, *imgd.Request) error { return end }
			running(t, consume(b, h))
			req := ask(t, b, "refs/heads/main")
			wait(t, b, req.ID, func(st imgd.Status) bool { return st.State == imgd.Building })
			held, release := g.holdBack(`"state":"building"`) // what Cancel reads
			defer release()
			type answer struct {
				st  imgd.Status
				err error
			}
			answers := make(chan answer, 1)
			go func() {
				st, err := operator.Cancel(t.Context(), req.ID, "ann")
				answers <- answer{st, err}
			}()
			receive(t, held, "state that Cancel reads")
			h.letGo()
			wait(t, b, req.ID, func(st imgd.Status) bool { return st.State != imgd.Building })
			release()
			got := receive(t, answers, "answer")
			if errors.Is(end, imgd.ErrInvalid) {
				isConflict(t, got.st, got.err, imgd.Failed, "has ended failed")
			} else {
				isCancelled(t, s, b, got.st, got.err)
			}
		})
	}
}

// An order means the asks until then, and nobody listens to nonsense.
func TestCancelMeansNoLaterAsk(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	nc, _ := s.raw()
	b := connect(t, events.Config{URL: s.url(), Lease: 10 * patience})
	h := newHandler(t)
	running(t, consume(b, h))
	req := ask(t, b, "refs/heads/main")
	wait(t, b, req.ID, func(st imgd.Status) bool { return st.State == imgd.Building })
	for _, order := range []string{"", "null", "{}", `{"by":"ann","askedAt":"2000-01-01T00:00:00Z"}`, `{"by":"ann","askedAt":"` + req.AskedAt.Add(-time.Millisecond).Format(time.RFC3339Nano) + `"}`} {
		if err := nc.Publish("imgd.cancel."+req.ID, []byte(order)); err != nil {
			t.Fatal(err)
		}
	}
	if err := nc.Publish("imgd.cancel."+strings.Repeat("0", 32), []byte(`{"askedAt":"2100-01-01T00:00:00Z"}`)); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	// What comes behind them on the same subscription is heard after them.
	other := ask(t, b, "refs/heads/other")
	wait(t, b, other.ID, func(st imgd.Status) bool { return st.State == imgd.Building })
	if _, err := b.Cancel(t.Context(), other.ID, "ann"); err != nil {
		t.Error(err)
	}
	h.letGo()
	if st := final(t, b, req); st.State != imgd.Published {
		t.Errorf("got %+v", st)
	}
}

// An order that comes when it has been admitted interrupts nothing.
func TestCancelOrderWhilePublishing(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	nc, _ := s.raw()
	b := connect(t, events.Config{URL: s.url(), Lease: 10 * patience})
	answers := make(chan struct{})
	running(t, consume(b, scripted(func(ctx context.Context, req *imgd.Request, report func(imgd.State)) (imgd.Release, error) {
		if req.Ref == "refs/heads/main" {
			report(imgd.Publishing)
			<-answers
			if ctx.Err() != nil {
				t.Error("interrupted while it published")
			}
			return imgd.Release{}, nil
		}
		report(imgd.Building)
		<-ctx.Done()
		return imgd.Release{}, ctx.Err()
	})))
	req := ask(t, b, "refs/heads/main")
	wait(t, b, req.ID, func(st imgd.Status) bool { return st.State == imgd.Publishing })
	if err := nc.Publish("imgd.cancel."+req.ID, []byte(`{"by":"ann","askedAt":"2100-01-01T00:00:00Z"}`)); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	other := ask(t, b, "refs/heads/other") // its order is heard after that one
	wait(t, b, other.ID, func(st imgd.Status) bool { return st.State == imgd.Building })
	if _, err := b.Cancel(t.Context(), other.ID, "ann"); err != nil {
		t.Error(err)
	}
	close(answers)
	if st := final(t, b, req); st.State != imgd.Published {
		t.Errorf("got %+v", st)
	}
}

// One that is cancelled between its delivery and its first state is not begun.
func TestCancelMeetsADelivery(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := s.raw()
	g := newGate(t, s)
	b := connect(t, events.Config{URL: g.url, Lease: 10 * patience}) // finds nothing in the queue to give a state to
	operator := connect(t, events.Config{URL: s.url()})
	req := ask(t, operator, "refs/heads/main")
	held, release := g.holdBack(`"state":"queued"`) // what the consumer reads
	defer release()
	h := openHandler(t, nil)
	running(t, consume(b, h))
	receive(t, held, "state that the consumer reads")
	st, err := operator.Cancel(t.Context(), req.ID, "ann")
	isCancelled(t, s, operator, st, err)
	release()
	empty(t, js)
	if n := h.callsOf(req.ID); n != 0 {
		t.Errorf("got %d calls, want none", n)
	}
}

// Cancel's own effects lost, before the server and after.
func TestCancelIsCutOff(t *testing.T) {
	t.Parallel()
	for _, arrives := range []bool{false, true} {
		t.Run(fmt.Sprint(arrives), func(t *testing.T) {
			t.Parallel()
			s := startServer(t)
			_, js := s.raw()
			g := newGate(t, s)
			b := connect(t, events.Config{URL: s.url()})
			operator := connect(t, events.Config{URL: g.url, Timeout: 300 * time.Millisecond})
			req := ask(t, b, "refs/heads/main")
			tripped := g.lose(`"state":"cancelled"`, arrives)
			if _, err := operator.Cancel(t.Context(), req.ID, "ann"); err == nil {
				t.Error("no error, but nobody knows")
			}
			receive(t, tripped, "cut")
			var st imgd.Status
			err := errors.New("not yet")
			for deadline := time.Now().Add(patience); err != nil && !errors.Is(err, imgd.ErrConflict) && time.Now().Before(deadline); { // not connected yet
				st, err = operator.Cancel(t.Context(), req.ID, "ann")
			}
			if arrives {
				isConflict(t, st, err, imgd.Cancelled, "has ended cancelled")
			} else {
				isCancelled(t, s, b, st, err)
			}
			h := openHandler(t, nil)
			running(t, consume(b, h))
			empty(t, js)
			if n := h.callsOf(req.ID); n != 0 {
				t.Errorf("got %d calls, want none", n)
			}
		})
	}
}

// What nobody runs any more, and nobody has taken up yet, may have been
// admitted: that is for the next try to find out.
func TestCancelIsNotAnswered(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := connect(t, events.Config{URL: s.url()})
	req := ask(t, b, "refs/heads/main")
	st := imgd.StatusOf(req, imgd.Building)
	st.Tries = 1
	writeStatus(t, s, st)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	st, err := b.Cancel(ctx, req.ID, "ann")
	if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, imgd.ErrConflict) || st.State != imgd.Building {
		t.Errorf("got %+v, error %v", st, err)
	}
}
