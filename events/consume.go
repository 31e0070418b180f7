package events

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/imgd/imgd"
)

// Handler takes a request to its end; imgd.Pipeline is one.
type Handler interface {
	// Handle takes req to its end, completes it in place and tells report each
	// stage, from the goroutine it was called in. It is called again for the
	// same request after every error that is no end, after a crash and after a
	// lost lease, even while an earlier call of another process goes on: it must
	// be safe to repeat. When ctx is done it should return soon.
	Handle(ctx context.Context, req *imgd.Request, report func(imgd.State)) (imgd.Release, error)
}

// takePause is how long Consume waits after it could not ask for a request.
const takePause = time.Second

// beats is how many signs of life a lease has time for.
const beats = 3

// Consume hands requests to h, at most Config.Slots at a time, until ctx is
// done. Then it takes no more, lets the running handlers finish within
// Config.Grace, cancels those that have not, gives their requests back for
// others to take at once, and returns. A request is acknowledged after its final
// state is durable; a crash before that delivers it again.
func (b *Bus) Consume(ctx context.Context, h Handler) error {
	cons, err := b.consumer(ctx)
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return err
	}
	hard, cancel := withGrace(ctx, b.cfg.Grace)
	defer cancel()
	w := &worker{Bus: b, handler: h, running: map[string]bool{}}
	w.serve(ctx, hard, cons)
	return b.flush() // what was given back
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

	mu      sync.Mutex      // guards running
	running map[string]bool // requests being handled here
}

// serve asks for one request whenever a slot is free and none ahead, as a lease
// runs from the delivery.
func (w *worker) serve(ctx, hard context.Context, cons jetstream.Consumer) {
	taken := make(chan struct{}, w.cfg.Slots)
	var slots sync.WaitGroup
	defer slots.Wait()
	for acquire(ctx, taken) {
		msg, err := w.take(ctx, cons)
		if msg != nil {
			slots.Go(func() {
				defer func() { <-taken }()
				w.deliver(hard, msg)
			})
			continue
		}
		<-taken
		if err != nil {
			w.cfg.Log.Warn("cannot take requests, trying again", "error", err)
			pause(ctx, takePause)
			cons = w.redeclare(ctx, cons)
		}
	}
}

