package imgd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgd/imgd/version"
)

// Git answers what a ref names now.
type Git interface {
	// Resolve fetches the project's heads and tags, and ref where that is a pull
	// request's, and says what ref names.
	// With a commit it checks instead that the branch ref contains it, or that
	// the tag ref (peeled) names it, and describes that commit. Errors:
	// ErrSuperseded if it does not any more, ErrInvalid if there is no such
	// ref, or it cannot be one. Safe to repeat and for concurrent use.
	Resolve(ctx context.Context, project, ref, commit string) (Commit, error)
	// Touched reports whether anything that the project's Paths name differs
	// between two commits, whatever lies between them; true if git does not have
	// from any more. Paths are git's globs from the repository's root, in which **
	// matches any run of directories; ! begins those that do not count. Safe to
	// repeat and for concurrent use.
	Touched(ctx context.Context, project, from, to string) (bool, error)
}

// Builder makes the image.
type Builder interface {
	// Build builds req's commit and pushes the image by digest, without a tag,
	// to every repository of p. It answers the pushed root. Errors: *BuildError
	// if the Dockerfile fails, ErrInvalid for values that cannot be injected.
	// Safe to repeat: what an interrupted build pushed is unreferenced, and a
	// repeated one may make another digest.
	Build(ctx context.Context, p Project, req Request) (ocispec.Descriptor, error)
}

// Capturer reads what was pushed.
type Capturer interface {
	// Resolve answers what ref, a tag or a digest, names in the repository at
	// this moment, by the bytes that are served. ErrNotFound if there is none,
	// ErrInvalid if it is no image. It changes nothing.
	Resolve(ctx context.Context, repository, ref string) (ocispec.Descriptor, error)
	// Capture reads root back by digest from every repository, checks the bytes
	// against their digests, and answers root and its platforms' manifests
	// (Platform set, sorted by it), attestations left out. ErrNotFound if a
	// repository does not have them, ErrInvalid if root is no image. It changes
	// nothing.
	Capture(ctx context.Context, repositories []string, root digest.Digest) (ocispec.Descriptor, []ocispec.Descriptor, error)
}

// Tagger writes one tag of one repository. Only settle calls it.
type Tagger interface {
	// Tag makes tag name root, whose bytes the repository has, and reads it
	// back. Returning nil promises that the registry served root under tag
	// since the call began. ErrNotFound if the repository does not have root.
	// ErrRefused if the registry will not take the tag however often it is
	// asked, as of an immutable one, and the tag was seen to name something
	// else still; what credentials or time may mend is no refusal, and nothing
	// is refused that the tag names already. Safe to repeat: the same bytes are
	// put.
	Tag(ctx context.Context, repository, tag string, root ocispec.Descriptor) error
	// Untag removes tag if ours says that what it names is imgd's. It is no
	// error if the tag is gone or another's. ErrRefused if the registry will
	// not remove it however often it is asked, and serves it still. Safe to
	// repeat.
	Untag(ctx context.Context, repository, tag string, ours func(digest.Digest) bool) error
}

// Index decides and remembers. What its methods have answered is durable, and
// survives a crash at any moment. Safe for concurrent use.
type Index interface {
	// Admit claims tags for the candidate rel, by the rules of the design, and
	// answers the admitted release with its ID, its root and the reasons for
	// the tags it did not take. known is the newest release of the request that
	// was there when the work began; a later one of the same request that is
	// not abandoned is the answer instead. Errors: ErrConflict, ErrUnchanged,
	// ErrSuperseded, each with the reasons; nothing is claimed then.
	Admit(ctx context.Context, rel Release, known string) (Release, error)
	// Publish makes the admitted release and its records true in one atomic
	// write: the commit point. Publishing a published one answers it as it is.
	// ErrSuperseded if it has lost every claim, or was abandoned.
	Publish(ctx context.Context, id string) (Release, error)
	// Forgo gives back one claim of an admitted release, for a tag that the
	// registry refuses, and answers the release with the reason at that tag. Of
	// a tag that it does not claim, and of a release that is not admitted any
	// more, nothing changes. Safe to repeat.
	Forgo(ctx context.Context, id, tag, reason string) (Release, error)
	// Abandon gives the claims of an admitted release back and answers it.
	// Of a published or an abandoned one nothing changes.
	Abandon(ctx context.Context, id, why string) (Release, error)
}

