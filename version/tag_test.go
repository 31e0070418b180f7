package version_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/imgd/imgd/version"
)

func TestTags(t *testing.T) {
	for ref, want := range map[string][]string{
		"refs/tags/v1.2.3":         {"v1.2.3 version", "1.2 series", "latest series"},
		"refs/tags/1.2.3":          {"1.2.3 version", "1.2 series", "latest series"},
		"refs/tags/v0.3.1":         {"v0.3.1 version", "0.3 series", "latest series"},
		"refs/tags/v1.2.3+b.5":     {"v1.2.3-b.5 version", "1.2 series", "latest series"},
		"refs/tags/v1.2.3-rc.1":    {"v1.2.3-rc.1 version"},
		"refs/tags/v1.2.3-rc.1+b5": {"v1.2.3-rc.1-b5 version"},
		"refs/tags/v1.2":           {"v1.2 version"},
		"refs/tags/v1":             {"v1 version"},
		"refs/tags/V1.2.3":         {"V1.2.3 version"},
		"refs/tags/vv1.2.3":        {"vv1.2.3 version"},
		"refs/tags/v1.2.3-01":      {"v1.2.3-01 version"},
		"refs/tags/app/v1.2.3":     {"app-v1.2.3 version"},
		"refs/tags/refs/heads/x":   {"refs-heads-x version"},
		"refs/tags/_x":             {"_x version"},
		"refs/heads/main":          {"0123456789ab commit", "main branch"},
		"refs/heads/v1.2.3":        {"0123456789ab commit", "v1.2.3 branch"},
		"refs/heads/feature/a&&b":  {"0123456789ab commit", "feature-a-b branch"},
		"refs/heads/-.-x.":         {"0123456789ab commit", "x. branch"},
		"refs/heads/0123456789ab":  {"0123456789ab commit"},
		"refs/heads/" + strings.Repeat("é", 9) + strings.Repeat("x", 200): {"0123456789ab commit", strings.Repeat("x", 128) + " branch"},
	} {
		t.Run(ref, func(t *testing.T) {
			tags, err := version.Tags(info(ref, "v9.9.9"))
			var got []string
			for _, tag := range tags {
				got = append(got, tag.Name+" "+string(tag.Kind))
			}
			if err != nil || !slices.Equal(got, want) {
				t.Errorf("got %q, %v, want %q", got, err, want)
			}
		})
	}
}

func TestTagsRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		info version.Info
		want string
	}{
		"pull request":         {info("refs/pull/7/head", ""), "refs/heads/"},
		"short ref":            {info("main", ""), "refs/heads/"},
		"no ref":               {info("", ""), "refs/heads/"},
		"no tag name":          {info("refs/tags/", ""), "letters or digits"},
		"no branch name":       {info("refs/heads/", ""), "letters or digits"},
		"nothing left":         {info("refs/heads/日本", ""), "letters or digits"},
		"only dots":            {info("refs/tags/.-.", ""), "letters or digits"},
		"branch, no commit":    {version.Info{Ref: "refs/heads/main"}, "hex digits"},
		"branch, short commit": {version.Info{Ref: "refs/heads/main", Commit: "abc"}, "hex digits"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := version.Tags(tt.info)
			if got != nil || err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, %v, want an error that says %q", got, err, tt.want)
			}
		})
	}
}

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

// FuzzTags holds for any ref and commit: an error, or valid tags, without repetition, immutable first, latest for
// releases only.
func FuzzTags(f *testing.F) {
	for _, ref := range []string{
		"refs/tags/v1.2.3", "refs/tags/v1.2.3-rc.1+b", "refs/tags/-", "refs/heads/main", "refs/heads/feature/x",
		"refs/heads/0123456789ab", "refs/heads/\xff\x00", "refs/pull/1/head", "refs/tags/v1.2.3-99999999999999999999",
	} {
		f.Add(ref, sha1)
	}
	f.Add("refs/heads/main", sha256)
	f.Fuzz(func(t *testing.T, ref, commit string) {
		tags, err := version.Tags(version.Info{Ref: ref, Commit: commit})
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