// acquire takes a slot, unless ctx is done first.
func acquire(ctx context.Context, taken chan<- struct{}) bool {
	select {
	case taken <- struct{}{}:
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
// whole lease, and the server may send one before it hears that he has.
func (w *worker) take(ctx context.Context, cons jetstream.Consumer) (jetstream.Msg, error) {
	batch, err := cons.Fetch(1, jetstream.FetchMaxWait(w.cfg.Poll))
	if err != nil {
		return nil, fmt.Errorf("ask for a request: %w", err)
	}
	msg := <-batch.Messages()
	if msg != nil && ctx.Err() != nil {
		return nil, msg.Nak()
	}
	if msg == nil && batch.Error() != nil {
		return nil, fmt.Errorf("ask for a request: %w", batch.Error())
	}
	return msg, nil
}

// A delivery is one try of a request.
type delivery struct {
	msg     jetstream.Msg
	req     imgd.Request
	tries   int
	started time.Time
	seen    uint64 // sequence of the state it wrote last
	outrun  bool   // a newer delivery tells the states now
}

// deliver takes one message to its end, to its next try, or back.
func (w *worker) deliver(hard context.Context, msg jetstream.Msg) {
	meta, err := msg.Metadata()
	if err != nil {
		w.cfg.Log.Error("unreachable: message without metadata", "subject", msg.Subject(), "error", err)
		return
	}
	req, err := Decode(messageOf(msg, meta))
	if err != nil {
		w.buryUnreadable(hard, msg, meta, err)
		return
	}
	d := &delivery{msg: msg, req: req, tries: int(meta.NumDelivered), started: w.cfg.Now()}
	if !w.enter(req.ID) {
		w.cfg.Log.Info("request is being handled here already", "request", req.ID)
		w.nak(req.ID, msg.NakWithDelay(w.cfg.Retry(1)))
		return
	}
	defer w.leave(req.ID)
	rel, err := w.handle(hard, d)
	w.finish(hard, d, rel, err)
}

func messageOf(msg jetstream.Msg, meta *jetstream.MsgMetadata) Message {
	return Message{Subject: msg.Subject(), MsgID: msg.Headers().Get(jetstream.MsgIDHeader), Seq: meta.Sequence.Stream,
		Time: meta.Timestamp, Body: msg.Data()}
}

// enter notes that the request is being handled, unless it is. A request that
// names no commit is known by another ID once it is resolved; the index settles
// it if that one is running too.
func (w *worker) enter(request string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.running[request] {
		return false
	}
	w.running[request] = true
	return true
}

func (w *worker) leave(request string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.running, request)
}

// handle runs the handler and keeps the lease meanwhile. If the lease is lost
// all the same the handler goes on: the index settles who was first.
func (w *worker) handle(hard context.Context, d *delivery) (imgd.Release, error) {
	done := make(chan struct{})
	var beating sync.WaitGroup
	beating.Go(func() { w.beat(d.msg, done) })
	defer beating.Wait()
	defer close(done)
	return w.handler.Handle(hard, &d.req, func(s imgd.State) { w.passing(hard, d, s) })
}

func (w *worker) beat(msg jetstream.Msg, done <-chan struct{}) {
	t := time.NewTicker(w.cfg.Lease / beats)
	defer t.Stop()
	for {
		select {
		case <-done:
			return
		case <-t.C:
			_ = msg.InProgress() // the connection's own handler tells of an outage
		}
	}
}

// passing writes a state that is no end. It is for whoever looks; work goes on
// if it cannot be written, and while the request names no commit it has no
// subject of its own to be written to.
func (w *worker) passing(ctx context.Context, d *delivery, s imgd.State) {
	if d.outrun || d.req.Commit == "" || ctx.Err() != nil {
		return
	}
	if err := w.tell(ctx, d, d.status(s)); err != nil {
		w.cfg.Log.Warn("state not written", "request", d.req.ID, "state", s, "error", err)
	}
}

// tell writes a state of d, unless a newer delivery or ask tells them now.
func (w *worker) tell(ctx context.Context, d *delivery, st imgd.Status) error {
	seq, err := w.advance(ctx, st, d.seen)
	if err != nil {
		return err
	}
	d.seen, d.outrun = seq, seq == 0
	return nil
}

func (d *delivery) status(s imgd.State) imgd.Status {
	st := imgd.StatusOf(d.req, s)
	st.Tries, st.StartedAt = d.tries, stamp(d.started)
	return st
}

// finish does with the message what the end table says of the answer.
func (w *worker) finish(hard context.Context, d *delivery, rel imgd.Release, err error) {
	e := endOf(err, hard.Err() != nil)
	st := d.status(e.state)
	st.Error, st.Release = e.err, rel.ID
	ctx := context.WithoutCancel(hard) // what follows is short, and each call has its own limit
	log := w.cfg.Log.With("request", d.req.ID, "project", d.req.Project, "ref", d.req.Ref, "commit", d.req.Commit, "try", d.tries)
	if !e.state.Final() {
		w.again(ctx, d, st, e, log.With("error", err))
		return
	}
	st.EndedAt = stamp(w.cfg.Now())
	if err := w.end(ctx, d, st); err != nil {
		log.Error("request ended but is not settled, trying again", "state", st.State, "release", rel.ID, "error", err)
		w.nak(d.req.ID, d.msg.NakWithDelay(w.cfg.Retry(d.tries)))
		return
	}
	if err != nil {
		log = log.With("error", err)
	}
	log.Info("request ended", "state", st.State, "release", rel.ID, "took", w.cfg.Now().Sub(d.started).Round(time.Millisecond).String())
}

// end writes the final state and then acknowledges the request. A crash between
// the two delivers it again; the handler finds it done and the same state is
// written. The acknowledgement is confirmed by the server: an answer that is
// lost costs one more such round.
func (w *worker) end(ctx context.Context, d *delivery, st imgd.Status) error {
	if err := w.tell(ctx, d, st); err != nil {
		return err
	}
	return w.acknowledge(ctx, d.msg)
}

func (w *worker) acknowledge(ctx context.Context, msg jetstream.Msg) error {
	ctx, cancel := context.WithTimeout(ctx, w.cfg.Timeout)
	defer cancel()
	if err := msg.DoubleAck(ctx); err != nil {
		return fmt.Errorf("acknowledge request: %w", err)
	}
	return nil
}

// again gives the request back, at once or with the delay of its tries. If that
// is lost its lease runs out instead.
func (w *worker) again(ctx context.Context, d *delivery, st imgd.Status, e end, log *slog.Logger) {
	if d.req.Commit != "" && !d.outrun {
		if err := w.tell(ctx, d, st); err != nil {
			log.Warn("state not written", "state", st.State, "cause", err)
		}
	}
	if e.giveBack {
		log.Info("request interrupted and given back")
		w.nak(d.req.ID, d.msg.Nak())
		return
	}
	delay := w.cfg.Retry(d.tries)
	log.Warn("request failed, trying again", "in", delay)
	w.nak(d.req.ID, d.msg.NakWithDelay(delay))
}

func (w *worker) nak(request string, err error) {
	if err != nil {
		w.cfg.Log.Warn("request not given back, its lease will run out", "request", request, "error", err)
	}
}
