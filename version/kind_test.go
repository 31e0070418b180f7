package version_test

import (
	"testing"

	"github.com/imgd/imgd/version"
)

func TestKindOf(t *testing.T) {
	for tag, want := range map[string]version.Kind{
		"v1.2.3": version.KindVersion, "1.2.3-rc.1": version.KindVersion, "latest": version.KindSeries, "1.2": version.KindSeries, "10.0": version.KindSeries, "1": version.KindSeries, "0": version.KindSeries,
		"20200110": version.KindOther, "01": version.KindOther,
		"v1.2": version.KindOther, "01.2": version.KindOther, "1.2.": version.KindOther, "stable": version.KindOther, "0123456789ab": version.KindOther,
	} {
		if got := version.KindOf(tag); got != want {
			t.Errorf("%s: got %s, want %s", tag, got, want)
		}
	}
	// What a build of a version takes has the kind that the build gives it.
	named, err := (*version.Rules)(nil).Apply(version.Info{Ref: "refs/tags/v1.2.3"})
	if err != nil {
		t.Fatal(err)
	}
	for _, tag := range named.Tags {
		if got := version.KindOf(tag.Name); got != tag.Kind {
			t.Errorf("%s: got %s, a build gives it %s", tag.Name, got, tag.Kind)
		}
	}
}
