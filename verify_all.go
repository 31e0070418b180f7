package imgd

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// How many tags are verified at once. What counts with a registry that is far away
// is how many questions are on the way; one on the same machine answers no faster
// to more than a few. Whoever asks for the most still leaves it to others.
const (
	VerifyParallel    = 16
	MaxVerifyParallel = 64
)

// A TagName is a tag of an image.
type TagName struct{ Image, Tag string }

// A Finder is an index in which records are found.
type Finder interface {
	// Find answers the records that f chooses, in its order, whether there are
	// more of them behind its limit, and the sequence they stand for.
	Find(f Find) (found []Record, more bool, seq uint64)
}

// tagsPage is how many records are in memory at once while tags are listed.
const tagsPage = 1000

// TagsOf are the tags of which f chooses a record, by name. Its order, place and
// limit do not count.
func TagsOf(in Finder, f Find) (tags []TagName) {
	f.Sort, f.After, f.Limit = ByName, nil, tagsPage
	for more := true; more; {
		var found []Record
		found, more, _ = in.Find(f)
		for _, r := range found {
			if name := (TagName{r.Image, r.Tag}); len(tags) == 0 || tags[len(tags)-1] != name {
				tags = append(tags, name)
			}
		}
		if more {
			f.After = &found[len(found)-1]
		}
	}
	return tags
}

// A VerifyAll asks for the verification of many tags. Its funcs are called one at a
// time; their error ends all.
type VerifyAll struct {
	Tags     []TagName
	Depth    VerifyDepth
	Parallel int // how many at once; default VerifyParallel
	// Each is given what was found, as it comes.
	Each func(Verification) error
	// Progress is told how far it has come: at the beginning, every second, and at
	// the end. Default: nobody is.
	Progress func(VerifyProgress) error
}

// VerifyProgress is how far a verification of many tags has come.
type VerifyProgress struct {
	Done  int   `json:"done"` // tags
	Total int   `json:"total"`
	Parts int   `json:"parts"` // of images, that were looked at
	Bytes int64 `json:"bytes"` // that were read for it
}

// progressTime is between two calls of Progress: what changes faster nobody reads.
const progressTime = time.Second

// VerifyAll verifies each of the tags, several at once. What many images share is
// looked at once. A tag that the index no longer has is passed over; one that there
// is nothing to compare with has an Error, and stops no other. The error is that of
// a func, or of ctx.
func (v *Verifier) VerifyAll(ctx context.Context, ask VerifyAll) error {
	run := verification{verifier: v, ask: ask}
	if run.ask.Parallel < 1 {
		run.ask.Parallel = VerifyParallel
	}
	if run.ask.Progress == nil {
		run.ask.Progress = func(VerifyProgress) error { return nil }
	}
	if err := run.progress(); err != nil {
		return err
	}
	all, going := errgroup.WithContext(ctx)
	ended := make(chan struct{})
	all.Go(func() error { defer close(ended); return run.tags(going) })
	all.Go(func() error { return run.tell(going, ended) })
	if err := all.Wait(); err != nil {
		return err
	}
	return run.progress()
}

// A verification is of many tags.
type verification struct {
	verifier *Verifier
	ask      VerifyAll
	known    Known

	mu   sync.Mutex // held while a func of ask is called; guards what follows
	done int
}

func (r *verification) tags(ctx context.Context) error {
	workers, going := errgroup.WithContext(ctx)
	workers.SetLimit(min(r.ask.Parallel, MaxVerifyParallel))
	for _, tag := range r.ask.Tags {
		if going.Err() != nil {
			break
		}
		workers.Go(func() error { return r.tag(going, tag) })
	}
	if err := workers.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}

func (r *verification) tag(ctx context.Context, tag TagName) error {
	if err := ctx.Err(); err != nil { // it was over before there was room for this one
		return err
	}
	found, err := r.verifier.Verify(ctx, tag.Image, tag.Tag, r.ask.Depth, &r.known)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := ctx.Err(); err != nil { // what was found may come of that
		return err
	}
	r.done++
	if errors.Is(err, ErrNotFound) && len(found.Records) == 0 {
		return nil
	}
	if err != nil {
		found.Error = err.Error()
	}
	return r.ask.Each(found)
}

// tell tells of the progress until ended is closed.
func (r *verification) tell(ctx context.Context, ended <-chan struct{}) error {
	tick := time.NewTicker(progressTime)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if err := r.progress(); err != nil {
				return err
			}
		case <-ended:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (r *verification) progress() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := VerifyProgress{Done: r.done, Total: len(r.ask.Tags)}
	p.Parts, p.Bytes = r.known.Read()
	return r.ask.Progress(p)
}
