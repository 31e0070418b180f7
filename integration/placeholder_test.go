package integration_test

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/imgd/imgd/integration/kit"
)

// An undeletable makes a gate a registry that does not delete tags, and knows the requests about pr-7's placeholder.
type undeletable struct{ refused, seen atomic.Int64 }

func (u *undeletable) fault(req *http.Request) *kit.Fault {
	_, reference, ok := manifest(req)
	if !ok || req.Method != http.MethodDelete || strings.Contains(reference, ":") {
		return nil
	}
	if reference == "pr-7" {
		u.refused.Add(1)
	}
	answer := refusal(http.StatusBadRequest, "DIGEST_INVALID")
	return &answer
}

// nth matches the n-th put under pr-7, or delete of a digest, after pr-7 was not deleted. The first of these deletes asks whether the
// registry does that.
func (u *undeletable) nth(method string, n int64) func(*http.Request) bool {
	return func(req *http.Request) bool {
		_, reference, ok := manifest(req)
		about := method == http.MethodPut && reference == "pr-7" || method == http.MethodDelete && strings.Contains(reference, ":")
		return ok && u.refused.Load() > 0 && req.Method == method && about && u.seen.Add(1) == n
	}
}

// imgd is killed while it removes a tag by a placeholder, which is what the tag names then, and goes on after its start.
func TestKilledWithPlaceholder(t *testing.T) {
	t.Parallel()
	buildkitd := sharedBuildkitd(t)
	rows := []struct {
		name   string
		method string
		n      int64
		side   kit.Side
	}{
		{"put, done", http.MethodPut, 1, kit.Answered},
		{"deleted, not done", http.MethodDelete, 2, kit.Before},
		{"deleted, done", http.MethodDelete, 2, kit.Answered},
	}
	runRows(t, rowsAtOnce, []int{0, 1, 2}, func(i int) string { return rows[i].name }, func(t *testing.T, i int) {
		r := keepingRig(t, buildkitd, "1s")
		r.config.Registry.UntagByPlaceholder = []string{r.calls.Addr}
		registry := &undeletable{}
		r.calls.Fault(registry.fault)
		hold := r.calls.Arm(rows[i].side, registry.nth(rows[i].method, rows[i].n))
		r.start()
		r.ask(pullRef)
		r.waitHeld(hold)
		r.daemon.Kill9()
		hold.Drop()
		r.mustIdle()
		r.start()
		r.waitRemoved("pr-7")
		r.mustHaveExpired(r.mustEnd(), "pr-7")
	})
}
