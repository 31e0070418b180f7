package httpapi_test

import (
	"bufio"
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/internal/httpapi"
)

// A reader reads a stream of server-sent events.
type reader struct {
	t      *testing.T
	lines  *bufio.Scanner
	states bool // shows those too
	leave  context.CancelFunc
}

func (w *world) stream(path string, headers ...string) *reader {
	w.t.Helper()
	return w.streamOf(http.MethodGet, path, "", headers...)
}

func (w *world) streamOf(method, path, body string, headers ...string) *reader {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.t.Context())
	req, err := http.NewRequestWithContext(ctx, method, w.url+path, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { cancel(); resp.Body.Close() })
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/event-stream" {
		w.t.Fatalf("got %s %s", resp.Status, resp.Header)
	}
	return &reader{t: w.t, lines: bufio.NewScanner(resp.Body), leave: cancel}
}

// next is the next event with its lines joined by |, or the next comment.
func (r *reader) next() string {
	var lines []string
	for r.lines.Scan() {
		if r.lines.Text() == "" {
			if event := strings.Join(lines, "|"); r.states || !strings.HasPrefix(event, "event: state|") {
				return event
			}
			lines = nil
			continue
		}
		lines = append(lines, r.lines.Text())
	}
	return "EOF"
}

func (r *reader) want(events ...string) {
	r.t.Helper()
	for _, want := range events {
		if got := r.next(); got != want && !(strings.HasSuffix(want, "…") && strings.HasPrefix(got, strings.TrimSuffix(want, "…"))) {
			r.t.Fatalf("got %q, want %q", got, want)
		}
	}
}

const hello = ": imgd"

func TestEvents(t *testing.T) {
	w := newWorld(t)
	w.change(func() { w.events = []string{`{"n":1}`, "{\n\"n\":2}", `{"n":3}`} })
	w.stream("/v1/events?follow=0").want(hello, `id: 1|data: {"n":1}`, `id: 2|data: {|data: "n":2}`, `id: 3|data: {"n":3}`, "event: end|data: {}", "EOF")
	w.stream("/v1/events?since=2&follow=0").want(hello, `id: 3|data: {"n":3}`, "event: end|data: {}", "EOF")
	w.stream("/v1/events?since=9&follow=0").want(hello, "event: end|data: {}", "EOF")
	live := w.stream("/v1/events?since=1", "Last-Event-ID", "2")
	live.want(hello, `id: 3|data: {"n":3}`)
	w.change(func() { w.events = append(w.events, `{"n":4}`) })
	live.want(`id: 4|data: {"n":4}`)
	w.change(func() { w.broken = errDown })
	live.want("event: error|data: …", "EOF")
	checkProblem(t, w.do("GET", "/v1/events", "", "Last-Event-ID", "x"), 400, "usage", "Last-Event-ID")
	if got := w.do("HEAD", "/v1/events", ""); got.status != 200 || got.body != "" {
		t.Errorf("HEAD: got %d %q", got.status, got.body)
	}
}

// A panic is the end of its stream, and of nothing else.
func TestStreamPanics(t *testing.T) {
	w := newWorld(t, func(c *httpapi.Config) { c.Events = panics{} })
	w.stream("/v1/events").want(hello, "event: error|data: …", "EOF")
	w.stream("/v1/events").want(hello, "event: error|data: …", "EOF")
}

type panics struct{}

func (panics) Events(context.Context, httpapi.EventFilter, bool, func(uint64, []byte) error) error {
	panic("as of a bug")
}

func TestStreamsShowLife(t *testing.T) {
	w := newWorld(t, func(c *httpapi.Config) { c.KeepAlive = time.Millisecond })
	w.stream("/v1/events").want(hello, ":", ":", ":")
}

// A server that stops does not wait for streams, and says nothing wrong.
func TestCloseEndsStreams(t *testing.T) {
	w := newWorld(t)
	id := w.submitted()
	events, log := w.stream("/v1/events"), w.stream("/v1/requests/"+id+"/log?follow=1")
	events.want(hello)
	log.want(hello)
	waited := make(chan answer, 1)
	go func() { waited <- w.get("/v1/requests/" + id + "?wait=1m") }()
	w.api.Close()
	if got := <-waited; got.status != 200 || !strings.Contains(got.body, `"queued"`) {
		t.Errorf("got %d %s", got.status, got.body)
	}
	events.want("EOF")
	log.want("EOF")
}

