package imgd_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/imgd/imgd"
)

// A monorepo is a world whose project watches a part of the repository, of which
// commits a, b and d have the same, and c and e something else each.
func newMonorepo(t *testing.T) *world {
	w := newWorld(t)
	w.paths = []string{"svc-a/**", "!docs/**"}
	w.watched = map[string]string{commit("a"): "1", commit("b"): "1", commit("c"): "2", commit("d"): "1", commit("e"): "3"}
	w.past = map[string]string{commit("b"): commit("a"), commit("c"): commit("b"), commit("d"): commit("c"), commit("e"): commit("d")}
	return w
}

// pushed delivers the push of the commit, and says whether it was built, and how
// it ended.
func (w *world) pushedTo(ref, letter string, at int) (built bool, err error) {
	w.t.Helper()
	w.refs[ref] = commit(letter)
	before := w.made
	_, err = w.deliver(w.named(ref, at))
	w.check()
	return w.made > before, err
}

// A push that touches no watched path ends unchanged, and says so; what is
// compared is what was built last.
func TestPaths(t *testing.T) {
	w := newMonorepo(t)
	for i, step := range []struct {
		ref, commit string
		built       bool
		why         string
	}{
		{mainRef, "a", true, ""}, // the first of its ref
		{mainRef, "b", false, `none of the paths ["svc-a/**" "!docs/**"] differs from aaaaaaaaaaaa, of which release `},
		{mainRef, "c", true, ""},
		{mainRef, "d", true, ""}, // as a was, but not as c
		{"refs/heads/other", "d", true, ""},
		{"refs/heads/other", "e", true, ""},
		{mainRef, "b", false, "differs from dddddddddddd"}, // a force push back
		{mainRef, "e", true, ""},
	} {
		built, err := w.pushedTo(step.ref, step.commit, i+1)
		if built != step.built || step.built != (err == nil) || err != nil && (!errors.Is(err, imgd.ErrUnchanged) || !strings.Contains(err.Error(), step.why)) {
			t.Errorf("step %d, %s of %s: built %t, %v; want built %t, %s", i+1, step.commit, step.ref, built, err, step.built, step.why)
		}
	}
}

// Pushes that were left out count as little as those that never arrived.
func TestPathsAfterLeftOutPushes(t *testing.T) {
	w := newMonorepo(t)
	w.watched[commit("c")] = "1"
	for i, letter := range []string{"a", "b", "c", "d"} {
		if built, err := w.pushedTo(mainRef, letter, i+1); built != (i == 0) {
			t.Errorf("%s: built %t, %v", letter, built, err)
		}
	}
	if rel, _ := w.index.Wanted(demoImage, "main"); rel.Request.Commit != commit("a") {
		t.Errorf("main names %.7s", rel.Request.Commit)
	}
	if built, err := w.pushedTo(mainRef, "e", 5); !built || err != nil {
		t.Errorf("a change after them: built %t, %v", built, err)
	}
}

// What is always built, whatever it touches.
func TestPathsDoNotBind(t *testing.T) {
	for name, ask := range map[string]func(w *world) imgd.Request{
		"a tag":   func(w *world) imgd.Request { w.refs[tagRef] = commit("b"); return w.named(tagRef, 2) },
		"rebuild": func(w *world) imgd.Request { r := w.named(mainRef, 2); r.Rebuild, r.Nonce = true, "n"; return r },
		"a clock": func(w *world) imgd.Request { r := w.named(mainRef, 2); r.Event = imgd.EventSchedule; return r },
		"force": func(w *world) imgd.Request {
			r := w.named(mainRef, 2)
			r.Force, r.Reason, r.Nonce = true, "why", "n"
			return r
		},
		"other args":      func(w *world) imgd.Request { r := w.named(mainRef, 2); r.Args = map[string]string{"A": "1"}; return r },
		"another target":  func(w *world) imgd.Request { r := w.named(mainRef, 2); r.Target = "debug"; return r },
		"other platforms": func(w *world) imgd.Request { r := w.named(mainRef, 2); r.Platforms = []string{"linux/arm64"}; return r },
	} {
		t.Run(name, func(t *testing.T) {
			w := newMonorepo(t)
			if _, err := w.pushedTo(mainRef, "a", 1); err != nil {
				t.Fatal(err)
			}
			w.refs[mainRef] = commit("b")
			req := ask(w)
			req.ID = req.Hash()
			if _, err := w.deliver(req); err != nil || w.made != 2 {
				t.Errorf("got %v after %d builds", err, w.made)
			}
			w.check()
		})
	}
}

