// Package version says what a ref and a commit are called: the version of a build, the image tags it may take with their
// kinds, the order of versions, and the values that go into ldflags and build args. Everything that comes from a git
// repository passes a check here before it reaches a compiler's command line or a registry. The package is pure: it asks
// neither git nor the clock, does no I/O and knows none of imgd's other types. It does not decide who gets a tag; the
// index does.
package version

import (
	"fmt"
	"strings"
	"time"
)

const (
	headRefs = "refs/heads/"
	tagRefs  = "refs/tags/"

	// shortCommitLen is the number of hex digits in pseudo-versions, commit tags and ShortCommit: Go's choice.
	shortCommitLen = 12
)

// Info is what version knows of one commit as named by one ref. Each function documents which fields it reads.
type Info struct {
	// Ref is full: refs/heads/main, refs/tags/v1.2.3.
	Ref string
	// Commit is the peeled commit, 40 or 64 lower-case hex digits.
	Commit string
	// CommitTime is the committer's time, in any zone.
	CommitTime time.Time
	// Describe is the answer of `git describe --tags --match …` over version tags (v1.2.3 or v1.2.3-4-gabcdef0), without
	// Prefix, or empty where no version tag is reachable.
	Describe string
	// Prefix begins the names of the git tags that are versions of this project (svc-a/ of svc-a/v1.2.3). Empty: all are.
	Prefix string
	// DefaultBranch is the short name of the repository's default branch, or empty where it has none.
	DefaultBranch string
	// BaseRef is the short name of the branch that a pull request is for, as the forge said, or empty.
	BaseRef string
	// Event is what asked: push, pull_request, schedule or manual.
	Event string
	// AskedAt is when.
	AskedAt time.Time
}

// Of returns the version of a build. For refs/tags/X it is X without Prefix, which it must begin with; for any other ref it is Describe; where that is empty it is
// the pseudo-version v0.0.0-yyyymmddhhmmss-<12 hex> of the commit and its time in UTC, Go's form for a module without a
// tag (https://go.dev/ref/mod#pseudo-versions). Commit and CommitTime are read for a pseudo-version only.
// Whatever is returned without an error passes ValidVersion.
func Of(i Info) (string, error) {
	v, err := unchecked(i)
	if err != nil {
		return "", fmt.Errorf("find version of ref %.*q: %w", shown, i.Ref, err)
	}
	if err := ValidVersion(v); err != nil {
		return "", fmt.Errorf("find version of ref %.*q: %w; rename the git tag", shown, i.Ref, err)
	}
	return v, nil
}

func unchecked(i Info) (string, error) {
	if name, ok := strings.CutPrefix(i.Ref, tagRefs); ok {
		own, ok := strings.CutPrefix(name, i.Prefix)
		if !ok {
			return "", fmt.Errorf("the tag does not begin with %.*q, as this project's do", shown, i.Prefix)
		}
		return own, nil
	}
	if i.Describe != "" {
		return i.Describe, nil
	}
	return pseudo(i.Commit, i.CommitTime)
}

func pseudo(commit string, t time.Time) (string, error) {
	if err := ValidCommit(commit); err != nil {
		return "", err
	}
	if err := validTime(t); err != nil {
		return "", err
	}
	return "v0.0.0-" + t.UTC().Format("20060102150405") + "-" + commit[:shortCommitLen], nil
}

// validTime refuses what git cannot mean (its times are unsigned seconds since 1970) and what four digits cannot write.
func validTime(t time.Time) error {
	if y := t.UTC().Year(); y < 1970 || y > 9999 {
		return fmt.Errorf("commit time %s: want a year from 1970 to 9999", t.UTC().Format(time.RFC3339))
	}
	return nil
}
