package events

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/imgd/imgd"
)

// beats is how many signs of life a lease has time for.
const beats = 3

// resolveTime bounds how long finding the commit of a ref takes: a first fetch
// of a large repository may take minutes.
const resolveTime = 5 * time.Minute

// A delivery is one try of a request. Its fields belong to the goroutine of
// deliver, but for stage.
type delivery struct {
	msg     jetstream.Msg
	meta    *jetstream.MsgMetadata
	req     imgd.Request // as it was asked
	tries   int
	started time.Time
	cancel  context.CancelCauseFunc // of the handler, safe to call from anywhere
	place   chan struct{}           // it has one of, see seat
	stage   imgd.State              // told last; guarded by worker.mu
	telling sync.WaitGroup          // of the write of a stage, which is waited for before seen and outrun are touched
	seen    uint64                  // sequence of the state it wrote last
	outrun  bool                    // a newer delivery or ask tells the states now
	ended   func(imgd.State, error) // tells the trace how the try has ended
}

// deliver takes one message to its end, to its next try, or back. It has a slot
// when it is called.
func (w *worker) deliver(hard context.Context, msg jetstream.Msg) {
	d := &delivery{msg: msg, place: w.slots, started: w.cfg.Now()}
	defer func() { <-d.place }()
	defer w.keep(msg)()
	meta, err := msg.Metadata()
	if err != nil {
		w.cfg.Log.Error("unreachable: message without metadata", "subject", msg.Subject(), "error", err)
		return
	}
	d.meta, d.tries = meta, int(meta.NumDelivered)
	if d.req, err = Decode(messageOf(msg, meta)); err != nil {
		w.buryUnreadable(hard, d, err)
		return
	}
	ctx, traced := w.tracer.try(hard, d)
	defer traced()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	d.cancel = cancel
	if running := w.enter(d); running != nil {
		if running.meta.Sequence.Stream == d.meta.Sequence.Stream {
			w.cfg.Observe.LeaseLost(Expired)
		}
		w.cfg.Log.Info("request is being handled here already", "request", d.req.ID)
		w.nak(d, msg.NakWithDelay(w.cfg.Retry(1)))
		return
	}
	defer w.leave(d)
	w.work(ctx, hard, d)
}

func messageOf(msg jetstream.Msg, meta *jetstream.MsgMetadata) Message {
	h := msg.Headers()
	return Message{Subject: msg.Subject(), MsgID: h.Get(jetstream.MsgIDHeader), Nonce: h.Get(nonceHeader), Seq: meta.Sequence.Stream,
		Time: meta.Timestamp, Body: msg.Data()}
}

// keep gives signs of life until the returned function is called, so that the
// request stays taken. If the lease is lost all the same the handler goes on:
// the index settles who was first.
func (w *worker) keep(msg jetstream.Msg) (stop func()) {
	done := make(chan struct{})
	var beating sync.WaitGroup
	beating.Go(func() {
		t := time.NewTicker(w.cfg.Lease / beats)
		defer t.Stop()
		for {
			select {
			case <-done:
				return
			case <-t.C:
				if err := msg.InProgress(); err != nil || !w.nc.IsConnected() { // its own handler logs it
					w.cfg.Observe.LeaseLost(Unsent)
				}
			}
		}
	})
	return func() { close(done); beating.Wait() }
}

// work handles d, unless this ask has ended already: then a crash, or a lost
// answer, kept it from being acknowledged, and what follows from its end is made
// sure of.
func (w *worker) work(ctx, hard context.Context, d *delivery) {
	stands, ended, err := w.claim(context.WithoutCancel(ctx), d) // who interrupts it finds a state
	switch {
	case err != nil:
		w.cfg.Log.Warn("request not begun, as its state cannot be written; trying again", "request", d.req.ID, "error", err)
		w.nak(d, d.msg.NakWithDelay(w.cfg.Retry(1)))
	case ended:
		w.settled(d, stands, nil, w.follow(context.WithoutCancel(hard), d, stands))
	case d.req.Commit == "":
		w.pin(ctx, hard, d)
	default:
		req := d.req // completed in place
		var rel imgd.Release
		err := w.guard(d, func() (err error) {
			rel, err = w.handler.Handle(ctx, &req, func(s imgd.State) { w.passing(ctx, d, s) })
			return err
		})
		d.telling.Wait()
		w.finish(ctx, hard, d, rel, err)
	}
}

// guard calls the handler. A panic of it becomes an error like any other, so
// that one request does not take all the others down each time it is tried.
func (w *worker) guard(d *delivery, call func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			w.logOf(d).Error("handling a request panicked", "panic", v, "stack", string(debug.Stack()))
			err = fmt.Errorf("imgd panicked, of which its log tells more: %v", v)
		}
	}()
	return call()
}

