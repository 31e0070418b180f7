package events

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// errEnough ends a read early.
var errEnough = errors.New("enough")

// How long a reader waits before it makes its consumer anew, after an error.
const readPause = time.Second

// quiet is how long a read that does not follow waits for a message that the
// server had announced: it may have been replaced since.
const quiet = 2 * time.Second

// readerGone is when the server forgets a reader that no longer asks.
const readerGone = 30 * time.Second

type readOptions struct {
	stream  string
	subject string
	since   uint64 // a sequence; what comes after it is read
	follow  bool   // for ever, else what is there
}

// read gives f the messages after o.since, in order, none twice and none left
// out, across lost connections. It ends when f answers an error or ctx is done,
// and without o.follow when all that is there was read; then a lost connection
// is an error.
func (b *Bus) read(ctx context.Context, o readOptions, f func(msg jetstream.Msg, seq uint64) error) error {
	for {
		err := b.readOn(ctx, &o, f)
		var stop stopError
		if errors.As(err, &stop) {
			return stop.error
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !o.follow || b.nc.IsClosed() {
			return err
		}
		b.cfg.Log.Debug("reading on after an error", "stream", o.stream, "since", o.since, "error", err)
		pause(ctx, readPause)
	}
}

// A stopError is what f answered.
type stopError struct{ error }

// readOn reads with one ordered consumer and notes in o how far it came. The
// consumer puts itself right once; after that read makes a new one, because
// the consumer would not heed ctx while it tries.
func (b *Bus) readOn(ctx context.Context, o *readOptions, f func(msg jetstream.Msg, seq uint64) error) error {
	cons, err := b.js.OrderedConsumer(ctx, o.stream, jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{o.subject}, DeliverPolicy: jetstream.DeliverByStartSequencePolicy,
		OptStartSeq: o.since + 1, MaxResetAttempts: 1, InactiveThreshold: readerGone,
	})
	if err != nil {
		return fmt.Errorf("read %s: %w", o.stream, err)
	}
	if !o.follow && cons.CachedInfo().NumPending == 0 {
		return nil
	}
	messages, err := cons.Messages()
	if err != nil {
		return fmt.Errorf("read %s: %w", o.stream, err)
	}
	defer messages.Stop()
	for {
		left, err := b.readNext(ctx, messages, o, f)
		if err != nil || left == 0 && !o.follow {
			return err
		}
	}
}

// readNext answers how many messages are left after this one.
func (b *Bus) readNext(ctx context.Context, messages jetstream.MessagesContext, o *readOptions, f func(msg jetstream.Msg, seq uint64) error) (uint64, error) {
	wait, cancel := ctx, context.CancelFunc(func() {})
	if !o.follow {
		wait, cancel = context.WithTimeout(ctx, quiet)
	}
	defer cancel()
	msg, err := messages.Next(jetstream.NextContext(wait))
	if err != nil && !o.follow && ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) && b.nc.IsConnected() {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", o.stream, err)
	}
	meta, err := msg.Metadata()
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", o.stream, err)
	}
	if err := f(msg, meta.Sequence.Stream); err != nil {
		return 0, stopError{err}
	}
	o.since = meta.Sequence.Stream
	return meta.NumPending, nil
}

// An Event is a message of IMGD_EVENTS.
type Event struct {
	Seq     uint64 // in the stream: what since counts
	Subject string // imgd.events.<what>.<image as base64url>.<event ID>
	What    string // published, failed, ...
	Image   string
	ID      string
	Data    []byte // a CloudEvent in JSON
}

// Events gives f the events after since, in order, until f answers an error or
// ctx is done; without follow it ends when all that are there were given. A
// lost connection is made good while it follows, and is an error else.
func (b *Bus) Events(ctx context.Context, since uint64, follow bool, f func(Event) error) error {
	o := readOptions{stream: eventsStream, subject: eventsPrefix + ">", since: since, follow: follow}
	return b.read(ctx, o, func(msg jetstream.Msg, seq uint64) error {
		return f(parseEvent(msg, seq))
	})
}

// parseEvent takes the subject apart as far as it goes: others may write there.
func parseEvent(msg jetstream.Msg, seq uint64) Event {
	e := Event{Seq: seq, Subject: msg.Subject(), Data: msg.Data()}
	rest := strings.TrimPrefix(e.Subject, eventsPrefix)
	what, rest, _ := strings.Cut(rest, ".")
	image, id, _ := strings.Cut(rest, ".")
	e.What, e.ID = what, id
	if name, err := base64.RawURLEncoding.DecodeString(image); err == nil {
		e.Image = string(name)
	}
	return e
}
