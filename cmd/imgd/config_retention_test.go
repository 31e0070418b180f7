package main

import (
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

const retained = `data: /tmp/x
expire: {every: 30m, maxShare: 50}
projects:
  - name: hello
    git: https://git.example.com/x.git
    image: demo/hello
    retention:
      never: ["v*", latest]
      rules:
        - {tags: ["pr-*"], ttl: 48h}
        - {kinds: [commit, other], keepLast: 10, keep: ["keep-*"]}
`

func TestConfigRetention(t *testing.T) {
	cfg, err := load(t, retained, nil, flagValues{})
	if err != nil {
		t.Fatal(err)
	}
	got := cfg.projects("registry.test")["hello"].Retention
	if cfg.Expire.Every != 30*time.Minute || cfg.Expire.MaxShare != 50 || len(got.Never) != 2 || len(got.Rules) != 2 ||
		got.Rules[0].TTL != 48*time.Hour || got.Rules[0].Tags[0] != "pr-*" || got.Rules[1].KeepLast != 10 || len(got.Rules[1].Kinds) != 2 || got.Rules[1].Keep[0] != "keep-*" {
		t.Errorf("got %+v, %+v", cfg.Expire, got)
	}
	for _, bad := range []struct{ from, to, want string }{
		{"every: 30m", "every: 30ms", ":2:17: expire.every: must be at least 1s"},
		{"maxShare: 50", "maxShare: 101", "expire.maxShare: must be 1 to 100"},
		{`"v*"`, `"v["`, `:8:15: projects[0].retention.never[0]: glob "v[": want a pattern`},
		{"ttl: 48h", "ttl: 7d", `projects[0].retention.rules[0].ttl: want a duration`},
		{"ttl: 48h", "ttl: -1h", "retention.rules[0].ttl: must not be negative"},
		{", ttl: 48h", "", ":10:11: projects[0].retention.rules[0]: needs ttl, keepLast or both"},
		{"keepLast: 10", "keepLast: -1", "retention.rules[1].keepLast: must not be negative"},
		{"[commit, other]", "[commits]", `retention.rules[1].kinds[0]: "commits" is none of`},
		{`"keep-*"`, `""`, `retention.rules[1].keep[0]: glob ""`},
		{"keepLast:", "keeplast:", "retention.rules[1].keeplast: there is no such key; did you mean keepLast?"},
	} {
		text := strings.Replace(retained, bad.from, bad.to, 1)
		if _, err := load(t, text, nil, flagValues{}); err == nil || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("%s: got %v, want %s", bad.to, err, bad.want)
		}
	}
}

const holding = `data: /tmp/x
holds:
  - {digest: "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", reason: incident 7}
  - digest: sha256:1123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
    reason: asked for by the court
`

func TestConfigHolds(t *testing.T) {
	cfg, err := load(t, holding, nil, flagValues{})
	if err != nil {
		t.Fatal(err)
	}
	if got := cfg.holds(); len(got) != 2 || got[digest.Digest(cfg.Holds[0].Digest)] != "incident 7" || cfg.Holds[1].Reason != "asked for by the court" {
		t.Errorf("got %q of %+v", got, cfg.Holds)
	}
	for _, bad := range []struct{ from, to, want string }{
		{`"sha256:01`, `"sha256:1`, `:3:14: holds[0].digest: "sha256:123456789`},
		{`"sha256:01`, `"sha512:01`, "holds[0].digest: "},
		{"sha256:1123", "sha256:0123", ":4:13: holds[1].digest: stands in holds[0] already"},
		{"incident 7", `" "`, "holds[0].reason: is missing: whoever wonders"},
		{", reason: incident 7", "", ":3:5: holds[0].reason: is missing"},
		{"asked for", `"two\nlines"`, ""},
		{"asked for by the court", `"two\nlines"`, `holds[1].reason: "two\nlines": want one line`},
		{"reason: asked", "why: asked", "holds[1].why: there is no such key; there are digest, reason"},
		{"holds:", "hold:", "hold: there is no such key; did you mean holds?"},
	} {
		text := strings.Replace(holding, bad.from, bad.to, 1)
		if _, err := load(t, text, nil, flagValues{}); err == nil || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("%s: got %v, want %s", bad.to, err, bad.want)
		}
	}
	if _, err := load(t, holding, map[string]string{"IMGD_HOLDS": "sha256:"}, flagValues{}); err == nil || !strings.Contains(err.Error(), "it stands only in the config file") {
		t.Errorf("from the environment: got %v", err)
	}
}
