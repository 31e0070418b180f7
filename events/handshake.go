package events

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/imgd/imgd"
)

// An Index is the one whose events these are, as the handshake asks it.
type Index interface {
	// ID of the index.
	ID() string
	// Has reports whether it has the release, published by entry seq.
	Has(release string, seq uint64) bool
}

// indexKey is the metadata of IMGD_REQUESTS that names the index whose daemons
// work for it. Who finds none enters his own, as it connects.
const indexKey = "imgd.index"

// handshakeTime bounds the few questions of a handshake, so that a look at the parts
// has time for these too.
const handshakeTime = 2 * time.Second

// ErrOtherIndex says that the queue is another index's, and ErrBehind that the
// index lacks what it has announced itself: it is an old copy. Both say what to
// do.
var (
	ErrOtherIndex = errors.New("another index's queue")
	ErrBehind     = errors.New("behind its own events")
)

// A handshake knows whether the index and the streams belong together.
type handshake struct {
	// mu guards what follows, which is known since the connection was made.
	mu    sync.Mutex
	ok    bool               // they do
	found map[string]lastOwn // by what
}

// A lastOwn is the last release that the index told of in the events up to one.
// Where another index has written many after it, it takes long to find.
type lastOwn struct {
	toldRelease
	upTo uint64
}

// forget is for a new connection: to another server, it may be, or other streams.
func (h *handshake) forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ok, h.found = false, nil
}

func (h *handshake) foundLast(what string) lastOwn {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.found[what]
}

func (h *handshake) finds(what string, last lastOwn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.found == nil {
		h.found = map[string]lastOwn{}
	}
	h.found[what] = last
}

func (h *handshake) set(ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ok = ok
}

func (h *handshake) get() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ok
}

// Fits answers nil if Config.Index is the queue's own and not behind its events:
// before that nothing may be decided by it, and nothing announced. It asks NATS
// until that has answered once on this connection. ErrOtherIndex, ErrBehind, or
// NATS does not answer.
func (b *Bus) Fits(ctx context.Context) error {
	if b.cfg.Index == nil || b.handshake.get() {
		return nil
	}
	return b.shake(ctx)
}

// ready is Config.Ready, after a look whether the index is the right one still. A
// NATS that does not answer is for those to notice who need it.
func (b *Bus) ready(ctx context.Context) error {
	bound, cancel := context.WithTimeout(ctx, min(b.cfg.Timeout, handshakeTime))
	defer cancel()
	if err := b.shake(bound); errors.Is(err, ErrOtherIndex) || errors.Is(err, ErrBehind) {
		return err
	}
	if b.cfg.Ready == nil {
		return nil
	}
	return b.cfg.Ready(ctx)
}

// shake asks NATS whatever is known. A NATS that does not answer has taken nothing
// back of what it has said over this connection.
func (b *Bus) shake(ctx context.Context) error {
	err := b.shakeHands(ctx)
	if err == nil || errors.Is(err, ErrOtherIndex) || errors.Is(err, ErrBehind) {
		b.handshake.set(err == nil)
	}
	return err
}

func (b *Bus) shakeHands(ctx context.Context) error {
	own := b.cfg.Index.ID()
	asking, cancel := context.WithTimeout(ctx, min(b.cfg.Timeout, handshakeTime))
	defer cancel()
	of, err := b.queueOf(asking, own)
	if err != nil {
		return fmt.Errorf("ask whose %s is: %w", requestsStream, err)
	}
	if of != own {
		return fmt.Errorf("%w: %s is that of index %s, and this is %s; if that one was lost: stop imgd, run imgd index recover, and start it; "+
			"if this one is to take its place for good: nats stream edit %s --metadata %s=%s", ErrOtherIndex, requestsStream, of, own, requestsStream, indexKey, own)
	}
	for _, what := range []string{tellPublished, tellDeleted} {
		last, err := b.lastOf(ctx, what, own)
		if err != nil {
			return fmt.Errorf("read the last event of %s: %w", eventsStream, err)
		}
		if last.Release != "" && !b.cfg.Index.Has(last.Release, last.Seq) {
			return fmt.Errorf("%w: release %s, of entry %d, is in %s and not in the index, as when an old copy was put back: stop imgd, run imgd index recover, and start it",
				ErrBehind, last.Release, last.Seq, eventsStream)
		}
	}
	return nil
}

// withIndex is a stream's metadata with the index's ID.
func withIndex(metadata map[string]string, id string) map[string]string {
	with := map[string]string{}
	maps.Copy(with, metadata)
	with[indexKey] = id
	return with
}

