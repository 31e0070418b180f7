package imgd_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/imgd/imgd"
)

// What is owed to others is asked for until it is, and once a process.
func TestAskedAnewOnce(t *testing.T) {
	w, _, newer := withOld(t)
	p := w.pipeline()
	w.refuses["v1.2.3"] = -1
	w.fault = fault{"ask", "fails", 1}
	req := newer.Request
	if rel, err := p.Handle(t.Context(), &req, func(imgd.State) {}); !errors.Is(err, errInjected) || rel.State != imgd.ReleaseAbandoned {
		t.Errorf("got %s, %v; want the abandoned release and the fault", rel.State, err)
	}
	for range 3 {
		if _, err := p.Handle(t.Context(), &req, func(imgd.State) {}); !errors.Is(err, imgd.ErrRefused) {
			t.Errorf("got %v, want refused", err)
		}
	}
	if len(w.asked) != 1 {
		t.Errorf("asked anew %d times, want once", len(w.asked))
	}
}

// What was forced is asked for anew as the same request, by who forced it. What
// has been forced over it since stays.
func TestAskedAnewForced(t *testing.T) {
	w := newWorld(t)
	w.refs[oldRef], w.refs[newRef] = commit("a"), commit("b")
	if _, err := w.deliver(request(oldRef, 1)); err != nil {
		t.Fatal(err)
	}
	force := func(letter string, at int) imgd.Request {
		w.refs[oldRef] = commit(letter)
		req := request(oldRef, at)
		req.Force, req.Rebuild, req.Nonce, req.By, req.Reason = true, true, fmt.Sprint("nonce ", at), "ada", "bad release "+letter
		req.Event, req.Base = imgd.EventSchedule, "main"
		return req
	}
	forced := w.admit(force("c", 2))
	newer := w.admit(request(newRef, 3)) // takes 1.2 and latest from it
	if _, err := w.deliver(forced.Request); err != nil {
		t.Fatal(err)
	}
	w.refuses["v1.2.3"] = -1
	if _, err := w.deliver(request(newRef, 3)); !errors.Is(err, imgd.ErrRefused) || len(newer.Lapsed) != 1 {
		t.Fatalf("got %v, lapsed %v", err, newer.Lapsed)
	}
	if len(w.asked) != 1 {
		t.Fatalf("asked anew %v, want one", w.asked)
	}
	again := w.asked[0]
	again.AskedAt = epoch.Add(time.Minute)
	if again.ID != forced.Request.ID || again.Hash() != again.ID || !again.Force || !again.Rebuild || again.By != "ada" || again.Reason != "bad release c" ||
		again.Event != imgd.EventSchedule || again.Base != "main" {
		t.Errorf("asked anew: %+v, want %+v", again, forced.Request)
	}

	t.Run("not over a newer force", func(t *testing.T) {
		over, err := w.deliver(force("d", 4))
		if err != nil {
			t.Fatal(err)
		}
		w.refs[oldRef] = commit("c")
		if _, err := w.deliver(again); !errors.Is(err, imgd.ErrConflict) {
			t.Errorf("got %v, want a conflict", err)
		}
		w.shows("v1.2.2", over.Root.Digest)
		w.check()
	})
}

// A forced request whose release was given up before it was published still has
// its force.
func TestForceIsKept(t *testing.T) {
	w := newWorld(t)
	w.refs[tagRef] = commit("a")
	if _, err := w.deliver(request(tagRef, 1)); err != nil {
		t.Fatal(err)
	}
	w.refs[tagRef] = commit("b")
	req := request(tagRef, 2)
	req.Force, req.Nonce, req.Reason = true, "n", "bad release"
	rel := w.admit(req)
	if _, err := w.drop(rel.Request.ID); err != nil {
		t.Fatal(err)
	}
	w.check()
	req.AskedAt = req.AskedAt.Add(time.Second)
	second, err := w.deliver(req)
	if err != nil || second.Root.Digest != rel.Root.Digest {
		t.Fatalf("got %s, %v", second.ID, err)
	}
	w.shows("v1.2.3", rel.Root.Digest)
	w.check()
}
