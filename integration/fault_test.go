package integration_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/imgd/imgd/integration/check"
	"github.com/imgd/imgd/integration/kit"
)

// answers are what a registry, or what stands before it, says instead of what it should.
var answers = []struct {
	name string
	kit.Fault
}{
	{"401", refusal(http.StatusUnauthorized, "UNAUTHORIZED")},
	{"403", refusal(http.StatusForbidden, "DENIED")},
	{"404", refusal(http.StatusNotFound, "NAME_UNKNOWN")},
	{"429 for a day", kit.Fault{Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"86400"}}}},
	{"500", refusal(http.StatusInternalServerError, "UNKNOWN")},
	{"503", kit.Fault{Status: http.StatusServiceUnavailable, Body: "<html>no upstream</html>"}},
	{"cut", kit.Fault{Cut: true}},
}

func refusal(status int, code string) kit.Fault {
	return kit.Fault{Status: status, Header: http.Header{"Content-Type": {"application/json"}},
		Body: fmt.Sprintf(`{"errors":[{"code":%q,"message":"as the test wants it"}]}`, code)}
}

// seen reports whether imgd has sent such a call of the row's image before.
type seen func(method, reference string) bool

// asks are all that imgd and buildkitd ask of a registry on the way of a request.
var asks = []struct {
	name  string
	by    func(*rig) *kit.HTTPGate
	match func(seen) func(*http.Request) bool
}{
	{"push of a layer", buildkitds, func(seen) func(*http.Request) bool {
		return func(req *http.Request) bool {
			return req.Method == http.MethodPost && strings.Contains(req.URL.Path, "/blobs/uploads/")
		}
	}},
	{"push of the manifest", buildkitds, always(http.MethodPut, "sha256:")},
	{"capture", imgds, always(http.MethodGet, "sha256:")},
	{"look before admit", imgds, func(was seen) func(*http.Request) bool {
		return func(req *http.Request) bool {
			return about(http.MethodGet, gitTag)(req) && !was(http.MethodPut, gitTag)
		}
	}},
	{"immutable tag", imgds, always(http.MethodPut, gitTag)},
	{"moving tag", imgds, always(http.MethodPut, "latest")},
	{"read back", imgds, func(was seen) func(*http.Request) bool {
		return func(req *http.Request) bool { return about(http.MethodGet, gitTag)(req) && was(http.MethodPut, gitTag) }
	}},
}

func imgds(r *rig) *kit.HTTPGate      { return r.calls }
func buildkitds(r *rig) *kit.HTTPGate { return r.pushes }

func always(method, reference string) func(seen) func(*http.Request) bool {
	return func(seen) func(*http.Request) bool { return about(method, reference) }
}

// A faulty is one row: one kind of call of one project is answered so, until imgd has given up a try or the request.
type faulty struct{ ask, answer int }

func (f faulty) String() string { return asks[f.ask].name + ", " + answers[f.answer].name }

func (f faulty) project() string { return fmt.Sprintf("p%d-%d", f.ask, f.answer) }

func (f faulty) image() string { return "demo/" + f.project() }

// end is how the request ends, when the fault is over.
func (f faulty) end() scene {
	published := scene{release: check.Published, tags: wholeSet, events: 1, state: check.Published, queue: "empty"}
	switch f.String() {
	case "immutable tag, 403": // no for good
		return scene{release: check.Abandoned, tags: "none", state: check.Failed, queue: "empty"}
	case "moving tag, 403":
		published.tags = "1 1.2 " + gitTag
	}
	return published
}

// arm makes the row's calls fail until mend is called.
func (f faulty) arm(r *rig) (met *atomic.Int64, mend func()) {
	met = &atomic.Int64{}
	var mu sync.Mutex // guards before
	before := map[string]bool{}
	was := func(method, reference string) bool {
		mu.Lock()
		defer mu.Unlock()
		return before[method+" "+reference]
	}
	match := asks[f.ask].match(was)
	mend = asks[f.ask].by(r).Fault(func(req *http.Request) *kit.Fault {
		if !strings.HasPrefix(req.URL.Path, "/v2/"+f.image()+"/") {
			return nil
		}
		hit := match(req)
		if _, reference, ok := manifest(req); ok {
			mu.Lock()
			before[req.Method+" "+reference] = true
			mu.Unlock()
		}
		if !hit {
			return nil
		}
		met.Add(1)
		return &answers[f.answer].Fault
	})
	return met, mend
}

