package httpapi_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/internal/httpapi"
)

// retriedAt is when the world's queue takes what is retried.
var retriedAt = epoch.Add(time.Hour)

// known is the state of the request, for a command of the API.
func (w *world) known(request, by string) (imgd.Status, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if by != "http" || len(request) != 32 {
		w.t.Errorf("a command on request %q came by %q", request, by)
	}
	s, ok := w.status(request)
	if !ok {
		return s, fmt.Errorf("request %s: %w", request, imgd.ErrNotFound)
	}
	return s, w.broken
}

func (w *world) Cancel(_ context.Context, request, by string) (imgd.Status, error) {
	s, err := w.known(request, by)
	if err != nil {
		return s, err
	}
	if s.State.Final() {
		return s, fmt.Errorf("request %s has ended %s: %w", request, s.State, imgd.ErrConflict)
	}
	s.State, s.EndedAt = imgd.Cancelled, retriedAt
	w.set(s)
	return s, nil
}

func (w *world) Retry(ctx context.Context, id, by string) (imgd.Request, error) {
	if strings.HasPrefix(id, "dead-") {
		l, err := w.take(ctx, id)
		if err != nil || l.Request == "" {
			return imgd.Request{Project: l.Project}, err
		}
		id = l.Request
	}
	s, err := w.known(id, by)
	if err != nil {
		return imgd.Request{}, err
	}
	if !s.State.Final() {
		return imgd.Request{}, fmt.Errorf("request %s is %s: %w", id, s.State, imgd.ErrConflict)
	}
	req := s.Again()
	req.AskedAt = retriedAt
	w.set(imgd.StatusOf(req, imgd.Queued))
	return req, nil
}

func (w *world) Drop(ctx context.Context, id, by, reason string) (imgd.Status, error) {
	if strings.HasPrefix(id, "dead-") {
		_, err := w.take(ctx, id)
		return imgd.Status{}, err
	}
	s, err := w.known(id, by)
	if err != nil {
		return s, err
	}
	if s.State == imgd.Published {
		return s, fmt.Errorf("release %s is published: %w", s.Release, imgd.ErrConflict)
	}
	if rel, ok := w.index.Newest(id); ok {
		if _, err := w.index.Abandon(ctx, rel.ID, "dropped: "+reason); err != nil {
			return s, err
		}
	}
	s.State, s.Error = imgd.Failed, &imgd.StatusError{Kind: "dropped", Message: "dropped by " + by + ": " + reason}
	w.set(s)
	return s, nil
}

// take takes a letter away.
func (w *world) take(ctx context.Context, id string) (imgd.Letter, error) {
	l, ok, err := w.Letter(ctx, id)
	if err == nil && !ok {
		err = fmt.Errorf("%s: %w", id, imgd.ErrNotFound)
	}
	if err == nil {
		w.change(func() { w.letters = slices.DeleteFunc(w.letters, func(l imgd.Letter) bool { return l.ID == id }) })
	}
	return l, err
}

func (w *world) Letters(_ context.Context, limit int, before uint64) ([]imgd.Letter, uint64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	end := len(w.letters)
	if before > 0 {
		end = int(before) - 1
	}
	start := max(0, end-limit)
	items := slices.Clone(w.letters[start:end])
	slices.Reverse(items)
	if start == 0 {
		return items, 0, w.broken
	}
	return items, uint64(start) + 1, w.broken
}

func (w *world) Letter(_ context.Context, id string) (imgd.Letter, bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := slices.IndexFunc(w.letters, func(l imgd.Letter) bool { return l.ID == id })
	if i < 0 {
		return imgd.Letter{}, false, w.broken
	}
	return w.letters[i], true, w.broken
}

