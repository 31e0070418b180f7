package imgd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
)

// errNoRepository says that no configured project makes the image.
var errNoRepository = errors.New("no configured project makes the image")

// settle is the only code that writes a tag: in every repository of the image
// it makes the tag what the index wants, reads it back, looks at the index
// again and starts over if that has changed meanwhile. So it does not matter
// who calls it, how often or how late: a slow writer puts the newer release
// back itself. In one process it runs once at a time per image. ErrNotFound if
// a repository does not have the wanted root, ErrRefused if it will not have
// the tag as it is wanted; then, too, the index still wants it so. No other
// error says anything about the request that meets it. After such an error the tag
// may have been left as another release wants it, of a request that does not come
// again: DriveOpen settles it.
func (p *Pipeline) settle(ctx context.Context, image, tag string) error {
	return p.settleIn(ctx, image, tag, nil)
}

// settleIn is settle in these repositories of the image alone; nil is all.
func (p *Pipeline) settleIn(ctx context.Context, image, tag string, only []string) error {
	leave, err := p.settling.enter(ctx, image)
	if err != nil {
		return err
	}
	defer leave()
	for {
		want, _ := p.Lookup.Wanted(image, tag)
		err := p.write(ctx, tag, image, want, only)
		// After an error too: another repository may have got what is not wanted any
		// more, and who comes again finds the release published and writes nothing.
		if now, _ := p.Lookup.Wanted(image, tag); now.Root.Digest != want.Root.Digest {
			continue
		}
		p.note(TagName{image, tag}, only, err == nil || stays(err) || errors.Is(err, errNoRepository))
		if err != nil && !stays(err) {
			return opaque(err)
		}
		return err
	}
}

// A tagIn is a tag in one repository, or in all that it should be in: "".
type tagIn struct {
	TagName
	repository string
}

// note remembers a tag that could not be settled in these repositories, nil is all,
// until it is: where a repair was not asked for nothing is written because of it.
func (p *Pipeline) note(t TagName, only []string, settled bool) {
	p.sweeping.Lock()
	defer p.sweeping.Unlock()
	if settled && only == nil {
		maps.DeleteFunc(p.unsettled, func(at tagIn, _ failures) bool { return at.TagName == t })
		return
	}
	if only == nil {
		only = []string{""}
	}
	for _, repository := range only {
		at := tagIn{t, repository}
		if settled {
			delete(p.unsettled, at)
			continue
		}
		if p.unsettled == nil {
			p.unsettled = map[tagIn]failures{}
		}
		if _, known := p.unsettled[at]; !known {
			p.unsettled[at] = failures{}
		}
	}
}

// places are one place for each name, to be taken by one at a time.
type places struct{ byName sync.Map }

// enter waits for the place; what it answers gives it back.
func (s *places) enter(ctx context.Context, name string) (leave func(), err error) {
	value, _ := s.byName.LoadOrStore(name, make(chan struct{}, 1))
	place := value.(chan struct{})
	select {
	case place <- struct{}{}:
		return func() { <-place }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// stays reports whether a repository that answered err would answer it again.
func stays(err error) bool { return errors.Is(err, ErrNotFound) || errors.Is(err, ErrRefused) }

// opaque is err without being ErrInvalid: something in the registry is, not the
// request that meets it.
func opaque(err error) error {
	if errors.Is(err, ErrInvalid) {
		return errors.New(err.Error())
	}
	return err
}

// write makes the tag what want says in every repository, or in some only; a want
// without root means that nothing of imgd's should be there. One repository that
// stays as it is does not keep the others from being put right, but from taking a
// new claim: that ends, or loses the tag, by what is answered. A tag that another
// CI has pushed is only read.
func (p *Pipeline) write(ctx context.Context, tag, image string, want Release, only []string) error {
	if want.Pushed {
		return p.readTag(ctx, tag, want)
	}
	repositories := p.repositories(image)
	if want.Command != "" {
		repositories = p.homes(want)
	}
	if len(repositories) == 0 && want.Command == "" {
		return fmt.Errorf("%w %s: put its project back to let it go on", errNoRepository, image)
	}
	var stayed error
	for _, repository := range repositories {
		if only != nil && !slices.Contains(only, repository) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		var err error
		if want.Root.Digest == "" {
			err = p.Tagger.Untag(ctx, repository, tag, func(d digest.Digest) bool { return p.orphan(image, tag, d) })
		} else {
			err = p.Tagger.Tag(ctx, repository, tag, want.Root)
		}
		if err != nil && (want.State == ReleaseAdmitted || !stays(err)) {
			return err
		}
		stayed = errors.Join(stayed, err)
	}
	return stayed
}

// orphan reports whether what the tag names is imgd's and nothing is wanted
// there at this moment, the last before it is removed: a release that has been
// admitted meanwhile may have written it already.
func (p *Pipeline) orphan(image, tag string, names digest.Digest) bool {
	now, _ := p.Lookup.Wanted(image, tag)
	removed, _ := p.Lookup.Release(now.Removes) // what another CI pushed is removed by an untag only
	return now.Root.Digest == "" && (p.Lookup.Made(image, tag, names) || names == removed.Root.Digest)
}

// settleBack settles a tag that nobody is about to take. What stays as it is
// however often it is tried keeps nobody waiting. only are the repositories; default:
// all.
func (p *Pipeline) settleBack(ctx context.Context, image, tag string, only ...string) error {
	err := p.settleIn(ctx, image, tag, only)
	switch {
	case errors.Is(err, ErrRefused), errors.Is(err, errNoRepository):
		p.log().Warn("tag stays as the registry has it", "tag", image+":"+tag, "error", err)
	case errors.Is(err, ErrNotFound): // a root whose own release is abandoned or built again for it
	case err != nil:
		return fmt.Errorf("settle %s:%s: %w", image, tag, err)
	}
	return nil
}

// settleLost settles back a tag that rel asked for and does not have. One that
// another CI has pushed stays as that left it where nobody wants it: imgd may
// have made what it names, but did not put it there.
func (p *Pipeline) settleLost(ctx context.Context, rel Release, tag string) error {
	if _, wanted := p.Lookup.Wanted(rel.Image, tag); rel.Pushed && !wanted {
		return nil
	}
	return p.settleBack(ctx, rel.Image, tag)
}

// repositories are those that config names for the image, sorted.
func (p *Pipeline) repositories(image string) []string {
	return slices.Sorted(slices.Values(p.Projects.Repositories(image)))
}
