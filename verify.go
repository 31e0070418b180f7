package imgd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// pendingTime bounds how long a verification waits for a release that is just
// being published: between its tags and its entry in the index lie moments.
const pendingTime = 10 * time.Second

// A VerifyDepth is how far a verification looks. Each looks at what those before it do.
type VerifyDepth string

// The depths.
const (
	DepthTag   VerifyDepth = "tag"   // what the tag names
	DepthParts VerifyDepth = "parts" // whether all that this consists of is there, in its size
	DepthBytes VerifyDepth = "bytes" // whether its bytes are those of its digests: all are read
)

// VerifyDepths are all of them.
func VerifyDepths() []VerifyDepth { return []VerifyDepth{DepthTag, DepthParts, DepthBytes} }

// An Inspector looks into registries, and changes nothing. Safe for concurrent use.
type Inspector interface {
	// Look answers what tag names in the repository at this moment. That it names
	// want is taken from the registry's word; anything else is said only of bytes
	// that were read. ErrNotFound if there is none, ErrInvalid if it is no image;
	// after any other error nobody knows.
	Look(ctx context.Context, repository, tag string, want digest.Digest) (ocispec.Descriptor, error)
	// Lacks are the parts of root, itself and of an image index what it lists
	// included, that the repository does not have in their size and, at DepthBytes,
	// with their bytes. What is known to be whole is not read again. After an error
	// nobody knows of the others.
	Lacks(ctx context.Context, repository string, root digest.Digest, depth VerifyDepth, known *Known) ([]Lack, error)
}

// A Lack is a part of an image that a repository does not have as it should.
type Lack struct {
	Part   string        `json:"part"` // manifest, config or layer
	Digest digest.Digest `json:"digest"`
	Why    string        `json:"why"`
}

// A Verification compares what the index says of a tag with the registry.
type Verification struct {
	Image        string        `json:"image"`
	Tag          string        `json:"tag"`
	Want         digest.Digest `json:"want"` // root in the index
	Digest       digest.Digest `json:"digest,omitempty"`
	Depth        VerifyDepth   `json:"depth,omitempty"`
	Pending      string        `json:"pending,omitempty"`    // release that is to take the tag, and may have written it
	Unreported   string        `json:"unreported,omitempty"` // why there is no event of the drift that was found
	Error        string        `json:"error,omitempty"`      // why there was nothing to compare with
	Repositories []Verified    `json:"repositories"`
	Records      []Record      `json:"records"`
	OK           bool          `json:"ok"`
	Seq          uint64        `json:"seq"`
}

// Verified is what one repository has.
type Verified struct {
	Repository string        `json:"repository"`
	Found      digest.Digest `json:"found,omitempty"` // "" if the tag is not there, or names no image
	Same       bool          `json:"same"`            // nothing was found that differs
	Kind       DriftKind     `json:"kind,omitempty"`  // how it differs
	Lacks      []Lack        `json:"lacks,omitempty"` // of blob-missing
	Error      string        `json:"error,omitempty"` // of unreachable
}

// A Truth is an index that registries are compared with.
type Truth interface {
	// Tag are the records of a tag, by platform.
	Tag(image, name string) []Record
	// Wanted is Lookup.Wanted.
	Wanted(image, tag string) (Release, bool)
	// Release is Lookup.Release.
	Release(id string) (Release, bool)
	// Seq is the last entry that is folded.
	Seq() uint64
	// Wait waits until entry seq is folded, or ctx is done.
	Wait(ctx context.Context, seq uint64) error
}

// A Verifier compares the index with registries, and changes neither. Its methods
// are safe for concurrent use.
type Verifier struct {
	Index    Truth
	Registry Inspector
	Projects *Projects // whose repositories are looked into; default: those of the releases
	Drifts   Drifts    // default: nobody is told
}

// Verify compares one tag in every repository of its image. What differs is
// looked at again until it is not the doing of a release that is just being
// published: that one has written the tag, and the index says so in a moment. What
// differs then is told as drift. ErrNotFound if the index has nothing under the
// tag, or nobody knows a repository of it. Of what differs, and of a registry that
// does not answer, the Verification tells, which is no error. known is of this
// depth; nil is of this tag alone.
func (v *Verifier) Verify(ctx context.Context, image, tag string, depth VerifyDepth, known *Known) (Verification, error) {
	if known == nil {
		known = &Known{}
	}
	found, err := v.settled(ctx, image, tag, depth, known)
	if err != nil {
		return found, err
	}
	if err := v.report(ctx, found); err != nil {
		found.Unreported = err.Error()
	}
	found.OK = found.Complaint() == ""
	return found, nil
}

