// Package imgd tells the program: a request to build one commit becomes a
// release, its tags are settled in the registry, it is published in the index,
// and only then announced. The package owns the words of that story and the
// order of its effects; it knows nothing of BuildKit, NATS, HTTP or the
// registry protocol.
package imgd

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgd/imgd/version"
)

// A Project is a git repository that may be built, and how. Nothing outside
// the configured projects is built.
type Project struct {
	Name         string            // [a-z0-9][a-z0-9-]{0,62}: also a file name and a NATS token
	Git          string            // URL to clone from; may carry credentials, which never leave the process
	Image        string            // name in the index, without registry
	Repositories []string          // registry/name, without tag; all of them must hold the same
	Refs         []string          // patterns of the full refs that may be built; * matches any run of characters
	TagPrefix    string            // of the git tags that are its own, as svc-a/: their version is what follows; "" for all tags
	Paths        []string          // globs of what it is made of, see Git.Touched; none: everything
	Forks        bool              // whether pull requests from other repositories may ask for builds
	Dockerfile   string            // path inside Context
	Context      string            // directory inside the repository, "." for its root
	Target       string            // stage to build, "" for the last
	Platforms    []string          // os/arch[/variant]
	BuildArgs    map[string]string // values are templates, see version.Expand
	LDFlags      string            // template of the build arg LDFLAGS
	Labels       map[string]string // go into the records and the image; the values have expressions, see version.Config
	KeepTimes    bool              // of files in layers: else none is newer than the commit
	Timeout      time.Duration     // of one build

	// How its images are named: see version.Config, which has the same fields.
	Tags, Flavor      []string
	Immutable, Moving []string
	Annotations       map[string]string

	Retention Retention // which tags go by themselves
}

// Allows reports whether the full ref may be built.
func (p Project) Allows(ref string) bool { return p.WhyNot(ref) == "" }

// WhyNot says why the full ref may not be built, "" if it may: it matches one of
// the project's patterns, in which, as in a git refspec, * also matches slashes,
// and is no tag of another project in the same repository.
func (p Project) WhyNot(ref string) string {
	if !slices.ContainsFunc(p.Refs, func(pattern string) bool { return matches(pattern, ref) }) {
		return fmt.Sprintf("ref %.*q is not among the refs %q of project %s", shownRef, ref, p.Refs, p.Name)
	}
	if tag, ok := strings.CutPrefix(ref, "refs/tags/"); ok && !strings.HasPrefix(tag, p.TagPrefix) {
		return fmt.Sprintf("tag %.*q is not of project %s, whose tags begin with %s", shownRef, tag, p.Name, p.TagPrefix)
	}
	return ""
}

// shownRef bounds, in bytes, how much of a refused ref a reason repeats.
const shownRef = 200

func matches(pattern, s string) bool {
	head, rest, wild := strings.Cut(pattern, "*")
	if !wild {
		return s == pattern
	}
	if !strings.HasPrefix(s, head) {
		return false
	}
	for s = s[len(head):]; ; s = s[1:] {
		if matches(rest, s) {
			return true
		}
		if s == "" {
			return false
		}
	}
}

// Source is the project's git URL without credentials and trailing .git, as it
// stands in records, labels and events.
func (p Project) Source() string { return bareSource(p.Git) }

