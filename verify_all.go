package imgd

import (
	"context"
	"errors"
	"sync"

	"golang.org/x/sync/errgroup"
)

// How many tags are verified at once. A registry on one machine answers no faster
// to more than a few; and whoever asks for the most still leaves it to others.
const (
	VerifyParallel    = 8
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

// A VerifyAll asks for the verification of many tags.
type VerifyAll struct {
	Tags     []TagName
	Depth    VerifyDepth
	Parallel int    // how many at once; default VerifyParallel
	Known    *Known // to be looked at meanwhile; default: one of its own
	// Each is given what was found, one at a time, as it comes. Its error ends all.
	Each func(Verification) error
}

// VerifyAll verifies each of the tags, several at once. What many images share is
// looked at once. A tag that the index no longer has is passed over; one that there
// is nothing to compare with has an Error, and stops no other. The error is that of
// Each, or of ctx.
func (v *Verifier) VerifyAll(ctx context.Context, ask VerifyAll) error {
	if ask.Parallel < 1 {
		ask.Parallel = VerifyParallel
	}
	if ask.Known == nil {
		ask.Known = &Known{}
	}
	var one sync.Mutex // in Each
	workers, going := errgroup.WithContext(ctx)
	workers.SetLimit(min(ask.Parallel, MaxVerifyParallel))
	for _, tag := range ask.Tags {
		if going.Err() != nil {
			break
		}
		workers.Go(func() error {
			found, err := v.Verify(going, tag.Image, tag.Tag, ask.Depth, ask.Known)
			if errors.Is(err, ErrNotFound) && len(found.Records) == 0 {
				return nil
			}
			if err != nil {
				found.Error = err.Error()
			}
			one.Lock()
			defer one.Unlock()
			if err := going.Err(); err != nil { // what was found may come of that
				return err
			}
			return ask.Each(found)
		})
	}
	if err := workers.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}
