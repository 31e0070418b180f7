package version

import "regexp"

// seriesName is 1 or 1.2. A number of more digits is a date or a commit.
var seriesName = regexp.MustCompile(`^(0|[1-9][0-9]{0,3}|(0|[1-9][0-9]*)\.(0|[1-9][0-9]*))$`)

// KindOf is the kind of a tag that nobody has taken yet, where nothing but its name says what it is: a version by itself is
// immutable, 1.2, 1 and latest are series as a release makes them, anything else is other.
func KindOf(tag string) Kind {
	switch {
	case IsVersion(tag):
		return KindVersion
	case tag == "latest" || seriesName.MatchString(tag):
		return KindSeries
	}
	return KindOther
}
