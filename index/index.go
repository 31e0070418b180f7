// Package index decides which release a tag names and remembers it. It is an
// append-only log of entries (admitted, published, forgone, abandoned, told),
// folded into a map in memory that answers every query. The state machine is
// written once; an engine only makes entries durable. It does not know how
// images are built or announced.
package index

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/imgd/imgd"
)

// Config says where the index lives and whom it asks. Dir, History and
// Registry must be set.
type Config struct {
	Dir      string // directory of images.json
	History  History
	Registry Registry
	Writer   string           // noted in each entry; default host and process ID
	Now      func() time.Time // default time.Now
}

// An Index is the state machine over one engine. Its methods are safe for
// concurrent use; what they answered is durable.
type Index struct {
	config Config
	engine engine
	state  atomic.Pointer[state] // what is durable; queries read it without a lock

	// mu guards writing: one entry is decided, made durable and shown at a time.
	mu      sync.Mutex
	changed chan struct{} // closed and replaced when state changes
	broken  error         // a write whose outcome is unknown: nothing more is decided
	failed  chan error
}

// An engine makes entries durable. It is called by one goroutine at a time.
type engine interface {
	// append makes e durable before it returns; next is the state with e folded
	// in. After an error that wraps errUnknown nobody knows whether e is
	// durable; after any other it is not.
	append(ctx context.Context, e entry, next *state) error
	close() error
}

// errUnknown says that a write may or may not have taken effect.
var errUnknown = errors.New("outcome of the write is unknown")

// errRaced says that the index changed between a decision and its entry.
var errRaced = errors.New("the index has changed meanwhile")

// Open opens the file index in config.Dir, or makes a new one there, and locks
// it. It refuses a damaged images.json, one of a newer format, and a second
// opener.
func Open(config Config) (*Index, error) {
	if config.Now == nil {
		config.Now = time.Now
	}
	if config.Writer == "" {
		host, _ := os.Hostname()
		config.Writer = host + "/" + strconv.Itoa(os.Getpid())
	}
	engine, state, err := openFile(config.Dir, rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("open index: %w", err)
	}
	x := &Index{config: config, engine: engine, changed: make(chan struct{}), failed: make(chan error, 1)}
	x.state.Store(state)
	return x, nil
}

// Close ends writing and unlocks the index. images.json is complete.
func (x *Index) Close() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.broken == nil {
		x.broken = errors.New("the index is closed")
	}
	return x.engine.close()
}

// Failed delivers the error after which the index decides nothing more,
// because it cannot know what is durable. The process must end; the next one
// reads what the disk has.
func (x *Index) Failed() <-chan error { return x.failed }

// Admit is imgd.Index.Admit. Git and the registry are asked after the index
// was read; if the image's part of it has changed by the time of writing, both
// are read again.
func (x *Index) Admit(ctx context.Context, rel imgd.Release, known string) (imgd.Release, error) {
	for {
		seen := x.state.Load()
		ask := &asker{history: x.config.History, registry: x.config.Registry}
		decided, enter, err := decide(ctx, seen, rel, known, ask)
		if err != nil || !enter {
			return decided, err
		}
		decided.AdmittedAt = x.now()
		decided = asWritten(decided)
		_, err = x.write(ctx, func(now *state) (entry, error) {
			if now.touched[rel.Image] != seen.touched[rel.Image] {
				return entry{}, errRaced
			}
			return entry{Admitted: &admitted{Release: decided, Facts: ask.facts}}, nil
		})
		if !errors.Is(err, errRaced) {
			return decided, err
		}
	}
}

// asWritten is rel as reading it back gives it: JSON replaces bytes that are
// not UTF-8, and what is written must be what is read.
func asWritten(rel imgd.Release) (read imgd.Release) {
	b, err := json.Marshal(rel)
	if err == nil {
		err = json.Unmarshal(b, &read)
	}
	if err != nil {
		panic("unreachable: a release marshals both ways: " + err.Error())
	}
	return read
}

