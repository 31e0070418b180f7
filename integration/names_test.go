package integration_test

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/integration/kit"
)

// explain is what imgctl says of a build of ref before it.
func (s *site) explain(project, ref string) imgd.Explanation {
	s.Helper()
	var all []imgd.Explanation
	s.must(json.Unmarshal([]byte(s.imgctl("explain", project, "--ref", ref, "-o", "json")), &all))
	return all[0]
}

// named builds what ref names, compares what explain said before with what has become of it, and answers the tags that the
// release took.
func (s *site) named(project, ref string) string {
	s.Helper()
	told := s.explain(project, ref)
	args := []string{"build", project, "--ref", ref, "--wait", "-o", "json"}
	if told.End == imgd.Conflicted {
		s.exit(5, args...)
	} else {
		s.imgctl(args...)
	}
	var request struct {
		State, Release string
		Tags           []struct{ Tag, Reason string }
	}
	body, err := kit.Get(s.Context(), s.daemon.HTTP+"/v1/requests/"+told.Request)
	s.must(err)
	s.must(json.Unmarshal(body, &request))
	if request.State != string(told.End) {
		s.Errorf("%s of %s was to end %s, and ended %s: %s", ref, project, told.End, request.State, body)
	}
	var would, has []string
	for _, tag := range told.Tags {
		if tag.Taken {
			would = append(would, tag.Tag)
		}
	}
	for _, tag := range request.Tags {
		if tag.Reason == "" {
			has = append(has, tag.Tag)
		}
	}
	if told.End != imgd.Published {
		return string(told.End)
	}
	slices.Sort(would)
	if slices.Sort(has); !slices.Equal(would, has) {
		s.Errorf("%s of %s was to take %q, and took %q", ref, project, would, has)
	}
	s.labelled(told, has[0])
	return strings.Join(has, " ")
}

// labelled compares the labels that were told with those of the image.
func (s *site) labelled(told imgd.Explanation, tag string) {
	s.Helper()
	labels(s.T, s.daemon.Registry+"/"+told.Image+":"+tag, told.Labels)
}

// What explain says before is what happens: of branches, versions, backports, pull requests, force pushes and two projects in one
// repository, by imgd's own rules and by a project's.
func TestNames(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: the embedded buildkitd needs root")
	}
	s := bareSite(t, scratchFiles("one"))
	config := s.config()
	config.Projects[0].Refs = []string{"refs/heads/*", "refs/tags/*", "refs/pull/*"}
	config.Projects = append(config.Projects, kit.ProjectConfig{Name: "svc-a", Git: s.repo.URL, Image: "demo/svc-a", TagPrefix: "svc-a/", Paths: []string{"svc-a/**", "Dockerfile"},
		Tags: "type=semver,pattern={{version}}\ntype=semver,pattern={{major}}.{{minor}}\ntype=describe,enable={{is_default_branch}}\ntype=ref,event=branch\n"})
	s.daemon = kit.RunDaemon(t, t.TempDir(), config)
	t.Cleanup(func() { s.mustEnd() })
	first, err := s.repo.Rev(t.Context(), "main")
	s.must(err)
	tag := func(name, at string) { t.Helper(); s.must(s.repo.Tag(t.Context(), name, at)) }
	is := func(project, ref, want string) {
		t.Helper()
		if got := s.named(project, ref); got != want {
			t.Errorf("%s of %s: got %s, want %s", ref, project, got, want)
		}
	}

	is("hello", "main", first[:12]+" main")
	tag("v0.9.0", first)
	is("hello", "v0.9.0", "0.9 latest v0.9.0")
	second := s.commit("two", map[string]string{"data": "two"})
	tag("v1.0.0", second)
	is("hello", "v1.0.0", "1 1.0 latest v1.0.0")
	third := s.commit("three", map[string]string{"data": "three"})
	tag("v1.1.0", third)
	is("hello", "v1.1.0", "1 1.1 latest v1.1.0")
	is("hello", "main", third[:12]+" main")

	s.must(s.repo.Branch(t.Context(), "release-1.0", second)) // a backport
	fix := s.commit("the fix", map[string]string{"data": "two, mended"})
	tag("v1.0.1", fix)
	is("hello", "v1.0.1", "1.0 v1.0.1")
	is("hello", "release-1.0", fix[:12]+" release-1.0")

	s.must(s.repo.MoveTag(t.Context(), "v1.1.0", fix)) // by another hand
	is("hello", "v1.1.0", "conflict")

	s.must(s.repo.Checkout(t.Context(), "main")) // a force push
	s.must(s.repo.Reset(t.Context(), second))
	is("hello", "main", second[:12]+" main")
	s.must(s.repo.Reset(t.Context(), third))

	s.must(s.repo.Branch(t.Context(), "feature", third)) // a pull request
	change := s.commit("a change", map[string]string{"data": "changed"})
	s.must(s.repo.PullRequest(t.Context(), 7, change))
	is("hello", "pull/7/head", "pr-7 pr-7-"+change[:7])
	s.expires("demo/hello", "pr-7", 7*24*time.Hour)
	s.must(s.repo.Checkout(t.Context(), "main"))

	is("svc-a", "main", "main") // two projects in one repository; there is no version tag of it yet
	inside := s.commit("four", map[string]string{"svc-a/data": "four"})
	tag("svc-a/v2.0.0", inside)
	is("svc-a", "svc-a/v2.0.0", "2.0 2.0.0 latest")
	is("svc-a", "main", "main v2.0.0")
	outside := s.commit("five", map[string]string{"data": "five"})
	is("svc-a", "main", "unchanged")
	is("hello", "main", outside[:12]+" main")
	s.exit(2, "build", "svc-a", "--ref", "v1.0.0", "--wait") // the other's
}

// expires looks whether the tag's record ends so long after it was asked for, or a minute less.
func (s *site) expires(image, tag string, after time.Duration) {
	s.Helper()
	var records []kit.Record
	s.must(json.Unmarshal([]byte(s.imgctl("get", image+":"+tag, "-o", "json")), &records))
	left := time.Until(records[0].ExpiresAt)
	if left > after || left < after-time.Minute {
		s.Errorf("%s:%s ends in %s, want %s", image, tag, left, after)
	}
}
