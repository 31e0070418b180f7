package integration_test

import (
	"bytes"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/imgd/imgd/integration/check"
	"github.com/imgd/imgd/integration/kit"
)

// A point is a moment in the way of a request, from the push of its image to its ack: a call of imgd's or buildkitd's that
// can be held there.
type point struct {
	name string
	arm  func(*rig, kit.Side) *kit.Hold
}

// The points, in their order.
var (
	pushing    = point{"push of the image", push(http.MethodPut, "sha256:")}
	capturing  = point{"capture", call(http.MethodGet, "sha256:")}
	admitting  = point{"look at the tag before admit", call(http.MethodGet, gitTag)}
	taggingOne = point{"first tag", call(http.MethodPut, gitTag)}
	taggingTwo = point{"second tag", call(http.MethodPut, "1.2")}
	taggingAll = point{"last tag", call(http.MethodPut, "latest")}
	readBack   = point{"last tag read back", call(http.MethodGet, "latest")}
	announcing = point{"event", line(isEvent)}
	stating    = point{"state published", line(isPublishedState)}
	acking     = point{"ack", line(isAck)}
)

// kills are the points at each of which imgd is killed, on each side of the part that is called.
var kills = []struct {
	point
	side kit.Side
	late bool  // what was held arrives after the kill, as what was on its way
	want scene // when imgd is dead
}{
	{pushing, kit.Before, false, scene{release: "none", tags: "none", state: "building", queue: "full"}},
	{pushing, kit.Answered, false, scene{release: "none", tags: "none", state: "building", queue: "full"}},
	{capturing, kit.Before, false, scene{release: "none", tags: "none", state: "building", queue: "full"}},
	{capturing, kit.Answered, false, scene{release: "none", tags: "none", state: "building", queue: "full"}},
	{admitting, kit.Before, false, scene{release: "none", tags: "none", state: "building", queue: "full"}},
	{admitting, kit.Answered, false, scene{release: "none", tags: "none", state: "building", queue: "full"}},
	{taggingOne, kit.Before, false, scene{release: "admitted", tags: "none", state: "publishing", queue: "full"}},
	{taggingOne, kit.Before, true, scene{release: "admitted", tags: gitTag, state: "publishing", queue: "full"}},
	{taggingOne, kit.Answered, false, scene{release: "admitted", tags: gitTag, state: "publishing", queue: "full"}},
	{taggingTwo, kit.Before, false, scene{release: "admitted", tags: gitTag, state: "publishing", queue: "full"}},
	{taggingTwo, kit.Before, true, scene{release: "admitted", tags: "1.2 v1.2.3", state: "publishing", queue: "full"}},
	{taggingTwo, kit.Answered, false, scene{release: "admitted", tags: "1.2 v1.2.3", state: "publishing", queue: "full"}},
	{taggingAll, kit.Before, false, scene{release: "admitted", tags: "1 1.2 v1.2.3", state: "publishing", queue: "full"}},
	{taggingAll, kit.Answered, false, scene{release: "admitted", tags: wholeSet, state: "publishing", queue: "full"}},
	{readBack, kit.Answered, false, scene{release: "admitted", tags: wholeSet, state: "publishing", queue: "full"}},
	{announcing, kit.Before, false, scene{release: "published", tags: wholeSet}},
	{announcing, kit.Before, true, scene{release: "published", tags: wholeSet, events: 1}},
	{announcing, kit.Answered, false, scene{release: "published", tags: wholeSet, events: 1}},
	{stating, kit.Before, false, scene{release: "published", tags: wholeSet, events: -1, state: "publishing", queue: "full"}},
	{stating, kit.Before, true, scene{release: "published", tags: wholeSet, events: -1, state: "published", queue: "full"}},
	{stating, kit.Answered, false, scene{release: "published", tags: wholeSet, events: -1, state: "published", queue: "full"}},
	{acking, kit.Before, false, scene{release: "published", tags: wholeSet, events: -1, state: "published", queue: "full"}},
	{acking, kit.Before, true, scene{release: "published", tags: wholeSet, events: -1, state: "published", queue: "empty"}},
	{acking, kit.Answered, false, scene{release: "published", tags: wholeSet, events: -1, state: "published", queue: "empty"}},
}

