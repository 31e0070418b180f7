package events

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/imgd/imgd"
)

// Ask enqueues req durably; it is imgd.Asker. Safe to repeat, as a second ask
// for the same thing is the same request, but for force and rebuild, of which
// each ask is one. Use Submit to repeat those.
func (b *Bus) Ask(ctx context.Context, req imgd.Request) error {
	_, err := b.Submit(ctx, req, "")
	return err
}

// Submit enqueues req durably under the delivery's ID, which makes a repeated
// one the same message for two minutes, and with force or rebuild the same
// request for ever, unless req has a nonce: that is what tells those apart. An
// empty ID is drawn. It answers the request as the consumer will see it: with
// its ID (that of no commit, if req names none) and the time it was asked at.
// ErrInvalid if Decode would refuse it; after any other error it may be in the
// queue all the same.
//
// The order is queue, then state: a crash between them leaves a request whose
// first state the consumer writes, never a state of a request that is not there.
func (b *Bus) Submit(ctx context.Context, req imgd.Request, delivery string) (imgd.Request, error) {
	asked, seq, err := b.enqueue(ctx, req, delivery)
	if err != nil {
		return req, err
	}
	if err := b.queued(ctx, &asked, seq, req.AskedAt.IsZero()); err != nil {
		b.cfg.Log.Warn("request is in the queue, but not among the states yet", "request", asked.ID, "error", err)
	}
	return asked, nil
}

// Enqueue is Submit for those who cannot wait: it returns as soon as the
// request is durable. Its first state follows in the background. So the answer
// has the request's ID, and a time it was asked at only if req names one.
func (b *Bus) Enqueue(ctx context.Context, req imgd.Request, delivery string) (imgd.Request, error) {
	asked, _, err := b.enqueue(ctx, req, delivery)
	if err != nil {
		return req, err
	}
	asked.AskedAt = req.AskedAt
	b.first.wake()
	return asked, nil
}

// enqueue puts req into the queue and answers what it is there, and where.
func (b *Bus) enqueue(ctx context.Context, req imgd.Request, delivery string) (imgd.Request, uint64, error) {
	msg := Message{Subject: subject(req), MsgID: cmp.Or(delivery, "imgd/"+rand.Text()), Nonce: req.Nonce, Time: b.cfg.Now()}
	if req.AskedAt.After(msg.Time) {
		msg.Time = req.AskedAt // the server's clock decides
	}
	var err error
	if msg.Body, err = encode(req); err != nil {
		return req, 0, fmt.Errorf("write request: %w", err)
	}
	asked, err := Decode(msg)
	if err != nil {
		return req, 0, err
	}
	m := &nats.Msg{Subject: msg.Subject, Data: msg.Body, Header: nats.Header{}}
	if msg.Nonce != "" {
		m.Header[nonceHeader] = []string{msg.Nonce}
	}
	ctx, sent := b.tracer.send(ctx, m)
	ack, err := b.publish(ctx, m, jetstream.WithMsgID(msg.MsgID), jetstream.WithExpectStream(requestsStream))
	sent(asked, err)
	if err != nil {
		return req, 0, fmt.Errorf("enqueue request: %w", err)
	}
	return asked, ack.Sequence, nil
}

// queued writes the first state of a request that names a commit, unless the
// consumer was faster. If untimed it first gives req the stream's time.
func (b *Bus) queued(ctx context.Context, req *imgd.Request, seq uint64, untimed bool) error {
	if untimed {
		here, err := b.timed(ctx, req, seq)
		if err != nil || !here {
			return err
		}
	}
	if req.Commit == "" {
		return nil
	}
	_, err := b.advance(ctx, imgd.StatusOf(*req, imgd.Queued), 0)
	return err
}

// timed gives req the time the queue took it, and reports whether it is still
// there. If not it has ended, and its state has that time.
func (b *Bus) timed(ctx context.Context, req *imgd.Request, seq uint64) (here bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.Timeout)
	defer cancel()
	msg, err := b.requests.GetMsg(ctx, seq)
	if err == nil {
		req.AskedAt = stamp(msg.Time)
		return true, nil
	}
	if !errors.Is(err, jetstream.ErrMsgNotFound) {
		return false, fmt.Errorf("read request %d: %w", seq, err)
	}
	st, found, err := b.Status(ctx, req.ID)
	if found {
		req.AskedAt = st.AskedAt
	}
	return false, err
}
