package events

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/imgd/imgd"
)

// cancelTime bounds how long Cancel waits for a running request to end: a
// build is killed within seconds.
const cancelTime = 15 * time.Second

// A cancelOrder tells whoever runs a request to cancel it. It is heard or lost;
// the state that follows is the answer.
type cancelOrder struct {
	By      string    `json:"by"`
	AskedAt time.Time `json:"askedAt"` // asks until then are meant
}

// cancelledKind is the kind of error of a request that was cancelled.
const cancelledKind = "cancelled"

// A cancelledError is why a handler was interrupted.
type cancelledError struct{ by string }

func (e *cancelledError) Error() string {
	if e.by == "" {
		return "cancelled"
	}
	return "cancelled by " + e.by
}

// Cancel ends a request that has admitted no release, for by, and answers its
// state. One that waits for its next try ends at once; of a running one the
// handler is interrupted, and Cancel waits for its end. imgd.ErrNotFound if
// there is no such request; imgd.ErrConflict, with its state, if it is being
// published, has ended, or was admitted before the order came. After any other
// error it may be cancelled all the same. If it is asked for later, it runs.
func (b *Bus) Cancel(ctx context.Context, request, by string) (imgd.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, cancelTime)
	defer cancel()
	st, err := b.known(ctx, request)
	order := cancelOrder{By: oneLine(by), AskedAt: st.AskedAt}
	for ordered := false; err == nil; st, err = b.known(ctx, request) {
		switch {
		case !st.AskedAt.Equal(order.AskedAt):
			return st.Status, conflict("request %s was asked for again at %s; cancel it again if that is meant too", request, st.AskedAt.Format(time.RFC3339))
		case ordered && st.State == imgd.Cancelled:
			return st.Status, nil
		case st.State.Final():
			return st.Status, conflict("request %s has ended %s", request, st.State)
		case st.State == imgd.Publishing:
			return st.Status, conflict("request %s is being published, which nothing cancels; drop gives it up", request)
		case st.State == imgd.Queued:
			if st, done, err := b.cancelWaiting(ctx, st, order); done || err != nil {
				return st, err
			}
		default:
			ordered = true
			if err := b.cancelRunning(ctx, st, order); err != nil {
				return st.Status, err
			}
		}
	}
	return st.Status, err
}

func conflict(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, imgd.ErrConflict)...)
}

// known is the state of a request that there is.
func (b *Bus) known(ctx context.Context, request string) (cur standing, err error) {
	found := false
	if validRequest(request) {
		if cur, found, err = b.last(ctx, request); err != nil {
			return cur, err
		}
	}
	if !found || cur.State == "" {
		return cur, fmt.Errorf("request %q: %w", request, imgd.ErrNotFound)
	}
	return cur, nil
}

// cancelWaiting ends a request that nobody runs, unless somebody has begun to:
// claim expects the state it has read, as this does. The message is acknowledged
// when it is delivered next. An earlier ask of the request that still runs is
// told too.
func (b *Bus) cancelWaiting(ctx context.Context, cur standing, order cancelOrder) (st imgd.Status, done bool, err error) {
	st = cur.Status
	st.State, st.Error, st.EndedAt = imgd.Cancelled, because(cancelledKind, &cancelledError{order.By}), stamp(b.cfg.Now())
	if _, err := b.write(ctx, st, cur.seq); outrun(err) {
		return cur.Status, false, nil
	} else if err != nil {
		return cur.Status, false, fmt.Errorf("write state %s: %w", st.State, err)
	}
	return st, true, b.order(st.Request, order)
}

func (b *Bus) order(request string, order cancelOrder) error {
	data, err := json.Marshal(order)
	if err == nil {
		err = b.nc.Publish(cancelPrefix+request, data)
	}
	if err != nil {
		return fmt.Errorf("tell whoever runs %s: %w", request, err)
	}
	return nil
}

// cancelRunning tells whoever runs the request, and waits until it does not any
// more, or is being published.
func (b *Bus) cancelRunning(ctx context.Context, cur standing, order cancelOrder) error {
	if err := b.order(cur.Request, order); err != nil {
		return err
	}
	for st, err := range b.WatchStatus(ctx, cur.Request) {
		if err != nil {
			return err
		}
		if st.State != imgd.Resolving && st.State != imgd.Building {
			return nil
		}
	}
	return fmt.Errorf("request %s is %s, and whoever runs it has not answered; if that one is gone it is taken up again after its lease, try then: %w",
		cur.Request, cur.State, ctx.Err())
}

// ordered interrupts the handler that an order means, unless it publishes.
func (w *worker) ordered(m *nats.Msg) {
	var order cancelOrder
	if err := json.Unmarshal(m.Data, &order); err != nil {
		w.cfg.Log.Warn("order to cancel is not read", "subject", m.Subject, "error", err)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	d := w.running[strings.TrimPrefix(m.Subject, cancelPrefix)]
	if d != nil && d.stage != imgd.Publishing && !d.req.AskedAt.After(order.AskedAt) {
		d.cancel(&cancelledError{by: oneLine(order.By)})
	}
}
