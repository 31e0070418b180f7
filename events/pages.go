package events

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/imgd/imgd"
)

// How far one call looks back, so that a filter that chooses little does not
// make it read everything: in windows of the stream that grow, from so many
// sequences for each item it wants (a request writes some five states, of which
// the last stays) up to maxWindow, at most maxWindows of them (gaps cost a
// round trip each), until it has looked at maxLook messages.
const (
	windowPerItem = 8
	maxWindow     = 1 << 13
	maxWindows    = 256
	maxLook       = 10_000
)

// Statuses are the states that the filter chooses, written before the place
// before (0: all), the last written first, at most limit of them, and the place
// to go on from (0: none are left). It looks at some 10,000 states at most, so
// there may be fewer than limit, or none, and more to go on to.
func (b *Bus) Statuses(ctx context.Context, filter imgd.StatusFilter, limit int, before uint64) (items []imgd.Status, next uint64, err error) {
	p := pager{bus: b, name: statusStream, stream: b.status, subject: statusPrefix + ">", limit: limit, before: before}
	return page(ctx, p, func(msg jetstream.Msg, _ uint64) (imgd.Status, bool) {
		st := parseStatus(msg.Data())
		return st, st.State != "" && (filter.Project == "" || filter.Project == st.Project) && (filter.State == "" || filter.State == st.State)
	})
}

// Letters are the dead letters written before the place before (0: all), the
// last written first, at most limit of them, and the place to go on from (0:
// none are left).
func (b *Bus) Letters(ctx context.Context, limit int, before uint64) (items []imgd.Letter, next uint64, err error) {
	p := pager{bus: b, name: deadStream, stream: b.dead, subject: deadPrefix + ">", limit: limit, before: before}
	return page(ctx, p, func(msg jetstream.Msg, seq uint64) (imgd.Letter, bool) {
		meta, err := msg.Metadata()
		if err != nil {
			return imgd.Letter{}, false // unreachable: read has looked at it
		}
		raw := jetstream.RawStreamMsg{Subject: msg.Subject(), Sequence: seq, Header: msg.Headers(), Data: msg.Data(), Time: meta.Timestamp}
		return letterOf(&raw), true
	})
}

// A pager says what to look back through.
type pager struct {
	bus     *Bus
	name    string
	stream  jetstream.Stream
	subject string
	limit   int
	before  uint64
}

// page are the messages of which choose answers an item, newest first.
func page[T any](ctx context.Context, p pager, choose func(msg jetstream.Msg, seq uint64) (T, bool)) (items []T, next uint64, err error) {
	first, end, err := p.bounds(ctx)
	if err != nil || p.limit <= 0 {
		return nil, 0, err
	}
	window, looked := min(uint64(p.limit)*windowPerItem, maxWindow), 0
	for range maxWindows {
		if end < first {
			return items, 0, nil
		}
		since := end - min(end, window)
		found, n, err := between(ctx, p, since, end, choose)
		if err != nil {
			return nil, 0, err
		}
		for _, f := range found {
			items, next = append(items, f.item), f.seq
			if len(items) == p.limit && next > first { // what is left may be none that is chosen
				return items, next, nil
			}
		}
		end = since
		if looked += n; looked >= maxLook {
			break
		}
		window = min(window*windowPerItem, maxWindow)
	}
	return items, end + 1, nil
}

// bounds are the first sequence of the stream and the last before p.before.
func (p pager) bounds(ctx context.Context) (first, end uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, p.bus.cfg.Timeout)
	defer cancel()
	info, err := p.stream.Info(ctx)
	if err != nil {
		return 0, 0, fmt.Errorf("ask for %s: %w", p.name, err)
	}
	end = info.State.LastSeq
	if p.before > 0 {
		end = min(end, p.before-1)
	}
	return max(info.State.FirstSeq, 1), end, nil
}

type placed[T any] struct {
	item T
	seq  uint64
}

// between are the chosen ones with since < seq <= end, newest first, and how
// many were looked at.
func between[T any](ctx context.Context, p pager, since, end uint64, choose func(msg jetstream.Msg, seq uint64) (T, bool)) (found []placed[T], looked int, err error) {
	err = p.bus.read(ctx, readOptions{stream: p.name, subject: p.subject, since: since}, func(msg jetstream.Msg, seq uint64) error {
		if seq > end {
			return errEnough
		}
		looked++
		if item, ok := choose(msg, seq); ok {
			found = append(found, placed[T]{item, seq})
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	slices.Reverse(found)
	return found, looked, err
}