// Each fault of the registry at each kind of call: the request ends published when it is over, or visibly refused where
// the registry says no for good. One daemon takes them all, each with an image of its own.
func TestRegistryFaults(t *testing.T) {
	t.Parallel()
	r := bareRig(t, sharedBuildkitd(t))
	repo := bareRepo(t, "demo/all", scratchFiles(t.Name()))
	r.must(repo.Tag(t.Context(), gitTag, "main"))
	var rows []faulty
	for ask := range asks {
		for answer := range answers {
			row := faulty{ask, answer}
			rows = append(rows, row)
			r.config.Projects = append(r.config.Projects, kit.ProjectConfig{Name: row.project(), Git: repo.URL, Image: row.image()})
			r.place.Repositories = append(r.place.Repositories, r.calls.Addr+"/"+row.image())
		}
	}
	r.config.Build.Slots = len(rows)
	r.start()
	runRows(t, len(rows), rows, faulty.String, func(t *testing.T, row faulty) {
		met, mend := row.arm(r)
		defer mend()
		request, err := r.submit(row.project(), gitTag)
		if err == nil {
			err = row.bites(r, request)
		}
		mend()
		if err == nil {
			err = r.await(request, `"state":"`+row.end().state+`"`)
		}
		if err != nil || met.Load() == 0 {
			t.Errorf("met %d times: %v", met.Load(), err)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.requests[row.image()] = request
	})
	w := r.mustEnd()
	for _, row := range rows {
		request, ran := r.requests[row.image()]
		if !ran { // -run left it out
			continue
		}
		for _, wrong := range row.end().differs(sceneOf(w, row.image(), request)) {
			t.Errorf("%s: at the end %s", row, wrong)
		}
	}
}

// bites waits until the fault has made a try fail, or the request has ended: refused for good, or not hurt. (That a tag is
// not there is what imgd hopes to hear; buildkitd finds by itself what it has pushed without hearing so.)
func (f faulty) bites(r *rig, request string) error {
	if f.end().tags != wholeSet {
		return r.await(request, `"endedAt":"`)
	}
	return r.await(request, `"error":{`, `"endedAt":"`)
}

// An immutable tag that one of two repositories refuses for good is taken back from the other.
func TestRefusedByOneOfTwo(t *testing.T) {
	t.Parallel()
	r := refusingRig(t, sharedBuildkitd(t))
	put := call(http.MethodPut, gitTag)(r, kit.Answered)
	request := r.ask(gitTag)
	r.waitHeld(put)
	put.Pass()
	r.waitState(request, check.Failed)
	r.mustBeRefused(request)
}

// refusingRig has one project with two repositories, of which the second does not take gitTag.
func refusingRig(t *testing.T, buildkitd *kit.Buildkitd) *rig {
	t.Helper()
	r := bareRig(t, buildkitd)
	r.site.repo = r.addProject("hello", image, scratchFiles(t.Name()))
	const second = "demo/second"
	for _, name := range []string{image, second} { // settled in this order
		r.config.Projects[0].Repositories = append(r.config.Projects[0].Repositories, r.calls.Addr+"/"+name)
	}
	r.place.Repositories = append(r.place.Repositories, r.calls.Addr+"/"+second)
	denied := refusal(http.StatusForbidden, "DENIED")
	r.calls.Fault(func(req *http.Request) *kit.Fault {
		if to, tag, ok := manifest(req); ok && req.Method == http.MethodPut && to == second && tag == gitTag {
			return &denied
		}
		return nil
	})
	r.watch()
	r.start()
	return r
}

// mustBeRefused waits for the end of the one request, visibly failed, without a tag anywhere.
func (r *rig) mustBeRefused(request string) {
	r.Helper()
	want := scene{release: check.Abandoned, tags: "none", state: check.Failed, queue: "empty"}
	for _, wrong := range want.differs(sceneOf(r.mustEnd(), image, request)) {
		r.Errorf("at the end %s", wrong)
	}
}

// downs are the points at which the registry goes away altogether, for longer than imgd's and buildkitd's own retries.
var downs = []struct {
	point
	by func(*rig) *kit.HTTPGate
}{
	{pushing, buildkitds}, {capturing, imgds}, {admitting, imgds}, {taggingOne, imgds}, {taggingAll, imgds}, {readBack, imgds},
}

func TestRegistryDown(t *testing.T) {
	t.Parallel()
	buildkitd := sharedBuildkitd(t)
	rows := []int{0, 1, 2, 3, 4, 5}
	runRows(t, rowsAtOnce, rows, func(i int) string { return downs[i].name }, func(t *testing.T, i int) {
		r := newRig(t, buildkitd)
		hold := downs[i].arm(r, kit.Before)
		request := r.ask(gitTag)
		r.waitHeld(hold)
		r.must(downs[i].by(r).Down())
		hold.Drop()
		r.waitFailedTry(request)
		r.must(downs[i].by(r).Up())
		r.waitEnd(request)
		r.mustHaveEnded(image, request, nil)
	})
}
