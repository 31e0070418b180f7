package imgd_test

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/version"
)

const day = 24 * time.Hour

// hold is a tag that was published so many days before epoch.
func hold(name string, kind version.Kind, days int) imgd.Hold {
	return imgd.Hold{Tag: imgd.ReleaseTag{Name: name, Kind: kind, Generation: 1},
		Release: imgd.Release{ID: id(days) + "-1", PublishedAt: epoch.Add(-time.Duration(days) * day)}}
}

// expiring is a hold whose own time ends so many days after epoch.
func expiring(h imgd.Hold, days int) imgd.Hold {
	h.Release.ExpiresAt = epoch.Add(time.Duration(days) * day)
	return h
}

func TestRetention(t *testing.T) {
	const commit, branch, series, vers, other = version.KindCommit, version.KindBranch, version.KindSeries, version.KindVersion, version.KindOther
	pushed := expiring(hold("tmp-1", other, 3), -1)
	pushed.Release.Pushed = true
	claimed, frozen := hold("main-1", commit, 90), expiring(hold("pr-7", branch, 8), -1)
	claimed.Claim, frozen.Frozen = "x-1", "incident 7"
	for _, test := range []struct {
		name  string
		r     imgd.Retention
		holds []imgd.Hold
		want  string // tags that go
		whys  string // of the last tag
	}{
		{"nothing said", imgd.Retention{}, []imgd.Hold{hold("main", branch, 900), hold("v1.0.0", vers, 900)}, "", "nothing says that it expires"},
		{"own time", imgd.Retention{}, []imgd.Hold{expiring(hold("pr-7", branch, 8), -1), expiring(hold("pr-8", branch, 6), 1)}, "pr-7", "it expires at 2026-11-22"},
		{"own time, to the moment", imgd.Retention{}, []imgd.Hold{expiring(hold("pr-7", branch, 7), 0)}, "pr-7", "it expired at 2026-11-21T10:00:00Z"},
		{"never over own time", imgd.Retention{Never: []string{"pr-*"}}, []imgd.Hold{expiring(hold("pr-7", branch, 8), -1)}, "", "never: pr-*"},
		{"never over a rule", imgd.Retention{Never: []string{"sha-1*"}, Rules: []imgd.RetentionRule{{TTL: day}}},
			[]imgd.Hold{hold("sha-1", commit, 9), hold("sha-2", commit, 9)}, "sha-2", "which was over at 2026-11-13"},
		{"versions and series only by name", imgd.Retention{Rules: []imgd.RetentionRule{{Tags: []string{"*"}, TTL: day}}},
			[]imgd.Hold{hold("1.0", series, 9), hold("v1.0.0", vers, 9), hold("x", other, 9)}, "x", ""},
		{"versions by name", imgd.Retention{Rules: []imgd.RetentionRule{{Kinds: []version.Kind{vers}, KeepLast: 1}}},
			[]imgd.Hold{hold("v1.0.0", vers, 9), hold("v1.1.0", vers, 8), hold("x", other, 99)}, "v1.0.0", ""},
		{"keepLast counts what was published last", imgd.Retention{Rules: []imgd.RetentionRule{{Tags: []string{"main-*"}, KeepLast: 2}}},
			[]imgd.Hold{hold("main-a", commit, 1), hold("main-b", commit, 5), hold("main-c", commit, 3), hold("other", other, 0)}, "main-b", ""},
		{"keepLast beside keep, never and claims", imgd.Retention{Never: []string{"main-3"}, Rules: []imgd.RetentionRule{{Keep: []string{"main-2"}, KeepLast: 1}}},
			[]imgd.Hold{claimed, hold("main-2", commit, 1), hold("main-3", commit, 1), hold("main-4", commit, 2), hold("main-5", commit, 3)}, "main-5", "number 2, and the last 1 tags stay"},
		{"ttl or keepLast keeps", imgd.Retention{Rules: []imgd.RetentionRule{{TTL: 2 * day, KeepLast: 1}}},
			[]imgd.Hold{hold("a", commit, 9), hold("b", commit, 1), hold("c", commit, 1), hold("d", commit, 3)}, "a d", "ttl: tags stay for 48h0m0s, which was over at 2026-11-20T10:00:00Z; keepLast: it is number 3"},
		{"ttl to the moment", imgd.Retention{Rules: []imgd.RetentionRule{{TTL: day}}}, []imgd.Hold{hold("a", commit, 1)}, "a", ""},
		{"the first rule decides", imgd.Retention{Rules: []imgd.RetentionRule{{Tags: []string{"rc-*"}, TTL: 30 * day}, {TTL: day}}},
			[]imgd.Hold{hold("rc-1", other, 9), hold("x", other, 9)}, "x", ""},
		{"a rule in place of a build's own time", imgd.Retention{Rules: []imgd.RetentionRule{{Tags: []string{"pr-*"}, TTL: 30 * day}}},
			[]imgd.Hold{expiring(hold("pr-7", branch, 8), -1)}, "", "ttl: tags pr-* stay for 720h0m0s, until 2026-12-13"},
		{"but not of who pushed it", imgd.Retention{Rules: []imgd.RetentionRule{{TTL: 30 * day}}}, []imgd.Hold{pushed}, "tmp-1", "it expired"},
		{"unless it is to be kept", imgd.Retention{Rules: []imgd.RetentionRule{{Keep: []string{"tmp-*"}, TTL: 30 * day}}}, []imgd.Hold{pushed}, "", "keep: tmp-*"},
		{"claimed", imgd.Retention{Rules: []imgd.RetentionRule{{TTL: day}}}, []imgd.Hold{claimed}, "", "release x-1 is about to take it"},
		{"held, over its own time and every rule", imgd.Retention{Rules: []imgd.RetentionRule{{TTL: day}}}, []imgd.Hold{hold("a", commit, 9), frozen}, "a", "held: incident 7"},
		{"a rule that says nothing", imgd.Retention{Rules: []imgd.RetentionRule{{}}}, []imgd.Hold{hold("a", commit, 9)}, "", "neither ttl nor keepLast"},
	} {
		t.Run(test.name, func(t *testing.T) {
			verdicts := test.r.Decide(test.holds, epoch)
			var going []string
			for _, v := range verdicts {
				if v.Why == "" {
					t.Errorf("nobody says why %s goes or stays", v.Tag.Name)
				}
				if v.Goes {
					going = append(going, v.Tag.Name)
				}
			}
			if got := strings.Join(going, " "); got != test.want {
				t.Errorf("%q go, want %q", got, test.want)
			}
			if last := verdicts[len(verdicts)-1]; !strings.Contains(last.Why, test.whys) {
				t.Errorf("%s: %q does not say %q", last.Tag.Name, last.Why, test.whys)
			}
		})
	}
}