// submitted is a request that waits in the queue.
func (w *world) submitted() string {
	w.set(imgd.Status{Request: strings.Repeat("1", 32), Project: "hello", Ref: "refs/heads/main", Commit: commit("a"), State: imgd.Queued, AskedAt: epoch})
	return strings.Repeat("1", 32)
}

// becomes writes the next state of the request.
func (w *world) becomes(id string, s imgd.State, askedAt time.Time) {
	w.set(imgd.Status{Request: id, Project: "hello", Ref: "refs/heads/main", Commit: commit("a"), State: s, AskedAt: askedAt})
}

func (w *world) grows(id, lines string) {
	w.change(func() { w.logs[id] += lines })
}

func TestLog(t *testing.T) {
	w := newWorld(t)
	id := w.submitted()
	path := "/v1/requests/" + id + "/log"
	checkProblem(t, w.get(path), 404, "not-found", "queued")
	live := w.stream(path + "?follow=1")
	live.want(hello)
	w.becomes(id, imgd.Building, epoch)
	w.grows(id, "{\"a\":1}\n{\"b\"")
	live.want(`data: {"a":1}`)
	w.grows(id, ":2}\n{\"torn{\"c\":3}\n{\"cut")
	live.want(`data: {"b":2}`)
	w.becomes(id, imgd.Failed, epoch)
	live.want(`event: end|data: {"request":"`+id+`"…`, "EOF")
	got := w.get(path)
	if want := "{\"a\":1}\n{\"b\":2}\n"; got.body != want || got.header.Get("Content-Type") != "application/x-ndjson" {
		t.Errorf("got %s %q, want %q", got.header, got.body, want)
	}
}

// Who waits for a log sees meanwhile where the request stands.
func TestLogTellsStates(t *testing.T) {
	w := newWorld(t)
	id := w.submitted()
	live := w.stream("/v1/requests/" + id + "/log?follow=1")
	live.states = true
	state := func(s imgd.State) string {
		return `event: state|data: {"request":"` + id + `","project":"hello","ref":"refs/heads/main","commit":"` + commit("a") + `","state":"` + string(s) + `"…`
	}
	live.want(hello, state(imgd.Queued))
	w.becomes(id, imgd.Resolving, epoch)
	live.want(state(imgd.Resolving))
	w.becomes(id, imgd.Superseded, epoch)
	live.want("event: end…", "EOF")
}

// Who has asked again does not see the log of the build before.
func TestLogOfALaterAsk(t *testing.T) {
	w := newWorld(t)
	id := w.submitted()
	w.grows(id, "{\"old\":1}\n")
	w.becomes(id, imgd.Published, epoch)
	later := epoch.Add(time.Minute)
	path := "/v1/requests/" + id + "/log?follow=1&askedAt=" + later.Format(time.RFC3339)
	live := w.stream(path)
	live.want(hello)
	w.becomes(id, imgd.Queued, later)
	w.becomes(id, imgd.Unchanged, later)
	live.want("event: end…", "EOF")

	again := later.Add(time.Minute)
	live = w.stream("/v1/requests/" + id + "/log?follow=1&askedAt=" + again.Format(time.RFC3339))
	live.want(hello)
	w.change(func() { w.logs[id] = "{\"new\":1}\n" })
	w.becomes(id, imgd.Building, again)
	live.want(`data: {"new":1}`)
	w.becomes(id, imgd.Published, again)
	live.want("event: end…", "EOF")
}

func TestWait(t *testing.T) {
	w := newWorld(t)
	id := w.submitted()
	later := epoch.Add(time.Minute)
	waited := make(chan answer, 1)
	go func() {
		waited <- w.get("/v1/requests/" + id + "?wait=1m&askedAt=" + later.Format(time.RFC3339))
	}()
	w.becomes(id, imgd.Published, epoch) // of an earlier ask
	w.becomes(id, imgd.Building, later)
	w.becomes(id, imgd.Superseded, later)
	if got := <-waited; got.status != 200 || !strings.Contains(got.body, `"superseded"`) {
		t.Errorf("got %d %s", got.status, got.body)
	}
	if got := w.get("/v1/requests/" + id + "?wait=1ms&askedAt=" + later.Add(1).Format(time.RFC3339Nano)); got.status != 200 {
		t.Errorf("a wait in vain: got %d %s", got.status, got.body)
	}
}
