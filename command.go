package imgd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/imgd/imgd/version"
)

// A CommandName is one of the operators' commands about tags.
type CommandName string

// The commands. Each makes a release that takes tags whatever their marks say.
const (
	CommandRollback CommandName = "rollback" // a tag names again what it named before
	CommandTag      CommandName = "tag"      // other tags name what one names now
	CommandUntag    CommandName = "untag"    // a tag names nothing: its release has no root
	CommandExpire   CommandName = "expire"   // the same, because its time is over: see Expirer
)

// A Command is what an operator wants of the tags of one image.
type Command struct {
	Name CommandName
	// ID of its request, 32 hex digits, drawn by who gives the command: given
	// again under the same ID it makes no second release. "" draws one here.
	ID    string
	Image string
	Tag   string // to be rolled back or removed; of tag: what names it now, or "" and To

	To         digest.Digest // of rollback and tag: root, or manifest of one platform
	Generation uint64        // of rollback: go back to that; 0 and no To: to what the tag named before
	NewTags    []string      // of tag
	Release    string        // of expire: that the tag is to be taken from, and from no later one

	Force  bool // change what an immutable tag names; needs Reason
	Reason string
	By     string // who gave it, as the intake authenticated him
}

// Tags are those that the command changes.
func (c Command) Tags() []string {
	if c.Name == CommandTag {
		return c.NewTags
	}
	return []string{c.Tag}
}

var commandID = regexp.MustCompile(`^[0-9a-f]{32}$`)

// Check says all that is wrong with c and can never be done: ErrInvalid. It asks
// nobody.
func (c Command) Check() error {
	var wrong []string
	bad := func(ok bool, format string, args ...any) {
		if !ok {
			wrong = append(wrong, fmt.Sprintf(format, args...))
		}
	}
	known := slices.Contains([]CommandName{CommandRollback, CommandTag, CommandUntag, CommandExpire}, c.Name)
	bad(known, "command %.*q: want rollback, tag, untag or expire", shownInput, c.Name)
	bad((c.Name == CommandExpire) == (c.Release != ""), "a release to take the tag from: of expire, and of nothing else")
	bad(c.ID == "" || commandID.MatchString(c.ID), "request %.*q: want 32 hex digits", shownInput, c.ID)
	bad(IsRepository("registry.invalid/"+c.Image), "image %.*q: want a name in lower case, without registry, tag and digest", shownInput, c.Image)
	bad(c.To == "" || c.To.Validate() == nil && c.To.Algorithm() == digest.SHA256, "digest %.*q: want sha256: and 64 hex digits", shownInput, c.To)
	bad(c.To == "" || c.Generation == 0, "a generation and a digest: want one of them")
	bad(!c.Force || strings.TrimSpace(c.Reason) != "", "force needs a reason, which the history keeps")
	tags := c.NewTags
	if c.Name != CommandTag || c.To == "" {
		tags = append([]string{c.Tag}, tags...)
	}
	for _, tag := range tags {
		if err := version.ValidTag(tag); err != nil {
			bad(false, "%v", err)
		}
	}
	bad(c.Name != CommandTag || len(c.NewTags) > 0, "no new tag is named")
	bad(c.Name != CommandTag || c.To == "" || c.Tag == "", "a tag and a digest to be named: want one of them")
	if len(wrong) == 0 {
		return nil
	}
	return fmt.Errorf("%s: %w", strings.Join(wrong, "; "), ErrInvalid)
}

// Commanded reports whether a command made the release, be it that of another
// CI: its request has a drawn ID and was never in the queue.
func (r Release) Commanded() bool { return r.Pushed || r.Command != "" }

