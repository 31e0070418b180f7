package version_test

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/imgd/imgd/version"
)

// A ruleCase is one block of testdata/rules.txt, which says how it is written.
type ruleCase struct {
	line   int
	info   version.Info
	config version.Config
	wants  []string // the lines after the config
}

// exampleInfo is what all cases have in common.
func exampleInfo(ref string) version.Info {
	return version.Info{Ref: ref, Commit: "90dd6032fac8bda1b6c4436a2e65de27961ed071", DefaultBranch: "master", Event: "push",
		CommitTime: time.Date(2020, 1, 9, 23, 15, 50, 0, time.UTC), AskedAt: time.Date(2020, 1, 10, 0, 30, 0, 0, time.UTC)}
}

func ruleCases(t testing.TB) []ruleCase {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "rules.txt"))
	if err != nil {
		t.Fatal(err)
	}
	return casesOf(t, string(text))
}

func casesOf(t testing.TB, text string) []ruleCase {
	t.Helper()
	var all []ruleCase
	for i, line := range strings.Split(text, "\n") {
		key, value, _ := strings.Cut(line, ": ")
		switch {
		case strings.HasPrefix(line, "refs/"):
			words := strings.Fields(line)
			c := ruleCase{line: i + 1, info: exampleInfo(words[0])}
			for _, word := range words[1:] {
				c.set(t, word)
			}
			all = append(all, c)
		case strings.HasPrefix(line, "#") || strings.TrimSpace(line) == "" && len(all) == 0:
		case strings.HasPrefix(line, "\t"):
			c := &all[len(all)-1].config
			c.Tags = append(c.Tags, line[1:])
		case strings.Contains("flavor label annotation immutable moving", key):
			all[len(all)-1].config = withKey(all[len(all)-1].config, key, value)
		case line != "":
			all[len(all)-1].wants = append(all[len(all)-1].wants, line)
		}
	}
	return all
}

func (c *ruleCase) set(t testing.TB, word string) {
	name, value, _ := strings.Cut(word, "=")
	to, ok := map[string]*string{"event": &c.info.Event, "default": &c.info.DefaultBranch, "base": &c.info.BaseRef,
		"prefix": &c.info.Prefix, "describe": &c.info.Describe, "commit": &c.info.Commit}[name]
	if !ok {
		t.Fatalf("line %d: %s", c.line, word)
	}
	*to = value
}

func withKey(c version.Config, key, value string) version.Config {
	name, text, _ := strings.Cut(value, "=")
	switch key {
	case "flavor":
		c.Flavor = append(c.Flavor, value)
	case "immutable":
		c.Immutable = append(c.Immutable, value)
	case "moving":
		c.Moving = append(c.Moving, value)
	case "label":
		if c.Labels == nil {
			c.Labels = map[string]string{}
		}
		c.Labels[name] = text
	case "annotation":
		c.Annotations = map[string]string{name: text}
	}
	return c
}

// TestRules is docker/metadata-action's documented behaviour, and what imgd does otherwise.
func TestRules(t *testing.T) {
	cases := ruleCases(t)
	if len(cases) < 250 {
		t.Fatalf("only %d cases", len(cases))
	}
	for _, c := range cases {
		t.Run(strconv.Itoa(c.line), func(t *testing.T) { c.check(t) })
	}
}

func (c ruleCase) check(t *testing.T) {
	rules, bad := version.Parse(c.config)
	var named version.Named
	var err error
	if bad == nil {
		named, err = rules.Apply(c.info)
	}
	if len(c.wants) == 0 {
		t.Fatal("the case wants nothing")
	}
	ttl := "0s"
	for _, want := range c.wants {
		head, text, _ := strings.Cut(want, " ")
		switch head {
		case "bad:":
			if bad == nil || !strings.Contains(bad.Error(), text) {
				t.Errorf("refused with %v, want %q", bad, text)
			}
			return
		case "error:":
			if bad != nil || err == nil || !strings.Contains(err.Error(), text) {
				t.Errorf("got %v, %v, want %q", bad, err, text)
			}
			return
		case "ttl:":
			d, _ := time.ParseDuration(text)
			ttl = d.String()
		case "->":
			got := told(named.Tags)
			if strings.Contains(text, "(") {
				got = inWords(named.Tags)
			}
			if bad != nil || err != nil || got != text {
				t.Errorf("got %q, %v, %v, want %q; steps %v", got, bad, err, text, named.Steps)
			}
		case "note:":
			if !noted(named.Steps, text) {
				t.Errorf("no step notes %q: %v", text, named.Steps)
			}
		case "got:":
			name, value, _ := strings.Cut(text, "=")
			if named.Labels[name] != value && named.Annotations[name] != value {
				t.Errorf("labels %v, annotations %v, want %s", named.Labels, named.Annotations, text)
			}
		default:
			t.Fatalf("what is %q?", want)
		}
	}
	if got := named.TTL.String(); got != ttl {
		t.Errorf("ttl %s, want %s", got, ttl)
	}
	c.checkMain(t, named)
}