// A Request is an ask to build one commit of a project, as named by one full
// ref. The pipeline's Resolve completes it.
type Request struct {
	ID        string            `json:"id"` // see Hash
	Project   string            `json:"project"`
	Ref       string            `json:"ref"`              // full: refs/heads/main
	Commit    string            `json:"commit,omitempty"` // 40 hex, peeled; empty: the ref's when it is handled
	By        string            `json:"by,omitempty"`     // who asked, as the intake authenticated it
	Reason    string            `json:"reason,omitempty"` // why; required with Force
	Force     bool              `json:"force,omitempty"`
	Rebuild   bool              `json:"rebuild,omitempty"` // every step runs again
	Compare   bool              `json:"compare,omitempty"` // a rebuild that is not released: what it made is to be compared
	Nonce     string            `json:"nonce,omitempty"`   // set with Force and Rebuild: makes each ask another request
	Args      map[string]string `json:"args,omitempty"`
	Target    string            `json:"target,omitempty"`
	Platforms []string          `json:"platforms,omitempty"`
	Event     string            `json:"event,omitempty"` // schedule, else "": what asked, see version.Info
	Base      string            `json:"base,omitempty"`  // short name of the branch that a pull request is for, as its forge said: a hint
	AskedAt   time.Time         `json:"askedAt"`         // UTC, whole milliseconds

	// What Resolve adds. A redelivery may resolve differently.
	CommitTime time.Time     `json:"commitTime,omitzero"`
	Describe   string        `json:"describe,omitempty"` // git describe, "" where no version tag is reachable or nothing asked
	Version    string        `json:"version,omitempty"`
	Named      version.Named `json:"-"` // what its image is to be called; what became of each tag stands in the release

	DefaultBranch string `json:"-"` // Commit's
	Prefix        string `json:"-"` // Project.TagPrefix
}

// EventSchedule is the Event of a request that a clock asked for.
const EventSchedule = "schedule"

// Hash is the request's ID: the first 32 hex digits of the sha256 of the JSON
// array [project, ref, commit, platforms, args, target, nonce], lists and keys
// sorted. What an asker does not set himself (config, version, tags) is not in
// it, so that a second ask for the same thing is the same request. Nor is Base:
// only a webhook knows it, and a pull request that is pointed at another branch
// is the same commit, and the same image.
func (r Request) Hash() string {
	platforms := slices.Sorted(slices.Values(r.Platforms))
	if platforms == nil {
		platforms = []string{}
	}
	args := r.Args
	if args == nil {
		args = map[string]string{}
	}
	b, err := json.Marshal([]any{r.Project, r.Ref, r.Commit, platforms, args, r.Target, r.Nonce})
	if err != nil {
		panic("unreachable: strings always marshal: " + err.Error())
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:16])
}

// Info is what package version needs to name the resolved commit.
func (r Request) Info() version.Info {
	event := cmp.Or(r.Event, "push")
	if r.Event == "" && version.PullRequest(r.Ref) != "" {
		event = "pull_request"
	}
	return version.Info{Ref: r.Ref, Commit: r.Commit, CommitTime: r.CommitTime, Describe: r.Describe,
		Prefix: r.Prefix, DefaultBranch: r.DefaultBranch, BaseRef: r.Base, Event: event, AskedAt: r.AskedAt}
}

// A Commit is what git knows of one commit as named by one ref.
type Commit struct {
	ID       string    // 40 hex, peeled
	Time     time.Time // committer date, UTC
	Describe string    // git describe over the project's version tags, without their prefix, "" where there is none

	DefaultBranch string // short name of the branch that the server's HEAD names, "" if it names none
}

// State is where a request stands. The first four pass, the others are ends.
type State string

// The states of a request.
const (
	Queued     State = "queued"
	Resolving  State = "resolving"
	Building   State = "building"
	Publishing State = "publishing"
	Published  State = "published"  // a release of it is in the index
	Unchanged  State = "unchanged"  // every tag names what it asks for already
	Superseded State = "superseded" // something newer has its tags, or its ref moved on
	Cancelled  State = "cancelled"
	Conflicted State = "conflict" // an immutable tag names something else
	Failed     State = "failed"
	Dead       State = "dead"
)

// Final reports whether s is an end.
func (s State) Final() bool {
	return s != "" && !slices.Contains([]State{Queued, Resolving, Building, Publishing}, s)
}

