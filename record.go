package imgd

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// recordTries is how often Record decides anew when others take its claim away
// before it has published. Each of them is a command or a release of its own.
const recordTries = 4

// Record publishes what another CI has pushed under a tag, and answers the
// release that has it; created says that it was not known before. It asks the
// registry first, unless it is told not to, and never writes there. Errors:
// ErrInvalid; ErrNotFound if a repository does not have the tag; ErrDiffers, and
// ErrConflict of a tag that names another image or is of another kind, both with
// the digests in a *MismatchError. They leave index and registry as they are, and
// where these do not agree about the tag, drift is told.
//
// It does not use the queue: who asks waits. After any other error, and after a
// crash at any moment, the release may stand admitted: then it comes with the
// error, and the sweep takes it to its end. ErrRefused if an operator has given it
// up meanwhile. To repeat the command is safe, and answers what is there.
func (p *Pipeline) Record(ctx context.Context, in Pushed) (_ Release, created bool, _ error) {
	what := fmt.Sprintf("record %s:%s as %s", in.Image, in.Tag, in.Digest)
	if err := in.Check(); err != nil {
		return Release{}, false, fmt.Errorf("%s: %w", what, err)
	}
	// One at a time per image: what the registry says of a moving tag is entered
	// in the order in which it was read.
	leave, err := p.recording.enter(ctx, in.Image)
	if err != nil {
		return Release{}, false, fmt.Errorf("%s: %w", what, err)
	}
	defer leave()
	rel, created, err := p.record(ctx, in)
	if err != nil {
		return rel, false, fmt.Errorf("%s: %w", what, err)
	}
	return rel, created, nil
}

func (p *Pipeline) record(ctx context.Context, in Pushed) (Release, bool, error) {
	id, err := p.draw()
	if err != nil {
		return Release{}, false, err
	}
	for tries := 1; ; tries++ {
		candidate, err := p.pushed(ctx, in, id)
		if err != nil {
			return Release{}, false, err
		}
		rel, created, err := p.admitPushed(ctx, in, candidate)
		if errors.Is(err, ErrSuperseded) && tries < recordTries {
			continue
		}
		if err != nil {
			return Release{}, false, err
		}
		if rel.State == ReleaseAdmitted {
			rel, err = p.Drive(ctx, rel)
		}
		if err == nil && !created {
			p.compareWith(ctx, candidate, rel)
		}
		// Who lost the tag to others decides anew, but not who was given up himself.
		if err == nil || !isOver(err) || tries == recordTries || created && errors.Is(err, ErrRefused) {
			return rel, created, err
		}
	}
}

// draw draws the ID of a command's request.
func (p *Pipeline) draw() (string, error) {
	random := p.Random
	if random == nil {
		random = rand.Reader
	}
	b := make([]byte, 16)
	if _, err := io.ReadFull(random, b); err != nil {
		return "", fmt.Errorf("draw a request ID: %w", err)
	}
	return hex.EncodeToString(b), nil
}

func (p *Pipeline) now() time.Time {
	if p.Now == nil {
		return time.Now()
	}
	return p.Now()
}

// pushed is the candidate: what the registry has under the tag.
func (p *Pipeline) pushed(ctx context.Context, in Pushed, id string) (rel Release, err error) {
	if rel, err = in.release(id, p.now()); err != nil {
		return rel, err
	}
	if rel.Repositories, err = p.pushedTo(in); err != nil {
		return rel, err
	}
	if in.NoVerify {
		in.unread(&rel)
		return rel, nil
	}
	roots, err := p.resolved(ctx, in, rel.Repositories)
	if err == nil {
		if err := p.capture(ctx, roots[0], &rel); err != nil {
			return rel, err
		}
		err = in.fits(rel)
	}
	if errors.Is(err, ErrDiffers) {
		has, _ := p.Lookup.Wanted(in.Image, in.Tag)
		p.compare(ctx, has, in.Tag, rel.Repositories, roots)
	}
	return rel, err
}

// pushedTo are the repositories that hold the image: those that config names,
// else those of its releases, else the one in the registry that is named.
func (p *Pipeline) pushedTo(in Pushed) ([]string, error) {
	known, said := p.repositories(in.Image), "the config has it in"
	if len(known) == 0 {
		known, said = p.Lookup.Repositories(in.Image), "its releases are in"
	}
	there := func(repository string) bool { return Host(repository) == in.Registry }
	switch {
	case len(known) > 0 && in.Registry != "" && !slices.ContainsFunc(known, there):
		return nil, fmt.Errorf("image %s is not in registry %s, %s %s: leave --registry out, or record it as another image: %w",
			in.Image, in.Registry, said, strings.Join(known, ", "), ErrInvalid)
	case len(known) > 0:
		return known, nil
	case in.Registry != "":
		return []string{in.Registry + "/" + in.Image}, nil
	case p.Registry != "":
		return []string{p.Registry + "/" + in.Image}, nil
	case in.NoVerify:
		return nil, nil
	}
	return nil, fmt.Errorf("no registry of image %s is known: name its host by --registry, or record it unseen by --no-verify: %w", in.Image, ErrInvalid)
}

