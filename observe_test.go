package imgd_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/imgd/imgd"
)

type stageKey struct{}

// observe is the Observer of every pipeline of the world: it holds that each
// stage ends once.
func (w *world) observe() imgd.Observer {
	if w.unobserved {
		return nil
	}
	return func(ctx context.Context, stage imgd.Stage, req imgd.Request) (context.Context, func(error)) {
		if named := req.Project != "" && req.Ref != ""; !named && (req.Project+req.Ref != "" || req.By == "") { // what another CI has pushed has neither
			w.t.Errorf("stage %s is of request %+v", stage, req)
		}
		open := true
		return context.WithValue(ctx, stageKey{}, stage), func(err error) {
			if !open {
				w.t.Errorf("stage %s has ended twice", stage)
			}
			open = false
			how := "ok"
			if err != nil {
				how = err.Error()
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			w.observed = append(w.observed, string(stage)+" "+how)
		}
	}
}

// mustBeObserved holds that an effect runs in the context of its stage. Those of
// other names, and captures, are part of several.
func (w *world) mustBeObserved(ctx context.Context, effect string) {
	stage := ctx.Value(stageKey{})
	if slices.Contains([]string{"resolve", "build", "admit", "publish"}, effect) && stage != imgd.Stage(effect) && !w.unobserved {
		w.t.Errorf("effect %s runs in stage %v", effect, stage)
	}
}

func TestObserve(t *testing.T) {
	w := newWorld(t)
	w.refs[tagRef] = commit("a")
	if _, err := w.deliver(request(tagRef, 1)); err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, stage := range imgd.Stages() {
		want = append(want, string(stage)+" ok")
	}
	if !slices.Equal(w.observed, want) {
		t.Errorf("got %q, want %q", w.observed, want)
	}
}

// The end of each stage is told, whatever befalls it, and the next try tells it
// again.
func TestObserveFaults(t *testing.T) {
	for _, effect := range []string{"resolve", "build", "capture", "admit", "tag", "publish"} {
		t.Run(effect, func(t *testing.T) {
			w := newWorld(t)
			w.refs[tagRef] = commit("a")
			w.fault = fault{effect, "fails", 1}
			if _, err := w.deliver(request(tagRef, 1)); err != nil {
				t.Fatal(err)
			}
			failed := slices.IndexFunc(w.observed, func(s string) bool {
				return strings.HasPrefix(s, effect) && strings.HasSuffix(s, errInjected.Error())
			})
			if ok := slices.Index(w.observed, effect+" ok"); failed < 0 || ok < failed {
				t.Errorf("got %q, want %s failed and then ok", w.observed, effect)
			}
		})
	}
}

// A stage that panics has ended too, and not well.
func TestObservePanic(t *testing.T) {
	w := newWorld(t)
	w.refs[tagRef] = commit("a")
	p := w.pipeline()
	p.Git = panics{}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic is gone")
			}
		}()
		req := request(tagRef, 1)
		_, _ = p.Handle(t.Context(), &req, func(imgd.State) {})
	}()
	if !slices.Equal(w.observed, []string{"resolve panicked"}) {
		t.Errorf("got %q", w.observed)
	}
}

type panics struct{ imgd.Git }

func (panics) Resolve(context.Context, string, string, string) (imgd.Commit, error) {
	panic(errors.New("meant"))
}

// Without an Observer all is the same.
func TestUnobserved(t *testing.T) {
	w := newWorld(t)
	w.unobserved = true
	w.refs[tagRef] = commit("a")
	rel, err := w.deliver(request(tagRef, 1))
	if err != nil || rel.State != imgd.ReleasePublished || len(w.observed) > 0 {
		t.Errorf("got %s, %v, %q", rel.State, err, w.observed)
	}
	w.check()
}