// Command does what an operator says about tags, through admit and settle like
// any release, and answers the release that has them; created says that it was
// not there before. Errors: ErrInvalid; ErrNotFound of a tag, a generation or a
// root that is not there (any more); ErrConflict of an immutable tag without
// Force, and of one to be removed whose image is held, Force or not: see
// AuditHolds; ErrSuperseded if newer releases have taken all its tags meanwhile, or
// are about to take what is to expire; ErrRefused by the registry, or by another
// operator.
//
// It does not use the queue: who asks waits. After any other error, and after a
// crash at any moment, the release may stand admitted: then it comes with the
// error, and the sweep takes it to its end. Safe to repeat under the same ID, and
// without one where the tags name by then what is asked for.
func (p *Pipeline) Command(ctx context.Context, c Command) (_ Release, created bool, _ error) {
	what := fmt.Sprintf("%s %s:%s", c.Name, c.Image, strings.Join(c.Tags(), ","))
	if err := c.Check(); err != nil {
		return Release{}, false, fmt.Errorf("%s: %w", what, err)
	}
	// Not while what another CI has pushed is read and entered: a tag that is
	// written in between would be entered as it was.
	leave, err := p.recording.enter(ctx, c.Image)
	if err != nil {
		return Release{}, false, fmt.Errorf("%s: %w", what, err)
	}
	defer leave()
	rel, created, err := p.command(ctx, c)
	if err != nil {
		return rel, false, fmt.Errorf("%s: %w", what, err)
	}
	return rel, created, nil
}

func (p *Pipeline) command(ctx context.Context, c Command) (rel Release, created bool, err error) {
	if c.ID == "" {
		if c.ID, err = p.draw(); err != nil {
			return rel, false, err
		}
	}
	rel, given := p.Lookup.Newest(c.ID)
	if !given {
		rel, created, err = p.admitCommand(ctx, c)
	} else if !rel.isOf(c) {
		err = fmt.Errorf("request %s is another's, release %s has it: draw an ID for each command: %w", c.ID, rel.ID, ErrInvalid)
		rel = Release{}
	}
	switch {
	case err != nil:
		return rel, false, err
	case rel.State == ReleaseAbandoned:
		return rel, false, whyOver(rel)
	case rel.State == ReleaseAdmitted:
		rel, err = p.Drive(ctx, rel)
	}
	return rel, created, err
}

// isOf reports whether the release is what the command made.
func (r Release) isOf(c Command) bool {
	return r.Command == c.Name && r.Image == c.Image &&
		slices.EqualFunc(r.Tags, c.Tags(), func(t ReleaseTag, name string) bool { return t.Name == name })
}

// admitCommand claims the tags, or answers the release that has them so already.
func (p *Pipeline) admitCommand(ctx context.Context, c Command) (rel Release, created bool, err error) {
	candidate, err := p.commandCandidate(ctx, c)
	if err != nil {
		return Release{}, false, err
	}
	err = p.observed(ctx, StageAdmit, candidate.Request, func(ctx context.Context) (err error) {
		rel, err = p.Index.Admit(ctx, candidate, "")
		return err
	})
	if errors.Is(err, ErrUnchanged) {
		rel, _ = p.Lookup.Wanted(c.Image, c.Tags()[0])
		return rel, false, nil
	}
	if err != nil {
		return Release{}, false, err
	}
	return rel, true, nil
}

// commandCandidate is what the command would publish: for the tags of one
// release what an earlier one has made, if the registry has it still.
func (p *Pipeline) commandCandidate(ctx context.Context, c Command) (Release, error) {
	origin, err := p.origin(c)
	if err != nil {
		return Release{}, err
	}
	rel := Release{Image: c.Image, Command: c.Name, Source: origin.Source, Repositories: p.homes(origin), Request: c.request(origin.Request, p.now())}
	for _, name := range c.Tags() {
		if !slices.ContainsFunc(rel.Tags, func(t ReleaseTag) bool { return t.Name == name }) {
			rel.Tags = append(rel.Tags, ReleaseTag{Name: name, Kind: version.KindOf(name)})
		}
	}
	if c.Name == CommandUntag || c.Name == CommandExpire {
		rel.Removes = c.Release
		return rel, p.mayRemove(c, origin)
	}
	rel.Labels = origin.Labels
	if len(rel.Repositories) == 0 {
		return rel, fmt.Errorf("no repository of image %s is known: %w", c.Image, ErrInvalid)
	}
	if err := p.capture(ctx, origin.Root.Digest, &rel); errors.Is(err, ErrNotFound) {
		return rel, goneError(origin.Root.Digest, err)
	} else if err != nil {
		return rel, err
	}
	return rel, nil
}

