package imgd_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/imgd/imgd"
)

// A pull request is named and superseded like a branch, and only where the
// project's refs allow it.
func TestPullRequest(t *testing.T) {
	const pullRef = "refs/pull/7/head"
	w := newWorld(t)
	w.past = map[string]string{commit("b"): commit("a")}
	w.refs[pullRef] = commit("a")
	if _, err := w.deliver(request(pullRef, 1)); !errors.Is(err, imgd.ErrInvalid) {
		t.Errorf("of a project that allows none: %v", err)
	}
	p := w.pipeline()
	project, _ := p.Projects.Get("hello")
	project.Refs = []string{"refs/pull/*/head"}
	p.Projects.Set(map[string]imgd.Project{"hello": project})
	for i, letter := range []string{"a", "b"} {
		w.refs[pullRef] = commit(letter)
		req := w.named(pullRef, i+1)
		req.Base = "main"
		rel, err := p.Handle(t.Context(), &req, func(imgd.State) {})
		if err != nil || rel.State != imgd.ReleasePublished || rel.Request.Base != "main" || rel.Request.Info().BaseRef != "main" {
			t.Fatalf("%s: got %+v, %v", letter, rel, err)
		}
		if !slices.ContainsFunc(rel.Taken(), func(t imgd.ReleaseTag) bool { return t.Name == "pr-7" && !t.Kind.Immutable() }) {
			t.Errorf("%s: took %+v, want pr-7", letter, rel.Taken())
		}
	}
	w.check()
	old := w.named(pullRef, 3)
	w.refs[pullRef] = commit("c") // a force push
	if _, err := p.Handle(t.Context(), &old, func(imgd.State) {}); !errors.Is(err, imgd.ErrSuperseded) {
		t.Errorf("the commit before a force push: %v", err)
	}
}

// A tag with the project's prefix is the version without it.
func TestPrefixedTag(t *testing.T) {
	const ref = "refs/tags/svc-a/v1.2.3"
	w := newWorld(t)
	w.refs[ref], w.refs[tagRef] = commit("a"), commit("a")
	p := w.pipeline()
	project, _ := p.Projects.Get("hello")
	project.TagPrefix = "svc-a/"
	p.Projects.Set(map[string]imgd.Project{"hello": project})
	req := w.named(ref, 1)
	rel, err := p.Handle(t.Context(), &req, func(imgd.State) {})
	if err != nil || rel.Request.Version != "v1.2.3" || !slices.ContainsFunc(rel.Taken(), func(t imgd.ReleaseTag) bool { return t.Name == "v1.2.3" }) {
		t.Errorf("got version %s, tags %+v, %v", rel.Request.Version, rel.Taken(), err)
	}
	other := w.named(tagRef, 1)
	if _, err := p.Handle(t.Context(), &other, func(imgd.State) {}); !errors.Is(err, imgd.ErrInvalid) {
		t.Errorf("a tag of another project: %v", err)
	}
}
