package events_test

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/events"
)

// A handler is a Pipeline with an index in memory, which holds each request
// until it is let go. It fails the test if a request is handled twice at the
// same time or without a commit, or is resolved when it has one.
type handler struct {
	t       *testing.T
	started chan imgd.Request // of each call

	// do is what a call does once it is let go; nil: publish.
	do func(ctx context.Context, req *imgd.Request) error
	// drive is what it does with the admitted release; nil: nothing.
	drive func(ctx context.Context, req *imgd.Request) error
	// resolve is what a ref names; nil: the commit.
	resolve func(ctx context.Context, req *imgd.Request) error

	mu        sync.Mutex // guards what follows
	gate      chan struct{}
	running   map[string]bool
	building  map[string]bool // have a slot: what is admitted needs none
	most      int             // of them at the same time
	calls     map[string]int  // per request
	admitted  map[string]bool
	abandoned map[string]bool
	published map[string]bool
}

func newHandler(t *testing.T) *handler {
	t.Helper()
	return &handler{t: t, started: make(chan imgd.Request, 1000), gate: make(chan struct{}), running: map[string]bool{},
		building: map[string]bool{}, abandoned: map[string]bool{}, calls: map[string]int{}, admitted: map[string]bool{}, published: map[string]bool{}}
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

func (h *handler) Resolve(ctx context.Context, req *imgd.Request) error {
	if req.Commit != "" {
		h.t.Errorf("request %s is resolved again", req.ID)
	}
	if h.resolve != nil {
		if err := h.resolve(ctx, req); err != nil {
			return err
		}
	}
	req.Commit = cmp.Or(req.Commit, commit)
	req.ID = req.Hash()
	return nil
}

func (h *handler) Handle(ctx context.Context, req *imgd.Request, report func(imgd.State)) (imgd.Release, error) {
	if req.Commit == "" || req.ID != req.Hash() {
		h.t.Errorf("handled with commit %q and ID %s", req.Commit, req.ID)
	}
	h.enter(req.ID)
	defer h.leave(req.ID)
	h.started <- *req
	if h.is(h.abandoned, req.ID) {
		return imgd.Release{ID: req.ID + "-1", State: imgd.ReleaseAbandoned}, fmt.Errorf("its release was abandoned: %w", imgd.ErrRefused)
	}
	if !h.is(h.admitted, req.ID) {
		report(imgd.Resolving)
		req.Version = "v1.2.3" // as Resolve
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
		h.admit(req.ID)
	}
	report(imgd.Publishing)
	rel := imgd.Release{ID: req.ID + "-1", State: imgd.ReleaseAdmitted, Request: *req}
	if h.drive != nil {
		if err := h.drive(ctx, req); err != nil {
			return rel, err
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.published[req.ID] = true // again is no other release
	rel.State = imgd.ReleasePublished
	return rel, nil
}

func (h *handler) admit(id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.admitted[id] = true
	delete(h.building, id)
}

// is reads one of the maps.
func (h *handler) is(m map[string]bool, id string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return m[id]
}

// Drop makes it an events.Dropper.
func (h *handler) Drop(_ context.Context, request, _ string) (imgd.Release, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.published[request]:
		return imgd.Release{}, fmt.Errorf("published meanwhile: %w", imgd.ErrConflict)
	case !h.admitted[request]:
		return imgd.Release{}, fmt.Errorf("has admitted nothing: %w", imgd.ErrNotFound)
	}
	h.abandoned[request] = true
	return imgd.Release{ID: request + "-1", State: imgd.ReleaseAbandoned}, nil
}

func (h *handler) enter(id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.running[id] {
		h.t.Errorf("request %s is handled twice at the same time", id)
	}
	h.running[id] = true
	h.building[id] = true
	h.most = max(h.most, len(h.building))
	h.calls[id]++
}

func (h *handler) leave(id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.running, id)
	delete(h.building, id)
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
