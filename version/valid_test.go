package version_test

import (
	"strings"
	"testing"

	"github.com/imgd/imgd/version"
)

// injections are what a value must never carry into a command line; the first four were seen to work with go build.
var injections = []string{
	"1 -X main.admin=evil", "1 -extld=/x/evil.sh -linkmode=external", "1\n-o /path", "1' '-X main.a=b", `1"`, `1\`, "1$(id)",
	"1`id`", "$HOME", "-X", "-", ".x", "1\x00", "1\t2", "1\r", "1;id", "1&", "1|", "1>x", "1*", "1=2", "1,2", "1\u00a02",
	"é", "1\u202e", "\xff", "v1.2.3\n",
}

func TestInjections(t *testing.T) {
	for rule, valid := range map[string]func(string) error{
		"ValidValue": version.ValidValue, "ValidVersion": version.ValidVersion, "ValidTag": version.ValidTag,
		"ValidCommit": version.ValidCommit,
	} {
		for _, s := range append(injections, "") {
			if valid(s) == nil {
				t.Errorf("%s(%q) passes, want an error", rule, s)
			}
		}
	}
}

func TestValid(t *testing.T) {
	for _, tt := range []struct {
		rule  string
		valid func(string) error
		s     string
		want  bool
	}{
		{"ValidValue", version.ValidValue, "v1.2.3-rc.1+b_5", true},
		{"ValidValue", version.ValidValue, strings.Repeat("a", 128), true},
		{"ValidValue", version.ValidValue, strings.Repeat("a", 129), false},
		{"ValidValue", version.ValidValue, "a/b", false},
		{"ValidValue", version.ValidValue, "_a", false},
		{"ValidVersion", version.ValidVersion, "app/v1.2.3", true},
		{"ValidVersion", version.ValidVersion, strings.Repeat("a", 128), true},
		{"ValidVersion", version.ValidVersion, strings.Repeat("a", 129), false},
		{"ValidVersion", version.ValidVersion, "/v1", false},
		{"ValidVersion", version.ValidVersion, "a//v1", false},
		{"ValidVersion", version.ValidVersion, "a/", false},
		{"ValidVersion", version.ValidVersion, "a/../b", false},
		{"ValidVersion", version.ValidVersion, "a/-b", false},
		{"ValidTag", version.ValidTag, "_a.b-c", true},
		{"ValidTag", version.ValidTag, strings.Repeat("a", 128), true},
		{"ValidTag", version.ValidTag, strings.Repeat("a", 129), false},
		{"ValidTag", version.ValidTag, "v1+b", false},
		{"ValidTag", version.ValidTag, "a/b", false},
		{"ValidCommit", version.ValidCommit, sha1, true},
		{"ValidCommit", version.ValidCommit, sha256, true},
		{"ValidCommit", version.ValidCommit, sha1[:39], false},
		{"ValidCommit", version.ValidCommit, sha1 + "0", false},
		{"ValidCommit", version.ValidCommit, strings.ToUpper(sha1), false},
		{"ValidCommit", version.ValidCommit, "g" + sha1[1:], false},
	} {
		if err := tt.valid(tt.s); (err == nil) != tt.want {
			t.Errorf("%s(%q): got %v, want passes %t", tt.rule, tt.s, err, tt.want)
		}
	}
}

func TestErrorsStayShort(t *testing.T) {
	long := strings.Repeat("$", 1<<20)
	_, ofErr := version.Of(info("refs/tags/"+long, ""))
	_, tagsErr := defaults(info("refs/tags/"+long, ""))
	for _, err := range []error{
		version.ValidValue(long), version.ValidVersion(long), version.ValidTag(long), version.ValidCommit(long),
		version.CheckTemplate(long), ofErr, tagsErr,
	} {
		if err == nil || len(err.Error()) > 1000 {
			t.Errorf("got %.100v…, want an error of at most 1000 bytes", err)
		}
	}
}

func TestReserved(t *testing.T) {
	for arg, want := range map[string]bool{
		"BUILDKIT_SYNTAX": true, "BUILDKIT_CONTEXT_KEEP_GIT_DIR": true, "buildkit_syntax": true, "BUILDKIT_": true,
		"HTTP_PROXY": true, "http_proxy": true, "https_Proxy": true, "NO_PROXY": true, "all_proxy": true, "FTP_PROXY": true,
		"httpſ_proxy": true, // strings.EqualFold, which BuildKit asks, takes the long s for an s
		"VERSION":     true, "COMMIT": true, "DATE": true, "LDFLAGS": true, "SOURCE_DATE_EPOCH": true, "DOCKER_META_VERSION": true, "DOCKER_META_IMAGES": true,
		"version": false, "GOPROXY": false, "BUILDKIT": false, "MY_BUILDKIT_X": false, "PROXY_HOST": false, "GO_VERSION": false, "": false,
	} {
		if got := version.Reserved(arg); got != want {
			t.Errorf("Reserved(%q): got %t, want %t", arg, got, want)
		}
	}
}
