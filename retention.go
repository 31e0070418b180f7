package imgd

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/imgd/imgd/version"
)

// A Retention says which tags of a project's image are removed by themselves.
// The zero value removes those whose own time has run out: see Release.ExpiresAt.
type Retention struct {
	Never []string        // globs, as path.Match has them, of tags that are never removed so, whatever else says so
	Rules []RetentionRule // of those that match a tag the first decides about it
}

// A RetentionRule says which of its tags stay; the others go. Of a tag that a
// build has made it decides in place of the tag's own time.
type RetentionRule struct {
	Tags  []string       // globs of the tags that are meant; none: all,
	Kinds []version.Kind // and are of these kinds; none: commit, branch and other

	// A tag stays for any of these reasons. With neither TTL nor KeepLast all do.
	Keep     []string      // globs
	TTL      time.Duration // it was published less than that ago
	KeepLast int           // it is among so many of the rule that were published last; those of Keep do not count
}

// A Hold is a tag that names something, with the release that has it.
type Hold struct {
	Tag     ReleaseTag
	Release Release
	Claim   string // admitted release that is about to take the tag, "" if none is
	Frozen  string // why an operator holds the image, "" if none does: see AuditHolds
}

// A Verdict says whether a tag goes, and why, or why it stays.
type Verdict struct {
	Hold
	Goes bool
	Why  string
}

// Decide says of each tag of an image whether it is to go now. The answer, in
// the order of tags, rests on nothing else than what is given.
func (r Retention) Decide(holds []Hold, now time.Time) []Verdict {
	verdicts := make([]Verdict, 0, len(holds))
	ruled := map[int][]*Verdict{} // what is left to a rule, by its place
	for _, h := range holds {
		verdicts = append(verdicts, Verdict{Hold: h})
	}
	slices.SortFunc(verdicts, func(a, b Verdict) int { return cmp.Compare(a.Tag.Name, b.Tag.Name) })
	for i := range verdicts {
		v := &verdicts[i]
		if rule, left := r.judge(v, now); left {
			ruled[rule] = append(ruled[rule], v)
		}
	}
	for rule, left := range ruled {
		r.Rules[rule].choose(left, now)
	}
	return verdicts
}

// judge decides about one tag, or leaves it to the rule that is answered.
func (r Retention) judge(v *Verdict, now time.Time) (rule int, left bool) {
	rule = slices.IndexFunc(r.Rules, func(rule RetentionRule) bool { return rule.means(v.Tag) })
	expires := v.Release.ExpiresAt
	over := !expires.IsZero() && !expires.After(now)
	if v.Claim != "" {
		v.Why = "release " + v.Claim + " is about to take it"
		return rule, false
	}
	if v.Frozen != "" {
		v.Why = "held: " + v.Frozen
		return rule, false
	}
	if glob, ok := matching(r.Never, v.Tag.Name); ok {
		v.Why = "never: " + glob
		return rule, false
	}
	if rule >= 0 {
		if glob, ok := matching(r.Rules[rule].Keep, v.Tag.Name); ok {
			v.Why = "keep: " + glob
			return rule, false
		}
	}
	switch {
	case over && (rule < 0 || v.Release.Pushed): // who pushed it has named the time himself
		v.Goes, v.Why = true, "it expired at "+expires.UTC().Format(time.RFC3339)
	case rule >= 0:
		return rule, true
	case expires.IsZero():
		v.Why = "nothing says that it expires"
	default:
		v.Why = "it expires at " + expires.UTC().Format(time.RFC3339)
	}
	return rule, false
}

// choose decides about the tags that are left to the rule.
func (r RetentionRule) choose(left []*Verdict, now time.Time) {
	slices.SortFunc(left, func(a, b *Verdict) int { // the last published first
		return cmp.Or(b.Release.PublishedAt.Compare(a.Release.PublishedAt), cmp.Compare(b.Release.Seq, a.Release.Seq), cmp.Compare(a.Tag.Name, b.Tag.Name))
	})
	for i, v := range left {
		until := v.Release.PublishedAt.Add(r.TTL)
		switch {
		case r.TTL == 0 && r.KeepLast == 0:
			v.Why = "the rule for " + r.String() + " has neither ttl nor keepLast"
		case i < r.KeepLast:
			v.Why = fmt.Sprintf("keepLast: it is number %d of the last %d %s", i+1, r.KeepLast, r)
		case r.TTL > 0 && now.Before(until):
			v.Why = fmt.Sprintf("ttl: %s stay for %s, until %s", r, r.TTL, until.UTC().Format(time.RFC3339))
		default:
			v.Goes, v.Why = true, r.over(i+1, until)
		}
	}
}

// over says why the rule keeps a tag no longer: it is the place-th, and had its
// time until then.
func (r RetentionRule) over(place int, until time.Time) string {
	var why []string
	if r.TTL > 0 {
		why = append(why, fmt.Sprintf("ttl: %s stay for %s, which was over at %s", r, r.TTL, until.UTC().Format(time.RFC3339)))
	}
	if r.KeepLast > 0 {
		why = append(why, fmt.Sprintf("keepLast: it is number %d, and the last %d %s stay", place, r.KeepLast, r))
	}
	return strings.Join(why, "; ")
}

// means reports whether the rule is about the tag.
func (r RetentionRule) means(t ReleaseTag) bool {
	kinds := r.Kinds
	if len(kinds) == 0 {
		kinds = []version.Kind{version.KindCommit, version.KindBranch, version.KindOther}
	}
	_, ok := matching(r.Tags, t.Name)
	return slices.Contains(kinds, t.Kind) && (ok || len(r.Tags) == 0)
}

// String names the tags that the rule is about.
func (r RetentionRule) String() string {
	words := "tags"
	if len(r.Kinds) > 0 {
		var kinds []string
		for _, kind := range r.Kinds {
			kinds = append(kinds, string(kind))
		}
		words = strings.Join(kinds, " and ") + " tags"
	}
	if len(r.Tags) > 0 {
		words += " " + strings.Join(r.Tags, ", ")
	}
	return words
}

// matching is the first of the globs that matches the tag.
func matching(globs []string, tag string) (string, bool) {
	for _, glob := range globs {
		if ok, err := path.Match(glob, tag); ok && err == nil { // who reads the config has checked it
			return glob, true
		}
	}
	return "", false
}

// fewTags may always go at once, whatever share of an image's they are: those of
// one pull request.
const fewTags = 3

// tooMany reports whether so many of all the tags of an image are more than share
// percent, at once.
func tooMany(going, all, share int) bool { return going > fewTags && going*100 > all*share }
