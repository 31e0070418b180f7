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

var notInTag = regexp.MustCompile(`[^a-zA-Z0-9._-]+`)

// sanitise makes an image tag of a name: by the rule of docker/metadata-action, [^a-zA-Z0-9._-]+ to '-' (so v1.2.3+b5 is
// v1.2.3-b5), then without leading '.' and '-', which the OCI grammar refuses, and cut at 128 bytes. fixed says what
// metadata-action would have left as it was; the tag is empty if nothing is left. Two names may make the same tag; the
// index decides between refs.
func sanitise(name string) (tag, fixed string) {
	s := notInTag.ReplaceAllString(name, "-")
	tag = strings.TrimLeft(s, ".-")
	switch {
	case tag == "":
		return "", fmt.Sprintf("nothing of the name %.*q may stand in an image tag; it needs letters or digits", shown, name)
	case len(tag) > maxTag:
		return tag[:maxTag], fmt.Sprintf("longer than %d characters, so the end was cut off", maxTag)
	case tag != s:
		return tag, fmt.Sprintf("a tag cannot begin with %q, which was cut off", s[:len(s)-len(tag)])
	}
	return tag, ""
}