// Publish is imgd.Index.Publish.
func (x *Index) Publish(ctx context.Context, id string) (imgd.Release, error) {
	return x.advance(ctx, id, func(now *state, rel imgd.Release) (entry, error) {
		tags := publication(now, rel)
		if rel.State == imgd.ReleaseAbandoned || len(tags) == 0 {
			return entry{}, fmt.Errorf("release %s lost every claim: %s: %w", id, rel.Reasons(), imgd.ErrSuperseded)
		}
		return entry{Published: &published{Release: id, Tags: tags}}, nil
	})
}

// Forgo is imgd.Index.Forgo. It wants a reason: a tag without one is taken.
func (x *Index) Forgo(ctx context.Context, id, tag, reason string) (imgd.Release, error) {
	if reason == "" {
		return imgd.Release{}, fmt.Errorf("forgo %s without a reason: %w", tag, imgd.ErrInvalid)
	}
	return x.advance(ctx, id, func(now *state, rel imgd.Release) (entry, error) {
		if now.tags[tagKey{rel.Image, tag}].Claim != id { // an abandoned one has no claim
			return entry{}, errStands
		}
		return entry{Forgone: &forgone{Release: id, Tag: tag, Reason: text(reason)}}, nil
	})
}

// Abandon is imgd.Index.Abandon.
func (x *Index) Abandon(ctx context.Context, id, why string) (imgd.Release, error) {
	return x.advance(ctx, id, func(_ *state, rel imgd.Release) (entry, error) {
		if rel.State == imgd.ReleaseAbandoned {
			return entry{}, errStands
		}
		return entry{Abandoned: &abandoned{Release: id, Why: text(why)}}, nil
	})
}

// text is what a registry or an operator said, as reading it back gives it.
func text(s string) string { return strings.ToValidUTF8(s, "\ufffd") }

// errStands says that there is nothing to enter: it stands so already.
var errStands = errors.New("stands so already")

// advance enters what decide says of a release that is not published yet, and
// answers the release as it stands then.
func (x *Index) advance(ctx context.Context, id string, decide func(*state, imgd.Release) (entry, error)) (imgd.Release, error) {
	now, err := x.write(ctx, func(now *state) (entry, error) {
		rel, ok := now.releases[id]
		if !ok {
			return entry{}, fmt.Errorf("release %s: %w", id, imgd.ErrNotFound)
		}
		if rel.State == imgd.ReleasePublished {
			return entry{}, errStands
		}
		return decide(now, rel)
	})
	if err != nil && !errors.Is(err, errStands) {
		return imgd.Release{}, err
	}
	return now.releases[id], nil
}

// SetTold notes that the releases published up to entry seq have been
// announced. It never goes back.
func (x *Index) SetTold(ctx context.Context, seq uint64) error {
	_, err := x.write(ctx, func(now *state) (entry, error) {
		if now.told >= seq {
			return entry{}, errStands
		}
		return entry{Told: &seq}, nil
	})
	if errors.Is(err, errStands) {
		return nil
	}
	return err
}

// write makes one decided entry durable and shows it to queries, in this
// order, and answers the state then.
func (x *Index) write(ctx context.Context, decide func(now *state) (entry, error)) (*state, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	now := x.state.Load()
	if x.broken != nil {
		return now, x.broken
	}
	e, err := decide(now)
	if err != nil {
		return now, err
	}
	e.Format, e.Seq, e.Prev, e.Writer, e.At = format, now.seq+1, now.hash, x.config.Writer, x.now()
	next := now.fold(e)
	if err := x.engine.append(ctx, e, next); err != nil {
		if errors.Is(err, errUnknown) {
			x.broken = err
			x.failed <- err
		}
		return now, err
	}
	x.state.Store(next)
	close(x.changed)
	x.changed = make(chan struct{})
	return next, nil
}

