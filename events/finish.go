package events

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/imgd/imgd"
)

// finish does with the message what the end table says of the handler's answer.
func (w *worker) finish(ctx, hard context.Context, d *delivery, rel imgd.Release, err error) {
	a := answer{err: err, release: rel, stopping: hard.Err() != nil, old: w.old(d)}
	if by := new(cancelledError); errors.As(context.Cause(ctx), &by) {
		a.cancelled = by
	}
	hard = context.WithoutCancel(hard) // what follows is short, and each call has its own limit
	a.outage = func() error { return w.outage.look(hard) }
	e := endOf(a)
	st := d.status(e.state)
	st.Error, st.Release = e.err, rel.ID
	if !e.state.Final() {
		w.again(hard, d, st, e.retry, err)
		return
	}
	st.EndedAt = stamp(w.cfg.Now())
	stands, settleErr := w.end(hard, d, st)
	w.settled(d, stands, err, settleErr)
}

// old reports whether d's request was tried for long enough and often enough.
// Deliveries count shutdowns and crashes too, so neither is enough alone.
func (w *worker) old(d *delivery) bool {
	return d.tries >= w.cfg.Tries && w.cfg.Now().Sub(d.meta.Timestamp) > w.cfg.RetryFor
}

// end ends d's request: the dead letter if it is given up, the state, and what
// follows from it. It answers the end that stands. A crash before the state, the
// commit point, leaves the request to be handled again, and at most a letter
// that is written again; a crash after it leaves what follow does, which the
// next delivery of the message makes sure of.
func (w *worker) end(ctx context.Context, d *delivery, st imgd.Status) (imgd.Status, error) {
	if st.State == imgd.Dead {
		if err := w.bury(ctx, d, st.Error.Message); err != nil {
			return st, err
		}
	}
	st, err := w.conclude(ctx, st, d.seen)
	if err != nil {
		return st, err
	}
	return st, w.follow(ctx, d, st)
}

// follow does all that follows from the end st, which stands: it tells the world
// and then acknowledges the request. Safe to repeat: the event is there once, and
// an acknowledgement whose confirmation was lost costs one more delivery, whose
// acknowledgement it is then. A dead letter needs no second look: it was durable
// before the state was, and an operator may have thrown it away since.
func (w *worker) follow(ctx context.Context, d *delivery, st imgd.Status) error {
	if err := w.announceEnd(ctx, st); err != nil {
		return err
	}
	return w.acknowledge(ctx, d.msg)
}

// conclude writes the end st durably, the commit point of a request that ends
// without a release, and answers the end of this ask that stands: st, or one
// that was written before. If a later ask tells the states, st stands for this
// one all the same.
func (b *Bus) conclude(ctx context.Context, st imgd.Status, hint uint64) (imgd.Status, error) {
	stands, err := b.advance(ctx, st, hint)
	if err != nil {
		return st, err
	}
	if stands.State.Final() && stands.AskedAt.Equal(st.AskedAt) {
		return stands.Status, nil
	}
	return st, nil
}

// announceEnd writes the event of the end st, if it has one, and its ask was not
// told already. It is made of the state alone, so it is the same each time.
func (b *Bus) announceEnd(ctx context.Context, st imgd.Status) error {
	if !slices.Contains(toldEnds(), st.State) {
		return nil // of a release the index tells, of the others nothing came
	}
	image := b.cfg.Image(st.Project)
	subject, body, err := EndEnvelope(st, image, b.cfg.IndexID)
	if err != nil {
		return fmt.Errorf("make event of the end: %w", err)
	}
	id := eventID(subject)
	for _, other := range toldEnds() {
		// Its state is a later ask's, so it was handled again, and may end otherwise.
		if other != st.State && b.written(ctx, eventSubject(string(other), image, id)) {
			return nil
		}
	}
	if err := b.writeOnce(ctx, subject, id, body); err != nil {
		return fmt.Errorf("write event of the end: %w", err)
	}
	return nil
}

func (w *worker) acknowledge(ctx context.Context, msg jetstream.Msg) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), w.cfg.Timeout)
	defer cancel()
	if err := msg.DoubleAck(ctx); err != nil {
		return fmt.Errorf("acknowledge request: %w", err)
	}
	return nil
}

// settled tells the log how d's request ended, by cause, and has what could not
// be settled tried again.
func (w *worker) settled(d *delivery, st imgd.Status, cause, err error) {
	log := w.logOf(d).With("state", st.State, "release", st.Release)
	d.ended(st.State, errors.Join(cause, err))
	if err != nil {
		log.Error("request ended but is not settled, trying again", "error", err)
		w.nak(d, d.msg.NakWithDelay(w.cfg.Retry(1)))
		return
	}
	if cause != nil {
		log = log.With("error", cause)
	}
	w.cfg.Observe.Ended(st)
	log.Log(context.Background(), levelOf(st.State), "request ended", "took", w.cfg.Now().Sub(d.started).Round(time.Millisecond).String())
}

// levelOf is error for what waits for an operator.
func levelOf(s imgd.State) slog.Level {
	if s == imgd.Dead {
		return slog.LevelError
	}
	return slog.LevelInfo
}

func (w *worker) logOf(d *delivery) *slog.Logger {
	return w.cfg.Log.With("request", d.req.ID, "project", d.req.Project, "ref", d.req.Ref, "commit", d.req.Commit, "try", d.tries)
}

// again gives the request back. If that is lost its lease runs out instead.
func (w *worker) again(ctx context.Context, d *delivery, st imgd.Status, r retry, cause error) {
	log := w.logOf(d).With("state", st.State, "error", cause)
	d.ended(st.State, cause)
	w.cfg.Observe.Retried(st)
	if _, err := w.tell(ctx, d, st); err != nil {
		log.Warn("state not written", "cause", err)
	}
	if r == atOnce {
		log.Info("request interrupted and given back")
		w.nak(d, d.msg.Nak())
		return
	}
	delay := w.cfg.Retry(d.tries)
	if r == soon {
		delay = w.cfg.Retry(1)
	}
	log.Warn("request failed, trying again", "in", delay)
	w.nak(d, d.msg.NakWithDelay(delay))
}

func (w *worker) nak(d *delivery, err error) {
	if err != nil {
		w.cfg.Log.Warn("request not given back, its lease will run out", "request", d.req.ID, "error", err)
	}
}
