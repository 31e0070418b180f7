package version

import (
	"fmt"
	"strings"
)

const (
	// maxSafe is JavaScript's largest whole number, and maxNode the longest version: what is above is no semver to node.
	maxSafe = 1<<53 - 1
	maxNode = 256
)

// A node is a strict semver as docker/metadata-action's semver rule sees it.
type node struct {
	raw                 string // as it was, with v and build metadata
	major, minor, patch uint64
	pre                 string
}

func nodeSemver(s string) (node, bool) {
	s = strings.TrimSpace(s)
	v, ok := semverOf(s)
	if !ok || len(s) > maxNode || max(v.Major(), v.Minor(), v.Patch()) > maxSafe {
		return node{}, false
	}
	return node{raw: s, major: v.Major(), minor: v.Minor(), patch: v.Patch(), pre: v.Prerelease()}, true
}

// String is the version without v and build metadata.
func (v node) String() string {
	s := fmt.Sprintf("%d.%d.%d", v.major, v.minor, v.patch)
	if v.pre != "" {
		s += "-" + v.pre
	}
	return s
}

func (v node) part(p piece) string {
	switch p.name {
	case "raw":
		return v.raw
	case "version":
		return v.String()
	case "major":
		return fmt.Sprint(v.major)
	case "minor":
		return fmt.Sprint(v.minor)
	}
	return fmt.Sprint(v.patch)
}
