package index

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/opencontainers/go-digest"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/version"
)

// A view is what a decision about a release needs to know of one state.
type view struct {
	newest   imgd.Release                              // of its request, zero if there is none
	tags     map[string]tagState                       // of its image, those it wants
	releases map[string]imgd.Release                   // which claim or hold those, or were removed by those
	made     func(tag string, root digest.Digest) bool // see state.made
	touched  map[string]uint64                         // last entry about each of the tags
}

// decide is admission: one decision, by rules 1 to 6 of the design, over one
// view and the facts that ask brings. It answers either the release to enter,
// its claims and reasons filled in, or (enter false) an earlier release of the
// same request that is the answer instead.
func decide(ctx context.Context, v view, rel imgd.Release, known string, ask *asker) (_ imgd.Release, enter bool, _ error) {
	// Rule 1: what another run of this request made meanwhile is the answer, and
	// so is what is open: a request has one open release. A command makes one for
	// good, also if that was abandoned.
	if rel.Command != "" && v.newest.ID != "" {
		return v.newest, false, nil
	}
	if v.newest.State == imgd.ReleaseAdmitted || v.newest.State == imgd.ReleasePublished && v.newest.ID != known {
		return v.newest, false, nil
	}
	rel.ID = rel.Request.ID + "-" + strconv.Itoa(number(v.newest.ID)+1)
	rel.State = imgd.ReleaseAdmitted
	rel.Tags = slices.Clone(rel.Tags)
	rel.Lapsed = nil
	if rel.Command != "" {
		v.complete(&rel)
	}
	// Version tags come first: they may end the request, or set its root.
	for _, immutable := range []bool{true, false} {
		for i := range rel.Tags {
			if (rel.Tags[i].Kind == version.KindVersion) != immutable {
				continue
			}
			c := claim{view: v, tag: v.tags[rel.Tags[i].Name], rel: &rel, want: rel.Tags[i], ask: ask}
			decide := c.reason
			switch {
			case rel.Pushed:
				decide = c.pushed
			case rel.Command != "":
				decide = c.commanded
			}
			reason, err := decide(ctx)
			if err != nil {
				return rel, false, err
			}
			rel.Tags[i].Reason = reason
		}
	}
	taken := rel.Taken()
	if len(taken) == 0 {
		return rel, false, nothing(v, rel)
	}
	for _, t := range taken {
		if other := v.tags[t.Name].Claim; other != "" && !slices.Contains(rel.Lapsed, other) {
			rel.Lapsed = append(rel.Lapsed, other)
		}
	}
	return rel, true, nil
}

// nothing is rule 6: why a release that takes no tag ends as it does.
func nothing(v view, rel imgd.Release) error {
	for _, t := range rel.Tags {
		owner, ok := v.releases[v.tags[t.Name].owner()]
		if !ok || owner.Root.Digest != rel.Root.Digest {
			return fmt.Errorf("%s: %w", rel.Reasons(), imgd.ErrSuperseded)
		}
	}
	return fmt.Errorf("every tag names %s already: %w", rel.Root.Digest, imgd.ErrUnchanged)
}

// A claim is one tag that a release wants, in front of what the index knows of
// that tag.
type claim struct {
	view view
	tag  tagState // zero if the index has never heard of it
	rel  *imgd.Release
	want imgd.ReleaseTag
	ask  *asker
}

// reason says why the tag is not taken, "" if it is. An error ends the whole
// admission.
func (c claim) reason(ctx context.Context) (string, error) {
	if c.tag.Tag != "" && c.tag.Kind != c.want.Kind {
		return c.otherKind()
	}
	if why := c.overruled(); why != "" {
		return why, nil
	}
	switch c.want.Kind {
	case version.KindVersion:
		return "", c.takeVersion(ctx)
	case version.KindCommit:
		return c.takeCommit(ctx)
	}
	if c.tag.Kind == version.KindBranch && c.tag.Ref != c.rel.Request.Ref {
		return fmt.Sprintf("stands for %s, %s", c.tag.Ref, c.owner()), nil
	}
	return c.takeMoving(ctx)
}

// otherKind is rule 2.
func (c claim) otherKind() (string, error) {
	why := fmt.Sprintf("is a %s tag, %s, and cannot be a %s tag", c.tag.Kind, c.owner(), c.want.Kind)
	if c.want.Kind == version.KindVersion {
		return "", fmt.Errorf("%s:%s %s: %w", c.rel.Image, c.want.Name, why, imgd.ErrConflict)
	}
	return why, nil
}

