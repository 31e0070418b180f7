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
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/cpu"

	"github.com/imgd/imgd"
)

// Config says where the index lives and whom it asks. Dir, History and
// Registry must be set.
type Config struct {
	Dir      string // directory of images.json
	History  History
	Registry Registry
	Writer   string           // noted in each entry; default host and process ID
	Log      *slog.Logger     // default: nobody
	Now      func() time.Time // default time.Now
}

// An Index is the state machine over one engine. Its methods are safe for
// concurrent use; what they answered is durable. Answers share slices and maps
// with the state: do not change them.
type Index struct {
	config    Config
	log       *log
	following *following // of images.json

	state *state
	_     cpu.CacheLinePad // whoever locks view writes to its line of memory

	// view guards what is in state, which is what is durable. Lines reads without.
	view sync.RWMutex
}

// An engine makes entries durable. It is called by one goroutine at a time.
type engine interface {
	// append makes entries, each one line of JSON without its end, durable before
	// it returns, all or none. After an error that wraps errUnknown nobody knows
	// whether they are; after any other they are not.
	append(lines [][]byte) error
	// close ends its work, for which it may still hold the index. It is called
	// once, when nothing is appended any more; sound says that what it was given
	// is all there is.
	close(sound bool) error
}

// errUnknown says that a write may or may not have taken effect.
var errUnknown = errors.New("outcome of the write is unknown")

// errRaced says that the index changed between a decision and its entry.
var errRaced = errors.New("the index has changed meanwhile")

// Open opens the file index in config.Dir, or makes a new one there, and locks
// it. It refuses a damaged index, one of a newer format, and a second opener.
func Open(config Config) (*Index, error) {
	x, engine, err := load(config)
	if err != nil {
		return nil, fmt.Errorf("open index: %w", err)
	}
	engine.start(x.log.hold, x.log.fail)
	return x, nil
}

// load is Open without what goes on in the background.
func load(config Config) (*Index, *fileEngine, error) {
	if config.Now == nil {
		config.Now = time.Now
	}
	if config.Writer == "" {
		host, _ := os.Hostname()
		config.Writer = host + "/" + strconv.Itoa(os.Getpid())
	}
	if config.Log == nil {
		config.Log = slog.New(slog.DiscardHandler)
	}
	engine, state, err := openFile(config.Dir, rand.Reader, config.Log)
	if err != nil {
		return nil, nil, err
	}
	x := &Index{config: config, following: &engine.following, state: state}
	x.log = newLog(x, engine)
	return x, engine, nil
}

// Close ends writing and unlocks the index. Then images.json alone is complete.
// It may be called again.
func (x *Index) Close() error { return x.log.close() }

// Failed delivers the error after which the index decides nothing more,
// because it cannot know what is durable. The process must end; the next one
// reads what the disk has.
func (x *Index) Failed() <-chan error { return x.log.failed }

// Admit is imgd.Index.Admit. Git and the registry are asked after the index
// was read; if it says something else of the tags or the request by the time of
// writing, both are read again.
func (x *Index) Admit(ctx context.Context, rel imgd.Release, known string) (imgd.Release, error) {
	for {
		seen := x.look(rel)
		ask := &asker{history: x.config.History, registry: x.config.Registry}
		decided, enter, err := decide(ctx, seen, rel, known, ask)
		if err != nil || !enter {
			return decided, err
		}
		decided.AdmittedAt = x.now()
		decided = asWritten(decided)
		err = x.log.enter(about(rel), func(now *state) (entry, error) {
			if !seen.stands(now, rel) {
				return entry{}, errRaced
			}
			return entry{Admitted: &admitted{Release: decided, Facts: ask.facts}}, nil
		})
		if !errors.Is(err, errRaced) {
			return decided, err
		}
	}
}

