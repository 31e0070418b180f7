package integration_test

import (
	"bytes"
	"net/http"
	"strings"
	"testing"

	"github.com/imgd/imgd/integration/check"
	"github.com/imgd/imgd/integration/kit"
)

// A finish is a request that ends without a release, and the calls on its way there.
type finish struct {
	title string
	ask   func(*rig)
	state string // "": it is no request
	point
}

var (
	endState = point{"state", line(func(l kit.Line) bool {
		return isPub(l, "imgd.status.") && bytes.Contains(l.Payload, []byte(`"endedAt":"`))
	})}
	endEvent = point{"event", line(func(l kit.Line) bool { return isPub(l, "imgd.events.") })}
	letter   = point{"dead letter", line(func(l kit.Line) bool { return isPub(l, "imgd.dead.") })}
)

func isPub(l kit.Line, prefix string) bool {
	return strings.HasSuffix(l.Op, "PUB") && strings.HasPrefix(l.Subject, prefix)
}

// finishes are killed at each of their steps. The repository's main fails to build, and v6.6.6 is no commit of it.
var finishes = []finish{
	{"failed", askFor("main"), check.Failed, endState}, {"failed", askFor("main"), check.Failed, endEvent}, {"failed", askFor("main"), check.Failed, acking},
	{"superseded", askForGone, check.Superseded, endState}, {"superseded", askForGone, check.Superseded, endEvent}, {"superseded", askForGone, check.Superseded, acking},
	{"unreadable", askForJunk, "", letter}, {"unreadable", askForJunk, "", acking},
	{"dead", askForDead, check.Dead, letter}, {"dead", askForDead, check.Dead, endState}, {"dead", askForDead, check.Dead, endEvent}, {"dead", askForDead, check.Dead, acking},
}

func askFor(ref string) func(*rig) { return func(r *rig) { r.ask(ref) } }

// askForDead asks for what can never be read back.
func askForDead(r *rig) {
	denied := refusal(http.StatusForbidden, "DENIED")
	r.calls.Fault(func(req *http.Request) *kit.Fault {
		if about(http.MethodGet, "sha256:")(req) {
			return &denied
		}
		return nil
	})
	r.ask(gitTag)
}

// askForGone asks for a commit that the branch does not have.
func askForGone(r *rig) {
	r.Helper()
	asked, err := r.natsAsker("gone").ask(r.Context(), "hello", "refs/heads/main", strings.Repeat("6", 40))
	r.must(err)
	r.asked = append(r.asked, asked)
}

func askForJunk(r *rig) {
	r.Helper()
	asked, err := r.natsAsker("junk").junk(r.Context(), "hello")
	r.must(err)
	r.asked = append(r.asked, asked)
}

func (r *rig) natsAsker(delivery string) natsAsker {
	return natsAsker{js: r.js, delivery: func() string { return delivery }}
}

// What ends without a release is told once, whatever imgd was killed at.
func TestKilledAtTheEnd(t *testing.T) {
	t.Parallel()
	buildkitd := sharedBuildkitd(t)
	type end struct {
		finish
		side kit.Side
	}
	var rows []end
	for _, f := range finishes {
		rows = append(rows, end{f, kit.Before}, end{f, kit.Answered})
	}
	name := func(row end) string { return row.title + ": " + rowName(row.point, row.side, false) }
	runRows(t, rowsAtOnce, rows, name, func(t *testing.T, row end) {
		r := bareRig(t, buildkitd)
		r.site.repo = r.addProject("hello", image, scratchFiles(t.Name()))
		r.config.Queue.Tries, r.config.Queue.RetryFor = 1, "1ms" // what fails is given up at once
		r.watch()
		r.start()
		r.commit("broken", map[string]string{"Dockerfile": "FROM scratch\nCOPY nothing /\n"})
		hold := row.arm(r, row.side)
		row.ask(r)
		r.waitHeld(hold)
		r.daemon.Kill9()
		hold.Drop()
		r.mustIdle()
		r.mustHold(r.look())
		r.start()
		w := r.mustEnd()
		if row.state == "" {
			if len(w.States) > 0 || len(w.Dead) != 1 {
				t.Errorf("states %v, dead letters %v: want one letter", w.States, w.Dead)
			}
			return
		}
		if s := w.States[r.asked[0].Request]; s.State != row.state || len(w.Events) != 1 || len(w.Index.Releases) > 0 {
			t.Errorf("it is %s, with %d events and %d releases: want it %s, with one", s.State, len(w.Events), len(w.Index.Releases), row.state)
		}
		if dead := row.state == check.Dead; dead != (len(w.Dead) == 1) || len(w.Dead) > 1 {
			t.Errorf("dead letters %v of what is %s", w.Dead, row.state)
		}
	})
}

