package imgd

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgd/imgd/version"
)

// A Pushed is an image that another CI has pushed and tagged, to be recorded.
type Pushed struct {
	Image    string            // name in the index, without registry
	Tag      string            // that the other CI has pushed it under
	Digest   digest.Digest     // that the tag must name: its root, or the manifest of one platform; sha256
	Source   string            // <git URL>@<40 hex>; credentials and a trailing .git are cut off
	Platform string            // os/arch[/variant] that must be there, and be Digest's if that is of one platform; "" any
	Labels   map[string]string // go into the records
	TTL      time.Duration     // after which the records expire, 0 never
	Registry string            // host[:port] that has it, where neither config nor an earlier release says so

	Moving   bool // the tag may move: it is of kind other, whatever its name; else of kind version
	NoVerify bool // the registry is not asked: there may be none that imgd reaches
	Force    bool // replace what an immutable tag names; needs Reason
	Reason   string
	By       string // who asked, as the intake authenticated him
}

// ErrDiffers says that the registry has something else than was said.
var ErrDiffers = errors.New("the registry has something else")

// A MismatchError is an ErrConflict or an ErrDiffers, with the digests.
type MismatchError struct {
	Wanted digest.Digest // that was to be recorded
	Found  digest.Digest // root that the tag names: in the index if it is a conflict, else in the registry
	Err    error
}

func (e *MismatchError) Error() string { return e.Err.Error() }

// Unwrap is the conflict or the difference.
func (e *MismatchError) Unwrap() error { return e.Err }

// shownInput bounds how much of a refused value an error repeats.
const shownInput = 160

// Check says all that is wrong with in and can never be recorded: ErrInvalid. It
// asks nobody. The platform it puts into its normal form.
func (in *Pushed) Check() error {
	var wrong []string
	bad := func(ok bool, format string, args ...any) {
		if !ok {
			wrong = append(wrong, fmt.Sprintf(format, args...))
		}
	}
	bad(IsRepository("registry.invalid/"+in.Image), "image %.*q: want a name in lower case, without registry, tag and digest", shownInput, in.Image)
	if err := version.ValidTag(in.Tag); err != nil {
		bad(false, "%v", err)
	}
	bad(in.Digest.Validate() == nil && in.Digest.Algorithm() == digest.SHA256, "digest %.*q: want sha256: and 64 hex digits", shownInput, in.Digest)
	bad(in.Registry == "" || IsHost(in.Registry), "registry %.*q: want host[:port], without scheme and path", shownInput, in.Registry)
	bad(in.TTL >= 0, "ttl %s: must not be negative", in.TTL)
	bad(!in.Force || strings.TrimSpace(in.Reason) != "", "force needs a reason, which the history keeps")
	_, empty := in.Labels[""]
	bad(!empty, "a label has no name")
	if _, _, err := in.source(); err != nil {
		bad(false, "%v", err)
	}
	if in.Platform != "" {
		p, err := platforms.Parse(in.Platform)
		if err != nil || !strings.Contains(in.Platform, "/") { // a word alone would mean this machine's
			bad(false, "platform %.*q: want os/arch or os/arch/variant", shownInput, in.Platform)
		}
		p = platforms.Normalize(p)
		in.Platform = PlatformName(&p)
	}
	if len(wrong) == 0 {
		return nil
	}
	return fmt.Errorf("%s: %w", strings.Join(wrong, "; "), ErrInvalid)
}

// IsRepository reports whether s is registry/name, and no more.
func IsRepository(s string) bool {
	named, err := reference.ParseNamed(s)
	return err == nil && reference.IsNameOnly(named)
}

// Host is the registry's part of a repository registry/name.
func Host(repository string) string {
	host, _, _ := strings.Cut(repository, "/")
	return host
}

// IsHost reports whether s is a registry's host[:port], and no more.
func IsHost(s string) bool { return IsRepository(s+"/x") && Host(s+"/x") == s }

// scp is git's short form of an ssh URL. Its user is a name, and no secret.
var scp = regexp.MustCompile(`^([\w.-]+@)?[\w.-]+:[^:@\s]+$`)

