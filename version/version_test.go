package version_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/imgd/imgd/version"
)

var update = flag.Bool("update", false, "write the golden file anew")

const (
	sha1   = "0123456789abcdef0123456789abcdef01234567"
	sha256 = sha1 + "89abcdef0123456789abcdef"
)

// commitTime is 10:00 in UTC, told in a zone that has another date.
var commitTime = time.Date(2026, 11, 22, 0, 0, 0, 0, time.FixedZone("+14", 14*3600))

func info(ref, describe string) version.Info {
	return version.Info{Ref: ref, Commit: sha1, CommitTime: commitTime, Describe: describe}
}

func prefixed(ref, describe string) version.Info {
	i := info(ref, describe)
	i.Prefix = "svc-a/"
	return i
}

// TestGolden keeps all that a build is called, for refs as they are found: it shows what a change of a rule changes.
func TestGolden(t *testing.T) {
	var b strings.Builder
	for _, i := range []version.Info{
		info("refs/tags/v1.2.3", "v1.2.3"), info("refs/tags/1.2.3", ""), info("refs/tags/v0.3.1", ""),
		info("refs/tags/v1.2.3-rc.1", ""), info("refs/tags/v1.2.3+build.5", ""), info("refs/tags/v1.2.3-rc.1+b5", ""),
		info("refs/tags/v1.2", ""), info("refs/tags/v01.2.3", ""), info("refs/tags/app/v1.2.3", ""),
		info("refs/tags/nightly", ""), info("refs/tags/latest", ""), info("refs/tags/@scope/pkg@1.0.0", ""),
		info("refs/heads/main", "v1.2.3-4-gabcdef0"), info("refs/heads/main", "v1.2.3"), info("refs/heads/main", ""),
		info("refs/heads/feature/x", ""), info("refs/heads/latest", ""), info("refs/heads/feat$x", ""),
		info("refs/heads/"+sha1[:12], ""), info("refs/heads/-x", ""), info("refs/heads/日本", ""), info("refs/heads/", ""),
		info("refs/pull/7/head", "v1.2.3-4-gabcdef0"), info("refs/pull/7/head", ""), info("main", ""),
	} {
		describeBuild(&b, i)
	}
	golden(t, "names.golden", b.String())
}

func describeBuild(b *strings.Builder, i version.Info) {
	fmt.Fprintf(b, "%s describe=%q\n", i.Ref, i.Describe)
	line := func(name string, v any, err error) {
		if err != nil {
			fmt.Fprintf(b, "  %-7s error: %v\n", name, err)
			return
		}
		out, _ := json.Marshal(v)
		fmt.Fprintf(b, "  %-7s %s\n", name, out)
	}
	v, err := version.Of(i)
	line("version", v, err)
	tags, err := defaults(i)
	line("tags", tags, err)
	values, err := version.ValuesOf(i)
	line("values", values, err)
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got\n%s\nwant (go test -update writes it anew)\n%s", got, want)
	}
}

func TestOf(t *testing.T) {
	for name, tt := range map[string]struct {
		info version.Info
		want string
	}{
		"tag beats describe": {info("refs/tags/v2.0.0", "v1.0.0"), "v2.0.0"},
		"describe":           {info("refs/heads/main", "v1.2.3-4-gabcdef0"), "v1.2.3-4-gabcdef0"},
		"pseudo, UTC":        {info("refs/heads/main", ""), "v0.0.0-20261121100000-0123456789ab"},
		"pseudo, sha256": {version.Info{Ref: "refs/pull/1/head", Commit: sha256, CommitTime: time.Unix(0, 0)},
			"v0.0.0-19700101000000-0123456789ab"},
		"prefix of a tag":     {prefixed("refs/tags/svc-a/v1.2.0", ""), "v1.2.0"},
		"prefix of describe":  {prefixed("refs/heads/main", "v1.2.0-3-gabcdef0"), "v1.2.0-3-gabcdef0"},
		"tag needs no commit": {version.Info{Ref: "refs/tags/v1.0.0"}, "v1.0.0"},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := version.Of(tt.info); err != nil || got != tt.want {
				t.Errorf("got %q, %v, want %q", got, err, tt.want)
			}
		})
	}
}

func TestOfRefuses(t *testing.T) {
	for name, i := range map[string]version.Info{
		"other prefix":     prefixed("refs/tags/svc-b/v1.2.0", ""),
		"no name":          info("refs/tags/", ""),
		"space in the tag": info("refs/tags/v1 -X main.admin=evil", ""),
		"quote":            info("refs/tags/v1'", ""),
		"describe":         info("refs/heads/main", "v1$x-4-gabcdef0"),
		"newline":          info("refs/heads/main", "v1.2.3\n"),
		"too long":         info("refs/tags/v"+strings.Repeat("1", 128), ""),
		"short commit":     {Ref: "refs/heads/main", Commit: "abcdef0", CommitTime: commitTime},
		"no commit":        {Ref: "refs/heads/main", CommitTime: commitTime},
		"no time":          {Ref: "refs/heads/main", Commit: sha1},
		"five-digit year":  {Ref: "refs/heads/main", Commit: sha1, CommitTime: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := version.Of(i)
			if err == nil || got != "" {
				t.Fatalf("got %q, %v, want an error", got, err)
			}
			if !strings.Contains(err.Error(), fmt.Sprintf("%.20q", i.Ref)[:8]) {
				t.Errorf("got %q, want the ref in it", err)
			}
		})
	}
}
