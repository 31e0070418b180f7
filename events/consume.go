package events

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/imgd/imgd"
)

// Handler takes a request to its end; imgd.Pipeline is one. When ctx is done
// its methods should return soon.
type Handler interface {
	// Resolve completes a request that names no commit, in place: what its ref
	// names is its commit from then on, and goes into its ID. Errors are those of
	// Handle. It changes nothing.
	Resolve(ctx context.Context, req *imgd.Request) error
	// Handle takes req, which names its commit, to its end, and tells report
	// each stage, from the goroutine it was called in; report may wait for a
	// free slot. It tells Publishing as soon as it has admitted a release, and
	// an error with an admitted release says that this one is still to be
	// published. It is called again for the same request after every error that
	// is no end, after a crash and after a lost lease, even while an earlier
	// call of another process goes on: it must be safe to repeat.
	Handle(ctx context.Context, req *imgd.Request, report func(imgd.State)) (imgd.Release, error)
}

// takePause is how long Consume waits after it could not ask for a request.
const takePause = time.Second

// maxPublishing bounds the requests that go on without a slot because they have
// only their release to publish, so that a registry that does not answer holds
// no unbounded number of connections. Further ones keep their slot.
const maxPublishing = 64

// Consume hands requests to h, at most Config.Slots at a time besides those
// that are publishing, until ctx is done. Then it takes no more, lets the
// running handlers finish within Config.Grace, cancels those that have not,
// gives their requests back for others to take at once, and returns. A request
// is acknowledged after its final state is durable; a crash before that delivers
// it again. While Config.Ready is an error it takes none. It begins when NATS
// answers; a queue that cannot be used is an error.
func (b *Bus) Consume(ctx context.Context, h Handler) error {
	cons, err := b.consumer(ctx)
	for ; err != nil && ctx.Err() == nil && away(err); cons, err = b.consumer(ctx) {
		b.cfg.Log.Warn("cannot take requests yet, trying again", "error", err)
		pause(ctx, takePause)
	}
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return err
	}
	hard, cancel := withGrace(ctx, b.cfg.Grace)
	defer cancel()
	w := &worker{Bus: b, handler: h, slots: make(chan struct{}, b.cfg.Slots), publishing: make(chan struct{}, maxPublishing),
		running: map[string]*delivery{}}
	orders, err := b.nc.Subscribe(cancelPrefix+"*", w.ordered)
	if err != nil {
		return fmt.Errorf("listen for %s: %w", cancelPrefix, err)
	}
	_ = b.outage.look(ctx) // before the first one is taken
	var watching sync.WaitGroup
	watching.Go(func() { b.outage.keepWatch(ctx) })
	w.serve(ctx, hard, cons)
	watching.Wait()
	_ = orders.Unsubscribe() // only a closed connection refuses
	return b.flush()         // what was given back
}

// away reports whether err says that JetStream, which was there when the bus
// connected, does not answer.
func away(err error) bool {
	return slices.ContainsFunc([]error{context.DeadlineExceeded, nats.ErrTimeout, nats.ErrNoResponders, jetstream.ErrJetStreamNotEnabled},
		func(silent error) bool { return errors.Is(err, silent) })
}

// withGrace is done grace later than ctx.
func withGrace(ctx context.Context, grace time.Duration) (context.Context, context.CancelFunc) {
	hard, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(grace, cancel) })
	return hard, func() { stop(); cancel() }
}

// A worker is one run of Consume.
type worker struct {
	*Bus
	handler Handler

	slots, publishing chan struct{} // what each running request has one place of

	mu      sync.Mutex           // guards running, and stage of what is in it
	running map[string]*delivery // by request
}

// serve asks for one request whenever a slot is free and none ahead, as a lease
// runs from the delivery.
func (w *worker) serve(ctx, hard context.Context, cons jetstream.Consumer) {
	var running sync.WaitGroup
	defer running.Wait()
	for w.outage.wait(ctx) && acquire(ctx, w.slots) {
		msg, err := w.take(ctx, cons)
		if msg != nil {
			running.Go(func() { w.deliver(hard, msg) })
			continue
		}
		<-w.slots
		if err != nil {
			w.cfg.Log.Warn("cannot take requests, trying again", "error", err)
			pause(ctx, takePause)
			cons = w.redeclare(ctx, cons)
		}
	}
}

// acquire takes a place, unless ctx is done first.
func acquire(ctx context.Context, places chan<- struct{}) bool {
	select {
	case places <- struct{}{}:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// redeclare is for a consumer that somebody has deleted.
func (w *worker) redeclare(ctx context.Context, cons jetstream.Consumer) jetstream.Consumer {
	if again, err := w.consumer(ctx); err == nil {
		return again
	}
	return cons
}

// take waits for one request; it answers none if none came in time. Once ctx is
// done it still waits for the server to end the ask, and gives back what came by
// it: a message that is sent to somebody who has left would stay taken for a
// whole lease, and the server may send one before it hears that he has. What
// comes when an outage has begun goes back too, for a daemon that has none.
func (w *worker) take(ctx context.Context, cons jetstream.Consumer) (jetstream.Msg, error) {
	if err := w.Fits(ctx); err != nil {
		_ = w.outage.look(ctx) // which says so
		return nil, err
	}
	batch, err := cons.Fetch(1, jetstream.FetchMaxWait(w.cfg.Poll))
	if err != nil {
		return nil, fmt.Errorf("ask for a request: %w", err)
	}
	msg := <-batch.Messages()
	if msg != nil && (ctx.Err() != nil || w.Paused() != nil) {
		return nil, msg.Nak()
	}
	if msg == nil && batch.Error() != nil {
		return nil, fmt.Errorf("ask for a request: %w", batch.Error())
	}
	return msg, nil
}

// enter notes that d is being handled, unless its request is: then it answers
// by which delivery.
func (w *worker) enter(d *delivery) (running *delivery) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if running := w.running[d.req.ID]; running != nil {
		return running
	}
	w.running[d.req.ID] = d
	return nil
}

func (w *worker) leave(d *delivery) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.running, d.req.ID)
}

// staged notes the stage that d has reached.
func (w *worker) staged(d *delivery, s imgd.State) (was imgd.State) {
	w.mu.Lock()
	defer w.mu.Unlock()
	was, d.stage = d.stage, s
	return was
}

// seat gives d the place that its stage takes: new work never waits for what
// has been admitted. One that builds again, as its root is lost, waits for a
// slot first.
func (w *worker) seat(ctx context.Context, d *delivery, s imgd.State) {
	switch {
	case s == imgd.Publishing && d.place == w.slots:
		select {
		case w.publishing <- struct{}{}:
			<-d.place
			d.place = w.publishing
		default:
		}
	case s != imgd.Publishing && d.place == w.publishing:
		select {
		case w.slots <- struct{}{}:
			<-d.place
			d.place = w.slots
		case <-ctx.Done(): // nothing is built any more
		}
	}
}
