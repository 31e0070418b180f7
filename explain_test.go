package imgd_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/imgd/imgd"
)

func (w *world) Plan(p imgd.Project, req imgd.Request) (imgd.Plan, error) {
	if req.Ref == "refs/heads/unplanned" {
		return imgd.Plan{}, imgd.ErrInvalid
	}
	return imgd.Plan{Platforms: []string{"linux/amd64"}, Args: map[string]string{"VERSION": req.Version}}, nil
}

func (w *world) explain(req imgd.Request) (imgd.Explanation, error) {
	return (&imgd.Explainer{Pipeline: w.pipeline(), Index: w.index, Builder: w}).Explain(w.t.Context(), req)
}

// What is explained before is what happens then, whatever has happened so far.
func TestExplainIsWhatHappens(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w, random := newWorld(t), rand.New(rand.NewPCG(seed, 3))
			for i := 1; i < len(commits); i++ {
				w.past[commit(commits[i:i+1])] = commit(commits[i-1 : i])
			}
			if seed%2 == 1 {
				w.paths, w.watched = []string{"svc-a"}, map[string]string{}
				for _, c := range commits {
					w.watched[commit(string(c))] = fmt.Sprint(random.IntN(3))
				}
			}
			refs := []string{"refs/heads/main", "refs/heads/latest", "refs/heads/v1.0.0", "refs/tags/v1.0.0", "refs/tags/v1.0.1", "refs/tags/v1.1.0", "refs/tags/v2.0.0-rc.1"}
			for at := range 25 {
				ref := refs[random.IntN(len(refs))]
				n := random.IntN(len(commits))
				w.refs[ref] = commit(commits[n : n+1])
				req := request(ref, at+1)
				before, entries := len(w.effects), w.index.Seq()
				told, err := w.explain(req)
				does := func(effect string) bool { return effect != "resolve" && effect != "touched" && effect != "capture" }
				if done := w.effects[before:]; err != nil || w.index.Seq() != entries || slices.ContainsFunc(done, does) {
					t.Fatalf("explain %s: %v; it has done %q", ref, err, done)
				}
				rel, err := w.deliver(req)
				w.happened(told, rel, err)
			}
		})
	}
}

// happened compares what was told with what has come.
func (w *world) happened(told imgd.Explanation, rel imgd.Release, err error) {
	w.t.Helper()
	end := imgd.Published
	for state, of := range map[imgd.State]error{imgd.Conflicted: imgd.ErrConflict, imgd.Unchanged: imgd.ErrUnchanged, imgd.Superseded: imgd.ErrSuperseded} {
		if errors.Is(err, of) {
			end = state
		}
	}
	if told.End != end {
		w.t.Errorf("%s at %.6s was to end %s with %+v, and ended %s: %v", told.Ref, told.Commit, told.End, told.Tags, end, err)
	}
	if (told.Why != "") != strings.HasPrefix(fmt.Sprint(err), "none of the paths") {
		w.t.Errorf("%s at %.6s was to end so because %q, and did because %v", told.Ref, told.Commit, told.Why, err)
	}
	if end != imgd.Published {
		return
	}
	var would, has []string
	for _, p := range told.Tags {
		if p.Taken {
			would = append(would, p.Tag)
		}
	}
	for _, tag := range rel.Taken() {
		has = append(has, tag.Name)
	}
	slices.Sort(would)
	slices.Sort(has)
	if !slices.Equal(would, has) {
		w.t.Errorf("%s at %.6s was to take %q and took %q", told.Ref, told.Commit, would, has)
	}
}

func TestExplainRefuses(t *testing.T) {
	w := newWorld(t)
	w.refs["refs/heads/unplanned"] = commit("a")
	for ref, want := range map[string]error{
		"refs/heads/gone": imgd.ErrSuperseded, "refs/notes/x": imgd.ErrInvalid, "refs/heads/unplanned": imgd.ErrInvalid,
	} {
		if got, err := w.explain(request(ref, 1)); !errors.Is(err, want) {
			t.Errorf("%s: got %+v, %v, want %v", ref, got, err, want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	e := imgd.Explainer{Pipeline: w.pipeline(), Index: w.index, Builder: w}
	if _, err := e.Explain(ctx, request("refs/heads/unplanned", 1)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want that it was cancelled", err)
	}
}
