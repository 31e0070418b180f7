package version

import "regexp"

var seriesName = regexp.MustCompile(`^(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)$`)

// KindOf is the kind of a tag that nobody has taken yet, where nothing but its name says what it is: a version by itself is
// immutable, 1.2 and latest are series as Tags makes them, anything else is other.
func KindOf(tag string) Kind {
	switch {
	case IsVersion(tag):
		return KindVersion
	case tag == "latest" || seriesName.MatchString(tag):
		return KindSeries
	}
	return KindOther
}
