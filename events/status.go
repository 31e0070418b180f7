package events

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/imgd/imgd"
)

// maxRaces bounds how often a status is written anew because another writer of
// the same request was faster: there are at most a few.
const maxRaces = 16

// yields reports whether next may replace s. States are ordered by the time of
// their ask, as the stream or the asker gave it, so that whoever waits for the
// end of his ask never misses it. Of one ask the first end stands: what follows
// from it is made of it. Only what the index says goes before it: published,
// and for a cancelled one a release that was admitted all the same. Before the
// end the newest delivery tells, in case an older one has lost its lease.
func yields(s, next imgd.Status) bool {
	switch {
	case !s.AskedAt.Equal(next.AskedAt):
		return s.AskedAt.Before(next.AskedAt) && (s.State.Final() || !fromIntake(next))
	case s.State == imgd.Cancelled && next.State == imgd.Publishing:
		return next.Release != ""
	case s.State.Final():
		return s.State != imgd.Published && next.State == imgd.Published
	default:
		return next.State.Final() || !fromIntake(next) && s.Tries <= next.Tries
	}
}

// fromIntake reports whether s was written when the request was enqueued.
func fromIntake(s imgd.Status) bool {
	return s.State == imgd.Queued && s.Tries == 0
}

// advance writes st durably unless something stands there that does not yield,
// and answers what stands then; if st does, its sequence is that of the write.
// hint is the sequence of the state the caller wrote last: over that one it
// writes without looking. It is safe to repeat: a state that was written does
// no harm if it is written again, and an end stands as it was first written.
func (b *Bus) advance(ctx context.Context, st imgd.Status, hint uint64) (stands standing, err error) {
	for range maxRaces {
		seq, err := b.write(ctx, st, hint)
		if err == nil {
			return standing{Status: st, seq: seq, own: true}, nil
		}
		if !outrun(err) {
			return standing{}, fmt.Errorf("write state %s: %w", st.State, err)
		}
		cur, found, err := b.last(ctx, st.Request)
		if err != nil {
			return standing{}, err
		}
		if found && !yields(cur.Status, st) {
			return cur, nil
		}
		hint = cur.seq
	}
	return standing{}, fmt.Errorf("write state %s: outrun %d times", st.State, maxRaces)
}

func (b *Bus) write(ctx context.Context, st imgd.Status, hint uint64) (uint64, error) {
	data, err := json.Marshal(st)
	if err != nil {
		return 0, err
	}
	ack, err := b.publish(ctx, &nats.Msg{Subject: statusPrefix + st.Request, Data: data}, jetstream.WithExpectLastSequencePerSubject(hint))
	if err != nil {
		return 0, err
	}
	return ack.Sequence, nil
}

// A standing is a Status with its place in the stream.
type standing struct {
	imgd.Status
	seq uint64
	own bool // the caller has just written it
}

// last is the state that stands; what is no state of imgd's reads as the empty
// one, which yields to all.
func (b *Bus) last(ctx context.Context, request string) (standing, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.Timeout)
	defer cancel()
	raw, err := b.status.GetLastMsgForSubject(ctx, statusPrefix+request)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return standing{}, false, nil
	}
	if err != nil {
		return standing{}, false, fmt.Errorf("read state of %s: %w", request, err)
	}
	return standing{Status: parseStatus(raw.Data), seq: raw.Sequence}, true, nil
}

func parseStatus(data []byte) imgd.Status {
	var st imgd.Status
	if err := json.Unmarshal(data, &st); err != nil || st.State.Final() && st.EndedAt.IsZero() {
		return imgd.Status{}
	}
	return st
}

// validRequest reports whether id can be a request's, so that it is one token
// of a subject.
func validRequest(id string) bool {
	return len(id) == 32 && strings.Trim(id, "0123456789abcdef") == ""
}

// Status is the state of the request with that ID, and whether there is one.
func (b *Bus) Status(ctx context.Context, request string) (imgd.Status, bool, error) {
	if !validRequest(request) {
		return imgd.Status{}, false, nil
	}
	s, found, err := b.last(ctx, request)
	return s.Status, found && s.State != "", err
}

// WatchStatus gives the state of the request and then each that follows, until
// ctx is done or the loop ends. States that follow fast may be passed over, the
// last never is. An error ends it.
func (b *Bus) WatchStatus(ctx context.Context, request string) iter.Seq2[imgd.Status, error] {
	return func(yield func(imgd.Status, error) bool) {
		if !validRequest(request) {
			yield(imgd.Status{}, fmt.Errorf("request %q: want 32 lower-case hex digits", request))
			return
		}
		o := readOptions{stream: statusStream, subject: statusPrefix + request, follow: true}
		err := b.read(ctx, o, func(msg jetstream.Msg, _ uint64) error {
			if st := parseStatus(msg.Data()); st.State != "" && !yield(st, nil) {
				return errEnough
			}
			return nil
		})
		if !errors.Is(err, errEnough) && ctx.Err() == nil {
			yield(imgd.Status{}, err)
		}
	}
}