// ReportDrift takes what the index says it must be.
func (w *world) ReportDrift(ctx context.Context, d imgd.Drift) error {
	if _, ok := ctx.Deadline(); !ok || ctx.Err() != nil {
		w.t.Errorf("a report has no time: %v", ctx.Err())
	}
	rel, _ := w.index.Wanted(d.Image, d.Tag)
	if d.Generation == 0 || (d.Found == d.Wanted) != (d.Kind == imgd.DriftBlobMissing) || (d.Lack != nil) != (d.Kind == imgd.DriftBlobMissing) || rel.State == imgd.ReleasePublished && d.Wanted != rel.Root.Digest {
		w.t.Errorf("reported %+v of release %+v", d, rel)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.unreported != nil {
		return w.unreported
	}
	w.drifts = append(w.drifts, d)
	return nil
}

// stuck is a world with all that an operator may have to deal with: a request
// that waits, one that failed, one that is dead with its letter, a letter that
// is no request, and an open release.
func stuck(t *testing.T) (w *world, queued, failed, dead imgd.Status, open imgd.Release) {
	t.Helper()
	w, _, _ = full(t)
	ask := func(letter string, s imgd.State) imgd.Status {
		r := imgd.Request{Project: "hello", Ref: "refs/heads/" + letter, Commit: commit(letter), AskedAt: epoch, By: "ada", Reason: "why not"}
		r.ID = r.Hash()
		return imgd.StatusOf(r, s)
	}
	queued, failed, dead = ask("c", imgd.Queued), ask("f", imgd.Failed), ask("d", imgd.Dead)
	failed.Error = &imgd.StatusError{Kind: "build", Message: "go build: exit code 1", File: "Dockerfile", Line: 7, ExitCode: 1}
	dead.Tries, dead.Error = 5, &imgd.StatusError{Kind: "error", Message: "the registry was away"}
	for _, s := range []imgd.Status{queued, failed, dead} {
		w.set(s)
	}
	w.change(func() {
		w.letters = []imgd.Letter{
			{ID: "dead-3", Request: dead.Request, Project: "hello", Reason: "the registry was away", Tries: 5, At: epoch, Subject: "imgd.requests.hello.branch", Body: `{"ref":"refs/heads/d"}`},
			{ID: "dead-2", Project: "hello", Reason: "EOF", Tries: 1, At: epoch, Subject: "imgd.requests.hello.branch"},
			{ID: "dead-4", Project: "hello", Reason: "unknown field rev", Tries: 1, At: epoch, Subject: "imgd.requests.hello.branch", Body: `{"rev":1}`},
		}
	})
	open = w.admit(w.release("refs/tags/v2.0.0", "e", "E"))
	s := statusOf(open, imgd.Publishing)
	s.Error = &imgd.StatusError{Kind: "error", Message: "settle demo/hello:latest: the registry is read-only"}
	w.set(s)
	return w, queued, failed, dead, open
}

func TestOperatorsAnswers(t *testing.T) {
	w, queued, failed, dead, open := stuck(t)
	const requests = "/v1/requests/"
	for _, test := range []struct {
		name, method, path, body string
		status                   int
		header                   string // Location
	}{
		{"letters", "GET", "/v1/letters", "", 200, ""},
		{"letters-page", "GET", "/v1/letters?limit=1&cursor=3&seq=1", "", 200, ""},
		{"letter", "GET", "/v1/letters/dead-4", "", 200, ""},
		{"requests-dead", "GET", "/v1/requests?state=dead&project=hello", "", 200, ""},
		{"requests-none", "GET", "/v1/requests?project=other&state=", "", 200, ""},
		{"releases", "GET", "/v1/releases?open=1", "", 200, ""},
		{"releases-none", "GET", "/v1/releases?open=1&image=demo/other", "", 200, ""},
		{"cancel", "POST", requests + queued.Request + "/cancel", "", 200, ""},
		{"retry", "POST", requests + failed.Request + "/retry", `{"reason":"the base image is back"}`, 202, requests + failed.Request},
		{"retry-letter", "POST", requests + "dead-3/retry", "{}", 202, requests + dead.Request},
		{"retry-unreadable", "POST", requests + "dead-2/retry", "", 202, ""},
		{"drop", "POST", requests + open.Request.ID + "/drop", `{"reason":"it never will"}`, 200, ""},
		{"drop-letter", "POST", requests + "dead-4/drop", "", 200, ""},
		{"letters-gone", "GET", "/v1/letters", "", 200, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := w.do(test.method, test.path, test.body)
			if got.status != test.status || got.header.Get("Content-Type") != "application/json" || got.header.Get("Location") != test.header {
				t.Fatalf("got %d %s\n%s", got.status, got.header, got.body)
			}
			golden(t, test.name, got.body)
		})
	}
	w.api.Close()
	for _, line := range []string{
		"command=cancel request=" + queued.Request + ` by=http reason=""`,
		"command=retry request=" + failed.Request + ` by=http reason="the base image is back"`,
		"command=drop request=" + open.Request.ID + ` by=http reason="it never will"`,
	} {
		if !strings.Contains(w.log.String(), line) {
			t.Errorf("the log has no %q:\n%s", line, w.log.String())
		}
	}
}

