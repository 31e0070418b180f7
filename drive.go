package imgd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// refusedTag begins the reason of a tag that was given back because the
// registry refuses it.
const refusedTag = "refused: "

// gaveUp begins the reason of a tag of a command that is given up as a whole, for
// what follows.
const gaveUp = "given up: "

// Drive takes an admitted release to its end. Several may drive the same one:
// each step finds done what the others did. The tags that it lost meanwhile are
// settled too: a late write of them, of this release's, may have come after the
// winner's. Without a moving tag that the registry refuses it goes on; that of
// an immutable one ends it as ErrRefused, newer releases' claims on all that it
// had as ErrSuperseded. The release comes with errors as Handle says. A command
// that somebody has begun to give up is given up.
func (p *Pipeline) Drive(ctx context.Context, rel Release) (Release, error) {
	if why := p.givenUp(rel.ID); why != "" {
		return p.abandon(ctx, rel, why)
	}
	if now, goOn, err := p.takeAll(ctx, rel); !goOn {
		return now, err
	}
	// The commit point. A crash before it leaves tags that name an admitted
	// release, which the next run of this function publishes; a crash after it
	// leaves a true index, from which the relay announces and the queue acks.
	var published Release
	err := p.observed(ctx, StagePublish, rel.Request, func(ctx context.Context) (err error) {
		published, err = p.Index.Publish(ctx, rel.ID)
		return err
	})
	if errors.Is(err, ErrSuperseded) {
		return p.abandon(ctx, rel, p.whyNothing(rel.ID))
	}
	if err != nil {
		return rel, fmt.Errorf("publish %s: %w", rel.ID, err)
	}
	return published, nil
}

// takeAll settles every tag that rel asked for, as take does each.
func (p *Pipeline) takeAll(ctx context.Context, rel Release) (now Release, goOn bool, _ error) {
	now, goOn = rel, true
	err := p.observed(ctx, StageTag, rel.Request, func(ctx context.Context) (err error) {
		for _, t := range append(rel.Taken(), rel.left()...) {
			if now, goOn, err = p.take(ctx, rel, t); !goOn {
				return err
			}
		}
		return nil
	})
	return now, goOn, err
}

// take settles one tag that rel asked for, and reports whether rel goes on. If
// not, it answers what became of it.
func (p *Pipeline) take(ctx context.Context, rel Release, t ReleaseTag) (_ Release, goOn bool, _ error) {
	if !p.claims(rel.ID, t.Name) {
		err := p.settleLost(ctx, rel, t.Name)
		return rel, err == nil, err
	}
	err := p.settle(ctx, rel.Image, t.Name)
	switch {
	case err == nil:
		return rel, true, nil
	case stays(err) && !p.claims(rel.ID, t.Name): // rel has lost the tag meanwhile
		return p.take(ctx, rel, t)
	case errors.Is(err, ErrRefused) && t.Kind.Immutable():
		rel, err = p.abandon(ctx, rel, fmt.Sprintf("the registry refuses tag %s: %s", t.Name, err))
	case errors.Is(err, ErrRefused):
		err = p.forgo(ctx, rel, t.Name, err)
		return rel, err == nil, err
	case errors.Is(err, ErrNotFound):
		rel, err = p.abandonLost(ctx, rel, err)
	default:
		err = fmt.Errorf("settle %s:%s: %w", rel.Image, t.Name, err)
	}
	return rel, false, err
}

// claims reports whether the release claims the tag at this moment.
func (p *Pipeline) claims(id, tag string) bool {
	rel, _ := p.Lookup.Release(id)
	return rel.State == ReleaseAdmitted && slices.ContainsFunc(rel.Taken(), func(t ReleaseTag) bool { return t.Name == tag })
}

// forgo gives a moving tag that the registry refuses back to its holder, in the
// index and in the repositories that had taken it. A crash before the first
// meets the refusal again; one between the two leaves a tag that rel asked for
// and does not have, which Drive settles.
func (p *Pipeline) forgo(ctx context.Context, rel Release, tag string, refused error) error {
	if _, err := p.Index.Forgo(ctx, rel.ID, tag, refusedTag+refused.Error()); err != nil {
		return fmt.Errorf("forgo %s:%s: %w", rel.Image, tag, err)
	}
	p.log().Warn("registry refuses a moving tag, going on without it", "release", rel.ID, "tag", rel.Image+":"+tag, "error", refused)
	return p.settleBack(ctx, rel.Image, tag)
}

