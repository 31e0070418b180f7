package imgd_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/version"
)

const pullRef = "refs/pull/7/head"

// ruled is a pipeline of a project that says how its images are named.
func (w *world) ruled(change func(*imgd.Project)) *imgd.Pipeline {
	p := w.pipeline()
	project, _ := p.Projects.Get("hello")
	project.Refs = append(project.Refs, "refs/pull/*")
	change(&project)
	p.Projects = configured(map[string]imgd.Project{"hello": project})
	return p
}

func (w *world) handled(p *imgd.Pipeline, req imgd.Request) (imgd.Release, error) {
	w.t.Helper()
	return p.Handle(w.t.Context(), &req, func(imgd.State) {})
}

// A release is named by the project's rules, keeps why, and gives its labels to
// the records.
func TestRules(t *testing.T) {
	w := newWorld(t)
	w.refs[tagRef] = commit("a")
	p := w.ruled(func(p *imgd.Project) {
		p.Tags = []string{"type=semver,pattern={{version}}", "type=sha", "type=edge"}
		p.Labels = map[string]string{"env": "prod", "commit": "{{sha}}"}
		p.Moving = []string{"sha-*"}
	})
	rel, err := w.handled(p, request(tagRef, 1))
	if err != nil || rel.State != imgd.ReleasePublished {
		t.Fatalf("got %s, %v", rel.State, err)
	}
	var got []string
	for _, tag := range rel.Tags {
		got = append(got, tag.Name+" "+string(tag.Kind))
	}
	if want := "1.2.3 version, sha-aaaaaaa other, latest series"; strings.Join(got, ", ") != want {
		t.Errorf("got %v, want %s", got, want)
	}
	stands, _ := w.index.Release(rel.ID)
	if len(stands.Steps) != 4 || stands.Steps[0] != (version.Step{Rule: "type=semver,pattern={{version}}", Tag: "1.2.3"}) ||
		stands.Steps[1].Note != "refs/tags/v1.2.3 is no branch" {
		t.Errorf("the index keeps %+v", stands.Steps)
	}
	for _, r := range rel.Records() {
		if r.Labels["env"] != "prod" || r.Labels["commit"] != "aaaaaaa" || r.Version != "v1.2.3" || !r.ExpiresAt.IsZero() {
			t.Errorf("record %+v", r)
		}
	}
	w.check()
}

// What no rule names is not built: it ends unchanged, and says which rules there are.
func TestRulesGiveNothing(t *testing.T) {
	w := newWorld(t)
	w.refs[mainRef] = commit("a")
	p := w.ruled(func(p *imgd.Project) { p.Tags = []string{"type=semver,pattern={{version}}"} })
	_, err := w.handled(p, request(mainRef, 1))
	if !errors.Is(err, imgd.ErrUnchanged) || !strings.Contains(err.Error(), "type=semver,pattern={{version}}: refs/heads/main is no tag") || w.made != 0 {
		t.Errorf("got %v, %d builds", err, w.made)
	}
}

// The tags of a pull request are for a week; its next commit moves the one and
// adds another.
func TestPullRequestExpires(t *testing.T) {
	w := newWorld(t)
	w.refs[pullRef] = commit("a")
	p := w.ruled(func(*imgd.Project) {})
	for at, head := range []string{"a", "b"} {
		w.refs[pullRef] = commit(head)
		req := request(pullRef, at)
		rel, err := w.handled(p, req)
		if err != nil || len(rel.Taken()) != 2 || !rel.ExpiresAt.Equal(req.AskedAt.Add(7*24*time.Hour)) {
			t.Fatalf("got %v until %s, %v", rel.Taken(), rel.ExpiresAt, err)
		}
		w.shows("pr-7", rel.Root.Digest)
		w.shows("pr-7-"+strings.Repeat(head, 7), rel.Root.Digest)
	}
	w.check()
}

// A clock's ask moves its tag to what is there, without a build, and only when it asks.
func TestSchedule(t *testing.T) {
	w := newWorld(t)
	w.refs[mainRef] = commit("a")
	p := w.ruled(func(p *imgd.Project) { p.Tags = []string{"type=schedule", "type=ref,event=branch"} })
	pushed, err := w.handled(p, request(mainRef, 1))
	if err != nil || len(pushed.Tags) != 1 {
		t.Fatalf("got %v, %v", pushed.Tags, err)
	}
	nightly := request(mainRef, 2)
	nightly.Event = imgd.EventSchedule
	rel, err := w.handled(p, nightly)
	if err != nil || w.made != 1 || len(rel.Tags) != 1 || rel.Tags[0].Name != "nightly" {
		t.Errorf("got %v, %v, %d builds", rel.Tags, err, w.made)
	}
	w.shows("nightly", pushed.Root.Digest)
	if status := imgd.StatusOf(nightly, imgd.Dead); status.Again().Event != imgd.EventSchedule {
		t.Error("asked again it is no schedule's any more")
	}
}

// Git tags that are no semvers are ordered as people count, so that latest does
// not stay at 1.9 for ever.
func TestSeriesOfOtherVersions(t *testing.T) {
	for name, tt := range map[string]struct {
		rules, tags []string
		series      string
	}{
		"pep440":         {[]string{"type=pep440,pattern={{version}}"}, []string{"1.9", "1.10"}, "latest"},
		"semver, match=": {[]string{"type=semver,pattern={{version}},match=release-(.*)", "type=semver,pattern={{major}},match=release-(.*)"}, []string{"release-1.9.0", "release-1.10.0"}, "1"},
		"match":          {[]string{`type=match,pattern=v(\d+\.\d+),group=1`}, []string{"v1.9", "v1.10"}, "latest"},
		"ref":            {[]string{"type=ref,event=tag"}, []string{"v2026.9", "v2026.10"}, "latest"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			p := w.ruled(func(p *imgd.Project) { p.Tags = tt.rules })
			var last imgd.Release
			for i, tag := range tt.tags {
				ref := "refs/tags/" + tag
				w.refs[ref] = commit(string(rune('a' + i)))
				var err error
				if last, err = w.handled(p, request(ref, i+1)); err != nil {
					t.Fatal(err)
				}
			}
			w.shows(tt.series, last.Root.Digest)
			w.check()
		})
	}
}