// Expect notes that the tag must name d too, its root or a platform's manifest;
// "" is anything.
func (v *Verification) Expect(d digest.Digest) {
	v.Digest = d
	v.OK = v.Complaint() == ""
}

func (v *Verifier) settled(ctx context.Context, image, tag string, depth VerifyDepth, known *Known) (Verification, error) {
	patience, cancel := context.WithTimeout(ctx, pendingTime)
	defer cancel()
	for {
		found, err := v.compare(ctx, image, tag, depth, known)
		if err != nil || found.same() {
			return found, err
		}
		claim, _ := v.Index.Wanted(image, tag)
		seq := v.Index.Seq()
		if records := v.Index.Tag(image, tag); len(records) == 0 || records[0].Root() != found.Want {
			continue // the tag names something else since
		}
		if claim.Root.Digest == found.Want {
			return found, nil
		}
		found.Pending = claim.ID
		if !found.writtenBy(claim) || v.Index.Wait(patience, seq+1) != nil {
			return found, nil
		}
	}
}

// compare looks at the index first and then at every repository.
func (v *Verifier) compare(ctx context.Context, image, tag string, depth VerifyDepth, known *Known) (Verification, error) {
	seq := v.Index.Seq()
	records := v.Index.Tag(image, tag)
	if len(records) == 0 {
		return Verification{}, fmt.Errorf("nothing is published as %s:%s: %w", image, tag, ErrNotFound)
	}
	found := Verification{Image: image, Tag: tag, Depth: depth, Want: records[0].Root(), Records: records, Seq: seq}
	repositories := v.Repositories(image, records[0].Release)
	if len(repositories) == 0 {
		return found, fmt.Errorf("no repository of %s is known: %s was recorded unseen, so there is nothing to compare with: %w", image, tag, ErrNotFound)
	}
	for _, repository := range repositories {
		there := v.look(ctx, repository, records[0], depth, known)
		if err := ctx.Err(); err != nil && there.Kind == DriftUnreachable {
			return found, err
		}
		found.Repositories = append(found.Repositories, there)
	}
	return found, nil
}

// look compares what one repository has.
func (v *Verifier) look(ctx context.Context, repository string, want Record, depth VerifyDepth, known *Known) Verified {
	there := Verified{Repository: repository}
	desc, err := v.Registry.Look(ctx, repository, want.Tag, want.Root())
	if err == nil {
		there.Found = desc.Digest
	}
	switch {
	case errors.Is(err, ErrNotFound):
		there.Kind = DriftMissing
	case errors.Is(err, ErrInvalid):
		there.Kind = DriftMoved
	case err != nil:
		there.Kind, there.Error = DriftUnreachable, err.Error()
	case desc.Digest == want.Root():
		v.inside(ctx, want.Root(), depth, known, &there)
	case isIndex(desc) && want.IndexDigest == "":
		there.Kind = DriftBecameIndex
	default:
		there.Kind = DriftMoved
	}
	there.Same = there.Kind == ""
	return there
}

// isIndex reports whether what is there is a list of manifests.
func isIndex(desc ocispec.Descriptor) bool {
	return desc.MediaType == ocispec.MediaTypeImageIndex || desc.MediaType == "application/vnd.docker.distribution.manifest.list.v2+json"
}

// inside looks at what the root consists of.
func (v *Verifier) inside(ctx context.Context, root digest.Digest, depth VerifyDepth, known *Known, there *Verified) {
	if depth == DepthTag || depth == "" {
		return
	}
	var err error
	there.Lacks, err = v.Registry.Lacks(ctx, there.Repository, root, depth, known)
	switch {
	case len(there.Lacks) > 0:
		there.Kind = DriftBlobMissing
	case err != nil:
		there.Kind, there.Error = DriftUnreachable, err.Error()
	}
}

// Repositories are those that config names for the image, in its order, else those
// that the release was pushed to.
func (v *Verifier) Repositories(image, release string) []string {
	if all := v.Projects.Repositories(image); len(all) > 0 {
		return all
	}
	rel, _ := v.Index.Release(release)
	return rel.Repositories
}