var someGlobs = rapid.SliceOfN(rapid.SampledFrom([]string{"*", "v*", "pr-*", "main-?", "latest", "[0-4]*", "x"}), 0, 2)

// someRetention draws one, with rules that overlap.
func someRetention(t *rapid.T) imgd.Retention {
	r := imgd.Retention{Never: someGlobs.Draw(t, "never")}
	for range rapid.IntRange(0, 3).Draw(t, "rules") {
		r.Rules = append(r.Rules, imgd.RetentionRule{
			Tags: someGlobs.Draw(t, "tags"), Keep: someGlobs.Draw(t, "keep"), KeepLast: rapid.IntRange(0, 3).Draw(t, "keepLast"),
			Kinds: rapid.SliceOfN(rapid.SampledFrom([]version.Kind{version.KindVersion, version.KindCommit, version.KindSeries, version.KindBranch, version.KindOther}), 0, 2).Draw(t, "kinds"),
			TTL:   time.Duration(rapid.IntRange(0, 3).Draw(t, "ttl")) * day,
		})
	}
	return r
}

func someHolds(t *rapid.T) (holds []imgd.Hold) {
	names := []string{"latest", "v1.0.0", "v1.1.0", "1.0", "pr-1", "pr-2", "main-a", "main-b", "main-c", "x"}
	for i, name := range rapid.SliceOfNDistinct(rapid.SampledFrom(names), 0, len(names), rapid.ID).Draw(t, "held") {
		h := hold(name, rapid.SampledFrom([]version.Kind{version.KindVersion, version.KindCommit, version.KindSeries, version.KindBranch, version.KindOther}).Draw(t, "kind"),
			rapid.IntRange(0, 5).Draw(t, "days"))
		h.Release.Seq, h.Release.Pushed = uint64(i), rapid.Bool().Draw(t, "pushed")
		if rapid.Bool().Draw(t, "expires") {
			h = expiring(h, rapid.IntRange(-2, 2).Draw(t, "expiry"))
		}
		if rapid.IntRange(0, 4).Draw(t, "claimed") == 0 {
			h.Claim = "x-1"
		}
		if rapid.IntRange(0, 4).Draw(t, "frozen") == 0 {
			h.Frozen = "incident 7"
		}
		holds = append(holds, h)
	}
	return holds
}

