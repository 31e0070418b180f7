package imgd_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/version"
)

// A scene is a world in which one request is to be handled.
type scene struct {
	name string
	set  func(w *world) imgd.Request
}

// scenes lead through every effect that the pipeline has.
func scenes() []scene {
	v123 := func(w *world) imgd.Request {
		w.refs[oldRef], w.refs[newRef] = commit("a"), commit("b")
		if _, err := w.deliver(request(oldRef, 1)); err != nil {
			w.t.Fatal(err)
		}
		return request(newRef, 10)
	}
	refusing := func(tag string) func(w *world) imgd.Request {
		return func(w *world) imgd.Request {
			w.repos = []string{demoRepo, copyRepo}
			req := v123(w)
			w.refuses[at(copyRepo, tag)] = 1
			return req
		}
	}
	return []scene{
		{"version", v123},
		{"branch", func(w *world) imgd.Request {
			w.past[commit("b")], w.past[commit("c")], w.refs[mainRef] = commit("a"), commit("b"), commit("a")
			if _, err := w.deliver(request(mainRef, 1)); err != nil {
				w.t.Fatal(err)
			}
			w.refs[mainRef] = commit("b")
			return request(mainRef, 10)
		}},
		{"refused for a moving tag", refusing("latest")},
		{"refused for an immutable tag", refusing("v1.2.3")},
		{"its root is lost", func(w *world) imgd.Request {
			w.refs["refs/tags/v1.2.1"], w.refs[newRef] = commit("a"), commit("b")
			w.admit(request("refs/tags/v1.2.1", 1)) // loses its claims
			lost := w.admit(request(newRef, 10))
			delete(w.roots, lost.Root.Digest)
			return request(newRef, 10)
		}},
		{"forced", func(w *world) imgd.Request {
			v123(w)
			w.refs[oldRef] = commit("c")
			req := request(oldRef, 10)
			req.Force, req.Rebuild, req.Nonce, req.Reason = true, true, "n", "bad release"
			return req
		}},
	}
}

// An act is what others do while the worker stands still.
type act struct {
	name string
	do   func(w *world, req imgd.Request)
}

func acts() []act {
	same := func(w *world, req imgd.Request) { w.deliver(req) }
	newer := func(w *world, req imgd.Request) {
		next := request("refs/tags/v1.2.4", 11)
		w.refs[next.Ref] = commit("d")
		if req.Ref == mainRef {
			next = request(mainRef, 11)
			w.refs[mainRef] = commit("c")
		}
		w.deliver(next)
	}
	drop := func(w *world, req imgd.Request) {
		if _, err := w.pipeline().Drop(w.t.Context(), w.resolved(req).ID, "dropped by ada"); err != nil && !errors.Is(err, imgd.ErrNotFound) {
			w.t.Error(err)
		}
	}
	later := func(w *world, req imgd.Request) {
		req = w.resolved(req)
		req.AskedAt = req.AskedAt.Add(5 * time.Second)
		w.deliver(req)
	}
	lose := func(w *world, req imgd.Request) {
		if rel, ok := w.index.Newest(w.resolved(req).ID); ok && rel.State == imgd.ReleaseAdmitted {
			w.mu.Lock()
			delete(w.roots, rel.Root.Digest)
			w.mu.Unlock()
		}
	}
	both := func(first, second func(*world, imgd.Request)) func(*world, imgd.Request) {
		return func(w *world, req imgd.Request) { first(w, req); second(w, req) }
	}
	return []act{
		{"nothing", func(*world, imgd.Request) {}},
		{"the same", same},
		{"something newer", newer},
		{"the same, then something newer", both(same, newer)},
		{"something newer, then the same", both(newer, same)},
		{"a push back to what was", func(w *world, req imgd.Request) {
			if req.Ref == mainRef {
				w.refs[mainRef] = commit("a")
				w.deliver(request(mainRef, 12))
			}
		}},
		{"a drop", drop},
		{"a drop, then the same asked for later", both(drop, later)},
		{"a drop, then something newer", both(drop, newer)},
		{"the same lost and built again", both(lose, same)},
		{"the same asked for later", later},
		{"a sweep", func(w *world, _ imgd.Request) {
			_ = w.pipeline().DriveOpen(w.t.Context(), epoch.Add(time.Hour), 0) // what it could not do is seen below
		}},
		{"a refusal of what moves", func(w *world, req imgd.Request) {
			w.refuses["latest"], w.refuses["main"] = 1, 1
			w.deliver(req)
		}},
	}
}

