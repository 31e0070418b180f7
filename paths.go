package imgd

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// unwatched is ErrUnchanged, with the reason, if a build of req would make
// nothing new: none of the paths that its project watches differs from what was
// built last of the same ref. That is compared, and not what a push says it
// brought, so that it holds after force pushes, and after pushes that were left
// out or lost. A tag is always built, and so is what is forced or rebuilt, what a
// clock asks for, and the first of a ref. What req has made before is not looked
// at again: that it is asked for once more is not a push.
func (p *Pipeline) unwatched(ctx context.Context, req Request, known Release) error {
	project, err := p.project(req.Project)
	if err != nil {
		return err
	}
	if len(project.Paths) == 0 || known.ID != "" || req.Force || req.Rebuild || req.Event == EventSchedule || strings.HasPrefix(req.Ref, "refs/tags/") {
		return nil
	}
	built, ok := p.built(project.Image, req)
	if !ok {
		return nil
	}
	touched := false
	err = p.observed(ctx, StageResolve, req, func(ctx context.Context) (err error) {
		touched, err = p.Git.Touched(ctx, project.Name, built.Request.Commit, req.Commit)
		return err
	})
	if err != nil {
		return fmt.Errorf("compare the paths of project %s: %w", project.Name, err)
	}
	if touched {
		return nil
	}
	return fmt.Errorf("none of the paths %q differs from %.12s, of which release %s was built: %w", project.Paths, built.Request.Commit, built.ID, ErrUnchanged)
}

// built is the newest published release that was built of req's ref in the way
// that req asks for, as far as one of req's moving tags was its own. There is none
// if one of those was removed: a newer build brings it back.
func (p *Pipeline) built(image string, req Request) (newest Release, found bool) {
	for _, t := range req.Named.Tags {
		if t.Kind.Immutable() {
			continue
		}
		if rel, ok := p.Lookup.Wanted(image, t.Name); ok && rel.Root.Digest == "" {
			return Release{}, false
		}
		if rel, ok := p.builtAs(image, t.Name, req); ok && (!found || rel.PublishedAt.After(newest.PublishedAt)) {
			newest, found = rel, true
		}
	}
	return newest, found
}

// builtAs is built, of one tag. Mostly that is who holds it.
func (p *Pipeline) builtAs(image, tag string, req Request) (Release, bool) {
	if rel, ok := p.Lookup.Wanted(image, tag); ok && rel.State == ReleasePublished && rel.builtLike(req) {
		return rel, true
	}
	past := p.Lookup.History(image, tag)
	slices.Reverse(past) // the newest first
	if i := slices.IndexFunc(past, func(rel Release) bool { return rel.builtLike(req) }); i >= 0 {
		return past[i], true
	}
	return Release{}, false
}

// builtLike reports whether the release is a build of the same ref, and nothing
// but its commit was asked for otherwise.
func (r Release) builtLike(req Request) bool {
	return r.Command == "" && !r.Pushed && r.Request.Project == req.Project && r.Request.Ref == req.Ref &&
		r.Request.Target == req.Target && maps.Equal(r.Request.Args, req.Args) &&
		slices.Equal(slices.Sorted(slices.Values(r.Request.Platforms)), slices.Sorted(slices.Values(req.Platforms)))
}