func TestOperatorsProblems(t *testing.T) {
	w, queued, failed, _, _ := stuck(t)
	published := w.statuses[0].Request
	const id = "0123456789abcdef0123456789abcdef"
	const valid = "queued, resolving, building, publishing, published, unchanged, superseded, cancelled, conflict, failed, dead"
	for _, test := range []struct {
		method, path, body string
		status             int
		code               httpapi.Code
		words              string
	}{
		{"GET", "/v1/requests?state=lost", "", 400, "usage", valid},
		{"GET", "/v1/requests?state=dead&state=failed", "", 400, "usage", "twice"},
		{"GET", "/v1/requests?limit=0", "", 400, "usage", "limit"},
		{"GET", "/v1/requests/dead-3", "", 404, "not-found", "GET /v1/letters/dead-3"},
		{"GET", "/v1/requests/dead-", "", 404, "not-found", "no request"},
		{"GET", "/v1/requests/" + id + "/cancel", "", 405, "usage", "POST"},
		{"DELETE", "/v1/requests/" + id, "", 405, "usage", "GET"},
		{"POST", "/v1/requests/" + id + "/cancel", "", 404, "not-found", id},
		{"POST", "/v1/requests/" + id + "/retry", "", 404, "not-found", id},
		{"POST", "/v1/requests/" + id + "/drop", "", 404, "not-found", id},
		{"POST", "/v1/requests/" + id + "/stop", "", 404, "not-found", "stop"},
		{"POST", "/v1/requests/..%2f..%2fetc/drop", "", 404, "not-found", "etc"},
		{"POST", "/v1/requests/dead-x/drop", "", 404, "not-found", "dead-x"},
		{"POST", "/v1/requests/dead-9/drop", "", 404, "not-found", "dead-9"},
		{"POST", "/v1/requests/dead-9/retry", "", 404, "not-found", "dead-9"},
		{"POST", "/v1/requests/dead-3/cancel", "", 409, "conflict", "retry it, or drop it"},
		{"POST", "/v1/requests/" + failed.Request + "/cancel", "", 409, "conflict", "cancel: request " + failed.Request + " has ended failed"},
		{"POST", "/v1/requests/" + queued.Request + "/retry", "", 409, "conflict", "retry: request " + queued.Request + " is queued"},
		{"POST", "/v1/requests/" + published + "/drop", `{"reason":"x"}`, 409, "conflict", "is published"},
		{"POST", "/v1/requests/" + queued.Request + "/drop", `{"why":"x"}`, 400, "usage", "why"},
		{"POST", "/v1/requests/" + queued.Request + "/drop?reason=x", "", 400, "usage", "reason"},
		{"GET", "/v1/letters/dead-9", "", 404, "not-found", "dead-9"},
		{"GET", "/v1/letters/" + id, "", 404, "not-found", id},
		{"GET", "/v1/letters/dead-3?limit=1", "", 400, "usage", "limit"},
		{"GET", "/v1/letters?cursor=x", "", 400, "usage", "cursor"},
		{"GET", "/v1/letters?limit=1001", "", 400, "usage", "limit"},
		{"GET", "/v1/letters?seq=x", "", 400, "usage", "seq"},
		{"POST", "/v1/letters", "", 405, "usage", "GET"},
		{"POST", "/v1/letters/dead-3", "", 405, "usage", "GET"},
		{"GET", "/v1/releases", "", 400, "usage", "add open=1"},
		{"GET", "/v1/releases?open=0", "", 400, "usage", "add open=1"},
		{"GET", "/v1/releases?open=maybe", "", 400, "usage", "open"},
		{"GET", "/v1/releases?open=1&cursor=%21", "", 400, "usage", "cursor"},
		{"GET", "/v1/releases?open=1&tag=v1", "", 400, "usage", "tag"},
		{"POST", "/v1/releases?open=1", "", 405, "usage", "GET"},
		{"GET", "/v1/events?what=published,lost", "", 400, "usage", "published, deleted, failed, conflict, superseded, dead, drift"},
		{"GET", "/v1/events?image=a&image=b", "", 400, "usage", "twice"},
		{"GET", "/v1/events?what=published&tag=x", "", 400, "usage", "tag"},
		{"POST", "/metrics", "", 405, "usage", "GET"},
		{"GET", "/hooks/github/hello", "", 404, "not-found", "webhook"},
	} {
		t.Run(test.method+" "+test.path, func(t *testing.T) {
			checkProblem(t, w.do(test.method, test.path, test.body), test.status, test.code, test.words)
		})
	}
	if got, _ := w.status(queued.Request); got.State != imgd.Queued {
		t.Errorf("what was refused has changed a request: %+v", got)
	}
}