// What the queue has taken is built, also if imgd did not live to say so; what it has not taken was not acknowledged.
func TestKilledAtIntake(t *testing.T) {
	t.Parallel()
	buildkitd := sharedBuildkitd(t)
	isRequest := line(func(l kit.Line) bool { return isPub(l, "imgd.requests.") })
	overHTTP, byHook := point{"request", isRequest}, point{"request of a webhook", isRequest}
	rows := []row{{overHTTP, kit.Before}, {overHTTP, kit.Answered}, {byHook, kit.Before}, {byHook, kit.Answered}}
	runRows(t, rowsAtOnce, rows, row.String, func(t *testing.T, row row) {
		r := bareRig(t, buildkitd)
		r.site.repo = r.addProject("hello", image, scratchFiles(t.Name()))
		r.takeHooks()
		r.watch()
		r.start()
		hold := row.arm(r, row.side)
		asked := make(chan error, 1)
		go func() {
			if row.name == byHook.name {
				asked <- r.push("hello", gitTag)
				return
			}
			_, err := r.submit("hello", gitTag)
			asked <- err
		}()
		r.waitHeld(hold)
		r.daemon.Kill9()
		hold.Drop()
		if err := <-asked; err == nil {
			t.Error("a dead imgd has acknowledged a request")
		}
		r.mustIdle()
		r.mustHold(r.look())
		r.start()
		want := 0
		if row.side == kit.Answered {
			want = 1
		}
		if w := r.mustEnd(); len(w.Events) != want || len(w.Index.Releases) != want {
			t.Errorf("%d releases, %d events, want %d", len(w.Index.Releases), len(w.Events), want)
		}
	})
}

// push tells imgd of a tag by a webhook, as the forge does that has the project.
func (r *rig) push(project, tag string) error {
	commit, err := r.repo.Rev(r.Context(), tag)
	if err != nil {
		return err
	}
	body, err := pushed(project, "refs/tags/"+tag, commit)
	if err != nil {
		return err
	}
	asked, err := hookAsker{url: r.daemon.HTTP}.deliver(r.Context(), project, "of "+tag, body)
	if err == nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.asked = append(r.asked, asked)
	}
	return err
}

// imgd is killed while it takes an immutable tag back that another repository has refused for good.
func TestKilledWhileSettlingBack(t *testing.T) {
	t.Parallel()
	buildkitd := sharedBuildkitd(t)
	removing := point{"removal of the tag", call(http.MethodDelete, gitTag)}
	stating := point{"state failed", line(func(l kit.Line) bool {
		return isPub(l, "imgd.status.") && bytes.Contains(l.Payload, []byte(`"state":"failed"`))
	})}
	rows := []row{{removing, kit.Before}, {removing, kit.Answered}, {stating, kit.Before}}
	runRows(t, rowsAtOnce, rows, row.String, func(t *testing.T, row row) {
		r := refusingRig(t, buildkitd)
		hold := row.arm(r, row.side)
		request := r.ask(gitTag)
		r.waitHeld(hold)
		r.daemon.Kill9()
		hold.Drop()
		r.mustIdle()
		r.mustHold(r.look())
		r.start()
		r.waitState(request, check.Failed)
		r.mustBeRefused(request)
	})
}