// whyNothing is why the release has no claim left: the registry refuses what
// newer releases did not take, or they took it all.
func (p *Pipeline) whyNothing(id string) string {
	if why := p.givenUp(id); why != "" {
		return why
	}
	rel, _ := p.Lookup.Release(id)
	var refused []string
	for _, t := range rel.Tags {
		if reason, ok := strings.CutPrefix(t.Reason, refusedTag); ok {
			refused = append(refused, "the registry refuses tag "+t.Name+": "+reason)
		}
	}
	if len(refused) == 0 {
		return LostClaims
	}
	return strings.Join(refused, "; ")
}

// abandonLost abandons rel if the registry has lost its root. Settle may have
// missed another release's root; then this one is only tried again.
func (p *Pipeline) abandonLost(ctx context.Context, rel Release, cause error) (Release, error) {
	if _, _, err := p.Capturer.Capture(ctx, p.homes(rel), rel.Root.Digest); !errors.Is(err, ErrNotFound) {
		return rel, opaque(errors.Join(cause, err))
	}
	return p.abandon(ctx, rel, RootLost)
}

// abandon gives rel's claims back. Publishing may have won: then that is the
// answer.
func (p *Pipeline) abandon(ctx context.Context, rel Release, why string) (Release, error) {
	if err := p.giveUp(ctx, rel, why); err != nil {
		return rel, err
	}
	abandoned, err := p.Index.Abandon(ctx, rel.ID, why)
	if err != nil {
		return rel, fmt.Errorf("abandon %s: %w", rel.ID, err)
	}
	if abandoned.State == ReleasePublished {
		return abandoned, nil
	}
	if err := p.giveBack(ctx, abandoned); err != nil {
		return abandoned, err
	}
	return abandoned, whyOver(abandoned)
}

// giveUp does for a command what giveBack does for others, while it stands
// admitted: the queue does not know it, so nobody would come again to do what a
// crash or the registry has cut short after it was abandoned. With the first claim
// that it gives back it is given up, whoever drives it on.
func (p *Pipeline) giveUp(ctx context.Context, rel Release, why string) error {
	if rel.Command == "" {
		return nil
	}
	for _, t := range rel.Tags {
		if !p.claims(rel.ID, t.Name) {
			continue
		}
		if _, err := p.Index.Forgo(ctx, rel.ID, t.Name, gaveUp+why); err != nil {
			return fmt.Errorf("give %s:%s back: %w", rel.Image, t.Name, err)
		}
	}
	now, _ := p.Lookup.Release(rel.ID)
	for _, t := range now.Tags {
		if !strings.HasPrefix(t.Reason, gaveUp) {
			continue
		}
		if err := p.settleBack(ctx, rel.Image, t.Name); err != nil {
			return err
		}
	}
	rel.Why = why
	return p.askAnew(ctx, rel)
}

// givenUp is why the command is given up, empty if it is not.
func (p *Pipeline) givenUp(id string) string {
	rel, _ := p.Lookup.Release(id)
	for _, t := range rel.Tags {
		if why, ok := strings.CutPrefix(t.Reason, gaveUp); ok {
			return why
		}
	}
	return ""
}

// whyOver is what an abandoned release means for its request.
func whyOver(rel Release) error {
	switch {
	case rel.Why == RootLost && rel.Command != "":
		return goneError(rel.Root.Digest, ErrNotFound)
	case rel.Why == RootLost:
		return fmt.Errorf("the registry lost root %s of release %s, it will be built again", rel.Root.Digest, rel.ID)
	case rel.Why == LostClaims:
		return fmt.Errorf("release %s lost every tag to newer ones: %s: %w", rel.ID, rel.Reasons(), ErrSuperseded)
	}
	return fmt.Errorf("release %s was abandoned: %s: %w", rel.ID, rel.Why, ErrRefused)
}

// isOver reports whether err is the end of an admitted release, and of the asks
// that it answered.
func isOver(err error) bool { return errors.Is(err, ErrSuperseded) || errors.Is(err, ErrRefused) }