// checkMain holds what is so in every case: the main tag, and that each rule and tag has its step.
func (c ruleCase) checkMain(t *testing.T, named version.Named) {
	main := ""
	if len(c.config.Tags) > 0 && len(named.Tags) > 0 {
		main = named.Tags[0].Name
	}
	if named.Version != main {
		t.Errorf("version %q, want %q", named.Version, main)
	}
	for _, tag := range named.Tags {
		if !given(named.Steps, tag.Name) {
			t.Errorf("no step tells of %s: %v", tag.Name, named.Steps)
		}
	}
	for _, step := range named.Steps {
		if step.Rule == "" || step.Tag == "" && step.Note == "" {
			t.Errorf("step %+v says nothing", step)
		}
	}
}

// inWords is told as the docs write it.
func inWords(tags []version.Tag) string {
	var words []string
	for _, tag := range tags {
		words = append(words, tag.Name+" ("+string(tag.Kind)+")")
	}
	return strings.Join(words, ", ")
}

func told(tags []version.Tag) string {
	letters := map[version.Kind]string{version.KindVersion: "v", version.KindCommit: "c", version.KindSeries: "s", version.KindBranch: "b", version.KindOther: "o"}
	var words []string
	for _, tag := range tags {
		words = append(words, tag.Name+"="+letters[tag.Kind])
	}
	return strings.Join(words, " ")
}

func noted(steps []version.Step, text string) bool {
	for _, step := range steps {
		if strings.Contains(step.Note, text) {
			return true
		}
	}
	return false
}

func given(steps []version.Step, tag string) bool {
	for _, step := range steps {
		if step.Tag == tag {
			return true
		}
	}
	return false
}

// TestComplaints: each wrong line is told of, with its key and place.
func TestComplaints(t *testing.T) {
	_, err := version.Parse(version.Config{
		Tags: []string{"type=foo", "", "# fine", "type=sha", "type=ref"}, Flavor: []string{"x=y"},
		Labels: map[string]string{"a": "{{x}}"}, Annotations: map[string]string{"b": "{{"}, Immutable: []string{"v*", "["}, Moving: []string{""},
	})
	var wrong version.Complaints
	errors.As(err, &wrong)
	var got []string
	for _, one := range wrong {
		got = append(got, one.Key+"."+one.At)
	}
	if want := "tags.0 tags.4 flavor.0 labels.a annotations.b immutable.1 moving.0"; strings.Join(got, " ") != want {
		t.Errorf("got %v, want %s: %v", got, want, err)
	}
}

// TestRulesDoNotChange: one Rules names any number of builds, at a time.
func TestRulesDoNotChange(t *testing.T) {
	rules, err := version.Parse(version.Config{Tags: []string{"type=edge", "type=semver,pattern={{version}}", "type=sha"}, Flavor: []string{"suffix=-x"}})
	if err != nil {
		t.Fatal(err)
	}
	for range 8 {
		for ref, want := range map[string]string{"refs/heads/master": "edge-x=b sha-90dd603-x=c", "refs/tags/v1.0.0": "1.0.0-x=v sha-90dd603-x=c latest=s"} {
			t.Run("", func(t *testing.T) {
				t.Parallel()
				named, err := rules.Apply(exampleInfo(ref))
				if got := told(named.Tags); err != nil || got != want {
					t.Errorf("got %s, %v, want %s", got, err, want)
				}
			})
		}
	}
}

func TestPullRequest(t *testing.T) {
	for ref, want := range map[string]string{
		"refs/pull/7/head": "7", "refs/pull/7/merge": "7", "refs/merge-requests/12/head": "12", "refs/merge-requests/12/merge": "12",
		"refs/pull/0/head": "", "refs/pull/07/head": "", "refs/pull/7": "", "refs/pull/7/head/x": "", "refs/heads/pull/7/head": "", "": "",
	} {
		if got := version.PullRequest(ref); got != want {
			t.Errorf("%s: got %q, want %q", ref, got, want)
		}
	}
}
