package events

import (
	"context"
	"fmt"
	"time"

	"github.com/imgd/imgd"
)

// Log is the index as the relay reads it. It shows durable entries only.
type Log interface {
	// ID of the index.
	ID() string
	// Seq is the last entry folded.
	Seq() uint64
	// Published are the published releases with Seq > after, in log order.
	Published(after uint64) []imgd.Release
	// Wait returns nil when an entry >= seq is folded, at once if one is, and
	// ctx's error when ctx is done.
	Wait(ctx context.Context, seq uint64) error
}

// Told remembers how far the relay came.
type Told interface {
	// Told is the Seq of the last release known to be announced.
	Told() uint64
	// SetTold notes it durably. Safe to repeat; a lower one changes nothing.
	SetTold(ctx context.Context, seq uint64) error
}

// Source is what the relay announces from; the index is one.
type Source interface {
	Log
	Told
}

// How long the relay waits after an error: at first, and at most. An outage of
// any length costs a try each relayMaxPause.
const (
	relayMinPause = 100 * time.Millisecond
	relayMaxPause = 10 * time.Second
)

// Relay announces every published release of src that is not told yet, in log
// order and each once, until ctx is done, which is no error; it is the only way an event of a
// release comes to be, and starts from the index alone. It holds nobody up and
// never gives up: whatever fails is tried again. Two relays over the same index
// announce each release once all the same.
func (b *Bus) Relay(ctx context.Context, src Source) error {
	if err := b.relay(ctx, src); ctx.Err() == nil {
		return err
	}
	return nil
}

func (b *Bus) relay(ctx context.Context, src Source) error {
	var told uint64
	for {
		seen := src.Seq() // before Published, so that nothing falls between
		told = max(told, src.Told())
		for _, rel := range src.Published(told) {
			if err := b.insist(ctx, "announce "+rel.ID, func() error { return b.announce(ctx, rel, src.ID()) }); err != nil {
				return err
			}
			told = rel.Seq
		}
		if told > src.Told() {
			if err := b.insist(ctx, "note what was announced", func() error { return src.SetTold(ctx, told) }); err != nil {
				return err
			}
		}
		if err := src.Wait(ctx, seen+1); err != nil {
			return fmt.Errorf("wait for the index: %w", err)
		}
	}
}

// insist does it until it succeeds or ctx is done.
func (b *Bus) insist(ctx context.Context, what string, do func() error) error {
	for wait := relayMinPause; ; wait = min(2*wait, relayMaxPause) {
		err := do()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s: %w", what, ctx.Err())
		}
		b.cfg.Log.Warn("cannot "+what+", trying again", "in", wait, "error", err)
		pause(ctx, wait)
	}
}

// announce writes the event of rel if it is not there, and the index fits. Safe to
// repeat: the event is always the same bytes, and written once.
func (b *Bus) announce(ctx context.Context, rel imgd.Release, indexID string) error {
	if err := b.Fits(ctx); err != nil {
		return err
	}
	subject, body, err := Envelope(rel, indexID)
	if err != nil {
		return err
	}
	if err := b.writeOnce(ctx, subject, rel.ID, body); err != nil {
		return err
	}
	b.cfg.Observe.Announced(rel)
	return nil
}