// giveBack does what an abandoned release owes the others: it asks anew for
// what its claims had made lapse, and makes the registry follow the index. A
// crash may cut it short, so whoever meets the release does it again. A tag that
// cannot be settled does not keep a lost root from being built again: the new
// release settles it.
func (p *Pipeline) giveBack(ctx context.Context, rel Release) error {
	if err := p.askAnew(ctx, rel); err != nil {
		return err
	}
	for _, t := range rel.Tags {
		err := p.settleLost(ctx, rel, t.Name)
		if err == nil {
			continue
		}
		if rel.Why != RootLost || ctx.Err() != nil {
			return err
		}
		p.log().Warn("tag is not settled back yet", "release", rel.ID, "error", err)
	}
	return nil
}

// askAnew asks for the requests whose claims the abandoned release had made
// lapse. Safe to repeat, and once a process is enough: two requests that each
// made the other's claim lapse would otherwise ask for each other for ever. What
// was refused or dropped itself has ended; it passes on what was lost to it.
func (p *Pipeline) askAnew(ctx context.Context, rel Release) error {
	if _, done := p.repaid.Load(rel.ID); done {
		return nil
	}
	for _, id := range rel.Lapsed {
		lapsed, _ := p.Lookup.Release(id)
		if lapsed.Commanded() { // it had its answer: the queue knows nothing of it
			p.log().Warn("a command lost its tag to an abandoned release; give it again", "release", rel.ID, "lapsed", id, "image", lapsed.Image)
			continue
		}
		if newest, _ := p.Lookup.Newest(lapsed.Request.ID); newest.refused() {
			p.repaid.Delete(id)
			if err := p.askAnew(ctx, lapsed); err != nil {
				return err
			}
			continue
		}
		err := p.Asker.Ask(ctx, again(lapsed.Request, rel))
		if errors.Is(err, ErrInvalid) {
			p.log().Error("what an abandoned release made lapse cannot be asked for anew", "release", rel.ID, "lapsed", id, "error", err)
			continue
		}
		if err != nil {
			return fmt.Errorf("ask again for %s: %w", id, err)
		}
	}
	p.repaid.Store(rel.ID, true)
	return nil
}

// again is the same request, with the same ID, asked anew because of what the
// abandoned release had taken from it. What was forced remains in the name of
// who forced it, and for his reason; only a nonce tells of a force that is used.
func again(r Request, abandoned Release) Request {
	asked := Request{ID: r.ID, Project: r.Project, Ref: r.Ref, Commit: r.Commit, Rebuild: r.Rebuild, Nonce: r.Nonce,
		Args: r.Args, Target: r.Target, Platforms: r.Platforms, Event: r.Event, Base: r.Base,
		By: "imgd", Reason: "release " + abandoned.ID + " was abandoned: " + abandoned.Why}
	if r.Force || r.Nonce != "" && !r.Rebuild {
		asked.Force, asked.By, asked.Reason = true, r.By, r.Reason
	}
	return asked
}

// Drop abandons what the request has admitted, because an operator says so; why
// names him and his reason. It answers the abandoned release, with an error if
// its tags are not settled back yet; a command's then stands admitted still. Safe to repeat: a release that was dropped
// or refused already is settled back again, and keeps its why. ErrNotFound if
// the request has nothing admitted, ErrConflict if its release was published
// meanwhile, ErrInvalid for a why that would mean something else.
func (p *Pipeline) Drop(ctx context.Context, request, why string) (Release, error) {
	if why == "" || why == RootLost || why == LostClaims {
		return Release{}, fmt.Errorf("drop request %s because of %q: say who drops it, and why: %w", request, why, ErrInvalid)
	}
	newest, ok := p.Lookup.Newest(request)
	switch {
	case !ok:
		return Release{}, fmt.Errorf("request %s has admitted nothing: %w", request, ErrNotFound)
	case newest.State == ReleasePublished:
		return Release{}, fmt.Errorf("request %s has nothing to drop: release %s is published already: %w", request, newest.ID, ErrNotFound)
	}
	if err := p.giveUp(ctx, newest, why); err != nil {
		return newest, err
	}
	rel, err := p.Index.Abandon(ctx, newest.ID, why)
	switch {
	case err != nil:
		return Release{}, fmt.Errorf("drop %s: %w", newest.ID, err)
	case rel.State == ReleasePublished:
		return Release{}, fmt.Errorf("drop %s: it was published meanwhile: %w", rel.ID, ErrConflict)
	case !rel.refused():
		return Release{}, fmt.Errorf("request %s has nothing to drop: release %s is abandoned already (%s): %w", request, rel.ID, rel.Why, ErrNotFound)
	}
	return rel, p.giveBack(ctx, rel)
}
