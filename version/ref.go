package version

import (
	"regexp"
	"strings"
)

// metaCommitLen is the number of hex digits in what rules and pull requests make of a commit: docker/metadata-action's.
const metaCommitLen = 7

// A refName is what a full ref names.
type refName struct {
	branch, tag     string // short names
	isBranch, isTag bool
	pull            string // number of a pull request, "" of any other ref
}

// pullRef are the refs of pull requests: GitHub's and Gitea's, GitLab's.
var pullRef = regexp.MustCompile(`^refs/(?:pull|merge-requests)/([1-9][0-9]{0,18})/(?:head|merge)$`)

func readRef(ref string) (n refName) {
	n.branch, n.isBranch = strings.CutPrefix(ref, headRefs)
	n.tag, n.isTag = strings.CutPrefix(ref, tagRefs)
	if !n.isBranch {
		n.branch = ""
	}
	if !n.isTag {
		n.tag = ""
	}
	if parts := pullRef.FindStringSubmatch(ref); parts != nil {
		n.pull = parts[1]
	}
	return n
}

// PullRequest is the number of the pull request that a full ref stands for: refs/pull/7/head or …/merge (GitHub, Gitea), or
// refs/merge-requests/7/head or …/merge (GitLab). Empty for any other.
func PullRequest(ref string) string { return readRef(ref).pull }
