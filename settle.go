package imgd

import (
	"context"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
)

// settle is the only code that writes a tag: in every repository of the image
// it makes the tag what the index wants, reads it back, looks at the index
// again and starts over if that has changed meanwhile. So it does not matter
// who calls it, how often or how late: a slow writer puts the newer release
// back itself. In one process it runs once at a time per image. ErrNotFound if
// a repository does not have the wanted root.
func (p *Pipeline) settle(ctx context.Context, image, tag string) error {
	value, _ := p.settling.LoadOrStore(image, make(chan struct{}, 1))
	place := value.(chan struct{})
	select {
	case place <- struct{}{}:
		defer func() { <-place }()
	case <-ctx.Done():
		return ctx.Err()
	}
	for {
		want, _ := p.Lookup.Wanted(image, tag)
		if err := p.write(ctx, tag, image, want); err != nil {
			return err
		}
		if now, _ := p.Lookup.Wanted(image, tag); now.Root.Digest == want.Root.Digest {
			return nil
		}
	}
}

// write makes the tag what want says in every repository; a want without root
// means that nothing of imgd's should be there.
func (p *Pipeline) write(ctx context.Context, tag, image string, want Release) error {
	repositories := p.repositories(image)
	if len(repositories) == 0 {
		return fmt.Errorf("image %s belongs to no configured project: put its project back to let it go on", image)
	}
	for _, repository := range repositories {
		if err := ctx.Err(); err != nil {
			return err
		}
		var err error
		if want.Root.Digest == "" {
			err = p.Tagger.Untag(ctx, repository, tag, func(d digest.Digest) bool { return p.Lookup.Made(image, d) })
		} else {
			err = p.Tagger.Tag(ctx, repository, tag, want.Root)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// repositories are those of every project that makes the image, sorted.
func (p *Pipeline) repositories(image string) []string {
	var all []string
	for _, project := range p.Projects {
		if project.Image == image {
			all = append(all, project.Repositories...)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}
