package events

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
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
// end of his ask never misses it. Of one ask an end yields only to another, and
// published, which is what the index says, only to itself; before the end the newest
// delivery tells, in case an older one has lost its lease.
func yields(s, next imgd.Status) bool {
	switch {
	case !s.AskedAt.Equal(next.AskedAt):
		return s.AskedAt.Before(next.AskedAt) && (s.State.Final() || !fromIntake(next))
	case next.State.Final():
		return s.State != imgd.Published || next.State == imgd.Published
	default:
		return !s.State.Final() && !fromIntake(next) && s.Tries <= next.Tries
	}
}

// fromIntake reports whether s was written when the request was enqueued.
func fromIntake(s imgd.Status) bool {
	return s.State == imgd.Queued && s.Tries == 0
}

// advance writes st durably unless something stands there that does not yield,
// and answers the sequence it wrote, or 0. hint is the sequence of the state the
// caller wrote last: over that one it writes without looking. It is safe to
// repeat: what it wrote yields to the same again.
func (b *Bus) advance(ctx context.Context, st imgd.Status, hint uint64) (uint64, error) {
	for range maxRaces {
		seq, err := b.write(ctx, st, hint)
		if err == nil {
			return seq, nil
		}
		if !outrun(err) {
			return 0, fmt.Errorf("write state %s: %w", st.State, err)
		}
		cur, found, err := b.last(ctx, st.Request)
		if err != nil {
			return 0, err
		}
		if found && !yields(cur.Status, st) {
			return 0, nil
		}
		hint = cur.seq
	}
	return 0, fmt.Errorf("write state %s: outrun %d times", st.State, maxRaces)
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
}

// last is the state that stands; what is no state, and so not imgd's, reads as
// the empty one, which yields to all.
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
	if err := json.Unmarshal(data, &st); err != nil {
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

// statusWindow is how many sequences Statuses looks back for each status it
// wants: a request writes some five, of which the last stays.
const statusWindow = 8

// Statuses are the states written before the place before (0: all), the last
// written first, at most limit of them, and the place to go on from (0: none
// are left).
func (b *Bus) Statuses(ctx context.Context, limit int, before uint64) (items []imgd.Status, next uint64, err error) {
	end, err := b.statusEnd(ctx, before)
	if err != nil || limit <= 0 {
		return nil, 0, err
	}
	for window := uint64(limit) * statusWindow; ; window *= statusWindow {
		since := end - min(end, window)
		found, err := b.statusesIn(ctx, since, end)
		if err != nil {
			return nil, 0, err
		}
		slices.Reverse(found)
		if len(found) > limit {
			return statusesOf(found[:limit]), found[limit-1].seq, nil
		}
		if since == 0 {
			return statusesOf(found), 0, nil
		}
	}
}

// statusEnd is the last sequence before before.
func (b *Bus) statusEnd(ctx context.Context, before uint64) (uint64, error) {
	if before > 0 {
		return before - 1, nil
	}
	ctx, cancel := context.WithTimeout(ctx, b.cfg.Timeout)
	defer cancel()
	info, err := b.status.Info(ctx)
	if err != nil {
		return 0, fmt.Errorf("ask for %s: %w", statusStream, err)
	}
	return info.State.LastSeq, nil
}

// statusesIn are the states with since < seq <= end, in the stream's order.
func (b *Bus) statusesIn(ctx context.Context, since, end uint64) (found []standing, err error) {
	err = b.read(ctx, readOptions{stream: statusStream, subject: statusPrefix + ">", since: since}, func(msg jetstream.Msg, seq uint64) error {
		if seq > end {
			return errEnough
		}
		if st := parseStatus(msg.Data()); st.State != "" {
			found = append(found, standing{Status: st, seq: seq})
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return found, err
}

func statusesOf(found []standing) []imgd.Status {
	items := make([]imgd.Status, len(found))
	for i, s := range found {
		items[i] = s.Status
	}
	return items
}
