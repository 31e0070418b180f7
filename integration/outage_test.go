package integration_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/imgd/imgd/integration/kit"
)

// outage is how long a part is gone: longer than a lease, and than imgd waits for one answer of NATS.
const outage = leaseTime + time.Second

// A row breaks something while a call is held.
type row struct {
	point
	side kit.Side
}

func (r row) String() string { return rowName(r.point, r.side, false) }

// breaks are the points at which parts are stopped and killed, on each side of what is called.
var breaks = []row{
	{pushing, kit.Before}, {pushing, kit.Answered},
	{capturing, kit.Before}, {capturing, kit.Answered},
	{admitting, kit.Answered},
	{taggingOne, kit.Before}, {taggingOne, kit.Answered},
	{taggingAll, kit.Before}, {taggingAll, kit.Answered},
	{announcing, kit.Before}, {announcing, kit.Answered},
	{stating, kit.Before}, {stating, kit.Answered},
	{acking, kit.Before}, {acking, kit.Answered},
}

// pass waits so long. It is for what is to last, not for what is to happen.
func pass(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// imgd stands still for longer than its lease, in which another takes the request and gives it back. Then it wakes and goes
// on where it stood: one release, one event.
func TestStoppedPastItsLease(t *testing.T) {
	t.Parallel()
	buildkitd := sharedBuildkitd(t)
	runRows(t, rowsAtOnce, breaks, row.String, func(t *testing.T, row row) {
		r := newRig(t, buildkitd)
		hold := row.arm(r, row.side)
		request := r.ask(gitTag)
		r.waitHeld(hold)
		r.must(r.daemon.Stop())
		t.Cleanup(func() { _ = r.daemon.Wake() }) // or it could not be terminated
		hold.Pass()
		took := r.takeOver()
		if acked := row.name == acking.name; took == acked && row.name != announcing.name { // nobody waits for that
			t.Errorf("another got the request: %v", took)
		}
		stopped := r.look()
		r.mustHold(stopped)
		r.must(r.daemon.Wake())
		r.waitEnd(request)
		r.mustHaveEnded(image, request, stopped)
	})
}

// takeOver is another daemon, which takes the request when the lease of the first has run out, and gives it back. It
// answers whether there was one. The server may give the request to the first one again before that, for a place it has
// free: then a second lease has to run out.
func (r *rig) takeOver() bool {
	r.Helper()
	ctx, cancel := context.WithTimeout(r.Context(), endTime)
	defer cancel()
	consumer, err := r.js.Consumer(ctx, "IMGD_REQUESTS", "imgd")
	r.must(err)
	batch, err := consumer.Fetch(1, jetstream.FetchMaxWait(4*leaseTime))
	r.must(err)
	msg := <-batch.Messages()
	r.must(batch.Error())
	if msg == nil {
		return false
	}
	r.must(msg.Nak())
	return true
}

// What was asked, or its answer, is lost on the way, and imgd lives to try again.
func TestCallLost(t *testing.T) {
	t.Parallel()
	buildkitd := sharedBuildkitd(t)
	runRows(t, rowsAtOnce, breaks, row.String, func(t *testing.T, row row) {
		r := newRig(t, buildkitd)
		hold := row.arm(r, row.side)
		request := r.ask(gitTag)
		r.waitHeld(hold)
		hold.Drop()
		r.waitEnd(request)
		r.mustHaveEnded(image, request, nil)
	})
}

// NATS is killed and comes back later, over the same directory.
func TestNATSKilledAtEachStep(t *testing.T) {
	t.Parallel()
	buildkitd := sharedBuildkitd(t)
	runRows(t, rowsAtOnce, breaks, row.String, func(t *testing.T, row row) {
		r := newRig(t, buildkitd)
		hold := row.arm(r, row.side)
		request := r.ask(gitTag)
		r.waitHeld(hold)
		r.queue.Kill9()
		hold.Pass() // what is held before a dead NATS is lost
		pass(t.Context(), outage)
		r.must(r.queue.Start(t.Context()))
		r.waitEnd(request)
		r.mustHaveEnded(image, request, nil)
	})
}

// buildkitdBreaks are the points at which buildkitd is killed; what comes after the push does not need it.
var buildkitdBreaks = []row{
	{building, kit.Before}, {pushing, kit.Before}, {pushing, kit.Answered}, {capturing, kit.Before}, {taggingOne, kit.Before},
}

// building is the moment when a step of the Dockerfile runs.
var building = point{"build", func(r *rig, side kit.Side) *kit.Hold {
	return r.source.Arm(side, func(*http.Request) bool { return true })
}}

func TestBuildkitdKilledAtEachStep(t *testing.T) {
	t.Parallel()
	runRows(t, rowsAtOnce, buildkitdBreaks, row.String, func(t *testing.T, row row) {
		r := bareRig(t, sharedBuildkitd(t))
		r.site.repo = r.addProject("hello", image, r.sourceFiles())
		r.watch()
		r.start()
		hold := row.arm(r, row.side)
		request := r.ask(gitTag)
		r.waitHeld(hold)
		r.buildkitd.Kill9()
		hold.Pass()
		pass(t.Context(), outage)
		r.must(r.buildkitd.Start(t.Context()))
		r.waitEnd(request)
		r.mustHaveEnded(image, request, nil)
	})
}

// sourceFiles are of a build that fetches a file from the test, through a gate.
func (r *rig) sourceFiles() map[string]string {
	r.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("data")) }))
	r.Cleanup(server.Close)
	r.source = httpGate(r.T, server.Listener.Addr().String())
	return map[string]string{"Dockerfile": "FROM scratch\nADD http://" + r.source.Addr + "/data /data\n"}
}

// linkBreaks are what becomes of the connection to buildkitd while it builds, for the time of an outage or until imgd has
// given up a try.
var linkBreaks = []struct {
	name    string
	timeout string // of the project
	hurt    func(*kit.Link) error
	givesUp bool
}{
	{"cut", "", func(l *kit.Link) error { l.Cut(); return nil }, false},
	{"cut until the try has failed", "", func(l *kit.Link) error { l.Cut(); return nil }, true},
	{"stalled", "", (*kit.Link).Stall, false},
	{"stalled for longer than a build may take", "2s", (*kit.Link).Stall, true},
	{"slow", "", func(l *kit.Link) error { return l.Slow(100 * time.Millisecond) }, false},
}

func TestBuildkitdBehindABadLink(t *testing.T) {
	t.Parallel()
	buildkitd := sharedBuildkitd(t)
	rows := []int{0, 1, 2, 3, 4}
	runRows(t, rowsAtOnce, rows, func(i int) string { return linkBreaks[i].name }, func(t *testing.T, i int) {
		link, err := kit.StartLink(buildkitd.TCP)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(link.Close)
		r := bareRig(t, buildkitd)
		r.site.repo = r.addProject("hello", image, r.sourceFiles())
		r.config.Projects[0].Timeout = linkBreaks[i].timeout
		r.config.BuildKit.Address = "tcp://" + link.Addr
		r.watch()
		r.start()
		hold := building.arm(r, kit.Before)
		request := r.ask(gitTag)
		r.waitHeld(hold)
		r.must(linkBreaks[i].hurt(link))
		hold.Pass()
		if linkBreaks[i].givesUp {
			r.waitFailedTry(request)
		} else {
			pass(t.Context(), outage)
		}
		r.must(link.Mend(t.Context()))
		r.waitEnd(request)
		r.mustHaveEnded(image, request, nil)
	})
}