// After a rollback a push that touches nothing leaves what the operator chose,
// and one that does takes over.
func TestPathsAfterRollback(t *testing.T) {
	w := newMonorepo(t)
	for i, letter := range []string{"a", "c"} {
		if built, err := w.pushedTo(mainRef, letter, i+1); !built || err != nil {
			t.Fatalf("%s: %t, %v", letter, built, err)
		}
	}
	p := w.pipeline()
	if _, _, err := p.Command(t.Context(), imgd.Command{Name: imgd.CommandRollback, Image: demoImage, Tag: "main", ID: strings.Repeat("f", 32), By: "ann"}); err != nil {
		t.Fatal(err)
	}
	w.watched[commit("d")] = "2" // as c
	if built, err := w.pushedTo(mainRef, "d", 3); built || !errors.Is(err, imgd.ErrUnchanged) || !strings.Contains(err.Error(), "cccccccccccc") {
		t.Errorf("nothing changed since the newest build: built %t, %v", built, err)
	}
	if rel, _ := w.index.Wanted(demoImage, "main"); rel.Request.Commit != commit("a") {
		t.Errorf("main names %.7s, want what the operator went back to", rel.Request.Commit)
	}
	if built, err := w.pushedTo(mainRef, "e", 4); !built || err != nil {
		t.Errorf("a change: built %t, %v", built, err)
	}
}

// A push that was left out is asked for again, and again; and when the question
// fails, takes effect and fails, or is interrupted, it is asked anew.
func TestPathsFaults(t *testing.T) {
	for _, mode := range []string{"fails", "fails but took effect", "interrupted before", "interrupted after", "repeated"} {
		for _, letter := range []string{"b", "c"} {
			w := newMonorepo(t)
			if _, err := w.pushedTo(mainRef, "a", 1); err != nil {
				t.Fatal(err)
			}
			w.fault = fault{"touched", mode, 1}
			for at := range 3 {
				built, err := w.pushedTo(mainRef, letter, 2+at)
				if letter == "b" && (built || !errors.Is(err, imgd.ErrUnchanged)) {
					t.Errorf("%s, ask %d: built %t, %v", mode, at, built, err)
				}
				if letter == "c" && built != (at == 0) {
					t.Errorf("%s, ask %d of a change: built %t, %v", mode, at, built, err)
				}
			}
			if w.fault.left > 0 || !slices.Contains(w.effects, "touched") {
				t.Errorf("%s: nothing was asked: %v", mode, w.effects)
			}
		}
	}
}

// A tag of another project in the same repository is not this one's.
func TestTagPrefix(t *testing.T) {
	p := imgd.Project{Name: "a", Refs: []string{"refs/heads/*", "refs/tags/*"}, TagPrefix: "svc-a/"}
	for ref, want := range map[string]string{
		"refs/tags/svc-a/v1.2.3": "", "refs/heads/main": "", "refs/heads/svc-b/x": "",
		"refs/tags/v1.2.3":       `tag "v1.2.3" is not of project a, whose tags begin with svc-a/`,
		"refs/tags/svc-ab/v1":    `tag "svc-ab/v1" is not of project a, whose tags begin with svc-a/`,
		"refs/pull/1/head":       `ref "refs/pull/1/head" is not among the refs ["refs/heads/*" "refs/tags/*"] of project a`,
		"refs/tags/x/svc-a/v1.0": `tag "x/svc-a/v1.0" is not of project a, whose tags begin with svc-a/`,
	} {
		if got := p.WhyNot(ref); got != want || p.Allows(ref) != (want == "") {
			t.Errorf("%s: got %q, want %q", ref, got, want)
		}
	}
	if got := p.WhyNot("refs/tags/" + strings.Repeat("x", 1000)); len(got) > 300 {
		t.Errorf("got %d bytes", len(got))
	}
}

// What was built of the same request stands, whatever was built since; and what
// the registry has lost is built again.
func TestPathsOfWhatIsKnown(t *testing.T) {
	w := newMonorepo(t)
	for i, letter := range []string{"a", "c", "d"} {
		if built, err := w.pushedTo(mainRef, letter, i+1); !built || err != nil {
			t.Fatalf("%s: %t, %v", letter, built, err)
		}
	}
	if built, err := w.pushedTo(mainRef, "a", 4); built || err != nil {
		t.Errorf("a reset to what was built: built %t, %v", built, err)
	}
	rel, _ := w.index.Wanted(demoImage, "main")
	if rel.Request.Commit != commit("a") {
		t.Errorf("main names %.7s", rel.Request.Commit)
	}
	delete(w.roots, rel.Root.Digest)
	w.refs[mainRef] = commit("a")
	before := w.made
	if _, err := w.deliver(w.named(mainRef, 5)); err != nil || w.made != before+1 {
		t.Errorf("its root is lost: %v after %d builds", err, w.made-before)
	}
}

// A tag that was removed comes back with the next push, whatever that touches.
func TestPathsOfRemovedTag(t *testing.T) {
	w := newMonorepo(t)
	if built, err := w.pushedTo(mainRef, "a", 1); !built || err != nil {
		t.Fatal(built, err)
	}
	untag := imgd.Command{Name: imgd.CommandUntag, Image: demoImage, Tag: "main", ID: strings.Repeat("f", 32), By: "ann"}
	if _, _, err := w.pipeline().Command(t.Context(), untag); err != nil {
		t.Fatal(err)
	}
	if built, err := w.pushedTo(mainRef, "b", 3600); !built || err != nil || w.tags["main"] == "" {
		t.Errorf("built %t, %v, and main names %q", built, err, w.tags["main"])
	}
}