// owners are the releases that have the tag: the one that claims it, which
// counts like a hold, and the one that holds it.
func (c claim) owners() []imgd.Release {
	var owners []imgd.Release
	for _, id := range []string{c.tag.Claim, c.tag.Holder} {
		if rel, ok := c.view.releases[id]; ok {
			owners = append(owners, rel)
		}
	}
	return owners
}

// owner describes who has the tag.
func (c claim) owner() string {
	owners := c.owners()
	if len(owners) == 0 {
		return "held by nobody now"
	}
	return had(owners[0])
}

// had says that the release has a tag.
func had(owner imgd.Release) string {
	verb := "held"
	switch {
	case owner.Root.Digest == "":
		verb = "removed"
	case owner.State == imgd.ReleaseAdmitted:
		verb = "claimed"
	}
	if owner.Command != "" {
		return fmt.Sprintf("%s by release %s (%s by %s)", verb, owner.ID, owner.Command, cmp.Or(owner.Request.By, "unknown"))
	}
	return fmt.Sprintf("%s by release %s (%s at %.12s)", verb, owner.ID, cmp.Or(owner.Request.Ref, "pushed by another CI"), owner.Request.Commit)
}

// takeVersion is rule 3. A nil answer takes the tag. Who claims it and who
// holds it must both agree: a claim may be forced, or its root be lost, and yet
// give nobody else a right to what is held.
func (c claim) takeVersion(ctx context.Context) error {
	owners := c.owners()
	if len(owners) == 0 {
		return c.takeUnheld(ctx)
	}
	for _, owner := range owners {
		if err := c.takeFrom(ctx, owner); err != nil {
			return err
		}
	}
	return nil
}

// takeFrom takes the tag from one owner. Of what another CI has pushed and nobody
// has read, one digest is all that is known; the root of it is never taken over.
func (c claim) takeFrom(ctx context.Context, owner imgd.Release) error {
	named := c.named(owner)
	if !named.Read() && c.rel.Has(named.Root.Digest) {
		return nil
	}
	if imgd.SameDigests(named.Platforms, c.rel.Platforms) {
		return c.takeSame(ctx, named)
	}
	if c.rel.Request.Force {
		return nil
	}
	if named.Request.Commit != c.rel.Request.Commit {
		return c.conflict(named.Root.Digest, had(owner))
	}
	lost, err := c.ask.lost(ctx, c.rel.Repositories, named)
	if err != nil || lost {
		return err
	}
	made := fmt.Sprintf("this build made %s, so it is not reproducible", c.rel.Root.Digest)
	if c.rel.Root.Digest == "" {
		made = "a build that makes another image will not replace it"
	}
	return &imgd.BuiltError{Root: c.rel.Root.Digest, Err: fmt.Errorf("%s:%s names %s of the same commit, %s; %s: %w",
		c.rel.Image, c.want.Name, named.Root.Digest, had(owner), made, imgd.ErrUnchanged)}
}

// takeSame takes the tag with the root that it has, as fresh provenance is no
// other image. But if that root is lost its place is taken: a release of it
// would be abandoned, and built again with fresh provenance, each time.
func (c claim) takeSame(ctx context.Context, owner imgd.Release) error {
	if owner.Root.Digest == c.rel.Root.Digest {
		return nil
	}
	lost, err := c.ask.lost(ctx, c.rel.Repositories, owner)
	if err == nil && !lost {
		c.rel.Root = owner.Root
	}
	return err
}

// takeUnheld looks whether another hand has put an unheld version tag into the
// registry.
func (c claim) takeUnheld(ctx context.Context) error {
	if c.rel.Request.Force {
		return nil
	}
	for _, repository := range c.rel.Repositories {
		there, err := c.ask.tagged(ctx, repository, c.want.Name)
		if errors.Is(err, imgd.ErrNotFound) || err == nil && c.view.made(c.want.Name, there) {
			continue
		}
		if errors.Is(err, imgd.ErrInvalid) {
			return c.conflict("something that is no image", "put into "+repository+" by another hand")
		}
		if err != nil {
			return err
		}
		same, err := c.ask.same(ctx, repository, there, c.rel.Platforms)
		if err != nil {
			return err
		}
		if !same {
			return c.conflict(there, "put into "+repository+" by another hand")
		}
	}
	return nil
}

