package version_test

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/imgd/imgd/version"
)

// FuzzRules holds for any config and any ref: an error, or valid tags without repetition, each with its step, the same
// again, and of bounded size. It goes through every parser of the package: lines, expressions, dates, regular
// expressions, semver and PEP 440, refs.
func FuzzRules(f *testing.F) {
	for _, c := range ruleCases(f) {
		label := ""
		for _, value := range c.config.Labels {
			label = value
		}
		f.Add(strings.Join(c.config.Tags, "\n"), strings.Join(c.config.Flavor, "\n"), label, strings.Join(c.config.Immutable, "\n"), c.info.Ref, c.info.Describe, c.info.Prefix, c.info.AskedAt.Unix())
	}
	f.Add("type=match,pattern=(a*)*b", "", "", "*a*a*a*a*b", "refs/tags/"+strings.Repeat("a", 900), "", "", int64(-1))
	f.Add("type=raw,value="+strings.Repeat("{{tag}}", 500), "", strings.Repeat("{{tag}}", 500), "", "refs/tags/"+strings.Repeat("=", 900), "", "", int64(1<<40))
	f.Fuzz(func(t *testing.T, tags, flavor, label, glob, ref, describe, prefix string, asked int64) {
		lines := func(s string) []string {
			if s == "" {
				return nil
			}
			return strings.Split(s, "\n")
		}
		rules, err := version.Parse(version.Config{Tags: lines(tags), Flavor: lines(flavor), Labels: map[string]string{"x": label}, Immutable: lines(glob)})
		if err != nil {
			if len(err.Error()) > 2000*(1+strings.Count(tags+flavor+glob, "\n")) || rules != nil {
				t.Errorf("an error of %d bytes, rules %v", len(err.Error()), rules)
			}
			return
		}
		i := exampleInfo(ref)
		i.Describe, i.Prefix, i.AskedAt = describe, prefix, time.Unix(asked%(1<<40), 0)
		named, err := rules.Apply(i)
		if err != nil {
			return
		}
		again, err := rules.Apply(i)
		if err != nil || told(again.Tags) != told(named.Tags) || again.Labels["x"] != named.Labels["x"] {
			t.Errorf("got %v, then %v, %v", named, again, err)
		}
		checkNamed(t, named)
	})
}

func checkNamed(t *testing.T, named version.Named) {
	t.Helper()
	seen := map[string]bool{}
	for _, tag := range named.Tags {
		if err := version.ValidTag(tag.Name); err != nil {
			t.Error(err)
		}
		if seen[tag.Name] || !given(named.Steps, tag.Name) || told([]version.Tag{tag}) == tag.Name+"=" {
			t.Errorf("tag %+v: twice %t; steps %v", tag, seen[tag.Name], named.Steps)
		}
		seen[tag.Name] = true
	}
	for _, step := range named.Steps {
		if len(step.Rule) > 200 || len(step.Note) > 1500 || !utf8.ValidString(step.Rule+step.Note) {
			t.Errorf("step of %d and %d bytes: %+v", len(step.Rule), len(step.Note), step)
		}
	}
}