// source is Source as git URL without credentials, and commit.
func (in *Pushed) source() (git, commit string, err error) {
	at := strings.LastIndexByte(in.Source, '@')
	if at >= 0 {
		git, commit = in.Source[:at], in.Source[at+1:]
	}
	u, err := url.Parse(git)
	isURL := err == nil && u.Scheme != "" && u.Opaque == "" && (u.Host != "" || u.Scheme == "file")
	if len(commit) != 40 || version.ValidCommit(commit) != nil || !isURL && !scp.MatchString(git) {
		return "", "", errors.New("source: want the git URL, @ and the commit's 40 hex digits, as in https://git.example.com/myorg/app@<commit>")
	}
	if isURL { // a forge's token may stand in the query too
		u.RawQuery, u.Fragment = "", ""
		git = u.String()
	}
	return bareSource(git), commit, nil
}

// bareSource is a git URL without credentials and trailing .git.
func bareSource(git string) string {
	u, err := url.Parse(git)
	if err != nil || u.Host == "" {
		return strings.TrimSuffix(git, ".git")
	}
	u.User = nil
	return strings.TrimSuffix(u.String(), ".git")
}

// release is what in would publish, without repositories, root and platforms.
func (in *Pushed) release(id string, now time.Time) (Release, error) {
	source, commit, err := in.source()
	if err != nil {
		return Release{}, err
	}
	now = now.UTC().Truncate(time.Millisecond)
	rel := Release{
		Image: in.Image, Source: source, Labels: maps.Clone(in.Labels), Pushed: true,
		Tags:    []ReleaseTag{{Name: in.Tag, Kind: version.KindVersion}},
		Request: Request{ID: id, Commit: commit, By: in.By, Reason: in.Reason, Force: in.Force, AskedAt: now},
	}
	if in.Moving {
		rel.Tags[0].Kind = version.KindOther
	}
	if version.IsVersion(in.Tag) {
		rel.Request.Version = in.Tag
	}
	if in.TTL > 0 {
		rel.ExpiresAt = now.Add(in.TTL)
	}
	return rel, nil
}

// Unread is the release that in would be if it had been recorded at that time, and
// not looked for in the registry; of the request with that ID. ErrInvalid as of
// Check.
func (in *Pushed) Unread(request string, at time.Time) (Release, error) {
	if err := in.Check(); err != nil {
		return Release{}, err
	}
	rel, err := in.release(request, at)
	if err != nil {
		return rel, err
	}
	if in.Registry != "" {
		rel.Repositories = []string{in.Registry + "/" + in.Image}
	}
	in.unread(&rel)
	return rel, nil
}

// unread makes rel of what was said alone: one manifest, of which nobody has
// read media type and size.
func (in *Pushed) unread(rel *Release) {
	name := in.Platform
	if name == "" {
		name = "linux/amd64"
	}
	p := platforms.MustParse(name) // Check has parsed it
	rel.Root = ocispec.Descriptor{Digest: in.Digest}
	rel.Platforms = []ocispec.Descriptor{{Digest: in.Digest, Platform: &p}}
}

// Read reports whether imgd has read the release's image in the registry. Of one
// that another CI pushed and nobody verified it knows only the digest.
func (r Release) Read() bool { return r.Root.MediaType != "" }

// Has reports whether d is the release's root, or the manifest of one of its
// platforms.
func (r Release) Has(d digest.Digest) bool {
	return r.Root.Digest == d || slices.ContainsFunc(r.Platforms, func(p ocispec.Descriptor) bool { return p.Digest == d })
}

// isSame reports whether both are the same image, as far as they were read, be
// it of fresh provenance.
func (r Release) isSame(other Release) bool {
	return SameDigests(r.Platforms, other.Platforms) || r.Has(other.Root.Digest) || other.Has(r.Root.Digest)
}

// fits compares what was said with what the registry has, in rel.
func (in *Pushed) fits(rel Release) error {
	at := rel.Repositories[0] + ":" + in.Tag
	if !rel.Has(in.Digest) {
		return in.differs(rel.Root.Digest, "%s names %s, which neither is nor contains %s", at, rel.Root.Digest, in.Digest)
	}
	if in.Platform == "" {
		return nil
	}
	var there []string
	for _, p := range rel.Platforms {
		name := PlatformName(p.Platform)
		if name == in.Platform && (p.Digest == in.Digest || in.Digest == rel.Root.Digest) {
			return nil
		}
		there = append(there, name+" "+p.Digest.String())
	}
	return in.differs(rel.Root.Digest, "%s has no %s of digest %s; it has %s", at, in.Platform, in.Digest, strings.Join(there, ", "))
}

func (in *Pushed) differs(found digest.Digest, format string, args ...any) error {
	return &MismatchError{Wanted: in.Digest, Found: found, Err: fmt.Errorf(format+": %w", append(args, ErrDiffers)...)}
}
