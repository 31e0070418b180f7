package integration_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/imgd/imgd/integration/check"
	"github.com/imgd/imgd/integration/kit"
)

// where is the site for the checker, past all gates.
func (s *site) where() check.Site {
	if s.place != nil {
		return *s.place
	}
	return check.Site{Data: s.daemon.Data(), NATS: s.daemon.NATS}
}

// look looks at the world. imgd must be dead, stopped or idle.
func (s *site) look() *check.World {
	s.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), endTime) // also when the test is over
	defer cancel()
	w, err := check.Look(ctx, s.where())
	s.must(err)
	return w
}

// violations are what is not as it must be: in the world, against what was seen before, and what the gates saw.
func (s *site) violations(w *check.World, ended bool) []string {
	wrong := w.Violations(check.Expectation{Asked: s.asked, Ended: ended})
	return append(append(wrong, s.watcher.Watch(w)...), s.sawLies()...)
}

// mustHold checks the invariants while imgd is dead or stopped.
func (s *site) mustHold(w *check.World) {
	s.Helper()
	for _, wrong := range s.violations(w, false) {
		s.Error(wrong)
	}
}

// mustEnd waits until nothing is left to do, and all invariants hold.
func (s *site) mustEnd() *check.World {
	s.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), endTime) // also when the test is over
	defer cancel()
	var w *check.World
	err := kit.Wait(ctx, func(ctx context.Context) error {
		seen, err := check.Look(ctx, s.where())
		if err != nil {
			return err
		}
		w = seen
		if wrong := w.Violations(check.Expectation{Asked: s.asked, Ended: true}); len(wrong) > 0 {
			return errors.New(strings.Join(wrong, "\n"))
		}
		return nil
	})
	if err != nil {
		s.Errorf("it does not come to an end in which all holds: %v", err)
	}
	if w == nil {
		s.FailNow()
	}
	s.mustHold(w)
	return w
}

// insist notes what is not so at the moment.
func (s *site) insist(moment string, so func() error) {
	if err := so(); err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.lies = append(s.lies, "when "+moment+": "+err.Error())
	}
}

func (s *site) sawLies() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.lies)
}

// A scene is how the world looks to who follows one request. As an expectation, what is empty (events: -1) may be anything.
type scene struct {
	release string // none, or the state of the request's one release
	tags    string // of the image in the registry, sorted; none
	events  int    // published ones of the image
	state   string // of the request in IMGD_STATUS
	queue   string // empty, or full
}

func (want scene) differs(got scene) []string {
	var wrong []string
	differ := func(what, got, want string) {
		if want != "" && got != want {
			wrong = append(wrong, fmt.Sprintf("%s: got %q, want %q", what, got, want))
		}
	}
	differ("release", got.release, want.release)
	differ("tags", got.tags, want.tags)
	differ("state", got.state, want.state)
	differ("queue", got.queue, want.queue)
	if want.events >= 0 && got.events != want.events {
		wrong = append(wrong, fmt.Sprintf("events: got %d, want %d", got.events, want.events))
	}
	return wrong
}

// sceneOf is what the world shows of the image's one request.
func sceneOf(w *check.World, image, request string) scene {
	s := scene{release: "none", tags: "none", state: w.States[request].State, queue: "empty"}
	for _, r := range w.Index.Releases {
		if r.Image != image {
			continue
		}
		if s.release = r.State; r.Request.ID != request {
			s.release = "another's"
		}
	}
	for repository, tags := range w.Tags {
		if strings.HasSuffix(repository, "/"+image) && len(tags) > 0 {
			s.tags = strings.Join(slices.Sorted(maps.Keys(tags)), " ")
		}
	}
	for _, e := range w.Events {
		if e.What == check.Published && e.Image == image {
			s.events++
		}
	}
	if slices.ContainsFunc(w.Queue, func(q check.Queued) bool { return q.Request == request }) {
		s.queue = "full"
	}
	return s
}
