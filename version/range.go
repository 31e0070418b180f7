package version

import (
	"fmt"

	"github.com/Masterminds/semver/v3"
)

// A Range is a set of versions. The zero Range has every string.
type Range struct{ constraints *semver.Constraints }

// ParseRange reads a range as Masterminds/semver writes them: ^1.2, ~1.2.3, >=1.2 <2 || 3.x, 1.2 - 1.4.5. Prereleases are in
// a range only if it names one, as >=1.2.0-0.
func ParseRange(s string) (Range, error) {
	constraints, err := semver.NewConstraint(s)
	if err != nil {
		return Range{}, fmt.Errorf("version range %.*q: want one as ^1.2, ~1.2.3 or >=1.2 <2: %w", shown, s, err)
	}
	return Range{constraints}, nil
}

// Has reports whether v, with or without a leading v, is in the range. What is no strict semver is in the zero Range only.
func (r Range) Has(v string) bool {
	if r.constraints == nil {
		return true
	}
	parsed, ok := semverOf(v)
	return ok && r.constraints.Check(parsed)
}