func TestOperatorsBroken(t *testing.T) {
	w, queued, _, _, _ := stuck(t)
	w.change(func() { w.broken = errDown })
	for _, test := range []struct{ method, path string }{
		{"POST", "/v1/requests/" + queued.Request + "/cancel"},
		{"POST", "/v1/requests/" + queued.Request + "/retry"},
		{"POST", "/v1/requests/" + queued.Request + "/drop"},
		{"POST", "/v1/requests/dead-3/drop"},
		{"GET", "/v1/letters"},
		{"GET", "/v1/letters/dead-3"},
		{"GET", "/v1/requests?state=dead"},
	} {
		t.Run(test.method+" "+test.path, func(t *testing.T) {
			checkProblem(t, w.do(test.method, test.path, ""), 502, "failed", errDown.Error())
		})
	}
}

// While the stream of states is away the open releases are shown, and what is
// not known of them.
func TestReleasesWithoutStates(t *testing.T) {
	w, _, _, _, open := stuck(t)
	w.change(func() { w.broken = errDown })
	got := w.get("/v1/releases?open=1")
	var list httpapi.List[httpapi.OpenRelease]
	if err := json.Unmarshal([]byte(got.body), &list); err != nil || got.status != 200 || len(list.Items) != 1 {
		t.Fatalf("got %d %s", got.status, got.body)
	}
	if rel := list.Items[0]; rel.ID != open.ID || rel.Status != nil || rel.Unknown != errDown.Error() {
		t.Errorf("got %+v", rel)
	}
}

