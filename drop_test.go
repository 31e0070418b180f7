package imgd_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/imgd/imgd"
)

// drop is Drop as an operator repeats it until it is done.
func (w *world) drop(request string) (imgd.Release, error) {
	w.t.Helper()
	for range 8 {
		ctx, die := context.WithCancel(w.t.Context())
		w.die = die
		rel, err := w.pipeline().Drop(ctx, request, "dropped by ada: wrong")
		dead := ctx.Err() != nil
		die()
		if dead {
			w.index.Close()
			w.open()
		}
		if err == nil && !dead {
			return rel, nil
		}
	}
	w.t.Fatalf("not dropped after 8 tries; effects: %v", w.effects)
	return imgd.Release{}, nil
}

func TestDrop(t *testing.T) {
	w := newWorld(t)
	w.refs[tagRef], w.refs[mainRef] = commit("a"), commit("b")
	drop := func(request, why string, want error, says string) imgd.Release {
		t.Helper()
		rel, err := w.pipeline().Drop(t.Context(), request, why)
		if !errors.Is(err, want) || err != nil && !strings.Contains(err.Error(), says) {
			t.Errorf("got %v, want %v with %q", err, want, says)
		}
		return rel
	}
	drop("none", "ada", imgd.ErrNotFound, "admitted nothing")

	published, err := w.deliver(request(mainRef, 1))
	if err != nil {
		t.Fatal(err)
	}
	drop(published.Request.ID, "ada", imgd.ErrNotFound, "published already")

	rel := w.admit(request(tagRef, 1))
	for _, why := range []string{"", imgd.RootLost, imgd.LostClaims} {
		drop(rel.Request.ID, why, imgd.ErrInvalid, "say who")
	}
	for _, why := range []string{"ada", "bob"} {
		w.tags["v1.2.3"] = rel.Root.Digest // and a late write comes
		if got := drop(rel.Request.ID, why, nil, ""); got.ID != rel.ID || got.Why != "ada" || w.tags["v1.2.3"] != "" {
			t.Errorf("got %s (%s), the registry says %q", got.ID, got.Why, w.tags["v1.2.3"])
		}
	}
	if _, err := w.pipeline().Drive(t.Context(), rel); !errors.Is(err, imgd.ErrRefused) {
		t.Errorf("driven after it was dropped: %v", err)
	}

	lost := w.admit(request(tagRef, 2))
	if _, err := w.index.Abandon(t.Context(), lost.ID, imgd.RootLost); err != nil {
		t.Fatal(err)
	}
	drop(lost.Request.ID, "ada", imgd.ErrNotFound, imgd.RootLost)
	w.check()
}

// Publishing may win against a drop.
func TestDropAfterPublish(t *testing.T) {
	w := newWorld(t)
	w.refs[tagRef] = commit("a")
	rel := w.admit(request(tagRef, 1))
	p := w.pipeline()
	p.Index = late{w, func() {
		if _, err := w.deliver(request(tagRef, 1)); err != nil {
			t.Error(err)
		}
	}}
	if _, err := p.Drop(t.Context(), rel.Request.ID, "ada"); !errors.Is(err, imgd.ErrConflict) || !strings.Contains(err.Error(), "meanwhile") {
		t.Errorf("got %v, want a conflict", err)
	}
	w.check()
}

// late is an index where something else comes before an abandoning.
type late struct {
	*world
	first func()
}

func (l late) Abandon(ctx context.Context, id, why string) (imgd.Release, error) {
	l.first()
	return l.world.Abandon(ctx, id, why)
}

// A release whose project was taken out of the config can be dropped.
func TestDropOfNoProject(t *testing.T) {
	w := newWorld(t)
	w.refs[tagRef] = commit("a")
	rel := w.admit(request(tagRef, 1))
	p := w.pipeline()
	p.Projects.Set(nil)
	if got, err := p.Drop(t.Context(), rel.Request.ID, "ada"); err != nil || got.State != imgd.ReleaseAbandoned {
		t.Errorf("got %s, %v", got.State, err)
	}
	req := rel.Request
	if _, err := p.Handle(t.Context(), &req, func(imgd.State) {}); !errors.Is(err, imgd.ErrRefused) {
		t.Errorf("its request ends as %v, want refused", err)
	}
}
