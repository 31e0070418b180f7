package imgd

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// attached are the tags under which registries without a referrers API, and cosign,
// keep what is attached to an image: they are that image's.
var attached = regexp.MustCompile(`^sha256-[0-9a-f]{64}(\.[a-z]+)?$`)

// A stranger is a tag that the index does not know, as it was first seen.
type stranger struct {
	Drift
	at time.Time
}

// registries looks for tags that the index does not know, in the repositories that
// config names: in others they are others'. Tags that are new are looked at again
// when they have been there for a while.
func (r *audit) registries(ctx context.Context) error {
	for _, p := range r.verifier.Projects.All() {
		for _, repository := range p.Repositories {
			if r.ask.Image != "" && p.Image != r.ask.Image {
				continue
			}
			if err := r.list(ctx, p.Image, repository); err != nil {
				return err
			}
		}
	}
	for _, s := range r.waiting {
		select {
		case <-time.After(r.patience() - time.Since(s.at)):
		case <-ctx.Done():
			return ctx.Err()
		}
		now, is, err := r.stranger(ctx, s.Image, s.Repository, s.Tag)
		if err == nil && is && now.Found == s.Found {
			err = r.tell(ctx, now)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *audit) patience() time.Duration {
	if r.Patience != 0 {
		return r.Patience
	}
	return recordTime
}

// list goes through the tags of one repository. It tells of those that the index
// does not know and did not know the last time, and notes the new ones.
func (r *audit) list(ctx context.Context, image, repository string) error {
	r.note(repository)
	strangers := map[string]bool{} // that were listed: some registries list a tag twice
	for tag, err := range r.Lister.Tags(ctx, repository) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			r.note(repository, Finding{Drift: Drift{Kind: DriftUnreachable, Image: image, Repository: repository}, Since: r.now(), Error: err.Error()})
			return nil
		}
		if strangers[tag] {
			continue
		}
		d, is, err := r.stranger(ctx, image, repository, tag)
		if is {
			strangers[tag] = true
		}
		switch {
		case err != nil:
		case !is:
		case r.isKnown(d):
			err = r.tell(ctx, d)
		case len(r.waiting) < maxFindings:
			r.waiting = append(r.waiting, stranger{d, time.Now()})
		default:
			r.note(repository, Finding{Drift: d, Since: r.now(), Unreported: "there are too many at once"})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// isKnown reports whether the audit before has found it.
func (r *audit) isKnown(d Drift) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.seen(d)
	return ok
}

// stranger reports whether the registry has the tag and the index knows nothing of
// it, which is asked before and after the registry: who publishes claims the tag in
// the index first, and who removes it does so in the registry first. What could not
// be looked at is noted as that. The error is that of ctx.
func (r *audit) stranger(ctx context.Context, image, repository, tag string) (d Drift, is bool, _ error) {
	if r.belongs(image, tag) {
		return d, false, nil
	}
	there, err := r.verifier.Registry.Look(ctx, repository, tag, "")
	d = Drift{Kind: DriftUnknownTag, Image: image, Repository: repository, Tag: tag, Found: there.Digest}
	switch {
	case ctx.Err() != nil:
		return d, false, ctx.Err()
	case errors.Is(err, ErrNotFound), r.belongs(image, tag):
		return d, false, nil
	case err != nil && !errors.Is(err, ErrInvalid):
		d.Kind = DriftUnreachable
		r.note(repository+":"+tag, Finding{Drift: d, Since: r.now(), Error: err.Error()})
		return d, false, nil
	}
	d.Generation = r.Records.Generation(image, tag)
	return d, true, nil
}

// belongs reports whether the tag may be in the registry: the index has it, or a
// release is about to take or remove it, or it is none that the index has.
func (r *audit) belongs(image, tag string) bool {
	if attached.MatchString(tag) || len(r.verifier.Index.Tag(image, tag)) > 0 {
		return true
	}
	if r.Ignore != nil {
		if _, ignored := matching(r.Ignore(), tag); ignored {
			return true
		}
	}
	rel, ok := r.verifier.Index.Wanted(image, tag)
	return ok && (rel.State == ReleaseAdmitted || rel.Root.Digest != "")
}

// tell tells the world of a tag that the index does not know. It is left where it
// is.
func (r *audit) tell(ctx context.Context, d Drift) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	f := Finding{Drift: d, Since: r.now()}
	if r.verifier.Drifts != nil {
		if err := ReportDrifts(ctx, r.verifier.Drifts, d); err != nil {
			f.Unreported = err.Error()
		}
	}
	if r.ask.Repair {
		f.Repair, f.Why = RepairLeft, strangerHint(d)
	}
	r.note(d.Repository+":"+d.Tag, f)
	return nil
}

func strangerHint(d Drift) string {
	return fmt.Sprintf("imgd removes no tag that it does not know: remove it from the registry, or record it: imgctl publish --image %s --tag %s …", d.Image, d.Tag)
}

// A patient Inspector does not ask a repository any more that has given no answer
// several times in a row.
type patient struct {
	Inspector

	mu     sync.Mutex     // guards failed
	failed map[string]int // in a row, by what was asked and where
}

// Look is Inspector.Look.
func (p *patient) Look(ctx context.Context, repository, tag string, want digest.Digest) (desc ocispec.Descriptor, err error) {
	err = p.try("tag of "+repository, func() error {
		desc, err = p.Inspector.Look(ctx, repository, tag, want)
		return err
	})
	return desc, err
}

// Lacks is Inspector.Lacks.
func (p *patient) Lacks(ctx context.Context, repository string, root digest.Digest, depth VerifyDepth, known *Known) (lacks []Lack, err error) {
	err = p.try("parts in "+repository, func() error {
		lacks, err = p.Inspector.Lacks(ctx, repository, root, depth, known)
		return err
	})
	return lacks, err
}

func (p *patient) try(what string, ask func() error) error {
	p.mu.Lock()
	silent := p.failed[what] >= silentAfter
	p.mu.Unlock()
	if silent {
		return fmt.Errorf("it was asked for no %s any more, as there was no answer %d times in a row", what, silentAfter)
	}
	began := time.Now()
	err := ask()
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case err == nil, errors.Is(err, ErrNotFound), errors.Is(err, ErrInvalid):
		p.failed[what] = 0
	case time.Since(began) >= slowAnswer:
		p.failed[what]++
	}
	return err
}
