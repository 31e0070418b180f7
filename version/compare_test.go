package version_test

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/imgd/imgd/version"
)

// order lists groups of versions that compare equal, lowest first.
var order = [][]string{
	{""}, {"01.2"}, {"1.2"}, {"1.9"}, {"1.10"}, {"1.10.0.1"}, {"2024.09.30"}, {"2024.10.1.2"}, {"V1.2.3"}, {"app/v1.2.3"}, {"main"}, // no semvers
	{"release-1.9.0"}, {"release-1.10"}, {"release-1.10.0"}, {"v1.0.0-99999999999999999999"}, {"v01.2.3"}, {"v1.9"}, {"v1.10"}, {"vv1.2.3"},
	{"v0.0.0-20261121100000-ffffffffffff"}, {"v0.0.0-20261121100001-000000000000"}, // pseudo: by time
	{"v0.0.0"}, {"v0.3.1"},
	{"1.0.0-alpha"}, {"1.0.0-alpha.1"}, {"1.0.0-alpha.beta"}, {"1.0.0-beta"}, {"1.0.0-beta.2"}, {"1.0.0-beta.11"}, // semver.org
	{"1.0.0-rc.1", "v1.0.0-rc.1", "1.0.0-rc.1+b"}, {"1.0.0", "v1.0.0", "v1.0.0+a", "1.0.0+b"},
	{"v1.2.3-10-gabcdef0"}, {"v1.2.3-4-gabcdef0"}, {"v1.2.3"}, // describe's answers: before, and as text
	{"v1.9.0"}, {"v1.10.0"}, {"v2.0.0"}, {"v18446744073709551615.0.0"},
}

func TestCompare(t *testing.T) {
	for i, as := range order {
		for j, bs := range order {
			for _, a := range as {
				for _, b := range bs {
					if got, want := version.Compare(a, b), sign(i-j); got != want {
						t.Errorf("Compare(%q, %q): got %d, want %d", a, b, got, want)
					}
				}
			}
		}
	}
}

func sign(n int) int { return max(-1, min(1, n)) }

// versions draws strings close to semver, so that precedence is decided late, and some that are none.
var versions = rapid.OneOf(
	rapid.StringMatching(`v?[0-2]\.[0-2]\.(0|1|18446744073709551616)(-(0|1|10|a|-|01|18446744073709551615|99999999999999999999)(\.(0|2|a|b-1)){0,2})?(\+[a-b])?`),
	rapid.StringMatching(`v1\.2\.3-[0-9]{1,2}-g[0-9a-f]{2}`),
	rapid.StringMatching(`(v|V)?[01](\.[01]){0,3}`),
	rapid.StringMatching(`a?(0|00|1|01|9|10|010)(\.|-)?(a|1|10)?`),
	rapid.String(),
)

// preorder is what sorting and the marks of the index rest on.
func preorder(t *rapid.T) {
	a, b, c := versions.Draw(t, "a"), versions.Draw(t, "b"), versions.Draw(t, "c")
	ab, bc, ac := version.Compare(a, b), version.Compare(b, c), version.Compare(a, c)
	if version.Compare(a, a) != 0 {
		t.Fatalf("%q does not equal itself", a)
	}
	if ba := version.Compare(b, a); ab != -ba {
		t.Fatalf("Compare(%q, %q) = %d, and %d the other way round", a, b, ab, ba)
	}
	if ab <= 0 && bc <= 0 && ac != min(ab, bc) {
		t.Fatalf("%q, %q, %q: got %d and %d, but %d from first to last", a, b, c, ab, bc, ac)
	}
}

func TestCompareIsPreorder(t *testing.T) { rapid.Check(t, preorder) }

func FuzzCompare(f *testing.F) { f.Fuzz(rapid.MakeFuzz(preorder)) }

func TestIsVersion(t *testing.T) {
	for s, want := range map[string]bool{
		"v1.2.3": true, "1.2.3": true, "v1.2.3-rc.1": true, "v1.2.3+b5": true,
		"": false, "v1.2": false, "latest": false, "v01.2.3": false, "build-7": false, "V1.2.3": false, "v1.2.3 ": false,
		"v1.2.3-" + strings.Repeat("a", 200): false,
	} {
		if got := version.IsVersion(s); got != want {
			t.Errorf("IsVersion(%q) is %t, want %t", s, got, want)
		}
	}
}