// resolved is req with its commit and ID, as the worker knows it.
func (w *world) resolved(req imgd.Request) imgd.Request {
	if req.Commit == "" {
		req.Commit = w.refs[req.Ref]
	}
	req.ID = req.Hash()
	return req
}

// later is a time after all that later has answered, and after the tests' own.
func (w *world) later() time.Time {
	w.hours++
	return epoch.Add(time.Duration(w.hours) * time.Hour)
}

// calm lets everything that is still owed come to its end.
func (w *world) calm() {
	w.t.Helper()
	for n := 0; len(w.asked) > 0; n++ {
		if n > 30 {
			w.t.Fatalf("asked anew for ever: %v", w.asked)
		}
		req := w.asked[0]
		w.asked = w.asked[1:]
		req.AskedAt = w.later()
		w.deliver(req)
	}
	if err := w.pipeline().DriveOpen(w.t.Context(), epoch.Add(time.Hour), 0); err != nil {
		w.t.Error(err)
	}
}

// Wherever a daemon stands still past its lease, and whatever others do
// meanwhile: once it goes on, all is as it should be.
func TestPauses(t *testing.T) {
	for _, scene := range scenes() {
		var stands []string
		t.Run(scene.name, func(t *testing.T) {
			w := newWorld(t)
			k := w.work(w.resolved(scene.set(w)))
			for k.step(); k.at != "end"; k.step() {
				stands = append(stands, k.at)
			}
		})
		for _, act := range acts() {
			t.Run(scene.name+"/"+act.name, func(t *testing.T) {
				t.Parallel()
				for i, at := range stands {
					if t.Run(fmt.Sprint(i, " ", at), func(t *testing.T) { pause(t, scene, act, i) }); t.Failed() {
						break
					}
				}
			})
		}
	}
}

// pause lets a worker stand still at the nth place during the act.
func pause(t *testing.T, scene scene, act act, nth int) {
	w := newWorld(t)
	req := w.resolved(scene.set(w))
	v := w.watch()
	v.look()
	k := w.work(req)
	for range nth + 1 {
		k.step()
		v.look()
	}
	act.do(w, req)
	v.look()
	for k.at != "end" {
		k.step()
		v.look()
	}
	w.answered(req, k.rel, k.err)
	end := k.err
	if end != nil && !isEnd(end) {
		_, end = w.deliver(req)
	}
	if errors.Is(end, imgd.ErrConflict) || errors.Is(end, imgd.ErrInvalid) {
		t.Errorf("the request ends as %v", end)
	}
	w.calm()
	v.look()
	w.check()
	w.checkTop()
	if rel, _ := w.index.Newest(req.ID); rel.State == imgd.ReleaseAbandoned && !errors.Is(end, imgd.ErrRefused) && !errors.Is(end, imgd.ErrSuperseded) {
		t.Errorf("the request ended as %v, its release was abandoned: %s", end, rel.Why)
	}
}

// checkTop holds that a moving tag names the newest that was published, unless
// the registry refused it to that.
func (w *world) checkTop() {
	w.t.Helper()
	refused := map[string]bool{} // versions that latest was refused to
	best := ""
	for _, rel := range w.index.Published(0) {
		for _, tag := range rel.Tags {
			if tag.Name == "latest" && tag.Kind == version.KindSeries && len(tag.Reason) > 8 && tag.Reason[:8] == "refused:" {
				refused[rel.Request.Version] = true
			}
		}
		if rel.Tags[0].Kind == version.KindVersion && version.Compare(rel.Request.Version, best) > 0 && len(rel.Tags) > 1 {
			best = rel.Request.Version
		}
	}
	latest, _ := w.index.Wanted(demoImage, "latest")
	if best != "" && latest.Request.Version != best && !refused[best] {
		w.t.Errorf("latest is %q, the highest published is %q", latest.Request.Version, best)
	}
}