// mayRemove refuses to take the tag from what an operator holds, be it the
// origin's or that of a release which is about to take the tag. Of one that takes
// it between this look and admission the tag goes, and the image stays.
func (p *Pipeline) mayRemove(c Command, origin Release) error {
	next, _ := p.Lookup.Wanted(c.Image, c.Tag)
	return cmp.Or(p.AuditHolds.refuse(c.Image, c.Tag, origin), p.AuditHolds.refuse(c.Image, c.Tag, next))
}

// request is the command's, about what the request made.
func (c Command) request(made Request, now time.Time) Request {
	return Request{ID: c.ID, Project: made.Project, Ref: made.Ref, Commit: made.Commit, CommitTime: made.CommitTime, Version: made.Version,
		By: c.By, Reason: c.Reason, Force: c.Force, AskedAt: now.UTC().Truncate(time.Millisecond)}
}

// goneError says that the registry has lost what a command would name.
func goneError(root digest.Digest, err error) error {
	return fmt.Errorf("root %s is gone from the registry, so no tag can name it; build or push it again: %w", root, err)
}

// origin is the release that made what the command is to name, or that holds
// what it removes.
func (p *Pipeline) origin(c Command) (Release, error) {
	if c.Name == CommandExpire {
		rel, ok := p.Lookup.Release(c.Release)
		if _, took := rel.took(c.Tag); !ok || !took || rel.Image != c.Image {
			return Release{}, fmt.Errorf("release %s has never had %s:%s: %w", c.Release, c.Image, c.Tag, ErrNotFound)
		}
		return rel, nil
	}
	past := p.Lookup.History(c.Image, c.Tag)
	slices.Reverse(past) // the newest first
	if len(past) == 0 {
		return Release{}, fmt.Errorf("nothing was ever published as %s: %w", strings.TrimSuffix(c.Image+":"+c.Tag, ":"), ErrNotFound)
	}
	now := past[0]
	switch {
	case c.To != "":
		return madeOf(past, c.To)
	case c.Generation > 0:
		for _, rel := range past {
			if t, _ := rel.took(c.Tag); t.Generation == c.Generation && rel.Root.Digest != "" {
				return rel, nil
			}
		}
		return Release{}, fmt.Errorf("%s:%s has had no generation %d: %w", c.Image, c.Tag, c.Generation, ErrNotFound)
	case c.Name == CommandUntag:
		return now, nil
	case c.Name == CommandTag && now.Root.Digest == "":
		return Release{}, fmt.Errorf("%s:%s was removed by release %s and names nothing: %w", c.Image, c.Tag, now.ID, ErrNotFound)
	case c.Name == CommandTag:
		return now, nil
	}
	for _, rel := range past {
		if rel.Root.Digest != "" && rel.Root.Digest != now.Root.Digest {
			return rel, nil
		}
	}
	return Release{}, fmt.Errorf("%s:%s has never named anything else than %s: %w", c.Image, c.Tag, now.Root.Digest, ErrNotFound)
}

// madeOf is the first of the releases with that root, else with that manifest of
// a platform: people copy either.
func madeOf(past []Release, d digest.Digest) (Release, error) {
	for _, has := range []func(Release) bool{
		func(r Release) bool { return r.Root.Digest == d },
		func(r Release) bool { return r.Has(d) },
	} {
		if i := slices.IndexFunc(past, has); i >= 0 {
			return past[i], nil
		}
	}
	return Release{}, fmt.Errorf("nothing that was published here is %s: %w", d, ErrNotFound)
}

// took is the tag as the release has it, or had.
func (r Release) took(name string) (ReleaseTag, bool) {
	i := slices.IndexFunc(r.Tags, func(t ReleaseTag) bool { return t.Name == name && t.Reason == "" })
	if i < 0 {
		return ReleaseTag{}, false
	}
	return r.Tags[i], true
}

// homes are the repositories of the release's image: those that config names,
// else its own, as of what another CI has pushed.
func (p *Pipeline) homes(rel Release) []string {
	if configured := p.repositories(rel.Image); len(configured) > 0 {
		return configured
	}
	return rel.Repositories
}
