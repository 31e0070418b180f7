package index

import (
	"context"
	"fmt"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/version"
)

// pushed decides about the tag of a release that another CI has pushed. An error
// ends the admission, else the tag is taken. It asks nobody: who records has read
// the registry, and the release holds what it said.
//
// A version tag is taken if it is free or forced. What it names already is no
// conflict, also if fresh provenance has given it another root; anything else is
// one, of the same commit too: imgd has not built it and cannot tell whether a
// build of it would be the same. A moving tag is taken as it is in the registry
// at this moment.
func (c claim) pushed(context.Context) (reason string, err error) {
	if c.tag.Tag != "" && c.tag.Kind != c.want.Kind {
		return "", fmt.Errorf("%s:%s is of kind %s, %s, and stays that; %s: %w",
			c.rel.Image, c.want.Name, c.tag.Kind, c.owner(), c.hint(), imgd.ErrConflict)
	}
	owners := c.owners()
	if len(owners) == 0 {
		return "", nil
	}
	owner := c.named(owners[0])
	switch {
	case owners[0].Root.Digest == "" && (c.want.Kind != version.KindVersion || c.hasPushed(owner)):
		return "", nil // removed; a version comes back as what it was
	case c.hasPushed(owner):
		return "", fmt.Errorf("%s:%s names %s already, %s: %w", c.rel.Image, c.want.Name, owner.Root.Digest, had(owner), imgd.ErrUnchanged)
	case c.want.Kind == version.KindVersion && !c.rel.Request.Force:
		return "", fmt.Errorf("%s:%s names %s, %s; what was pushed there for %.12s is %s: push it under another tag, or ask again with force and a reason: %w",
			c.rel.Image, c.want.Name, owner.Root.Digest, had(owner), c.rel.Request.Commit, c.rel.Root.Digest, imgd.ErrConflict)
	}
	return "", nil
}

// hint is what to do about a tag of another kind.
func (c claim) hint() string {
	switch c.tag.Kind {
	case version.KindOther:
		return "record it as a moving one"
	case version.KindVersion:
		return "record it as one that does not move"
	}
	return "imgd writes it itself: push under another tag"
}

// hasPushed reports whether owner is what was pushed. Of what nobody has read
// only one digest is known.
func (c claim) hasPushed(owner imgd.Release) bool {
	switch {
	case !c.rel.Read() && owner.Read():
		return owner.Has(c.rel.Root.Digest)
	case !owner.Read() && c.rel.Read() && c.want.Kind == version.KindVersion:
		return c.rel.Has(owner.Root.Digest)
	case c.want.Kind == version.KindVersion:
		return imgd.SameDigests(owner.Platforms, c.rel.Platforms)
	}
	return owner.Root.Digest == c.rel.Root.Digest
}
