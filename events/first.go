package events

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/imgd/imgd"
)

// firstStatePace is between two of them, so that they take little from those
// who enqueue meanwhile: each costs the server two calls and a sync.
const firstStatePace = 2 * time.Millisecond

// firstStates lets requests be seen while they wait for a slot, or for the end
// of an outage: one goroutine walks the queue and gives each that has none its
// first state. It begins with what the queue has, so that it does not matter how
// the daemon ended that took a request.
type firstStates struct {
	more chan struct{}      // holds one if there may be more
	stop context.CancelFunc // and wait
}

func (f *firstStates) start(b *Bus) {
	ctx, cancel := context.WithCancel(context.Background())
	f.more = make(chan struct{}, 1)
	f.wake()
	var walking sync.WaitGroup
	walking.Go(func() { f.walk(ctx, b) })
	f.stop = func() { cancel(); walking.Wait() }
}

// wake says that the queue has more.
func (f *firstStates) wake() {
	select {
	case f.more <- struct{}{}:
	default:
	}
}

func (f *firstStates) walk(ctx context.Context, b *Bus) {
	var seen uint64 // sequence in the queue
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.more:
		}
		var err error
		if seen, err = b.showQueued(ctx, seen); err != nil && ctx.Err() == nil {
			b.cfg.Log.Debug("first states not written, trying again", "after", seen, "error", err)
			f.wake()
			pause(ctx, readPause)
		}
	}
}

// showQueued writes the first states of the requests in the queue after that
// sequence, and answers how far it came. Safe to repeat: a state that is there
// stays.
func (b *Bus) showQueued(ctx context.Context, after uint64) (uint64, error) {
	for ctx.Err() == nil {
		msg, err := b.nextQueued(ctx, after)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return after, nil
		}
		if err != nil {
			return after, err
		}
		req, err := Decode(Message{Subject: msg.Subject, MsgID: msg.Header.Get(jetstream.MsgIDHeader), Nonce: msg.Header.Get(nonceHeader),
			Seq: msg.Sequence, Time: msg.Time, Body: msg.Data})
		if err == nil && req.Commit != "" { // the consumer buries the others, or pins them first
			if _, err := b.advance(ctx, imgd.StatusOf(req, imgd.Queued), 0); err != nil {
				return after, err
			}
		}
		after = msg.Sequence
		pause(ctx, firstStatePace)
	}
	return after, ctx.Err()
}

// nextQueued is the first message of the queue after that sequence.
func (b *Bus) nextQueued(ctx context.Context, after uint64) (*jetstream.RawStreamMsg, error) {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.Timeout)
	defer cancel()
	msg, err := b.requests.GetMsg(ctx, after+1, jetstream.WithGetMsgSubject(requestsPrefix+">"))
	if err != nil {
		return nil, fmt.Errorf("read request after %d: %w", after, err)
	}
	return msg, nil
}
