package events

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/imgd/imgd"
)

// errEnough ends a read early.
var errEnough = errors.New("enough")

// How long a reader waits before it makes its consumer anew, after an error.
const readPause = time.Second

// quiet is how long a read that does not follow waits for a message that the
// server had announced, before it asks whether it is still there: it may have
// been replaced since, or the server may be slow.
const quiet = 2 * time.Second

// readerGone is when the server forgets a reader that no longer asks.
const readerGone = 30 * time.Second

type readOptions struct {
	stream   string
	subject  string
	subjects []string // instead of subject: any of them; they must not overlap
	since    uint64   // a sequence; what comes after it is read
	follow   bool     // for ever, else what is there
}

func (o readOptions) filters() []string {
	if len(o.subjects) > 0 {
		return o.subjects
	}
	return []string{o.subject}
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
	making, cancel := context.WithTimeout(ctx, b.cfg.Timeout)
	defer cancel()
	cons, err := b.js.OrderedConsumer(making, o.stream, jetstream.OrderedConsumerConfig{
		FilterSubjects: o.filters(), DeliverPolicy: jetstream.DeliverByStartSequencePolicy,
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
		return b.left(ctx, o)
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

// left is 0 if no message is left to be read, else at least 1.
func (b *Bus) left(ctx context.Context, o *readOptions) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.Timeout)
	defer cancel()
	stream, err := b.js.Stream(ctx, o.stream)
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", o.stream, err)
	}
	for _, subject := range o.filters() {
		_, err := stream.GetMsg(ctx, o.since+1, jetstream.WithGetMsgSubject(subject))
		if err == nil {
			return 1, nil
		}
		if !errors.Is(err, jetstream.ErrMsgNotFound) {
			return 0, fmt.Errorf("read %s: %w", o.stream, err)
		}
	}
	return 0, nil
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

// An EventFilter chooses events. What is empty may be anything.
type EventFilter struct {
	Since uint64   // only those after this sequence
	What  []string // published, failed, ...: any of these
	Image string
}

// maxImage bounds an image's name, as registries bound theirs: it becomes part
// of a subject, and the server hangs up on who sends too long ones.
const maxImage = 255

func (f EventFilter) check() error {
	if len(f.Image) > maxImage {
		return fmt.Errorf("image %.40q...: a name has at most %d bytes: %w", f.Image, maxImage, imgd.ErrInvalid)
	}
	known := slices.Sorted(maps.Keys(Types()))
	for _, what := range f.What {
		if !slices.Contains(known, what) {
			return fmt.Errorf("event %.40q: want any of %s: %w", what, strings.Join(known, ", "), imgd.ErrInvalid)
		}
	}
	if f.Since == math.MaxUint64 {
		return fmt.Errorf("no event comes after %d: %w", f.Since, imgd.ErrInvalid)
	}
	return nil
}

// subjects are those of the events that f chooses. They do not overlap, which
// the server would refuse.
func (f EventFilter) subjects() []string {
	if f.Image == "" && len(f.What) == 0 {
		return []string{eventsPrefix + ">"}
	}
	image, whats := "*", []string{"*"}
	if f.Image != "" {
		image = imageToken(f.Image)
	}
	if len(f.What) > 0 {
		whats = slices.Compact(slices.Sorted(slices.Values(f.What)))
	}
	var subjects []string
	for _, what := range whats {
		subjects = append(subjects, eventsPrefix+what+"."+image+".*")
	}
	return subjects
}

// Events gives f the events that filter chooses, in order, each once, until f
// answers an error or ctx is done; without follow it ends when all that are
// there were given. The server filters: what is not chosen costs nothing here. A
// lost connection is made good while it follows, and is an error else. A filter
// that can choose nothing is imgd.ErrInvalid.
func (b *Bus) Events(ctx context.Context, filter EventFilter, follow bool, f func(Event) error) error {
	if err := filter.check(); err != nil {
		return err
	}
	o := readOptions{stream: eventsStream, subjects: filter.subjects(), since: filter.Since, follow: follow}
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
