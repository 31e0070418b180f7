package events_test

import (
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/events"
)

// A handler is a Pipeline with an index in memory, which holds each request
// until it is let go. It fails the test if a request is handled twice at the
// same time, or without a commit after it was resolved.
type handler struct {
	t       *testing.T
	started chan imgd.Request // of each call

	// do is what a call does once it is let go; nil: publish.
	do func(ctx context.Context, req *imgd.Request) error

	mu        sync.Mutex // guards what follows
	gate      chan struct{}
	running   map[string]bool
	most      int            // that ran at the same time
	calls     map[string]int // per request
	published map[string]bool
}

func newHandler(t *testing.T) *handler {
	t.Helper()
	return &handler{t: t, started: make(chan imgd.Request, 1000), gate: make(chan struct{}), running: map[string]bool{},
		calls: map[string]int{}, published: map[string]bool{}}
}

// openHandler holds nothing.
func openHandler(t *testing.T, do func(ctx context.Context, req *imgd.Request) error) *handler {
	t.Helper()
	h := newHandler(t)
	h.do = do
	h.letGo()
	return h
}

func (h *handler) letGo() { close(h.gate) }

func (h *handler) Handle(ctx context.Context, req *imgd.Request, report func(imgd.State)) (imgd.Release, error) {
	id := req.ID
	h.enter(id)
	defer h.leave(id)
	h.started <- *req
	report(imgd.Resolving)
	if req.Commit == "" {
		req.Commit = commit
		req.ID = req.Hash()
	}
	report(imgd.Building)
	select {
	case <-h.gate:
	case <-ctx.Done():
		return imgd.Release{}, ctx.Err()
	}
	if h.do != nil {
		if err := h.do(ctx, req); err != nil {
			return imgd.Release{}, err
		}
	}
	report(imgd.Publishing)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.published[req.ID] = true // again is no other release
	return imgd.Release{ID: req.ID + "-1", Request: *req}, nil
}

func (h *handler) enter(id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.running[id] {
		h.t.Errorf("request %s is handled twice at the same time", id)
	}
	h.running[id] = true
	h.most = max(h.most, len(h.running))
	h.calls[id]++
}

func (h *handler) leave(id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.running, id)
}

func (h *handler) callsOf(id string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.calls[id]
}

func consume(b *events.Bus, h events.Handler) func(ctx context.Context) error {
	return func(ctx context.Context) error { return b.Consume(ctx, h) }
}

// ask submits a request for the commit by that ref.
func ask(t *testing.T, b *events.Bus, ref string) imgd.Request {
	t.Helper()
	req, err := b.Submit(t.Context(), imgd.Request{Project: "hello", Ref: ref, Commit: commit}, "")
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// wait waits for a state of the request that is ok.
func wait(t *testing.T, b *events.Bus, request string, ok func(imgd.Status) bool) imgd.Status {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var last imgd.Status
	for st, err := range b.WatchStatus(ctx, request) {
		if err != nil {
			t.Fatal(err)
		}
		if last = st; ok(st) {
			return st
		}
	}
	t.Fatalf("request %s stays at %+v", request, last)
	return last
}

// final waits for the end of a request as asked by req.
func final(t *testing.T, b *events.Bus, req imgd.Request) imgd.Status {
	t.Helper()
	return wait(t, b, req.ID, func(st imgd.Status) bool { return st.State.Final() && !st.AskedAt.Before(req.AskedAt) })
}

// A tap sees the acknowledgements of the queue's consumer before the server
// answers them.
func tap(t *testing.T, s *natsServer) (acks <-chan *nats.Msg) {
	t.Helper()
	nc, _ := s.raw()
	all := make(chan *nats.Msg, 10000)
	if _, err := nc.ChanSubscribe("$JS.ACK.IMGD_REQUESTS.>", all); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	return all
}

// untilAck waits for the next acknowledgement that starts with kind and answers
// its body.
func untilAck(t *testing.T, acks <-chan *nats.Msg, kind string) string {
	t.Helper()
	for {
		if m := receive(t, acks, "acknowledgement "+kind); strings.HasPrefix(string(m.Data), kind) {
			return string(m.Data)
		}
	}
}
