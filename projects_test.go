package imgd_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/imgd/imgd"
)

func TestProjects(t *testing.T) {
	var none *imgd.Projects
	for _, p := range []*imgd.Projects{none, new(imgd.Projects), configured(nil)} {
		if _, ok := p.Get("hello"); ok || len(p.All()) > 0 {
			t.Errorf("got %v, want none", p.All())
		}
	}
	given := map[string]imgd.Project{"b": {Name: "b"}, "a": {Name: "a"}}
	p := configured(given)
	delete(given, "a")
	if all := p.All(); len(all) != 2 || all[0].Name != "a" || all[1].Name != "b" {
		t.Errorf("got %v, want a and b", all)
	}
	p.Set(map[string]imgd.Project{"c": {Name: "c"}})
	if _, ok := p.Get("a"); ok || len(p.All()) != 1 {
		t.Errorf("got %v, want c alone", p.All())
	}
}

// Whoever reads sees one config or the other, never half.
func TestProjectsSwap(t *testing.T) {
	both := map[string]imgd.Project{"a": {Name: "a"}, "b": {Name: "b"}}
	p := configured(both)
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for range 1000 {
				if n := len(p.All()); n != 0 && n != 2 {
					t.Errorf("saw %d projects", n)
				}
			}
		})
	}
	for range 500 {
		p.Set(nil)
		p.Set(both)
	}
	readers.Wait()
}

// reloading is a git that works until the config is another.
type reloading struct {
	imgd.Git
	projects *imgd.Projects
}

func (r reloading) Resolve(ctx context.Context, project, ref, commit string) (imgd.Commit, error) {
	got, err := r.Git.Resolve(ctx, project, ref, commit)
	r.projects.Set(nil)
	return got, err
}

// A project that is taken out while its request is on its way: the request is
// invalid, and nothing was built for it.
func TestProjectRemovedOnTheWay(t *testing.T) {
	w := newWorld(t)
	w.refs[tagRef] = commit("a")
	p := w.pipeline()
	p.Git = reloading{w, p.Projects}
	req := request(tagRef, 1)
	if _, err := p.Handle(t.Context(), &req, func(imgd.State) {}); !errors.Is(err, imgd.ErrInvalid) {
		t.Errorf("got %v, want invalid", err)
	}
	if len(w.index.Open()) > 0 || len(w.tags) > 0 {
		t.Errorf("something was made: %v %v", w.index.Open(), w.tags)
	}
}