// Lookup reads the index; it sees durable entries only.
type Lookup interface {
	// Newest is the newest release of the request.
	Newest(request string) (Release, bool)
	// Release is the release with that ID.
	Release(id string) (Release, bool)
	// Open are the admitted releases that are neither published nor abandoned.
	Open() []Release
	// Wanted is the release whose root the tag should name: the claim's, else
	// the holder's.
	Wanted(image, tag string) (Release, bool)
	// Made reports whether imgd has built a release of the image with that root,
	// or a command has put it under that tag: it is imgd's to remove there.
	Made(image, tag string, root digest.Digest) bool
	// History is every published release that took the tag, or any tag of the
	// image if it is empty, oldest first: also those that removed it.
	History(image, tag string) []Release
	// Generation is the tag's, 0 if the index never had it.
	Generation(image, tag string) uint64
	// Repositories are those of the image's newest release that was not
	// abandoned, nil if there is none.
	Repositories(image string) []string
}

// Asker puts a request into the queue.
type Asker interface {
	// Ask enqueues req durably before it returns. Safe to repeat: a second ask
	// for the same thing is the same request, if req has a Nonce with Force and
	// Rebuild. ErrInvalid if the queue would never take it.
	Ask(ctx context.Context, req Request) error
}

// A Pipeline takes a request to its end. The fields up to Asker must be set. Its
// methods are safe for concurrent use.
type Pipeline struct {
	Projects *Projects
	Git      Git
	Builder  Builder
	Capturer Capturer
	Tagger   Tagger
	Index    Index
	Lookup   Lookup
	Asker    Asker

	Drifts     Drifts           // default: drift is only logged
	Peeker     Peeker           // default: nothing is built before git has resolved it
	Observe    Observer         // of each stage; default: nobody is told
	AuditHolds *AuditHolds      // default: nothing is held
	Registry   string           // host[:port] of images that no project makes and nobody says more of; default none
	Now        func() time.Time // default time.Now
	Random     io.Reader        // of commands' IDs; default crypto/rand's
	Log        *slog.Logger     // default: none

	settling  places // one settle at a time per image
	recording places // one Record or Command at a time per image

	// repaid holds the IDs of abandoned releases for which this process has
	// asked anew: see askAnew.
	repaid sync.Map

	// sweeping guards failed, the open releases that DriveOpen could not drive, and
	// unsettled, the tags of which an error has left unknown what they name.
	sweeping  sync.Mutex
	failed    map[string]failures // by release ID
	unsettled map[tagIn]failures
}

// Handle takes req to its end, or returns an error that says why not:
// ErrUnchanged, ErrSuperseded, ErrConflict, ErrInvalid, ErrRefused and
// *BuildError are ends too, anything else is worth another try. It completes
// req in place. Recovery is this same way again: every effect is found done by
// looking at the index or the registry.
//
// A tag's commit that is at hand is built while git is asked whether the tag
// still names it; nothing is admitted before the answer.
//
// It tells report each stage: Publishing before it writes any tag or goes on
// with an admitted release, and Resolving and Building, after Publishing too,
// where an ask is not answered by that.
//
// Next to an error that is no end, a release in state admitted says that only
// driving it has failed, and one in state abandoned that others have not got
// back yet what it had claimed, or that its root was lost and it is to be built
// again. None of them is given up. Any other such error comes with no release:
// nothing of req stands admitted.
func (p *Pipeline) Handle(ctx context.Context, req *Request, report func(State)) (Release, error) {
	first, done, err := p.standing(ctx, *req, report)
	if done {
		return first, err
	}
	report(Resolving)
	known, candidate, rel := first, Release{}, Release{}
	if guessed, ok := p.guess(ctx, *req); ok && first.ID == "" {
		candidate, err = p.ahead(ctx, req, guessed, report)
	} else if err = p.Resolve(ctx, req); err == nil {
		if now, _ := p.Lookup.Newest(req.ID); now.ID != first.ID { // resolving told the ID, or took its time
			if known, done, err = p.standing(ctx, *req, report); done {
				return known, err
			}
		}
		if err = p.unwatched(ctx, *req, known); err == nil {
			candidate, err = p.candidate(ctx, *req, known, report)
		}
	}
	if err == nil {
		rel, err = p.admit(ctx, candidate, known)
	}
	if err != nil {
		// Whoever worked on it beside this run and made a release is right.
		now, ok := p.Lookup.Newest(req.ID)
		if !ok || now.ID == known.ID || now.State == ReleaseAbandoned {
			return Release{}, p.leave(ctx, *req, err, report)
		}
		rel = now
	}
	if rel.Request.AskedAt.Before(req.AskedAt) {
		return p.Handle(ctx, req, report) // another run's, for an earlier ask: this one is still to be answered
	}
	if rel.State == ReleasePublished {
		return rel, nil // another run's
	}
	report(Publishing)
	return p.Drive(ctx, rel)
}

