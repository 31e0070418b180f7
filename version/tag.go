package version

import (
	"fmt"
	"regexp"
	"strings"
)

// Kind is what a tag promises to whoever pulls it: that it always names one digest, or what makes it move.
type Kind string

// The kinds of tags. The index keeps the kind that took a tag first.
const (
	KindVersion Kind = "version" // v1.2.3; immutable
	KindCommit  Kind = "commit"  // 12 hex digits of a commit; immutable
	KindSeries  Kind = "series"  // 1.2, latest; names the highest version
	KindBranch  Kind = "branch"  // main, also pull requests; names the head
	KindOther   Kind = "other"   // whatever else moves
)

// Immutable reports whether a tag of this kind names one digest for ever, unless it is replaced by force. An unknown kind
// is not immutable.
func (k Kind) Immutable() bool { return k == KindVersion || k == KindCommit }

// Tag is one image tag that a build asks for. Name passes ValidTag.
type Tag struct {
	Name string `json:"tag"`
	Kind Kind   `json:"kind"`
}

// Tags returns the tags of a build, immutable ones first, no name twice:
//
//	refs/tags/v1.2.3, 1.2.3   its name (version), 1.2 and latest (series)
//	refs/tags/v1.2.3-rc.1     its name (version): a prerelease never gets latest
//	refs/tags/anything        its name (version)
//	refs/heads/main           12 hex digits of the commit (commit), its name (branch)
//
// Versions are strict semver with or without v; so v1.2 is an ordinary name. Build metadata does not make a prerelease.
// Any other ref is an error. Names become image tags by the rule of docker/metadata-action, [^a-zA-Z0-9._-]+ to '-' (so
// v1.2.3+b5 is v1.2.3-b5), then without leading '.' and '-', which the OCI grammar refuses, and cut at 128 bytes; if
// nothing is left, that is an error. Two refs may thus ask for the same tag; the index decides between them.
// Commit is read for branches only.
func Tags(i Info) ([]Tag, error) {
	tags, err := rules(i)
	if err != nil {
		return nil, fmt.Errorf("name tags of ref %.*q: %w", shown, i.Ref, err)
	}
	return tags, nil
}

func rules(i Info) ([]Tag, error) {
	if name, ok := strings.CutPrefix(i.Ref, tagRefs); ok {
		return tagRules(name)
	}
	if name, ok := strings.CutPrefix(i.Ref, headRefs); ok {
		return branchRules(name, i.Commit)
	}
	return nil, fmt.Errorf("only branches (%s…) and tags (%s…) give image tags", headRefs, tagRefs)
}

func tagRules(name string) ([]Tag, error) {
	own, err := sanitise(name)
	if err != nil {
		return nil, err
	}
	tags := []Tag{{own, KindVersion}}
	v, ok := semverOf(name)
	if !ok || v.Prerelease() != "" {
		return tags, nil
	}
	series := fmt.Sprintf("%d.%d", v.Major(), v.Minor())
	return append(tags, Tag{series, KindSeries}, Tag{"latest", KindSeries}), nil
}

func branchRules(name, commit string) ([]Tag, error) {
	if err := ValidCommit(commit); err != nil {
		return nil, err
	}
	branch, err := sanitise(name)
	if err != nil {
		return nil, err
	}
	short := commit[:shortCommitLen]
	if branch == short { // a branch named after its commit: the immutable kind has it
		return []Tag{{short, KindCommit}}, nil
	}
	return []Tag{{short, KindCommit}, {branch, KindBranch}}, nil
}

var notInTag = regexp.MustCompile(`[^a-zA-Z0-9._-]+`)

// sanitise makes an image tag of a ref's short name.
func sanitise(name string) (string, error) {
	s := strings.TrimLeft(notInTag.ReplaceAllString(name, "-"), ".-")
	if s == "" {
		return "", fmt.Errorf("nothing of the name %.*q may stand in an image tag; name the ref with letters or digits", shown, name)
	}
	return s[:min(len(s), maxTag)], nil
}
