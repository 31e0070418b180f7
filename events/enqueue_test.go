package events_test

import (
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/events"
)

// It is in the queue when Enqueue returns, as Submit would put it there, and
// among the states soon.
func TestEnqueue(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := s.raw()
	b := connect(t, events.Config{URL: s.url()})
	want := imgd.Request{Project: "hello", Ref: "refs/tags/v1", Commit: commit, By: "ann", Force: true, Reason: "r"}
	req, err := b.Enqueue(t.Context(), want, "github/1/hello")
	if err != nil {
		t.Fatal(err)
	}
	queued := messages(t, js, "IMGD_REQUESTS")
	if len(queued) != 1 || queued[0].Header.Get("Nats-Msg-Id") != "github/1/hello" {
		t.Fatalf("got %d messages", len(queued))
	}
	want.Nonce = "github/1/hello"
	if want.ID = want.Hash(); !equal(req, want) {
		t.Errorf("got  %+v\nwant %+v", req, want)
	}
	st := wait(t, b, req.ID, func(imgd.Status) bool { return true })
	if at := queued[0].Time.UTC().Truncate(time.Millisecond); st.State != imgd.Queued || !st.AskedAt.Equal(at) || st.By != "ann" {
		t.Errorf("got %+v, want it asked at %s", st, at)
	}
	if again, err := b.Enqueue(t.Context(), want, "github/1/hello"); err != nil || again.ID != req.ID || count(t, js, "IMGD_REQUESTS") != 1 {
		t.Errorf("repeated: got %+v, error %v", again, err)
	}
	asked := imgd.Request{Project: "hello", Ref: "refs/heads/main", Commit: commit, AskedAt: time.Now().Add(-time.Minute).UTC().Truncate(time.Millisecond)}
	if req, err := b.Enqueue(t.Context(), asked, ""); err != nil || !req.AskedAt.Equal(asked.AskedAt) {
		t.Errorf("asked before: got %+v, error %v", req, err)
	} else if st := wait(t, b, req.ID, func(imgd.Status) bool { return true }); !st.AskedAt.Equal(asked.AskedAt) {
		t.Errorf("asked before: got %+v", st)
	}
	if _, err := b.Enqueue(t.Context(), imgd.Request{Project: "hello", Ref: "main"}, ""); !errors.Is(err, imgd.ErrInvalid) {
		t.Errorf("got error %v, want ErrInvalid", err)
	}
}

// It is cut off, and repeated: one message.
func TestEnqueueIsCutOff(t *testing.T) {
	t.Parallel()
	for _, arrives := range []bool{false, true} {
		t.Run(fmt.Sprint(arrives), func(t *testing.T) {
			t.Parallel()
			s := startServer(t)
			_, js := s.raw()
			g := newGate(t, s)
			b := connect(t, events.Config{URL: g.url, Timeout: 300 * time.Millisecond})
			tripped := g.lose("imgd.requests.hello", arrives)
			req := imgd.Request{Project: "hello", Ref: "refs/heads/main", Commit: commit}
			if _, err := b.Enqueue(t.Context(), req, "github/1/hello"); err == nil {
				t.Error("no error, but nobody knows")
			}
			receive(t, tripped, "cut")
			until(t, "enqueued", func() bool { _, err := b.Enqueue(t.Context(), req, "github/1/hello"); return err == nil })
			if n := count(t, js, "IMGD_REQUESTS"); n != 1 {
				t.Errorf("got %d messages, want 1", n)
			}
			running(t, consume(b, openHandler(t, nil)))
			wait(t, b, withID(req).ID, func(st imgd.Status) bool { return st.State == imgd.Published })
		})
	}
}

// More at a time than the background keeps up with are enqueued all the same,
// and handled each.
func TestEnqueueMany(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := connect(t, events.Config{URL: s.url(), Slots: 8})
	var asked []imgd.Request
	for i := range 400 {
		req, err := b.Enqueue(t.Context(), imgd.Request{Project: "hello", Ref: "refs/heads/b" + strconv.Itoa(i), Commit: commit}, "")
		if err != nil {
			t.Fatal(err)
		}
		asked = append(asked, req)
	}
	running(t, consume(b, openHandler(t, nil)))
	until(t, "empty queue", func() bool { d, err := b.Depth(t.Context()); return err == nil && d.Queued == 0 })
	for _, req := range asked {
		if st, _, err := b.Status(t.Context(), req.ID); st.State != imgd.Published || err != nil {
			t.Errorf("got %+v, error %v", st, err)
		}
	}
}

// What nobody takes, because of an outage or because the daemon that took it is
// gone, is seen all the same, each of it.
func TestEnqueuedIsSeen(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := s.raw()
	b := connect(t, events.Config{URL: s.url()})
	var asked []imgd.Request
	for i := range 600 {
		req, err := b.Enqueue(t.Context(), imgd.Request{Project: "hello", Ref: "refs/heads/b" + strconv.Itoa(i), Commit: commit}, "")
		if err != nil {
			t.Fatal(err)
		}
		asked = append(asked, req)
	}
	b.Close()
	put(t, js, `{"schema":1,"ref":"refs/heads/by-hand","commit":"`+commit+`"}`, nil)
	asked = append(asked, withID(imgd.Request{Project: "hello", Ref: "refs/heads/by-hand", Commit: commit}))
	other := connect(t, events.Config{URL: s.url()})
	for _, req := range asked {
		wait(t, other, req.ID, func(st imgd.Status) bool { return st.State == imgd.Queued })
	}
}

// What a webhook costs beside a bare publish of the same bytes. The server syncs
// each message, as imgd's own.
func BenchmarkSubmit(b *testing.B) {
	s := startServer(b)
	bus, err := events.Connect(b.Context(), events.Config{URL: s.url()})
	if err != nil {
		b.Fatal(err)
	}
	defer bus.Close()
	var n atomic.Int64
	start := strconv.FormatInt(time.Now().UnixNano(), 36) + "/"
	req := func() (imgd.Request, string) {
		i := n.Add(1)
		return imgd.Request{Project: "hello", Ref: "refs/heads/main", Commit: fmt.Sprintf("%040x", i), By: "ann"}, fmt.Sprintf("github/%s%d/hello", start, i)
	}
	_, js := s.raw()
	bodies := func(commit string) []byte {
		return []byte(`{"schema":1,"ref":"refs/heads/main","commit":"` + commit + `","by":"ann","reason":"","force":false,"rebuild":false,"args":null,"target":"","platforms":null,"askedAt":""}`)
	}
	for _, kind := range []struct {
		name string
		do   func() error
	}{
		{"bare", func() error {
			r, delivery := req()
			_, err := js.Publish(b.Context(), "imgd.requests.hello.branch", bodies(r.Commit), jetstream.WithMsgID(delivery))
			return err
		}},
		{"enqueue", func() error {
			r, delivery := req()
			_, err := bus.Enqueue(b.Context(), r, delivery)
			return err
		}},
		{"submit", func() error {
			r, delivery := req()
			_, err := bus.Submit(b.Context(), r, delivery)
			return err
		}},
	} {
		for _, parallel := range []int{1, 8, 64} {
			b.Run(fmt.Sprintf("%s/%d", kind.name, parallel), func(b *testing.B) {
				b.SetParallelism(max(parallel/2, 1)) // of two processors
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						if err := kind.do(); err != nil {
							b.Error(err)
						}
					}
				})
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "/s")
			})
		}
	}
}
