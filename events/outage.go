package events

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// readyTime bounds how long Ready may take: parts that work answer within
// milliseconds, and a handler's answer waits for it.
const readyTime = 5 * time.Second

// calm is how many times less often Ready is asked while nothing is wrong: what
// fails in between asks it itself.
const calm = 10

// An outage knows whether the parts that every request needs work, by asking
// Config.Ready.
type outage struct {
	ready func(ctx context.Context) error // nil: they always do
	watch time.Duration
	now   func() time.Time
	log   *slog.Logger

	mu      sync.Mutex // guards what follows
	asking  *asking    // nil: nobody asks just now
	err     error      // what holds the consumer, nil: nothing
	since   time.Time
	changed chan struct{} // closed when err becomes nil or stops being it
}

// An asking is one call of Ready.
type asking struct {
	done chan struct{} // closed when err is set
	err  error
}

func newOutage(cfg Config) *outage {
	return &outage{ready: cfg.Ready, watch: cfg.Watch, now: cfg.Now, log: cfg.Log, changed: make(chan struct{})}
}

// Paused says why no requests are taken at the moment, nil if they are.
func (b *Bus) Paused() error {
	_, err := b.outage.holds()
	return err
}

// holds answers what holds the consumer as its error, and a channel that is
// closed when that has changed.
func (o *outage) holds() (changed <-chan struct{}, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.changed, o.err
}

// wait waits until nothing holds the consumer, or until ctx is done, which it
// reports by false.
func (o *outage) wait(ctx context.Context) bool {
	for {
		changed, err := o.holds()
		if err == nil || ctx.Err() != nil {
			return ctx.Err() == nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

// keepWatch looks again and again until ctx is done.
func (o *outage) keepWatch(ctx context.Context) {
	for o.ready != nil && ctx.Err() == nil {
		changed, err := o.holds()
		every := o.watch
		if err == nil {
			every *= calm
		}
		t := time.NewTimer(every)
		select {
		case <-t.C:
			_ = o.look(ctx) // noted
		case <-changed:
		case <-ctx.Done():
		}
		t.Stop()
	}
}

// look answers what Ready says of a moment after the call, and pauses or
// resumes the consumer accordingly. When ctx is done it answers nil.
func (o *outage) look(ctx context.Context) error {
	if o.ready == nil {
		return nil
	}
	limit := time.NewTimer(readyTime)
	defer limit.Stop()
	if earlier := o.under(); earlier != nil { // it may have looked before what made the caller ask
		select {
		case <-earlier.done:
		case <-limit.C:
			return o.hangs()
		case <-ctx.Done():
			return nil
		}
	}
	now := o.ask(ctx)
	select {
	case <-now.done:
		return now.err
	case <-limit.C:
		return o.hangs()
	case <-ctx.Done():
		return nil
	}
}

func (o *outage) under() *asking {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.asking
}

// ask calls Ready, or joins the call that another began after the caller came.
// The goroutine outlives its caller if Ready heeds no context; there is one at
// most.
func (o *outage) ask(ctx context.Context) *asking {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.asking != nil {
		return o.asking
	}
	a := &asking{done: make(chan struct{})}
	o.asking = a
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readyTime)
	go func() {
		defer cancel()
		err := o.ready(ctx)
		o.mu.Lock()
		defer o.mu.Unlock()
		o.asking = nil
		a.err = err
		o.note(err)
		close(a.done)
	}()
	return a
}

func (o *outage) hangs() error {
	err := fmt.Errorf("the look at what every build needs takes longer than %s", readyTime)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.note(err)
	return err
}

// note is called with mu held.
func (o *outage) note(err error) {
	was := o.err
	o.err = err
	switch {
	case was == nil && err != nil:
		o.since = o.now()
		o.log.Error("paused: no requests are taken until what every build needs works again", "error", err)
	case was != nil && err == nil:
		o.log.Info("requests are taken up again", "after", o.now().Sub(o.since).Round(time.Millisecond).String())
	default:
		return
	}
	close(o.changed)
	o.changed = make(chan struct{})
}