// report tells the world of each repository that has something else, unless a
// release that is to take the tag has put it there: its end will tell. Of what
// nobody has read it is not known what would be right.
func (v *Verifier) report(ctx context.Context, found Verification) error {
	if v.Drifts == nil || found.Unread() {
		return nil
	}
	return ReportDrifts(ctx, v.Drifts, v.DriftsOf(found)...)
}

// DriftsOf are the drifts that a verification has found.
func (v *Verifier) DriftsOf(found Verification) (drifts []Drift) {
	pending, _ := v.Index.Release(found.Pending)
	for _, r := range found.Repositories {
		if r.Same || r.Kind == DriftUnreachable || found.Pending != "" && r.Found == pending.Root.Digest {
			continue
		}
		d := Drift{Kind: r.Kind, Image: found.Image, Repository: r.Repository, Tag: found.Tag, Wanted: found.Want, Found: r.Found,
			Generation: found.Records[0].Generation}
		if len(r.Lacks) > 0 {
			d.Lack = &r.Lacks[0]
		}
		drifts = append(drifts, d)
	}
	return drifts
}

// Complaint says on one line all that is not as it should be, "" if nothing is.
func (v Verification) Complaint() string {
	var all []string
	if v.Error != "" {
		all = append(all, v.Error)
	}
	if !v.named() {
		all = append(all, fmt.Sprintf("%s:%s names %s, not %s", v.Image, v.Tag, v.Want, v.Digest))
	}
	for _, r := range v.Repositories {
		if !r.Same {
			all = append(all, r.complaint(v.Tag, v.Want))
		}
	}
	if len(all) > 0 && v.Error == "" && v.Unread() {
		all = append(all, "the index has what was said of it, which nobody has read in a registry")
	}
	if len(all) > 0 && v.Pending != "" {
		all = append(all, "release "+v.Pending+" is to take the tag")
	}
	if v.Unreported != "" {
		all = append(all, "drift not reported: "+v.Unreported)
	}
	return strings.Join(all, "; ")
}

func (r Verified) complaint(tag string, want digest.Digest) string {
	at := r.Repository + ":" + tag
	switch r.Kind {
	case DriftUnreachable:
		return fmt.Sprintf("%s could not be read: %s", at, r.Error)
	case DriftBecameIndex:
		return fmt.Sprintf("%s is the image index %s, and should be the single image %s", at, r.Found, want)
	case DriftBlobMissing:
		more := ""
		if n := len(r.Lacks) - 1; n > 0 {
			more = fmt.Sprintf(" (and %d more)", n)
		}
		return fmt.Sprintf("%s is %s as it should be, but its %s %s is damaged there: %s%s", at, r.Found, r.Lacks[0].Part, r.Lacks[0].Digest, r.Lacks[0].Why, more)
	}
	if r.Found == "" {
		return fmt.Sprintf("%s is not there, or no image, and should be %s", at, want)
	}
	return fmt.Sprintf("%s is %s, and should be %s", at, r.Found, want)
}

// Unread reports whether another CI has pushed it and nobody has looked.
func (v Verification) Unread() bool { return len(v.Records) > 0 && v.Records[0].MediaType == "" }

// Unknown reports whether all that is wrong is that registries did not answer, or
// that there was nothing to compare with: then nobody knows.
func (v Verification) Unknown() bool {
	silent := func(r Verified) bool { return r.Kind == DriftUnreachable }
	wrong := func(r Verified) bool { return !r.Same && !silent(r) }
	return v.named() && !slices.ContainsFunc(v.Repositories, wrong) && (v.Error != "" || slices.ContainsFunc(v.Repositories, silent))
}

// named reports whether the index has under the tag what was expected.
func (v Verification) named() bool {
	return v.Digest == "" || v.Digest == v.Want || slices.ContainsFunc(v.Records, func(r Record) bool { return r.Digest == v.Digest })
}

// writtenBy reports whether whatever differs names rel's root.
func (v Verification) writtenBy(rel Release) bool {
	return !slices.ContainsFunc(v.Repositories, func(r Verified) bool { return !r.Same && r.Found != rel.Root.Digest })
}

func (v Verification) same() bool {
	return !slices.ContainsFunc(v.Repositories, func(r Verified) bool { return !r.Same })
}