// call is imgd's first about a manifest whose reference begins so.
func call(method, reference string) func(*rig, kit.Side) *kit.Hold {
	return func(r *rig, side kit.Side) *kit.Hold { return r.calls.Arm(side, about(method, reference)) }
}

// push is buildkitd's.
func push(method, reference string) func(*rig, kit.Side) *kit.Hold {
	return func(r *rig, side kit.Side) *kit.Hold { return r.pushes.Arm(side, about(method, reference)) }
}

func about(method, reference string) func(*http.Request) bool {
	return func(req *http.Request) bool {
		_, name, ok := manifest(req)
		return ok && req.Method == method && strings.HasPrefix(name, reference)
	}
}

func line(match func(kit.Line) bool) func(*rig, kit.Side) *kit.Hold {
	return func(r *rig, side kit.Side) *kit.Hold { return r.lines.Arm(side, match) }
}

func isEvent(l kit.Line) bool {
	return strings.HasSuffix(l.Op, "PUB") && strings.HasPrefix(l.Subject, "imgd.events.published.")
}

func isPublishedState(l kit.Line) bool {
	return strings.HasSuffix(l.Op, "PUB") && strings.HasPrefix(l.Subject, "imgd.status.") && bytes.Contains(l.Payload, []byte(`"state":"published"`))
}

func isAck(l kit.Line) bool {
	return strings.HasSuffix(l.Op, "PUB") && strings.HasPrefix(l.Subject, "$JS.ACK.IMGD_REQUESTS.") && string(l.Payload) == "+ACK"
}

// rowsAtOnce is how many rows with a daemon each run at a time: they wait more than they work, for leases and retries.
const rowsAtOnce = 4

// runRows runs each row as a subtest of its own, so many at a time.
func runRows[R any](t *testing.T, atOnce int, rows []R, name func(R) string, run func(*testing.T, R)) {
	next := make(chan R)
	var workers sync.WaitGroup
	for range atOnce {
		workers.Go(func() {
			for row := range next {
				t.Run(name(row), func(t *testing.T) { run(t, row) })
			}
		})
	}
	for _, row := range rows {
		next <- row
	}
	close(next)
	workers.Wait()
}

// No event without its record at any kill between push and ack, and after the restart the request is published once,
// whatever it was killed at.
func TestKilledAtEachStep(t *testing.T) {
	t.Parallel()
	buildkitd := sharedBuildkitd(t)
	rows := make([]int, len(kills))
	for i := range rows {
		rows[i] = i
	}
	runRows(t, rowsAtOnce, rows, func(i int) string { return rowName(kills[i].point, kills[i].side, kills[i].late) }, func(t *testing.T, i int) {
		kill := kills[i]
		r := newRig(t, buildkitd)
		hold := kill.arm(r, kill.side)
		request := r.ask(gitTag)
		r.waitHeld(hold)
		r.daemon.Kill9()
		if kill.late {
			hold.Pass()
		} else {
			hold.Drop()
		}
		r.mustIdle()
		dead := r.look()
		r.mustHold(dead)
		for _, wrong := range kill.want.differs(sceneOf(dead, image, request)) {
			t.Errorf("at the kill %s", wrong)
		}
		r.start()
		r.waitEnd(request)
		r.mustHaveEnded(image, request, dead)
	})
}

func rowName(p point, side kit.Side, late bool) string {
	switch {
	case late:
		return p.name + ", arriving late"
	case side == kit.Answered:
		return p.name + ", answer lost"
	}
	return p.name + ", held"
}

func TestScenesDiffer(t *testing.T) {
	want := scene{release: check.Published, tags: wholeSet, events: 1, state: check.Published, queue: "empty"}
	if wrong := want.differs(want); len(wrong) > 0 {
		t.Errorf("it differs from itself: %q", wrong)
	}
	for _, change := range []func(*scene){
		func(s *scene) { s.release = "admitted" }, func(s *scene) { s.tags = gitTag }, func(s *scene) { s.events = 2 },
		func(s *scene) { s.state = "queued" }, func(s *scene) { s.queue = "full" },
	} {
		got := want
		change(&got)
		if wrong := want.differs(got); len(wrong) != 1 {
			t.Errorf("%+v differs from %+v in %q", got, want, wrong)
		}
		if wrong := (scene{events: -1}).differs(got); len(wrong) > 0 {
			t.Errorf("%+v is not anything: %q", got, wrong)
		}
	}
}