// A Status is where a request stands, as HTTP, CLI and the stream of states
// carry it.
type Status struct {
	Request   string       `json:"request"`
	Project   string       `json:"project"`
	Ref       string       `json:"ref"`
	Commit    string       `json:"commit,omitempty"`
	State     State        `json:"state"`
	Tries     int          `json:"tries"` // deliveries so far
	Error     *StatusError `json:"error,omitempty"`
	Release   string       `json:"release,omitempty"`
	AskedAt   time.Time    `json:"askedAt"`
	StartedAt time.Time    `json:"startedAt,omitzero"` // of the last try
	EndedAt   time.Time    `json:"endedAt,omitzero"`   // of a final state

	// The rest of the ask, as in Request: what an operator wants to see of it,
	// and all it takes to ask again.
	By        string            `json:"by,omitempty"`
	Reason    string            `json:"reason,omitempty"`
	Force     bool              `json:"force,omitempty"`
	Rebuild   bool              `json:"rebuild,omitempty"`
	Compare   bool              `json:"compare,omitempty"`
	Nonce     string            `json:"nonce,omitempty"`
	Args      map[string]string `json:"args,omitempty"`
	Target    string            `json:"target,omitempty"`
	Platforms []string          `json:"platforms,omitempty"`
	Event     string            `json:"event,omitempty"`
	Base      string            `json:"base,omitempty"`
}

// StatusOf is where req stands, without tries, error and release.
func StatusOf(req Request, state State) Status {
	return Status{Request: req.ID, Project: req.Project, Ref: req.Ref, Commit: req.Commit, State: state, AskedAt: req.AskedAt,
		By: req.By, Reason: req.Reason, Force: req.Force, Rebuild: req.Rebuild, Compare: req.Compare, Nonce: req.Nonce,
		Args: req.Args, Target: req.Target, Platforms: req.Platforms, Event: req.Event, Base: req.Base}
}

// Again is the same request, to be asked anew: its ID and its nonce stay.
func (s Status) Again() Request {
	return Request{ID: s.Request, Project: s.Project, Ref: s.Ref, Commit: s.Commit, By: s.By, Reason: s.Reason, Force: s.Force,
		Rebuild: s.Rebuild, Compare: s.Compare, Nonce: s.Nonce, Args: s.Args, Target: s.Target, Platforms: s.Platforms, Event: s.Event, Base: s.Base}
}

// EndedFor reports whether the request has ended, for who asked at askedAt.
func (s Status) EndedFor(askedAt time.Time) bool {
	return s.State.Final() && !s.AskedAt.Before(askedAt)
}

// A StatusFilter chooses states. What is empty may be anything.
type StatusFilter struct {
	Project string
	State   State
}

// A Letter is a dead letter: a message of the queue that nobody could handle,
// kept until an operator puts it there again or throws it away.
type Letter struct {
	ID      string    `json:"id"`                // dead-<sequence>
	Request string    `json:"request,omitempty"` // empty: it could not be read
	Project string    `json:"project"`
	Reason  string    `json:"reason"`
	Tries   int       `json:"tries"`
	At      time.Time `json:"at"`      // when it was given up
	Subject string    `json:"subject"` // it had in the queue
	Body    string    `json:"body"`    // its bytes; what is not UTF-8 is replaced
}

// A Depth is how much is in the queue.
type Depth struct {
	Queued uint64    // requests that wait or are being handled
	Oldest time.Time // since when the oldest of them has been there, zero if there is none
	Dead   uint64    // dead letters
}

// A StatusError says why a request ended without a release, or what made the
// last try fail.
type StatusError struct {
	Kind     string        `json:"kind"` // build: the Dockerfile failed; the others are named in events' end table
	Message  string        `json:"message"`
	File     string        `json:"file,omitempty"`     // Dockerfile
	Line     int           `json:"line,omitempty"`     // 1-based
	ExitCode int           `json:"exitCode,omitempty"` // of the command in it
	Built    digest.Digest `json:"built,omitempty"`    // root that the request built and no tag names: see BuiltError
}

// ReleaseState is where a release stands in the index.
type ReleaseState string

// The states of a release. A request has at most one that is admitted.
const (
	ReleaseAdmitted  ReleaseState = "admitted"  // claims its tags
	ReleasePublished ReleaseState = "published" // in the index as true
	ReleaseAbandoned ReleaseState = "abandoned" // gave its claims back
)

// Why a release was abandoned. Any other text says who refused it, the registry
// or an operator, and why: its request has failed.
const (
	RootLost   = "root-lost"  // the registry no longer has its root: the request builds again
	LostClaims = "superseded" // newer releases took every tag it claimed
)

