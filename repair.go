package imgd

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// A RepairState is what became of a tag that was to be repaired.
type RepairState string

// The states.
const (
	Repaired      RepairState = "repaired" // it was seen to name what the index says
	RepairLeft    RepairState = "left"     // it is not imgd's to write, or cannot be put right; or there was an error
	RepairRefused RepairState = "refused"  // the registry does not take it
)

// Repair has the tag settled once more in these repositories of the image: it makes
// of it what the index says when it is written, which may be something newer than
// whoever asks has seen. Errors as of settle. Safe to repeat and to interrupt.
func (p *Pipeline) Repair(ctx context.Context, image, tag string, repositories []string) error {
	if len(repositories) == 0 {
		return nil
	}
	return p.settleIn(ctx, image, tag, repositories)
}

// repair puts right what was found of one tag where imgd has made it and the
// repository has all that it consists of, and says of the rest why not. Its drift
// has been told before. A crash leaves what settle leaves: the next audit finds the
// tag right, or wrong still.
func (r *audit) repair(ctx context.Context, v Verification, found []Finding) {
	if len(found) == 0 {
		return
	}
	why := r.untouchable(ctx, v)
	var repositories []string
	for i, f := range found {
		reason := why
		if reason == "" {
			reason = r.whyNot(ctx, v, f)
		}
		found[i].Repair, found[i].Why = RepairLeft, reason
		if reason == "" {
			repositories = append(repositories, f.Repository)
		}
	}
	if len(repositories) == 0 {
		return
	}
	err := r.Pipeline.Repair(ctx, v.Image, v.Tag, repositories)
	r.ended(ctx, v, found, err)
}

// untouchable says why nothing about the tag may be written, "" if it may.
func (r *audit) untouchable(ctx context.Context, v Verification) string {
	if r.Pipeline == nil {
		return "nothing is repaired here"
	}
	now, _ := r.Pipeline.Lookup.Wanted(v.Image, v.Tag)
	switch {
	case now.Pushed:
		return "another CI has pushed it, so imgd only reads it: push it there again, or record what is there now: imgctl publish"
	case now.State == ReleaseAdmitted:
		return "release " + now.ID + " is about to take the tag"
	case now.Root.Digest != v.Want:
		return "the index says something else since: look again"
	case v.Unreported != "":
		return "its drift could not be told, and is to be known before anything changes: " + v.Unreported
	}
	if err := r.ready(ctx); err != nil {
		return err.Error()
	}
	return ""
}

// whyNot says why what was found in one repository cannot be put right, "" if it
// can.
func (r *audit) whyNot(ctx context.Context, v Verification, f Finding) string {
	switch f.Kind {
	case DriftMissing, DriftMoved, DriftBecameIndex:
	case DriftBlobMissing:
		return r.rebuild(v)
	default:
		return "the registry gives no answer"
	}
	lacks, err := r.verifier.Registry.Lacks(ctx, f.Repository, f.Wanted, DepthParts, new(Known))
	switch {
	case err != nil:
		return "whether the image is still there is not known: " + err.Error()
	case len(lacks) > 0:
		return fmt.Sprintf("its %s %s is lost there (%s); %s", lacks[0].Part, lacks[0].Digest, lacks[0].Why, r.rebuild(v))
	}
	return ""
}

// ended says what became of those that were to be repaired: that a tag is right is
// said only of one that was read.
func (r *audit) ended(ctx context.Context, v Verification, found []Finding, err error) {
	now, verifyErr := r.verifier.Verify(ctx, v.Image, v.Tag, DepthTag, nil)
	same := map[string]bool{}
	for _, there := range now.Repositories {
		same[there.Repository] = there.Same
	}
	for i, f := range found {
		switch {
		case f.Why != "":
		case verifyErr == nil && same[f.Repository]:
			found[i].Repair = Repaired
		case errors.Is(err, ErrRefused):
			found[i].Repair, found[i].Why = RepairRefused, err.Error()
		case err != nil:
			found[i].Why = err.Error()
		case verifyErr != nil:
			found[i].Why = verifyErr.Error()
		default:
			found[i].Why = "something else is there by now: look again"
		}
	}
}

// rebuild says how the image comes to be there again: by the request that has
// built it.
func (r *audit) rebuild(v Verification) string {
	built := func(rel Release) bool { return rel.Root.Digest == v.Want && rel.Command == "" && !rel.Pushed }
	by, _ := r.Pipeline.Lookup.Release(v.Records[0].Release)
	if !built(by) { // a command has put there what was built before
		history := r.Pipeline.Lookup.History(v.Image, "")
		i := slices.IndexFunc(history, built)
		if i < 0 {
			return "nobody knows how to build it anew: have the tag name something else, or remove it: imgctl untag " + v.Image + ":" + v.Tag
		}
		by = history[i]
	}
	return fmt.Sprintf("build it anew: imgctl build %s --ref %s --commit %s --rebuild", by.Request.Project, by.Request.Ref, by.Request.Commit)
}