// standing goes on from where the request's newest release stands, and reports
// whether that is the answer: not if req was asked later, for then a tag may
// have moved on meanwhile, or what was refused be allowed, and not if its root
// is lost.
func (p *Pipeline) standing(ctx context.Context, req Request, report func(State)) (newest Release, done bool, err error) {
	newest, ok := p.Lookup.Newest(req.ID)
	if !ok {
		return Release{}, false, nil
	}
	later := req.AskedAt.After(newest.Request.AskedAt)
	switch newest.State {
	case ReleaseAdmitted:
		report(Publishing)
		driven, err := p.Drive(ctx, newest)
		if err != nil && !(later && isOver(err)) {
			return driven, true, err
		}
		newest = driven
	case ReleaseAbandoned: // what it owes others comes first: req may end before anything follows it
		report(Publishing)
		if err := p.giveBack(ctx, newest); err != nil {
			return newest, true, err
		}
	}
	if later || newest.Why == RootLost {
		return newest, false, nil
	}
	if newest.State == ReleaseAbandoned {
		return newest, true, whyOver(newest)
	}
	return newest, true, nil
}

// leave is err, the end of a request that took no tag. The tags that stand
// where they stood are settled first: the registry may have lost one.
func (p *Pipeline) leave(ctx context.Context, req Request, err error, report func(State)) error {
	if req.Compare || !errors.Is(err, ErrUnchanged) && !errors.Is(err, ErrSuperseded) {
		return err
	}
	project, ok := p.Projects.Get(req.Project)
	if !ok {
		return err // nobody's tags any more
	}
	report(Publishing)
	for _, t := range req.Named.Tags {
		if settleErr := p.settleBack(ctx, project.Image, t.Name); settleErr != nil {
			return settleErr
		}
	}
	return err
}

// admit makes a release of the candidate. A crash before it leaves at most an
// image that nothing names, one after it an admitted release that the next run
// finds.
//
// What was built to be compared ends here.
func (p *Pipeline) admit(ctx context.Context, candidate, known Release) (Release, error) {
	var rel Release
	if candidate.Request.Compare {
		return rel, &BuiltError{Root: candidate.Root.Digest, Err: fmt.Errorf("built %s to be compared, released nothing: %w", candidate.Root.Digest, ErrUnchanged)}
	}
	err := p.observed(ctx, StageAdmit, candidate.Request, func(ctx context.Context) (err error) {
		rel, err = p.Index.Admit(ctx, candidate, known.ID)
		return err
	})
	if err != nil {
		return Release{}, fmt.Errorf("admit %s: %w", candidate.Root.Digest, err)
	}
	return rel, nil
}

// Resolve completes req: commit, version, tags and ID.
func (p *Pipeline) Resolve(ctx context.Context, req *Request) error {
	project, err := p.project(req.Project)
	if err != nil {
		return err
	}
	if why := project.WhyNot(req.Ref); why != "" {
		return fmt.Errorf("%s: %w", why, ErrInvalid)
	}
	var commit Commit
	err = p.observed(ctx, StageResolve, *req, func(ctx context.Context) (err error) {
		commit, err = p.Git.Resolve(ctx, project.Name, req.Ref, req.Commit)
		return err
	})
	if err != nil {
		return fmt.Errorf("resolve %s: %w", req.Ref, err)
	}
	return req.complete(project, commit)
}

// complete names req, of the project, by what git said. ErrUnchanged if the
// project's rules give it no tag.
func (r *Request) complete(p Project, commit Commit) (err error) {
	r.Commit, r.CommitTime, r.Describe = commit.ID, commit.Time, commit.Describe
	r.Prefix, r.DefaultBranch = p.TagPrefix, commit.DefaultBranch
	r.ID = r.Hash()
	if r.Version, err = version.Of(r.Info()); err != nil {
		return fmt.Errorf("%w: %w", err, ErrInvalid)
	}
	rules, err := p.Rules()
	if err != nil {
		return fmt.Errorf("read how project %s names images: %w: %w", p.Name, err, ErrInvalid)
	}
	if r.Named, err = rules.Apply(r.Info()); err != nil {
		return fmt.Errorf("%w: %w", err, ErrInvalid)
	}
	if len(r.Named.Tags) == 0 {
		return fmt.Errorf("no rule of project %s gives %s a tag: %s: %w", p.Name, r.Ref, r.Named.Reasons(), ErrUnchanged)
	}
	return nil
}