// claim notes that d is being handled before anything is, or answers the end
// that this ask has come to. So whoever has cancelled it meanwhile is heard, and
// whoever comes later finds it running. If a later ask of the request tells its
// states, they stay.
func (w *worker) claim(ctx context.Context, d *delivery) (stands imgd.Status, ended bool, err error) {
	for range maxRaces {
		cur, found, err := w.last(ctx, d.req.ID)
		if err != nil {
			return imgd.Status{}, false, err
		}
		sameAsk := found && cur.AskedAt.Equal(d.req.AskedAt)
		if sameAsk && cur.State.Final() {
			return cur.Status, true, nil
		}
		st := d.status(imgd.Resolving)
		if sameAsk && cur.State == imgd.Publishing { // still, and for this reason
			st.State, st.Error, st.Release = cur.State, cur.Error, cur.Release
		}
		w.staged(d, st.State)
		if found && !yields(cur.Status, st) {
			d.outrun = true
			return st, false, nil
		}
		seq, err := w.write(ctx, st, cur.seq)
		if err == nil {
			d.seen = seq
			return st, false, nil
		}
		if !outrun(err) {
			return imgd.Status{}, false, fmt.Errorf("write state %s: %w", st.State, err)
		}
	}
	return imgd.Status{}, false, fmt.Errorf("write state %s: outrun %d times", imgd.Resolving, maxRaces)
}

// pin puts a request that names no commit into the queue again with the one
// that its ref names now, and acknowledges it: so whatever is built has its ID
// from the first try on, and is the same in each. A crash before the
// acknowledgement does it again, which within the queue's duplicate window is
// the same message, and later another only if the ref has moved.
func (w *worker) pin(ctx, hard context.Context, d *delivery) {
	req, err := w.resolve(ctx, d)
	if err == nil {
		delivery := requestsStream + "/" + strconv.FormatUint(d.meta.Sequence.Stream, 10) + "/" + req.Commit
		req, err = w.Submit(context.WithoutCancel(ctx), req, delivery)
	}
	if err != nil {
		w.finish(ctx, hard, d, imgd.Release{}, err)
		return
	}
	log := w.cfg.Log.With("request", req.ID, "project", req.Project, "ref", req.Ref, "commit", req.Commit)
	err = w.unclaim(hard, d, req.ID)
	if err == nil {
		err = w.acknowledge(hard, d.msg)
	}
	if err != nil {
		log.Warn("request has its commit, but the ask without is still there; trying again", "error", err)
		w.nak(d, d.msg.NakWithDelay(w.cfg.Retry(1)))
		return
	}
	log.Info("request names its commit now")
}

// resolve answers the request with its commit, asked when it was asked first.
func (w *worker) resolve(ctx context.Context, d *delivery) (imgd.Request, error) {
	ctx, cancel := context.WithTimeout(ctx, resolveTime)
	defer cancel()
	req := d.req
	if err := w.guard(d, func() error { return w.handler.Resolve(ctx, &req) }); err != nil {
		return req, err
	}
	if err := ctx.Err(); err != nil { // cancelled meanwhile
		return req, err
	}
	if req.Commit == "" {
		return req, errors.New("unreachable: resolved to no commit")
	}
	return req, nil
}

// unclaim puts an empty message in the place of the state of d, whose request
// is known as id now, and says so in its header. To delete the state would not
// do: a stream that recovers from a kill may have it again. A state that another
// has written since stays: it is a later ask's.
func (w *worker) unclaim(hard context.Context, d *delivery, id string) error {
	if d.seen == 0 {
		return nil
	}
	empty := &nats.Msg{Subject: statusPrefix + d.req.ID, Header: nats.Header{requestHeader: {id}}}
	_, err := w.publish(context.WithoutCancel(hard), empty, jetstream.WithExpectLastSequencePerSubject(d.seen))
	if outrun(err) {
		cur, _, lookErr := w.last(context.WithoutCancel(hard), d.req.ID)
		if lookErr == nil && cur.seq != d.seen {
			return nil
		}
		err = errors.Join(err, lookErr)
	}
	if err != nil {
		return fmt.Errorf("take back state of %s: %w", d.req.ID, err)
	}
	return nil
}

// passing notes a stage. Its state is for whoever looks: work goes on while it
// is written, one state after the other, and if it cannot be. If it finds the
// request cancelled, by somebody who took it for one that waits, it is.
func (w *worker) passing(ctx context.Context, d *delivery, s imgd.State) {
	was := w.staged(d, s)
	w.seat(ctx, d, s)
	if d.telling.Wait(); s == was || d.outrun || ctx.Err() != nil {
		return
	}
	d.telling.Go(func() { w.tellStage(ctx, d, s) })
}

func (w *worker) tellStage(ctx context.Context, d *delivery, s imgd.State) {
	stands, err := w.tell(ctx, d, d.status(s))
	if err != nil {
		w.cfg.Log.Warn("state not written", "request", d.req.ID, "state", s, "error", err)
		return
	}
	if stands.State == imgd.Cancelled && stands.AskedAt.Equal(d.req.AskedAt) {
		d.cancel(new(cancelledError))
	}
}

// tell writes a state of d, unless something stands there that does not yield,
// and answers what does then.
func (w *worker) tell(ctx context.Context, d *delivery, st imgd.Status) (standing, error) {
	stands, err := w.advance(ctx, st, d.seen)
	if err == nil && stands.own {
		d.seen, d.outrun = stands.seq, false
	} else if err == nil {
		d.seen, d.outrun = 0, true
	}
	return stands, err
}

func (d *delivery) status(s imgd.State) imgd.Status {
	st := imgd.StatusOf(d.req, s)
	st.Tries, st.StartedAt = d.tries, stamp(d.started)
	return st
}
