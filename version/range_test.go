package version_test

import (
	"strings"
	"testing"

	"github.com/imgd/imgd/version"
)

func TestRange(t *testing.T) {
	for _, test := range []struct{ in, has, lacks string }{
		{"^1.2", "1.2.0 v1.2.3 v1.9.0", "1.1.9 v2.0.0 v1.3.0-rc.1 latest v1.2 main"},
		{"~1.2.3", "v1.2.3 v1.2.9", "v1.2.2 v1.3.0"},
		{">=1.2 <2 || 3.x", "v1.2.0 v3.4.5", "v2.0.0 v4.0.0"},
		{">=1.2.0-0", "v1.2.0-rc.1 v1.2.0", "v1.1.0"},
		{"v1.2.3", "v1.2.3 1.2.3 v1.2.3+build", "v1.2.4"},
	} {
		r, err := version.ParseRange(test.in)
		if err != nil {
			t.Fatal(err)
		}
		for want, words := range map[bool]string{true: test.has, false: test.lacks} {
			for v := range strings.FieldsSeq(words) {
				if got := r.Has(v); got != want {
					t.Errorf("%s has %s: got %t", test.in, v, got)
				}
			}
		}
	}
	if !(version.Range{}).Has("main") {
		t.Error("the zero range has not every string")
	}
	for _, bad := range []string{"", "^", "newest", "1.2.3.4.5", strings.Repeat("9", 999)} {
		if _, err := version.ParseRange(bad); err == nil || len(err.Error()) > 300 {
			t.Errorf("%.20q: got %v", bad, err)
		}
	}
}
