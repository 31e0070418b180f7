package events_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/events"
)

func TestPublished(t *testing.T) {
	s := startServer(t)
	b := connect(t, events.Config{URL: s.url()})
	h := newHandler(t)
	running(t, consume(b, h))
	req := ask(t, b, "refs/heads/main")
	receive(t, h.started, "start of the request")
	building := wait(t, b, req.ID, func(st imgd.Status) bool { return st.State == imgd.Building })
	if building.Tries != 1 || building.StartedAt.IsZero() || !building.EndedAt.IsZero() {
		t.Errorf("building: got %+v", building)
	}
	h.letGo()
	got := final(t, b, req)
	want := imgd.Status{Request: req.ID, Project: "hello", Ref: "refs/heads/main", Commit: commit, State: imgd.Published, Tries: 1,
		Release: req.ID + "-1", AskedAt: req.AskedAt, StartedAt: building.StartedAt, EndedAt: got.EndedAt}
	if !reflect.DeepEqual(got, want) || got.EndedAt.IsZero() {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// A server that is away, or slow, when Consume begins is waited for.
func TestConsumeBeginsInAnOutage(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	said := &lines{}
	b := connect(t, events.Config{URL: s.url(), Timeout: time.Second, Log: slog.New(slog.NewTextHandler(said, nil))})
	req := ask(t, b, "refs/heads/main")
	s.stop()
	h := openHandler(t, nil)
	running(t, func(ctx context.Context) error {
		err := b.Consume(ctx, h)
		if ctx.Err() == nil {
			t.Errorf("it ends with %v", err)
		}
		return err
	})
	until(t, "a warning", func() bool { return said.count("cannot take requests yet") > 0 })
	s.start()
	if got := receive(t, h.started, "start of the request"); got.ID != req.ID {
		t.Errorf("got %+v", got)
	}
}

// The acknowledgement is on its way only when the final state is in the stream,
// and the message is in the queue until then.
func TestFinalStateBeforeAck(t *testing.T) {
	s := startServer(t)
	nc, js := s.raw()
	b := connect(t, events.Config{URL: s.url()})
	req := ask(t, b, "refs/heads/main")
	status, err := js.Stream(t.Context(), "IMGD_STATUS")
	if err != nil {
		t.Fatal(err)
	}
	seen := make(chan string, 10)
	_, err = nc.Subscribe("$JS.ACK.IMGD_REQUESTS.>", func(m *nats.Msg) {
		if bytes.HasPrefix(m.Data, []byte("+ACK")) {
			st, err := status.GetLastMsgForSubject(context.Background(), "imgd.status."+req.ID)
			seen <- fmt.Sprintf("%s %v", st.Data, err)
		}
	})
	if err != nil || nc.Flush() != nil {
		t.Fatal(err)
	}
	running(t, consume(b, openHandler(t, nil)))
	if got := receive(t, seen, "acknowledgement"); !strings.Contains(got, `"state":"published"`) {
		t.Errorf("acknowledged while the state was %s", got)
	}
}

// Every effect at the end of a request, and the dead letter, lost before it
// reaches the server and after: the request is handled again and ends once.
func TestEndIsCutOff(t *testing.T) {
	for _, at := range []string{`"state":"published"`, "+ACK"} {
		for _, arrives := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/%v", strings.Trim(at, `"+`), arrives), func(t *testing.T) {
				t.Parallel()
				s := startServer(t)
				_, js := s.raw()
				g := newGate(t, s)
				b := connect(t, events.Config{URL: g.url, Lease: time.Second, Timeout: 300 * time.Millisecond})
				h := openHandler(t, nil)
				req := ask(t, b, "refs/heads/main")
				tripped := g.lose(at, arrives)
				running(t, consume(b, h))
				receive(t, tripped, "cut")
				watcher := connect(t, events.Config{URL: s.url()})
				final(t, watcher, req)
				empty(t, js)
				if got := messages(t, js, "IMGD_STATUS"); len(got) != 1 {
					t.Errorf("got %d states, want 1", len(got))
				}
				if len(h.published) != 1 {
					t.Errorf("got releases %v, want one", h.published)
				}
			})
		}
	}
}

// empty waits until the queue is.
func empty(t *testing.T, js jetstream.JetStream) {
	t.Helper()
	for deadline := time.Now().Add(patience); count(t, js, "IMGD_REQUESTS") > 0; {
		if time.Now().After(deadline) {
			t.Fatal("the queue is not empty")
		}
	}
}

// A process that dies with a request in hand delivers it again to the next.
func TestDeliveredTwice(t *testing.T) {
	s := startServer(t)
	_, js := s.raw()
	dying := connect(t, events.Config{URL: s.url(), Lease: time.Second, Timeout: 100 * time.Millisecond})
	first := newHandler(t)
	running(t, consume(dying, first))
	req := ask(t, dying, "refs/heads/main")
	receive(t, first.started, "first try")
	dying.Close() // no sign of life any more
	b := connect(t, events.Config{URL: s.url(), Lease: time.Second})
	h := openHandler(t, nil)
	running(t, consume(b, h))
	if st := final(t, b, req); st.State != imgd.Published || st.Tries != 2 {
		t.Errorf("got %+v, want it published at the second try", st)
	}
	first.letGo() // what the dead one still answers reaches nobody
	empty(t, js)
}

// A process that was stopped past its lease goes on when it wakes, beside the
// one that has the request now. What it tells then undoes nothing.
func TestLeaseIsLost(t *testing.T) {
	s := startServer(t)
	_, js := s.raw()
	asleep := connect(t, events.Config{URL: s.url(), Lease: 10 * patience, Slots: 1}) // gives no sign of life in time
	first, second := newHandler(t), newHandler(t)
	first.do = func(context.Context, *imgd.Request) error { return &imgd.BuildError{Message: "its files are gone"} }
	stop := running(t, consume(asleep, first))
	req := ask(t, asleep, "refs/heads/main")
	receive(t, first.started, "first try")
	b := connect(t, events.Config{URL: s.url(), Lease: time.Second}) // for all of them
	running(t, consume(b, second))
	receive(t, second.started, "second try")
	wait(t, b, req.ID, func(st imgd.Status) bool { return st.State == imgd.Building && st.Tries == 2 })
	second.letGo()
	final(t, b, req)
	empty(t, js)
	first.letGo()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if st, _, _ := b.Status(t.Context(), req.ID); st.State != imgd.Published || st.Tries != 2 {
		t.Errorf("got %+v, want what the second try came to", st)
	}
}

func TestHeartbeatKeepsTheLease(t *testing.T) {
	s := startServer(t)
	_, js := s.raw()
	b := connect(t, events.Config{URL: s.url(), Lease: 600 * time.Millisecond})
	h := newHandler(t)
	acks := tap(t, s)
	running(t, consume(b, h))
	req := ask(t, b, "refs/heads/main")
	for range 12 { // four leases
		untilAck(t, acks, "+WPI")
	}
	h.letGo()
	if st := final(t, b, req); st.Tries != 1 || h.callsOf(req.ID) != 1 {
		t.Errorf("got %d tries and %d calls, want one of each", st.Tries, h.callsOf(req.ID))
	}
	empty(t, js)
}

func TestSameRequestRunsOnce(t *testing.T) {
	s := startServer(t)
	_, js := s.raw()
	b := connect(t, events.Config{URL: s.url(), Slots: 2})
	h := newHandler(t)
	acks := tap(t, s)
	running(t, consume(b, h))
	first := ask(t, b, "refs/heads/main")
	wait(t, b, first.ID, func(st imgd.Status) bool { return st.State == imgd.Building })
	second := ask(t, b, "refs/heads/main")
	if first.ID != second.ID {
		t.Fatalf("IDs differ: %s and %s", first.ID, second.ID)
	}
	if got := untilAck(t, acks, "-NAK"); !strings.Contains(got, "20000000") { // ns, see connect
		t.Errorf("given back with %q, want a delay", got)
	}
	if st, _, _ := b.Status(t.Context(), first.ID); st.State != imgd.Building {
		t.Errorf("the second ask changed the state to %+v", st)
	}
	h.letGo()
	if st := final(t, b, second); st.State != imgd.Published {
		t.Errorf("got %+v", st)
	}
	empty(t, js)
	if n := h.callsOf(first.ID); n != 2 {
		t.Errorf("got %d calls, want 2: one per ask", n)
	}
}

func TestSlots(t *testing.T) {
	s := startServer(t)
	_, js := s.raw()
	const slots, requests = 3, 10
	b := connect(t, events.Config{URL: s.url(), Slots: slots})
	h := newHandler(t)
	var asked []imgd.Request
	for i := range requests {
		asked = append(asked, ask(t, b, fmt.Sprintf("refs/heads/b%d", i)))
	}
	running(t, consume(b, h))
	for range slots {
		receive(t, h.started, "start of a request")
	}
	cons, err := js.Consumer(t.Context(), "IMGD_REQUESTS", "imgd")
	if err != nil {
		t.Fatal(err)
	}
	if n := cons.CachedInfo().NumAckPending; n != slots {
		t.Errorf("%d requests are taken, want %d: none ahead of a free slot", n, slots)
	}
	h.letGo()
	for _, req := range asked {
		if st := final(t, b, req); st.Tries != 1 {
			t.Errorf("got %d tries, want 1", st.Tries)
		}
	}
	if h.most != slots {
		t.Errorf("%d requests ran at the same time, want %d", h.most, slots)
	}
}

// A server that restarts interrupts nobody.
func TestServerRestartsWhileHandling(t *testing.T) {
	s := startServer(t)
	_, js := s.raw()
	b := connect(t, events.Config{URL: s.url(), Lease: 10 * patience})
	h := newHandler(t)
	running(t, consume(b, h))
	req := ask(t, b, "refs/heads/main")
	receive(t, h.started, "start")
	s.stop()
	s.start()
	h.letGo()
	if st := final(t, b, req); st.State != imgd.Published || st.Tries != 1 {
		t.Errorf("got %+v, want it published at the first try", st)
	}
	empty(t, js)
	final(t, b, ask(t, b, "refs/heads/next")) // the slots take again
}

func TestConsumerIsDeleted(t *testing.T) {
	s := startServer(t)
	_, js := s.raw()
	b := connect(t, events.Config{URL: s.url()})
	running(t, consume(b, openHandler(t, nil)))
	final(t, b, ask(t, b, "refs/heads/before"))
	if err := js.DeleteConsumer(t.Context(), "IMGD_REQUESTS", "imgd"); err != nil {
		t.Fatal(err)
	}
	final(t, b, ask(t, b, "refs/heads/after"))
}