// The oldest is the first, also across pages.
func TestReleasesAreInOrder(t *testing.T) {
	w := newWorld(t)
	var want []string
	for _, letter := range []string{"a", "b", "c"} {
		want = append(want, w.admit(w.release("refs/heads/"+letter, letter, strings.ToUpper(letter))).ID)
	}
	slices.Sort(want) // admitted in the same moment, of the clock that stands
	var got []string
	for path := "/v1/releases?open=1&limit=2"; path != ""; {
		var page httpapi.List[httpapi.OpenRelease]
		if err := json.Unmarshal([]byte(w.get(path).body), &page); err != nil {
			t.Fatal(err)
		}
		for _, rel := range page.Items {
			got = append(got, rel.ID)
		}
		if path = ""; page.Next != "" {
			path = "/v1/releases?open=1&limit=2&cursor=" + page.Next
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// Pages of what a filter chooses are the whole of it.
func TestRequestPages(t *testing.T) {
	w, _, _, dead, _ := stuck(t)
	later := dead
	later.Request = strings.Repeat("2", 32)
	w.set(later)
	var got []string
	for path := "/v1/requests?state=dead&limit=1"; path != ""; {
		var page httpapi.List[imgd.Status]
		if err := json.Unmarshal([]byte(w.get(path).body), &page); err != nil || len(page.Items) > 1 {
			t.Fatal(err, page)
		}
		for _, s := range page.Items {
			got = append(got, s.Request)
		}
		if path = ""; page.Next != "" {
			path = "/v1/requests?state=dead&limit=1&cursor=" + page.Next
		}
		if len(got) > 2 {
			break
		}
	}
	if want := []string{later.Request, dead.Request}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestEventFilters(t *testing.T) {
	w := newWorld(t)
	const a, b, c, d = `{"what":"published","image":"demo/hello"}`, `{"what":"failed","image":"demo/hello"}`, `{"what":"dead","image":"demo/other"}`, `{"what":"failed","image":"demo/other"}`
	w.change(func() { w.events = []string{a, b, c, d} })
	const end = "event: end|data: {}"
	w.stream("/v1/events?follow=0&what=failed,dead").want(hello, "id: 2|data: "+b, "id: 3|data: "+c, "id: 4|data: "+d, end, "EOF")
	w.stream("/v1/events?follow=0&what=published&what=dead,&what=dead").want(hello, "id: 1|data: "+a, "id: 3|data: "+c, end, "EOF")
	w.stream("/v1/events?follow=0&image=demo/hello").want(hello, "id: 1|data: "+a, "id: 2|data: "+b, end, "EOF")
	w.stream("/v1/events?follow=0&image=demo/other&what=failed&since=1").want(hello, "id: 4|data: "+d, end, "EOF")
	w.stream("/v1/events?follow=0&what=drift").want(hello, end, "EOF")
	live := w.stream("/v1/events?what=failed", "Last-Event-ID", "2")
	live.want(hello, "id: 4|data: "+d)
	w.change(func() { w.events = append(w.events, a, b) })
	live.want("id: 6|data: " + b)
}

// Whoever finds a drift tells the world, whether or not he waits for the answer.
func TestVerifyReportsDrift(t *testing.T) {
	w, first, _ := full(t)
	const path = "/v1/images/demo/hello/tags/v1.2.3/verify"
	stranger := digest.FromString("stranger")
	checkProblem(t, w.do("POST", path, `{"digest":"`+stranger.String()+`"}`), 409, "differs", "not "+stranger.String())
	if len(w.drifts) > 0 {
		t.Errorf("a wrong guess is reported as %+v", w.drifts)
	}
	w.change(func() {
		w.served[copyR+":v1.2.3"] = stranger
		delete(w.served, repo+":v1.2.3")
	})
	p := checkProblem(t, w.do("POST", path, "{}"), 409, "differs", copyR)
	want := []imgd.Drift{
		{Kind: imgd.DriftMissing, Image: image, Repository: repo, Tag: "v1.2.3", Wanted: first.Root.Digest, Generation: 1},
		{Kind: imgd.DriftMoved, Image: image, Repository: copyR, Tag: "v1.2.3", Wanted: first.Root.Digest, Found: stranger, Generation: 1},
	}
	if !slices.Equal(w.drifts, want) || p.Verification.Unreported != "" || strings.Contains(p.Detail, "not reported") {
		t.Errorf("reported %+v, want %+v, answered %+v", w.drifts, want, p)
	}
	w.change(func() { w.unreported = errDown })
	p = checkProblem(t, w.do("POST", path, "{}"), 409, "differs", "drift not reported: "+repo+":v1.2.3: "+errDown.Error())
	if want := fmt.Sprintf("%s:v1.2.3: %v; %s:v1.2.3: %v", repo, errDown, copyR, errDown); p.Verification.Unreported != want || len(p.Verification.Repositories) != 2 {
		t.Errorf("got %+v", p.Verification)
	}
	w.api.Close()
	if !strings.Contains(w.log.String(), `msg="drift is not reported"`) {
		t.Errorf("the log says nothing:\n%s", w.log.String())
	}
}

// A tag that names something else than an image has drifted too.
func TestVerifyOfNoImage(t *testing.T) {
	w, first, _ := full(t)
	w.change(func() {
		delete(w.served, repo+":v1.2.3")
		delete(w.served, copyR+":v1.2.3")
		w.broken = fmt.Errorf("it is no image: %w", imgd.ErrInvalid)
	})
	checkProblem(t, w.do("POST", "/v1/images/demo/hello/tags/v1.2.3/verify", "{}"), 409, "differs", first.Root.Digest.String())
	if len(w.drifts) != 2 || w.drifts[0].Found != "" {
		t.Errorf("reported %+v", w.drifts)
	}
}

// Who asked for a verification may be gone when it has found a drift.
func TestVerifyReportsWithoutItsCaller(t *testing.T) {
	w, _, _ := full(t)
	w.change(func() { delete(w.served, repo+":v1.2.3") })
	ctx, leave := context.WithCancel(t.Context())
	w.resolved = func(string) { leave() }
	req := httptest.NewRequestWithContext(ctx, "POST", "/v1/images/demo/hello/tags/v1.2.3/verify", strings.NewReader("{}"))
	req.Host = "localhost"
	req.Header.Set("Content-Type", "application/json")
	w.api.ServeHTTP(httptest.NewRecorder(), req)
	if len(w.drifts) != 1 {
		t.Errorf("reported %+v", w.drifts)
	}
}

// What a release that is to take the tag has written is no drift, what another
// hand has written beside it is one.
func TestVerifyReportsNoClaim(t *testing.T) {
	w, _, second := full(t)
	next := w.admit(w.release("refs/tags/v1.4.0", "c", "D"))
	stranger := digest.FromString("stranger")
	w.change(func() {
		w.served[repo+":latest"] = next.Root.Digest
		w.served[copyR+":latest"] = stranger
	})
	checkProblem(t, w.do("POST", "/v1/images/demo/hello/tags/latest/verify", "{}"), http.StatusConflict, "differs", next.ID)
	want := []imgd.Drift{{Kind: imgd.DriftMoved, Image: image, Repository: copyR, Tag: "latest", Wanted: second.Root.Digest, Found: stranger, Generation: 2}}
	if !slices.Equal(w.drifts, want) {
		t.Errorf("reported %+v, want %+v", w.drifts, want)
	}
}