// resolved are the roots that the tag names, by repository: the same in all, or
// it is ErrDiffers.
func (p *Pipeline) resolved(ctx context.Context, in Pushed, repositories []string) (roots []digest.Digest, err error) {
	for _, repository := range repositories {
		there, err := p.Capturer.Resolve(ctx, repository, in.Tag)
		if errors.Is(err, ErrNotFound) {
			return nil, fmt.Errorf("%s has no tag %s, push it first: %w", repository, in.Tag, err)
		}
		if err != nil {
			return nil, fmt.Errorf("read %s:%s: %w", repository, in.Tag, err)
		}
		roots = append(roots, there.Digest)
	}
	for i, root := range roots {
		if root == roots[0] {
			continue
		}
		found := root
		if found == in.Digest {
			found = roots[0]
		}
		return roots, in.differs(found, "%s:%s names %s, and in %s it names %s: all repositories of an image must hold the same",
			repositories[i], in.Tag, root, repositories[0], roots[0])
	}
	return roots, nil
}

// admitPushed claims the tag, or answers the release that has it already.
// ErrSuperseded if that one has lost it to another meanwhile.
func (p *Pipeline) admitPushed(ctx context.Context, in Pushed, candidate Release) (_ Release, created bool, _ error) {
	var rel Release
	err := p.observed(ctx, StageAdmit, candidate.Request, func(ctx context.Context) (err error) {
		rel, err = p.Index.Admit(ctx, candidate, "")
		return err
	})
	if err == nil {
		return rel, true, nil
	}
	has, _ := p.Lookup.Wanted(in.Image, in.Tag)
	switch {
	case errors.Is(err, ErrUnchanged) && !has.isSame(candidate):
		return rel, false, fmt.Errorf("%s:%s has gone to release %q meanwhile: %w", in.Image, in.Tag, has.ID, ErrSuperseded)
	case errors.Is(err, ErrUnchanged):
		return has, false, nil
	case errors.Is(err, ErrConflict):
		p.compareWith(ctx, candidate, has)
		return rel, false, &MismatchError{Wanted: in.Digest, Found: has.Root.Digest, Err: err}
	}
	return rel, false, err
}

// compareWith tells of drift where the registry, as the candidate was read, has
// another root under the tag than the release that has it in the index.
func (p *Pipeline) compareWith(ctx context.Context, candidate, has Release) {
	if candidate.Read() {
		roots := slices.Repeat([]digest.Digest{candidate.Root.Digest}, len(candidate.Repositories))
		p.compare(ctx, has, candidate.Tags[0].Name, candidate.Repositories, roots)
	}
}

// compare tells of drift where a repository has another root under the tag than
// the published release that has it.
func (p *Pipeline) compare(ctx context.Context, has Release, tag string, repositories []string, roots []digest.Digest) {
	if !has.Read() || has.State != ReleasePublished {
		return
	}
	for i, root := range roots {
		if root != has.Root.Digest {
			p.drifted(ctx, has, repositories[i], tag, root)
		}
	}
}

// drifted tells that the repository has found, nothing if it is empty, where the
// index wants has. It is not told twice; if it cannot be told, the log has it.
func (p *Pipeline) drifted(ctx context.Context, has Release, repository, tag string, found digest.Digest) {
	kind := DriftMoved
	if found == "" {
		kind = DriftMissing
	}
	d := Drift{Kind: kind, Image: has.Image, Repository: repository, Tag: tag, Wanted: has.Root.Digest, Found: found,
		Generation: p.Lookup.Generation(has.Image, tag)}
	p.log().Warn("drift: the registry has something else than the index", "release", has.ID, "repository", repository, "tag", tag,
		"wanted", d.Wanted, "found", d.Found)
	if p.Drifts == nil {
		return
	}
	if err := ReportDrifts(ctx, p.Drifts, d); err != nil {
		p.log().Error("drift is not reported", "release", has.ID, "error", err)
	}
}

// readTag reads the tag of a release that another CI pushed, in its
// repositories, and tells of drift: imgd does not write such a tag. What nobody
// has read is not looked at. Only what the registry does not answer is an error.
func (p *Pipeline) readTag(ctx context.Context, tag string, want Release) error {
	if !want.Read() {
		return nil
	}
	for _, repository := range want.Repositories {
		there, err := p.Capturer.Resolve(ctx, repository, tag)
		if err != nil && !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrInvalid) {
			return fmt.Errorf("read %s:%s: %w", repository, tag, err)
		}
		if there.Digest != want.Root.Digest {
			p.drifted(ctx, want, repository, tag, there.Digest)
		}
	}
	return nil
}
