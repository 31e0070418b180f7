package version

import (
	"cmp"
	"strconv"
	"strings"

	"github.com/Masterminds/semver/v3"
)

// Compare orders versions: it returns -1 if a comes before b, 1 if after, 0 if neither. It is a total preorder.
//
// Strict semvers, with or without v, go by semver precedence (https://semver.org/#spec-item-11): prereleases before their
// version, build metadata ignored; so 0 does not mean the same string. A string that is no semver comes before every
// semver; two such compare as people count, numbers in them by their value: 1.9 before 1.10, release-1.9.0 before
// release-1.10.0. Numbers of 2^64 and above make a string no semver here.
//
// What git describe and Of answer between versions reads as a prerelease: v1.2.3-4-gabcdef0 comes before v1.2.3,
// although it was made after it, and v1.2.3-10-g… before v1.2.3-4-g…, as 10-g… is no number. Pseudo-versions order by
// commit time. So this is the order of releases (series tags), not of commits; ask git for that.
func Compare(a, b string) int {
	va, aOK := semverOf(a)
	vb, bOK := semverOf(b)
	switch {
	case aOK && bOK:
		return va.Compare(vb)
	case aOK:
		return 1
	case bOK:
		return -1
	default:
		return cmp.Or(counted(a, b), cmp.Compare(a, b))
	}
}

const digits = "0123456789"

// counted compares bytewise, but runs of digits by their value, whatever zeros they begin with.
func counted(a, b string) int {
	for a != "" && b != "" {
		restA, restB := strings.TrimLeft(a, digits), strings.TrimLeft(b, digits)
		x, y := strings.TrimLeft(a[:len(a)-len(restA)], "0"), strings.TrimLeft(b[:len(b)-len(restB)], "0")
		if len(restA) == len(a) || len(restB) == len(b) { // one of them begins with no digit
			x, y, restA, restB = a[:1], b[:1], a[1:], b[1:]
		}
		if order := cmp.Or(cmp.Compare(len(x), len(y)), cmp.Compare(x, y)); order != 0 {
			return order
		}
		a, b = restA, restB
	}
	return cmp.Compare(len(a), len(b))
}

// IsVersion reports whether s is a version by itself, as a strict semver with or without v is, and may be that of a build.
func IsVersion(s string) bool {
	_, ok := semverOf(s)
	return ok && ValidVersion(s) == nil
}

// semverOf reads a strict semver with an optional v.
func semverOf(s string) (*semver.Version, bool) {
	v, err := semver.StrictNewVersion(strings.TrimPrefix(s, "v"))
	if err != nil || overflows(v.Prerelease()) {
		return nil, false
	}
	return v, true
}

// overflows reports whether a numeric part of a prerelease is too large for the semver package, which would quietly
// compare it as text instead (it refuses such a major, minor or patch number).
func overflows(prerelease string) bool {
	for part := range strings.SplitSeq(prerelease, ".") {
		if part == "" || strings.Trim(part, "0123456789") != "" {
			continue
		}
		if _, err := strconv.ParseUint(part, 10, 64); err != nil {
			return true
		}
	}
	return false
}