func anyOf(globs []string, tag string) bool {
	return slices.ContainsFunc(globs, func(glob string) bool { ok, _ := path.Match(glob, tag); return ok })
}

// goes is the model: what is said of one tag, without the others but for those
// that were published after it.
func goes(r imgd.Retention, h imgd.Hold, all []imgd.Hold) bool {
	ruleOf := func(h imgd.Hold) int {
		for i, rule := range r.Rules {
			moves := h.Tag.Kind != version.KindVersion && h.Tag.Kind != version.KindSeries
			if (len(rule.Tags) == 0 || anyOf(rule.Tags, h.Tag.Name)) && (slices.Contains(rule.Kinds, h.Tag.Kind) || len(rule.Kinds) == 0 && moves) {
				return i
			}
		}
		return -1
	}
	over := func(h imgd.Hold) bool { return !h.Release.ExpiresAt.IsZero() && !epoch.Before(h.Release.ExpiresAt) }
	safe := func(h imgd.Hold) bool {
		i := ruleOf(h)
		return h.Claim != "" || h.Frozen != "" || anyOf(r.Never, h.Tag.Name) || i >= 0 && anyOf(r.Rules[i].Keep, h.Tag.Name)
	}
	i := ruleOf(h)
	switch {
	case safe(h):
		return false
	case i < 0 || h.Release.Pushed && over(h):
		return over(h)
	}
	newer := 0
	for _, o := range all {
		later := o.Release.PublishedAt.After(h.Release.PublishedAt) || o.Release.PublishedAt.Equal(h.Release.PublishedAt) && o.Release.Seq > h.Release.Seq
		if later && !safe(o) && ruleOf(o) == i && (!o.Release.Pushed || !over(o)) {
			newer++
		}
	}
	rule := r.Rules[i]
	if rule.TTL == 0 && rule.KeepLast == 0 || newer < rule.KeepLast {
		return false
	}
	return !epoch.Before(h.Release.PublishedAt.Add(rule.TTL))
}

// Whatever is configured: it decides as the model does, the same whatever the
// order of what it is given, and nothing that is never to go goes.
func TestRetentionAsTheModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r, holds := someRetention(t), someHolds(t)
		verdicts := r.Decide(holds, epoch)
		if len(verdicts) != len(holds) {
			t.Fatalf("%d verdicts about %d tags", len(verdicts), len(holds))
		}
		for _, v := range verdicts {
			if want := goes(r, v.Hold, holds); v.Goes != want {
				t.Errorf("%s goes: %v (%s), want %v", v.Tag.Name, v.Goes, v.Why, want)
			}
			if v.Goes && (anyOf(r.Never, v.Tag.Name) || v.Claim != "" || v.Frozen != "") {
				t.Errorf("%s goes, which never should", v.Tag.Name)
			}
		}
		again := r.Decide(rapid.Permutation(holds).Draw(t, "in another order"), epoch)
		if fmt.Sprint(verdicts) != fmt.Sprint(again) {
			t.Errorf("in another order %v, at first %v", again, verdicts)
		}
	})
}