// A Release is what one request made: root, platform manifests, the tags it
// takes and, for each tag not taken, the reason.
type Release struct {
	ID           string               `json:"id"` // <request>-<n>, n from 1
	Image        string               `json:"image"`
	Repositories []string             `json:"repositories"` // registry/name; all hold the root
	State        ReleaseState         `json:"state"`
	Request      Request              `json:"request"`
	Root         ocispec.Descriptor   `json:"root"`
	Platforms    []ocispec.Descriptor `json:"platforms"` // one image manifest each, Platform set, sorted by it
	Tags         []ReleaseTag         `json:"tags"`
	Source       string               `json:"source"` // Project.Source, or what was said of a pushed one
	Labels       map[string]string    `json:"labels,omitempty"`
	Pushed       bool                 `json:"pushed,omitempty"`   // by another CI: imgd reads its tags and never writes them
	Command      CommandName          `json:"command,omitempty"`  // of an operator, that made it of what is there; "" of builds and what was pushed
	Removes      string               `json:"removes,omitempty"`  // of an untag, and of what expires: the release that held the tag
	ExpiresAt    time.Time            `json:"expiresAt,omitzero"` // of its records
	Steps        []version.Step       `json:"steps,omitempty"`    // of a build: what each rule gave, or why nothing

	AdmittedAt  time.Time `json:"admittedAt,omitzero"`
	PublishedAt time.Time `json:"publishedAt,omitzero"`
	Seq         uint64    `json:"seq,omitempty"`    // the entry that published it
	Why         string    `json:"why,omitempty"`    // of an abandoned one
	Lapsed      []string  `json:"lapsed,omitempty"` // releases whose claims this one made lapse
}

// A ReleaseTag is one tag a release asked for.
type ReleaseTag struct {
	Name       string        `json:"tag"`
	Kind       version.Kind  `json:"kind"`
	Ref        string        `json:"ref,omitempty"`    // that a branch tag stands for, where a command took it; else the request's
	Reason     string        `json:"reason,omitempty"` // why it was not taken; empty: claimed or held
	Generation uint64        `json:"generation,omitempty"`
	Previous   digest.Digest `json:"previous,omitempty"` // root the tag named before
}

// Taken are the release's tags that it claims or holds, immutable ones first.
func (r Release) Taken() []ReleaseTag {
	var taken []ReleaseTag
	for _, t := range r.Tags {
		if t.Reason == "" {
			taken = append(taken, t)
		}
	}
	slices.SortStableFunc(taken, func(a, b ReleaseTag) int {
		if a.Kind.Immutable() == b.Kind.Immutable() {
			return 0
		}
		if a.Kind.Immutable() {
			return -1
		}
		return 1
	})
	return taken
}

// refused reports whether the registry or an operator ended the release.
func (r Release) refused() bool {
	return r.State == ReleaseAbandoned && r.Why != RootLost && r.Why != LostClaims
}

// left are the tags that the release asked for and does not have.
func (r Release) left() []ReleaseTag {
	return slices.DeleteFunc(slices.Clone(r.Tags), func(t ReleaseTag) bool { return t.Reason == "" })
}

// Reasons says in one line why the tags that were not taken were not.
func (r Release) Reasons() string {
	var reasons []string
	for _, t := range r.Tags {
		if t.Reason != "" {
			reasons = append(reasons, t.Name+": "+t.Reason)
		}
	}
	return strings.Join(reasons, "; ")
}

