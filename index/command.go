package index

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/version"
)

// complete says of what only the index knows: the kinds and the branches that the
// tags of a command have, and the release that an untag takes its tag from. What
// expires says that itself.
func (v view) complete(rel *imgd.Release) {
	for i := range rel.Tags {
		tag, known := v.tags[rel.Tags[i].Name]
		if known {
			rel.Tags[i].Kind, rel.Tags[i].Ref = tag.Kind, tag.Ref
		}
		if rel.Root.Digest == "" && rel.Command != imgd.CommandExpire {
			rel.Removes = cmp.Or(v.releases[tag.Holder].Removes, tag.Holder)
		}
	}
}

// commanded decides about one tag of an operator's command. It skips rule 5: what
// moves is taken. An immutable tag changes by force only, also to nothing; free is
// one that nobody has had, and one that was removed, for what it named.
func (c claim) commanded(ctx context.Context) (reason string, err error) {
	owners := c.owners()
	if c.rel.Root.Digest == "" {
		return "", c.untag(owners)
	}
	if len(owners) > 0 && owners[0].Root.Digest == c.rel.Root.Digest {
		return "names it already, " + c.owner(), nil
	}
	if !c.want.Kind.Immutable() || c.rel.Request.Force {
		return "", nil
	}
	for _, owner := range owners {
		if named := c.named(owner); named.Root.Digest != c.rel.Root.Digest {
			return "", c.immutable(fmt.Sprintf("names %s, %s", named.Root.Digest, had(owner)))
		}
	}
	if len(owners) == 0 {
		return "", c.takeUnheld(ctx)
	}
	return "", nil
}

// untag decides about a tag that is to be removed.
func (c claim) untag(owners []imgd.Release) error {
	name := c.rel.Image + ":" + c.want.Name
	holder, held := c.view.releases[c.tag.Holder]
	switch {
	case !held:
		return fmt.Errorf("nothing is published as %s; it is %s: %w", name, c.owner(), imgd.ErrNotFound)
	case owners[0].Root.Digest == "":
		return fmt.Errorf("%s names nothing already, %s: %w", name, c.owner(), imgd.ErrUnchanged)
	case c.rel.Command == imgd.CommandExpire:
		return c.expire(name)
	case c.want.Kind.Immutable() && !c.rel.Request.Force:
		return c.immutable(fmt.Sprintf("names %s, %s", holder.Root.Digest, had(holder)))
	}
	return nil
}

// expire decides about a tag whose time was over when it was looked at. What was
// published there since, or is about to be, has a time of its own. The config has
// said that it goes, so what is immutable goes without force.
func (c claim) expire(name string) error {
	switch {
	case c.tag.Claim != "":
		return fmt.Errorf("%s does not expire now: %s: %w", name, c.owner(), imgd.ErrSuperseded)
	case c.tag.Holder != c.rel.Removes:
		return fmt.Errorf("%s is not what was to expire any more: %s: %w", name, c.owner(), imgd.ErrSuperseded)
	}
	return nil
}

func (c claim) immutable(stands string) error {
	return fmt.Errorf("%s:%s is a %s tag and %s; to change it all the same, %s it with force and a reason: %w",
		c.rel.Image, c.want.Name, c.tag.Kind, stands, c.rel.Command, imgd.ErrConflict)
}

// named is the release that the tag named, where its owner has removed it; else
// the owner.
func (c claim) named(owner imgd.Release) imgd.Release {
	if owner.Root.Digest != "" {
		return owner
	}
	return c.view.releases[owner.Removes]
}

// overruled says why an immutable tag is not taken by what was asked for before
// an operator's command about it: no late older build undoes that.
func (c claim) overruled() string {
	owners := c.owners()
	if !c.want.Kind.Immutable() || len(owners) == 0 || owners[0].Command == "" || c.rel.Request.AskedAt.After(owners[0].Request.AskedAt) {
		return ""
	}
	if owners[0].Root.Digest != "" && !c.rel.Request.Force {
		return "" // the rules decide
	}
	return had(owners[0]) + " after this was asked for"
}

// stamped is the mark of a moving tag when the release has taken it. A build has
// beaten the mark, or the claim that did. A command stamps the mark with its time
// and never lowers it, so that what is not newer than all the tag ever named does
// not undo it; neither does a push that is recorded late.
func stamped(tag tagState, rel imgd.Release) mark {
	m, stamp := tag.Mark, markOf(rel)
	switch {
	case !rel.Commanded():
		return stamp
	case rel.Pushed && !m.AskedAt.After(stamp.AskedAt):
		return stamp
	case rel.Pushed:
		return m
	}
	if m.AskedAt.After(stamp.AskedAt) {
		stamp.AskedAt = m.AskedAt
	}
	if newer := tag.Kind == version.KindSeries && version.Compare(stamp.Version, m.Version) > 0; !newer && m.Commit != "" || rel.Root.Digest == "" {
		stamp.Version, stamp.Commit = m.Version, m.Commit
	}
	return stamp
}

// History is imgd.Lookup.History. It reads every release of the image.
func (x *Index) History(image, tag string) []imgd.Release { return x.freeze().history(image, tag) }

func (z frozen) history(image, tag string) []imgd.Release {
	var past []imgd.Release
	z.releases.Scan(func(r *release) bool {
		if r.image != image || !r.published {
			return true
		}
		if rel := r.text.get(); takes(rel, tag) {
			past = append(past, rel)
		}
		return true
	})
	slices.SortFunc(past, func(a, b imgd.Release) int { return cmp.Compare(a.Seq, b.Seq) })
	return past
}

// takes reports whether the release took the tag, or any if it is empty.
func takes(rel imgd.Release, tag string) bool {
	return slices.ContainsFunc(rel.Tags, func(t imgd.ReleaseTag) bool { return t.Reason == "" && (tag == "" || t.Name == tag) })
}
