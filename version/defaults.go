package version

import (
	"errors"
	"fmt"
	"strings"
)

// defaults names a build without rules:
//
//	refs/tags/v1.2.3, 1.2.3   its name (version), 1.2, 1 and latest (series); of 0.x no 0
//	refs/tags/v1.2.3-rc.1     its name (version): a prerelease never gets latest
//	refs/tags/anything        its name (version)
//	refs/heads/main           12 hex digits of the commit (commit), its name (branch)
//	refs/pull/7/head          pr-7- and 7 hex digits of the commit (commit), pr-7 (branch); both for a week
//
// Versions are strict semver with or without v, after the project's prefix, which is cut off; so v1.2 is an ordinary name.
// Build metadata does not make a prerelease. Any other ref is an error, and one of whose name nothing may stand in a tag.
func (n *naming) defaults() error {
	switch {
	case n.name.isTag:
		return n.ofTag()
	case n.name.isBranch, n.name.pull != "":
		if err := ValidCommit(n.Commit); err != nil {
			return err
		}
	default:
		return fmt.Errorf("only branches (%s…), tags (%s…) and pull requests (refs/pull/7/head) give image tags", headRefs, tagRefs)
	}
	if n.name.pull != "" {
		n.take("default pr-N-COMMIT", answer{value: "pr-" + n.name.pull + "-" + n.Commit[:metaCommitLen], kind: KindCommit, pull: true})
		n.take("default pr-N", answer{value: "pr-" + n.name.pull, kind: KindBranch, pull: true})
		return nil
	}
	n.take("default COMMIT", answer{value: n.Commit[:shortCommitLen], kind: KindCommit})
	return n.must("default BRANCH", answer{value: n.name.branch, kind: KindBranch})
}

// must is take, of a name that the build cannot do without.
func (n *naming) must(rule string, a answer) error {
	if n.take(rule, a) {
		return nil
	}
	if a.value == "" {
		return errors.New("nothing of an empty name may stand in an image tag; name the ref with letters or digits")
	}
	return errors.New(n.steps[len(n.steps)-1].Note)
}

func (n *naming) ofTag() error {
	name, own := strings.CutPrefix(n.name.tag, n.Prefix)
	if err := n.must("default TAG", answer{value: name, kind: KindVersion}); err != nil {
		return err
	}
	v, ok := semverOf(name)
	why := ""
	switch {
	case !own:
		why = fmt.Sprintf("the tag does not begin with the project's prefix %s", cut(n.Prefix))
	case !ok:
		why = cut(name) + " is no semver, as v1.2.3 is"
	case v.Prerelease() != "":
		why = cut(name) + " is a prerelease"
	}
	if why != "" {
		n.take("default X.Y, X, latest", nothing("%s", why))
		return nil
	}
	n.take("default X.Y", answer{value: fmt.Sprintf("%d.%d", v.Major(), v.Minor()), kind: KindSeries})
	if v.Major() == 0 {
		n.take("default X", nothing("of 0.x, every minor version may break what the one before it did"))
	} else {
		n.take("default X", answer{value: fmt.Sprint(v.Major()), kind: KindSeries})
	}
	n.take("default latest", answer{value: "latest", kind: KindSeries})
	return nil
}