// A Record is one line of the index: image + tag + platform -> digest, and
// where it came from. images.json, HTTP, CLI and events carry these names.
type Record struct {
	Image       string            `json:"image"`
	Tag         string            `json:"tag"`
	Digest      digest.Digest     `json:"digest"`    // of one platform's image manifest, never of a list
	Platform    string            `json:"platform"`  // os/arch[/variant]
	MediaType   string            `json:"mediaType"` // of that manifest; empty: it was not read
	Size        int64             `json:"size"`      // of that manifest, bytes; 0: it was not read
	PublishedAt time.Time         `json:"publishedAt"`
	SourceRef   string            `json:"sourceRef"` // git URL @ commit
	Version     string            `json:"version,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	Generation  uint64            `json:"generation"` // of the tag
	Release     string            `json:"release"`
	IndexDigest digest.Digest     `json:"indexDigest,omitempty"` // root, where the tag points at an image index
	Previous    digest.Digest     `json:"previous,omitempty"`    // root the tag named before
	ExpiresAt   time.Time         `json:"expiresAt,omitzero"`
}

// Records are the records of a published release, by tag and platform in the
// release's order.
func (r Release) Records() []Record {
	var records []Record
	for _, t := range r.Taken() {
		records = append(records, r.RecordsOf(t)...)
	}
	return records
}

// RecordsOf are the records of one tag that the release holds, one a platform.
func (r Release) RecordsOf(t ReleaseTag) []Record {
	var records []Record
	for _, d := range r.Platforms {
		rec := Record{
			Image: r.Image, Tag: t.Name, Digest: d.Digest, Platform: PlatformName(d.Platform),
			MediaType: d.MediaType, Size: d.Size, PublishedAt: r.PublishedAt,
			SourceRef: r.Source + "@" + r.Request.Commit, Version: r.Request.Version, Labels: r.Labels,
			Generation: t.Generation, Release: r.ID, Previous: t.Previous, ExpiresAt: r.ExpiresAt,
		}
		if r.Root.Digest != d.Digest {
			rec.IndexDigest = r.Root.Digest
		}
		records = append(records, rec)
	}
	return records
}

// Root is what the record's tag points at: its image index, or the manifest
// itself.
func (r Record) Root() digest.Digest { return cmp.Or(r.IndexDigest, r.Digest) }

// PlatformName is the os/arch[/variant] form of p.
func PlatformName(p *ocispec.Platform) string {
	if p == nil {
		return ""
	}
	name := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		name += "/" + p.Variant
	}
	return name
}

// SameDigests reports whether a and b hold the same platforms with the same
// manifests. Their roots may differ: fresh provenance is no other image.
func SameDigests(a, b []ocispec.Descriptor) bool {
	return slices.EqualFunc(a, b, func(x, y ocispec.Descriptor) bool {
		return x.Digest == y.Digest && PlatformName(x.Platform) == PlatformName(y.Platform)
	})
}

// Errors on which a caller acts differently. Package events maps them to the
// end of a request.
var (
	// ErrInvalid: the request can never succeed as it is.
	ErrInvalid = errors.New("invalid request")
	// ErrConflict: an immutable tag names another image.
	ErrConflict = errors.New("conflict")
	// ErrSuperseded: newer work has taken everything the request asks for.
	ErrSuperseded = errors.New("superseded")
	// ErrUnchanged: all the tags name it already.
	ErrUnchanged = errors.New("unchanged")
	// ErrNotFound: the registry, or git, does not have what was asked for.
	ErrNotFound = errors.New("not found")
	// ErrRefused: the registry will never do it, or an operator has dropped it.
	ErrRefused = errors.New("refused")
)

// RetryDelay is how long to wait before the next try, after so many: 5 s, 15 s,
// 1 m, 5 m, then 15 m.
func RetryDelay(tries int) time.Duration {
	delays := [...]time.Duration{5 * time.Second, 15 * time.Second, time.Minute, 5 * time.Minute, 15 * time.Minute}
	return delays[min(max(tries, 1), len(delays))-1]
}

// A BuiltError is the end of a request that built an image and released none: a
// build that is not reproducible, or one that was only to be compared. Err wraps
// ErrUnchanged.
type BuiltError struct {
	Root digest.Digest // what was built; the registry has it until it clears away what no tag names
	Err  error
}

func (e *BuiltError) Error() string { return e.Err.Error() }

// Unwrap is the error that says how the request ends.
func (e *BuiltError) Unwrap() error { return e.Err }

// A BuildError says that the Dockerfile failed, which another try would only
// repeat.
type BuildError struct {
	Message  string
	File     string // Dockerfile
	Line     int    // 1-based, 0 if not known
	ExitCode int    // of the command, 0 if it was none
}

func (e *BuildError) Error() string {
	where := e.File
	if e.Line > 0 {
		where = fmt.Sprintf("%s:%d", e.File, e.Line)
	}
	if where == "" {
		return "build: " + e.Message
	}
	return fmt.Sprintf("build %s: %s", where, e.Message)
}