// queueOf is the ID of the index whose queue it is: that of the first who has
// connected, or asked after its metadata was removed.
func (b *Bus) queueOf(ctx context.Context, own string) (string, error) {
	stream, err := b.js.Stream(ctx, requestsStream)
	if err != nil {
		return "", err
	}
	cfg := stream.CachedInfo().Config
	if of := cfg.Metadata[indexKey]; of != "" || own == "" {
		return of, nil
	}
	cfg.Metadata = withIndex(cfg.Metadata, own)
	if _, err = b.js.UpdateStream(ctx, cfg); err != nil {
		return "", err
	}
	if stream, err = b.js.Stream(ctx, requestsStream); err != nil { // another may have entered his at the same time
		return "", err
	}
	return stream.CachedInfo().Config.Metadata[indexKey], nil
}

// lastOf is the last release that the index has told of with such an event, zero
// if there is none. That is the last event, unless another index has written there
// since: all of those are looked through, however long it takes, but once.
func (b *Bus) lastOf(ctx context.Context, what, index string) (toldRelease, error) {
	subject := eventsPrefix + what + ".>"
	asking, cancel := context.WithTimeout(ctx, min(b.cfg.Timeout, handshakeTime))
	defer cancel()
	msg, err := b.events.GetLastMsgForSubject(asking, subject)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return toldRelease{}, nil
	}
	if err != nil {
		return toldRelease{}, err
	}
	if last := parseTold(msg.Data); last.Index == index {
		return last, nil
	}
	before := b.handshake.foundLast(what)
	p := pager{bus: b, name: eventsStream, stream: b.events, subject: subject, limit: 1, before: msg.Sequence + 1}
	for {
		found, next, err := page(ctx, p, func(msg jetstream.Msg, seq uint64) (toldRelease, bool) {
			if seq <= before.upTo {
				return before.toldRelease, true
			}
			told := parseTold(msg.Data())
			return told, told.Index == index
		})
		if err != nil {
			return toldRelease{}, err
		}
		if len(found) > 0 || next == 0 {
			last := append(found, toldRelease{})[0]
			b.handshake.finds(what, lastOwn{last, msg.Sequence})
			return last, nil
		}
		p.before = next
	}
}

// A toldRelease is what an event says of a release.
type toldRelease struct {
	Index   string
	Release string
	Seq     uint64
	Stored  string // line of images.json
}

// parseTold reads a published or deleted event, zero if it is none.
func parseTold(data []byte) toldRelease {
	var e struct {
		Source string
		Data   struct {
			CustomData struct {
				Release string
				Seq     uint64
				Stored  string
			}
		}
	}
	index := ""
	if json.Unmarshal(data, &e) == nil {
		index, _ = strings.CutPrefix(e.Source, urnPrefix)
	}
	c := e.Data.CustomData
	return toldRelease{Index: index, Release: c.Release, Seq: c.Seq, Stored: c.Stored}
}

// Owner is the ID of the index whose streams these are: the one that the queue
// names, else the one that told of a release last; empty if there is neither.
func (b *Bus) Owner(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.Timeout)
	defer cancel()
	of, err := b.queueOf(ctx, "")
	if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) || of != "" {
		return of, err
	}
	var last toldRelease
	var at uint64
	for _, what := range []string{tellPublished, tellDeleted} {
		msg, err := b.events.GetLastMsgForSubject(ctx, eventsPrefix+what+".>")
		if err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) {
			return "", fmt.Errorf("read the last event of %s: %w", eventsStream, err)
		}
		if err == nil && msg.Sequence > at {
			last, at = parseTold(msg.Data), msg.Sequence
		}
	}
	return last.Index, nil
}

// Told gives f each release that the index has told of, as it was published, in
// the order of its log, and how many events are left. It ends when all were given,
// when f answers an error, or when ctx is done. An event that does not have its
// release is imgd.ErrInvalid.
func (b *Bus) Told(ctx context.Context, index string, f func(rel imgd.Release, left uint64) error) error {
	o := readOptions{stream: eventsStream, subjects: EventFilter{What: []string{tellPublished, tellDeleted}}.subjects()}
	return b.read(ctx, o, func(msg jetstream.Msg, seq uint64) error {
		told := parseTold(msg.Data())
		if told.Index != index {
			return nil
		}
		var rel imgd.Release
		if json.Unmarshal([]byte(told.Stored), &rel) != nil || rel.ID == "" || rel.ID != told.Release || rel.Seq != told.Seq {
			return fmt.Errorf("event %d of %s does not have release %s: %w", seq, eventsStream, told.Release, imgd.ErrInvalid)
		}
		meta, err := msg.Metadata()
		if err != nil {
			return fmt.Errorf("read %s: %w", eventsStream, err)
		}
		return f(rel, meta.NumPending)
	})
}
