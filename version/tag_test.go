package version_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/imgd/imgd/version"
)

func TestKindImmutable(t *testing.T) {
	for kind, want := range map[version.Kind]bool{
		version.KindVersion: true, version.KindCommit: true,
		version.KindSeries: false, version.KindBranch: false, version.KindOther: false, "": false, "Version": false,
	} {
		if got := kind.Immutable(); got != want {
			t.Errorf("%q: got %t, want %t", kind, got, want)
		}
	}
}

func TestTagJSON(t *testing.T) {
	got, err := json.Marshal(version.Tag{Name: "v1.2.3", Kind: version.KindVersion})
	if want := `{"tag":"v1.2.3","kind":"version"}`; err != nil || string(got) != want {
		t.Errorf("got %s, %v, want %s", got, err, want)
	}
}

// defaults are the tags without rules.
func defaults(i version.Info) ([]version.Tag, error) {
	named, err := (*version.Rules)(nil).Apply(i)
	return named.Tags, err
}

// FuzzTags holds for any ref and commit: an error, or valid tags, without repetition, immutable first, latest for
// releases only.
func FuzzTags(f *testing.F) {
	for _, ref := range []string{
		"refs/tags/v1.2.3", "refs/tags/v1.2.3-rc.1+b", "refs/tags/-", "refs/heads/main", "refs/heads/feature/x",
		"refs/heads/0123456789ab", "refs/heads/\xff\x00", "refs/pull/1/head", "refs/merge-requests/12/merge", "refs/tags/v1.2.3-99999999999999999999",
	} {
		f.Add(ref, sha1)
	}
	f.Add("refs/heads/main", sha256)
	f.Fuzz(func(t *testing.T, ref, commit string) {
		tags, err := defaults(version.Info{Ref: ref, Commit: commit})
		if (err == nil) == (len(tags) == 0) {
			t.Fatalf("got tags %v with error %v, want one of the two", tags, err)
		}
		checkTags(t, ref, tags)
	})
}

func checkTags(t *testing.T, ref string, tags []version.Tag) {
	t.Helper()
	seen := map[string]bool{}
	moving := false
	for _, tag := range tags {
		if err := version.ValidTag(tag.Name); err != nil {
			t.Error(err)
		}
		if seen[tag.Name] {
			t.Errorf("got %q twice", tag.Name)
		}
		if moving && tag.Kind.Immutable() {
			t.Errorf("got %v, want immutable tags first", tags)
		}
		seen[tag.Name], moving = true, moving || !tag.Kind.Immutable()
		release, _, _ := strings.Cut(ref, "+")
		if tag.Kind == version.KindSeries && (!strings.HasPrefix(ref, "refs/tags/") || strings.Contains(release, "-")) {
			t.Errorf("got %v for %q, want series tags for releases only", tags, ref)
		}
	}
}