// look is what a decision about rel needs to know.
func (x *Index) look(rel imgd.Release) view {
	x.view.RLock()
	defer x.view.RUnlock()
	v := view{tags: map[string]tagState{}, releases: map[string]imgd.Release{}, touched: map[string]uint64{},
		made: func(tag string, root digest.Digest) bool { return x.Made(rel.Image, tag, root) }}
	if newest := x.state.newest(rel.Request.ID); newest != nil {
		v.newest = newest.text.get()
	}
	for _, t := range rel.Tags {
		tag := x.state.tags.get(tagKey{rel.Image, t.Name})
		if tag == nil {
			continue
		}
		v.tags[t.Name], v.touched[t.Name] = tag.text.get(), tag.touched
		for _, id := range []string{tag.claim, tag.holder} {
			owner, ok := valueOf(x.state.release(id))
			if !ok {
				continue
			}
			v.releases[id] = owner
			if removed, ok := valueOf(x.state.release(owner.Removes)); ok {
				v.releases[owner.Removes] = removed
			}
		}
	}
	return v
}

// stands reports whether now says the same of what rel asks for.
func (v view) stands(now *state, rel imgd.Release) bool {
	if newest := now.newest(rel.Request.ID); newest != nil && (newest.id != v.newest.ID || newest.text.get().State != v.newest.State) {
		return false
	}
	for _, t := range rel.Tags {
		tag := now.tags.get(tagKey{rel.Image, t.Name})
		if _, known := v.tags[t.Name]; known != (tag != nil) || known && tag.touched != v.touched[t.Name] {
			return false
		}
	}
	return true
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
	return x.advance(id, func(now *state, rel imgd.Release) (entry, error) {
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
	return x.advance(id, func(now *state, rel imgd.Release) (entry, error) {
		if now.tag(tagKey{rel.Image, tag}).Claim != id { // an abandoned one has no claim
			return entry{}, errStands
		}
		return entry{Forgone: &forgone{Release: id, Tag: tag, Reason: text(reason)}}, nil
	})
}

// Abandon is imgd.Index.Abandon.
func (x *Index) Abandon(ctx context.Context, id, why string) (imgd.Release, error) {
	return x.advance(id, func(_ *state, rel imgd.Release) (entry, error) {
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
func (x *Index) advance(id string, decide func(*state, imgd.Release) (entry, error)) (imgd.Release, error) {
	rel, ok := x.Release(id)
	if !ok {
		return rel, fmt.Errorf("release %s: %w", id, imgd.ErrNotFound)
	}
	err := x.log.enter(about(rel), func(now *state) (entry, error) {
		rel := now.release(id).text.get()
		if rel.State == imgd.ReleasePublished {
			return entry{}, errStands
		}
		return decide(now, rel)
	})
	if err != nil && !errors.Is(err, errStands) {
		return imgd.Release{}, err
	}
	rel, _ = x.Release(id)
	return rel, nil
}

// SetTold notes that the releases published up to entry seq have been
// announced. It never goes back.
func (x *Index) SetTold(ctx context.Context, seq uint64) error {
	err := x.log.enter([]string{aboutTold}, func(now *state) (entry, error) {
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

// now is the time in the form that entries and records have it.
func (x *Index) now() time.Time { return x.config.Now().UTC().Truncate(time.Millisecond) }

// Wait waits until entry seq is folded.
func (x *Index) Wait(ctx context.Context, seq uint64) error {
	for {
		changed := x.log.change()
		if x.Seq() >= seq {
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
func (x *Index) ID() string { return x.state.id }

// Seq is the sequence of the last entry.
func (x *Index) Seq() uint64 {
	x.view.RLock()
	defer x.view.RUnlock()
	return x.state.seq
}

// Told is the entry up to which releases have been announced.
func (x *Index) Told() uint64 {
	x.view.RLock()
	defer x.view.RUnlock()
	return x.state.told
}

// Newest is imgd.Lookup.Newest.
func (x *Index) Newest(request string) (imgd.Release, bool) {
	x.view.RLock()
	r := x.state.newest(request)
	x.view.RUnlock()
	return valueOf(r)
}

// Release is imgd.Lookup.Release.
func (x *Index) Release(id string) (imgd.Release, bool) {
	x.view.RLock()
	r := x.state.release(id)
	x.view.RUnlock()
	return valueOf(r)
}

// valueOf is what r says; reading it may take microseconds, so no lock is held.
func valueOf(r *release) (imgd.Release, bool) {
	if r == nil {
		return imgd.Release{}, false
	}
	return r.text.get(), true
}

// Open is imgd.Lookup.Open, in the order of admission.
func (x *Index) Open() []imgd.Release {
	x.view.RLock()
	defer x.view.RUnlock()
	var open []imgd.Release
	for _, r := range x.state.open {
		open = append(open, r.text.get())
	}
	slices.SortFunc(open, func(a, b imgd.Release) int {
		return cmp.Or(a.AdmittedAt.Compare(b.AdmittedAt), cmp.Compare(a.ID, b.ID))
	})
	return open
}

// Published are the releases published after entry seq, in log order. Those that
// are told are looked for one by one.
func (x *Index) Published(after uint64) []imgd.Release {
	x.view.RLock()
	untold, told := slices.Clone(x.state.untold), x.state.told
	x.view.RUnlock()
	if after < told {
		return x.freeze().published(after)
	}
	var rels []imgd.Release
	for _, r := range untold {
		if r.seq > after {
			rels = append(rels, r.text.get())
		}
	}
	return rels
}

func (z frozen) published(after uint64) []imgd.Release {
	var rels []imgd.Release
	z.releases.Scan(func(r *release) bool {
		if r.published && r.seq > after {
			rels = append(rels, r.text.get())
		}
		return true
	})
	slices.SortFunc(rels, func(a, b imgd.Release) int { return cmp.Compare(a.Seq, b.Seq) })
	return rels
}

// Wanted is imgd.Lookup.Wanted.
func (x *Index) Wanted(image, tag string) (imgd.Release, bool) {
	x.view.RLock()
	var r *release
	if t := x.state.tags.get(tagKey{image, tag}); t != nil {
		r = x.state.release(cmp.Or(t.claim, t.holder))
	}
	x.view.RUnlock()
	return valueOf(r)
}

// Generation is imgd.Lookup.Generation.
func (x *Index) Generation(image, tag string) uint64 {
	x.view.RLock()
	defer x.view.RUnlock()
	return x.state.tag(tagKey{image, tag}).Generation
}

// Repositories is imgd.Lookup.Repositories. It looks at every release.
func (x *Index) Repositories(image string) []string {
	all := x.freeze().releases
	var newest imgd.Release
	all.Scan(func(r *release) bool {
		if r.image != image || !r.open && !r.published {
			return true
		}
		rel := r.text.get()
		if newest.ID == "" || cmp.Or(rel.AdmittedAt.Compare(newest.AdmittedAt), cmp.Compare(rel.ID, newest.ID)) > 0 {
			if len(rel.Repositories) > 0 {
				newest = rel
			}
		}
		return true
	})
	return newest.Repositories
}

// Made is imgd.Lookup.Made.
func (x *Index) Made(image, tag string, root digest.Digest) bool {
	x.view.RLock()
	defer x.view.RUnlock()
	return x.state.made(image, tag, root)
}

// Records are all records, sorted bytewise by image, tag and platform, and the
// sequence they stand for.
func (x *Index) Records() ([]imgd.Record, uint64) {
	z := x.freeze()
	records := []imgd.Record{}
	z.tags.Scan(func(t *tag) bool {
		for _, line := range t.lines(z.releases) {
			records = append(records, unmarshal[imgd.Record](line))
		}
		return true
	})
	return records, z.seq
}

// Count is how many records there are.
func (x *Index) Count() (n int) {
	z := x.freeze()
	z.tags.Scan(func(t *tag) bool { n += len(t.lines(z.releases)); return true })
	return n
}

func (x *Index) freeze() frozen {
	x.view.Lock()
	defer x.view.Unlock()
	return x.state.freeze()
}

// newID draws an index ID.
func newID(random interface{ Read([]byte) (int, error) }) (string, error) {
	b := make([]byte, 16)
	if _, err := random.Read(b); err != nil {
		return "", fmt.Errorf("draw an index ID: %w", err)
	}
	return hex.EncodeToString(b), nil
}