// now is the time in the form that entries and records have it.
func (x *Index) now() time.Time { return x.config.Now().UTC().Truncate(time.Millisecond) }

// Wait waits until entry seq is folded.
func (x *Index) Wait(ctx context.Context, seq uint64) error {
	for {
		x.mu.Lock()
		changed := x.changed
		x.mu.Unlock()
		if x.state.Load().seq >= seq {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// ID is the index's own ID, 32 hex digits, drawn when it was made.
func (x *Index) ID() string { return x.state.Load().id }

// Seq is the sequence of the last entry.
func (x *Index) Seq() uint64 { return x.state.Load().seq }

// Told is the entry up to which releases have been announced.
func (x *Index) Told() uint64 { return x.state.Load().told }

// Newest is imgd.Lookup.Newest.
func (x *Index) Newest(request string) (imgd.Release, bool) {
	s := x.state.Load()
	rel, ok := s.releases[s.newest[request]]
	return rel, ok
}

// Release is imgd.Lookup.Release.
func (x *Index) Release(id string) (imgd.Release, bool) {
	rel, ok := x.state.Load().releases[id]
	return rel, ok
}

// Open is imgd.Lookup.Open, in the order of admission.
func (x *Index) Open() []imgd.Release {
	var open []imgd.Release
	for _, rel := range x.state.Load().releases {
		if rel.State == imgd.ReleaseAdmitted {
			open = append(open, rel)
		}
	}
	slices.SortFunc(open, func(a, b imgd.Release) int {
		return cmp.Or(a.AdmittedAt.Compare(b.AdmittedAt), cmp.Compare(a.ID, b.ID))
	})
	return open
}

// Published are the releases published after entry seq, in log order.
func (x *Index) Published(after uint64) []imgd.Release { return x.state.Load().published(after) }

func (s *state) published(after uint64) []imgd.Release {
	var rels []imgd.Release
	for _, rel := range s.releases {
		if rel.State == imgd.ReleasePublished && rel.Seq > after {
			rels = append(rels, rel)
		}
	}
	slices.SortFunc(rels, func(a, b imgd.Release) int { return int(a.Seq) - int(b.Seq) })
	return rels
}

// Wanted is imgd.Lookup.Wanted.
func (x *Index) Wanted(image, tag string) (imgd.Release, bool) {
	s := x.state.Load()
	rel, ok := s.releases[s.tags[tagKey{image, tag}].owner()]
	return rel, ok
}

// Generation is imgd.Lookup.Generation.
func (x *Index) Generation(image, tag string) uint64 {
	return x.state.Load().tags[tagKey{image, tag}].Generation
}

// Repositories is imgd.Lookup.Repositories.
func (x *Index) Repositories(image string) []string {
	var newest imgd.Release
	for _, rel := range x.state.Load().releases {
		if rel.Image != image || rel.State == imgd.ReleaseAbandoned || len(rel.Repositories) == 0 {
			continue
		}
		if newest.ID == "" || cmp.Or(rel.AdmittedAt.Compare(newest.AdmittedAt), cmp.Compare(rel.ID, newest.ID)) > 0 {
			newest = rel
		}
	}
	return newest.Repositories
}

// Made is imgd.Lookup.Made.
func (x *Index) Made(image, tag string, root digest.Digest) bool {
	return x.state.Load().isMade(image, tag, root)
}

// Records are all records, sorted bytewise by image, tag and platform, and the
// sequence they stand for. The slice is shared: do not change it.
func (x *Index) Records() ([]imgd.Record, uint64) {
	s := x.state.Load()
	return s.records(), s.seq
}

// newID draws an index ID.
func newID(random interface{ Read([]byte) (int, error) }) (string, error) {
	b := make([]byte, 16)
	if _, err := random.Read(b); err != nil {
		return "", fmt.Errorf("draw an index ID: %w", err)
	}
	return hex.EncodeToString(b), nil
}