// project is the one of that name, as it is configured now. ErrInvalid if none
// is, any more.
func (p *Pipeline) project(name string) (Project, error) {
	project, ok := p.Projects.Get(name)
	if !ok {
		return Project{}, fmt.Errorf("project %q is not configured: %w", name, ErrInvalid)
	}
	return project, nil
}

// candidate is what req would publish: the root its newest release made, if
// the registry has it still, else a new build.
func (p *Pipeline) candidate(ctx context.Context, req Request, known Release, report func(State)) (Release, error) {
	project, err := p.project(req.Project)
	if err != nil {
		return Release{}, err
	}
	rel := Release{Image: project.Image, Repositories: project.Repositories, Request: req, Source: project.Source(),
		Labels: req.Named.Labels, Steps: req.Named.Steps}
	if req.Named.TTL > 0 {
		rel.ExpiresAt = req.AskedAt.Add(req.Named.TTL)
	}
	rel.Request.Force = req.Force && !p.forceUsed(req.ID)
	if known.ID != "" && known.Why != RootLost {
		again, err := p.reuse(ctx, rel, known)
		if !errors.Is(err, ErrNotFound) {
			return again, err
		}
		p.log().Warn("root is gone from the registry, building again", "request", req.ID, "root", known.Root.Digest)
	}
	report(Building)
	var root ocispec.Descriptor
	err = p.observed(ctx, StageBuild, req, func(ctx context.Context) (err error) {
		root, err = p.Builder.Build(ctx, project, req)
		return err
	})
	if err != nil {
		return rel, err
	}
	rel.Tags = wanted(req.Named.Tags)
	return rel, p.capture(ctx, root.Digest, &rel)
}

// forceUsed reports whether an earlier release of the request has held an
// immutable tag that is not the request's any more. A force is good for one
// release: asked for anew, it takes nothing from whoever has forced it since.
func (p *Pipeline) forceUsed(request string) bool {
	for n := 1; ; n++ {
		rel, ok := p.Lookup.Release(fmt.Sprintf("%s-%d", request, n))
		if !ok {
			return false
		}
		for _, t := range rel.Taken() {
			owner, _ := p.Lookup.Wanted(rel.Image, t.Name)
			if rel.State == ReleasePublished && t.Kind.Immutable() && owner.Request.ID != request {
				return true
			}
		}
	}
}

// reuse makes the candidate rel of what the known release built, with the
// version and labels that are in that image, for the tags that do not name it.
func (p *Pipeline) reuse(ctx context.Context, rel, known Release) (Release, error) {
	if err := p.capture(ctx, known.Root.Digest, &rel); err != nil {
		return rel, err
	}
	tags := p.unnamed(rel.Image, rel.Request.Named.Tags, known.Root.Digest)
	if len(tags) == 0 {
		return rel, fmt.Errorf("every tag names %s already: %w", known.Root.Digest, ErrUnchanged)
	}
	rel.Tags, rel.Labels, rel.Request.Version = wanted(tags), known.Labels, known.Request.Version
	return rel, nil
}

// capture completes rel with what its repositories have.
func (p *Pipeline) capture(ctx context.Context, root digest.Digest, rel *Release) error {
	err := p.observed(ctx, StageCapture, rel.Request, func(ctx context.Context) (err error) {
		rel.Root, rel.Platforms, err = p.Capturer.Capture(ctx, rel.Repositories, root)
		return err
	})
	if err != nil {
		return fmt.Errorf("capture %s: %w", root, err)
	}
	return nil
}

// unnamed are the tags that do not name root.
func (p *Pipeline) unnamed(image string, tags []version.Tag, root digest.Digest) []version.Tag {
	var rest []version.Tag
	for _, t := range tags {
		if rel, ok := p.Lookup.Wanted(image, t.Name); !ok || rel.Root.Digest != root {
			rest = append(rest, t)
		}
	}
	return rest
}

func wanted(tags []version.Tag) []ReleaseTag {
	var out []ReleaseTag
	for _, t := range tags {
		out = append(out, ReleaseTag{Name: t.Name, Kind: t.Kind})
	}
	return out
}

func (p *Pipeline) log() *slog.Logger {
	if p.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return p.Log
}