func (c claim) conflict(there digest.Digest, owner string) error {
	made := fmt.Sprintf("this build of %.12s made %s", c.rel.Request.Commit, c.rel.Root.Digest)
	if c.rel.Root.Digest == "" { // a preview
		made = fmt.Sprintf("a build of %.12s makes another image", c.rel.Request.Commit)
	}
	return fmt.Errorf("%s:%s names %s, %s; %s; release it under a new version, or ask again with force and a reason: %w",
		c.rel.Image, c.want.Name, there, owner, made, imgd.ErrConflict)
}

// takeCommit is rule 4; it also replaces a lost root (invariant I4).
func (c claim) takeCommit(ctx context.Context) (string, error) {
	if c.rel.Request.Force {
		return "", nil
	}
	for _, owner := range c.owners() {
		if owner.Root.Digest == "" {
			continue // removed
		}
		if lost, err := c.ask.lost(ctx, c.rel.Repositories, owner); err != nil || !lost {
			return had(owner), err
		}
	}
	return "", nil
}

// takeMoving is rule 5: the tag goes to what beats its claim, which has beaten
// the mark already, or else its mark. (To ask for the mark again would be wrong
// where a branch was reset and put back before the reset was published.)
func (c claim) takeMoving(ctx context.Context) (string, error) {
	newest := c.tag.Mark
	if claimed, ok := c.view.releases[c.tag.Claim]; ok {
		newest = stamped(c.tag, claimed)
	}
	if c.want.Kind == version.KindBranch {
		if in, err := c.ask.inHead(ctx, c.rel.Request, c.rel.Request.Commit); err != nil || !in {
			return fmt.Sprintf("%s is not in %s any more", c.rel.Request.Commit, c.rel.Request.Ref), err
		}
	}
	if newest == (mark{}) {
		return "", nil
	}
	if won, err := c.beats(ctx, newest); err != nil || !won {
		return c.behind(newest), err
	}
	return "", nil
}

func (c claim) behind(m mark) string {
	named := m.Version
	if c.want.Kind == version.KindBranch {
		named = fmt.Sprintf("%.12s", m.Commit)
	}
	return fmt.Sprintf("has named %s, asked for at %s, %s", named, m.AskedAt.UTC().Format("2006-01-02T15:04:05.000Z"), c.owner())
}

// beats reports whether the release is newer than m.
func (c claim) beats(ctx context.Context, m mark) (bool, error) {
	req := c.rel.Request
	later := req.AskedAt.After(m.AskedAt)
	switch c.want.Kind {
	case version.KindSeries:
		if order := version.Compare(req.Version, m.Version); order != 0 {
			return order > 0, nil
		}
		return c.again(ctx, later)
	case version.KindBranch:
		if req.Commit == m.Commit {
			return c.again(ctx, later)
		}
		in, err := c.ask.inHead(ctx, req, m.Commit)
		if err != nil || !in {
			return true, err // the branch was rewritten: what it named is not there any more
		}
		return c.ask.ancestor(ctx, req.Project, m.Commit, req.Commit)
	}
	return later, nil
}

// again reports whether what equals the mark takes the tag: only if asked
// later, and as a rebuild, or nobody holds the tag, or its root is lost.
func (c claim) again(ctx context.Context, later bool) (bool, error) {
	if !later {
		return false, nil
	}
	owner, held := c.view.releases[c.tag.owner()]
	if c.rel.Request.Rebuild || !held || owner.Root.Digest == "" {
		return true, nil
	}
	return c.ask.lost(ctx, c.rel.Repositories, owner)
}

func markOf(rel imgd.Release) mark {
	return mark{Version: rel.Request.Version, Commit: rel.Request.Commit, AskedAt: rel.Request.AskedAt}
}

// publication is the decision to publish: which tags the release still claims,
// with the generation, the mark and the root before of each.
func publication(s *state, rel imgd.Release) []publishedTag {
	var tags []publishedTag
	for _, t := range rel.Taken() {
		tag := s.tag(tagKey{rel.Image, t.Name})
		if tag.Claim != rel.ID {
			continue
		}
		p := publishedTag{Tag: t.Name, Generation: tag.Generation, Mark: tag.Mark}
		holder := s.release(tag.Holder)
		if holder != nil {
			p.Previous = holder.root
		}
		if rel.Root.Digest != "" && (holder == nil || holder.root != rel.Root.Digest) {
			p.Generation++ // a removal ends the one that there was
		}
		if !t.Kind.Immutable() {
			p.Mark = stamped(tag, rel)
		}
		tags = append(tags, p)
	}
	return tags
}
