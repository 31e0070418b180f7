package main

import (
	"slices"
	"strings"
	"testing"
	"time"
)

const auditing = `data: /tmp/x
audit: {every: 30m, rate: 5, depth: bytes, repair: true, ignore: ["ci-*"]}
`

func TestConfigAudit(t *testing.T) {
	cfg, err := load(t, auditing, nil, flagValues{})
	if err != nil {
		t.Fatal(err)
	}
	if got := cfg.Audit; got.Every != 30*time.Minute || got.Rate != 5 || got.Depth != "bytes" || !got.Repair || !slices.Equal(got.Ignore, []string{"ci-*"}) {
		t.Errorf("got %+v", got)
	}
	if got := defaultConfig().Audit; got.Every != 6*time.Hour || got.Rate != 20 || got.Depth != "parts" || got.Repair || len(got.Ignore) != 2 {
		t.Errorf("by default %+v", got)
	}
	off, err := load(t, "data: /tmp/x\naudit: {every: 0, ignore: []}\n", nil, flagValues{})
	if err != nil || off.Audit.Every != 0 || len(off.Audit.Ignore) != 0 {
		t.Errorf("off: %+v, %v", off.Audit, err)
	}
	for _, bad := range []struct{ from, to, want string }{
		{"every: 30m", "every: 30ms", ":2:16: audit.every: must be at least 1s"},
		{"rate: 5", "rate: 0", "audit.rate: must be at least 1"},
		{"depth: bytes", "depth: deep", `audit.depth: "deep" is not known; use tag, parts, bytes`},
		{`"ci-*"`, `"ci-["`, `audit.ignore[0]: "ci-[" is no glob`},
		{"repair:", "repairs:", "did you mean repair?"},
	} {
		text := strings.Replace(auditing, bad.from, bad.to, 1)
		if _, err := load(t, text, nil, flagValues{}); err == nil || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("%s: got %v, want %s", bad.to, err, bad.want)
		}
	}
}
