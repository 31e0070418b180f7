package events_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/events"
)

func TestSubmit(t *testing.T) {
	s := startServer(t)
	_, js := s.raw()
	b := connect(t, events.Config{URL: s.url(), Now: func() time.Time { return time.Now().Add(time.Hour) }}) // a wrong clock
	req, err := b.Submit(t.Context(), imgd.Request{Project: "hello", Ref: "refs/tags/v1", Commit: commit, By: "ann", Force: true, Reason: "r"}, "github/1/hello")
	if err != nil {
		t.Fatal(err)
	}
	queued := messages(t, js, "IMGD_REQUESTS")
	if len(queued) != 1 {
		t.Fatalf("got %d messages, want 1", len(queued))
	}
	m := queued[0]
	if m.Subject != "imgd.requests.hello.release" || m.Header.Get("Nats-Msg-Id") != "github/1/hello" {
		t.Errorf("got subject %s, header %v", m.Subject, m.Header)
	}
	want := `{"schema":1,"ref":"refs/tags/v1","commit":"` + commit + `","by":"ann","reason":"r","force":true,"rebuild":false,"args":null,"target":"","platforms":null,"askedAt":""}`
	if string(m.Data) != want {
		t.Errorf("got body  %s\nwant body %s", m.Data, want)
	}
	decoded, err := events.Decode(events.Message{Subject: m.Subject, MsgID: m.Header.Get("Nats-Msg-Id"), Seq: m.Sequence, Time: m.Time, Body: m.Data})
	if err != nil || !equal(decoded, req) {
		t.Errorf("the consumer sees %+v, error %v\nthe asker %+v", decoded, err, req)
	}
	st, found, err := b.Status(t.Context(), req.ID)
	if err != nil || !found || st.State != imgd.Queued || !st.AskedAt.Equal(req.AskedAt) {
		t.Errorf("got state %+v, found %v, error %v", st, found, err)
	}
}

// A nonce makes it the same request under whatever delivery, for ever.
func TestSubmitNonce(t *testing.T) {
	s := startServer(t)
	_, js := s.raw()
	b := connect(t, events.Config{URL: s.url()})
	want := imgd.Request{Project: "hello", Ref: "refs/heads/main", Commit: commit, Rebuild: true, Nonce: "first"}
	for i, delivery := range []string{"", "", "mine", "mine"} {
		req, err := b.Submit(t.Context(), want, delivery)
		if err != nil || req.ID != want.Hash() || req.Nonce != "first" {
			t.Errorf("%d: got %+v, error %v", i, req, err)
		}
	}
	queued := messages(t, js, "IMGD_REQUESTS")
	if len(queued) != 3 {
		t.Errorf("got %d messages, want 3: one of a delivery", len(queued))
	}
	for _, m := range queued {
		if m.Header.Get("Imgd-Nonce") != "first" || m.Header.Get("Nats-Msg-Id") == "" {
			t.Errorf("got header %v", m.Header)
		}
	}
	want.Nonce = "a\nb"
	if _, err := b.Submit(t.Context(), want, ""); !errors.Is(err, imgd.ErrInvalid) {
		t.Errorf("got error %v, want ErrInvalid", err)
	}
}

func TestSubmitRefuses(t *testing.T) {
	s := startServer(t)
	_, js := s.raw()
	b := connect(t, events.Config{URL: s.url()})
	for _, req := range []imgd.Request{
		{Project: "a.b", Ref: "refs/heads/main"}, {Project: "*", Ref: "refs/heads/main"}, {Project: "hello", Ref: "main"},
		{Project: "hello", Ref: "refs/heads/main", Force: true}, {Project: "hello", Ref: "refs/heads/main", Commit: "x"},
	} {
		if err := b.Ask(t.Context(), req); !errors.Is(err, imgd.ErrInvalid) {
			t.Errorf("%+v: got error %v, want ErrInvalid", req, err)
		}
	}
	if n := count(t, js, "IMGD_REQUESTS"); n != 0 {
		t.Errorf("got %d messages, want none", n)
	}
}

// Each effect of Submit, cut off before it reaches the server and after, and
// then repeated: one message and one state.
func TestSubmitIsCutOff(t *testing.T) {
	for _, at := range []string{"imgd.requests.hello", `"state":"queued"`} {
		for _, arrives := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/%v", at[:6], arrives), func(t *testing.T) {
				t.Parallel()
				s := startServer(t)
				_, js := s.raw()
				g := newGate(t, s)
				b := connect(t, events.Config{URL: g.url, Timeout: 300 * time.Millisecond})
				tripped := g.lose(at, arrives)
				req := imgd.Request{Project: "hello", Ref: "refs/heads/main", Commit: commit, Rebuild: true}
				_, err := b.Submit(t.Context(), req, "github/1/hello")
				receive(t, tripped, "cut")
				if inQueue := count(t, js, "IMGD_REQUESTS") == 1; err == nil && !inQueue {
					t.Error("no error, but the request is not in the queue")
				}
				asked, err := b.Submit(t.Context(), req, "github/1/hello")
				for deadline := time.Now().Add(patience); err != nil && time.Now().Before(deadline); { // not connected yet
					asked, err = b.Submit(t.Context(), req, "github/1/hello")
				}
				if err != nil {
					t.Fatal(err)
				}
				if n := count(t, js, "IMGD_REQUESTS"); n != 1 {
					t.Errorf("got %d messages, want 1", n)
				}
				running(t, consume(b, openHandler(t, nil)))
				final(t, b, asked)
				if n := count(t, js, "IMGD_STATUS"); n != 1 {
					t.Errorf("got %d states, want 1", n)
				}
			})
		}
	}
}

func TestSubmitWithoutServer(t *testing.T) {
	s := startServer(t)
	b := connect(t, events.Config{URL: s.url(), Timeout: 100 * time.Millisecond})
	s.stop()
	if err := b.Ask(t.Context(), imgd.Request{Project: "hello", Ref: "refs/heads/main"}); err == nil {
		t.Error("no error without a server")
	}
	s.start()
}

// However fast the consumer is, what stands at the end is the end.
func TestQueuedNeverOverwritesALaterState(t *testing.T) {
	s := startServer(t)
	b := connect(t, events.Config{URL: s.url(), Slots: 4})
	running(t, consume(b, openHandler(t, nil)))
	for i := range 50 {
		ref := fmt.Sprintf("refs/heads/b%d", i%10) // asked anew as well
		req := ask(t, b, ref)
		if st := final(t, b, req); st.State != imgd.Published || !st.AskedAt.Equal(req.AskedAt) {
			t.Fatalf("%s: asked at %s, got %+v", ref, req.AskedAt, st)
		}
	}
}

// A second ask for what has ended is queued again; one that is delivered late
// does not undo what a newer one came to.
func TestAskAgain(t *testing.T) {
	s := startServer(t)
	_, js := s.raw()
	b := connect(t, events.Config{URL: s.url(), Retry: func(int) time.Duration { return 300 * time.Millisecond }})
	var tries int
	h := openHandler(t, func(context.Context, *imgd.Request) error {
		if tries++; tries == 1 {
			return errors.New("not now")
		}
		return nil
	})
	stop := running(t, consume(b, h))
	older := ask(t, b, "refs/heads/main")
	wait(t, b, older.ID, func(st imgd.Status) bool { return st.Error != nil })
	newer := ask(t, b, "refs/heads/main")
	final(t, b, newer)
	empty(t, js) // the older one has been handled again
	if st, _, _ := b.Status(t.Context(), newer.ID); st.State != imgd.Published || !st.AskedAt.Equal(newer.AskedAt) {
		t.Errorf("got %+v, want the end of the newer ask", st)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	again := ask(t, b, "refs/heads/main")
	if st, _, _ := b.Status(t.Context(), again.ID); st.State != imgd.Queued || !st.AskedAt.Equal(again.AskedAt) {
		t.Errorf("asked again: got %+v, want it queued", st)
	}
}

// A state that somebody else wrote, or that is no state, is in nobody's way.
func TestForeignStatus(t *testing.T) {
	s := startServer(t)
	_, js := s.raw()
	b := connect(t, events.Config{URL: s.url()})
	want := imgd.Request{Project: "hello", Ref: "refs/heads/main", Commit: commit}
	want.ID = want.Hash()
	running(t, consume(b, openHandler(t, nil)))
	for _, foreign := range []string{`{"state":"failed","askedAt":"2000-01-01T00:00:00Z"}`, `{"state":"failed","askedAt":"2000-01-01T00:00:00Z","endedAt":"2000-01-01T00:00:00Z"}`, `{}`, `no state`} {
		if _, err := js.Publish(t.Context(), "imgd.status."+want.ID, []byte(foreign)); err != nil {
			t.Fatal(err)
		}
		if st := final(t, b, ask(t, b, "refs/heads/main")); st.State != imgd.Published {
			t.Errorf("over %s: got %+v", foreign, st)
		}
		empty(t, js)
	}
	for _, id := range []string{"*", ">", "", "a.b", strings.Repeat("g", 32)} {
		if _, found, err := b.Status(t.Context(), id); found || err != nil {
			t.Errorf("%q: found %v, error %v", id, found, err)
		}
		for _, err := range b.WatchStatus(t.Context(), id) {
			if err == nil {
				t.Errorf("%q: watched", id)
			}
		}
	}
}

func TestStatuses(t *testing.T) {
	s := startServer(t)
	b := connect(t, events.Config{URL: s.url()})
	if got, next, err := b.Statuses(t.Context(), imgd.StatusFilter{}, 10, 0); len(got) != 0 || next != 0 || err != nil {
		t.Errorf("of nothing: got %v, next %d, error %v", got, next, err)
	}
	running(t, consume(b, openHandler(t, nil)))
	var want []string
	for i := range 25 {
		req := ask(t, b, fmt.Sprintf("refs/heads/b%d", i))
		final(t, b, req)
		want = append([]string{req.ID}, want...)
	}
	for _, limit := range []int{1, 10, 25, 100} {
		var got []string
		for before, more := uint64(0), true; more; {
			page, next, err := b.Statuses(t.Context(), imgd.StatusFilter{}, limit, before)
			if err != nil || len(page) > limit {
				t.Fatalf("got %d items, error %v", len(page), err)
			}
			for _, st := range page {
				got = append(got, st.Request)
			}
			before, more = next, next != 0
		}
		if strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("by %d: got %v\nwant %v", limit, got, want)
		}
	}
}

// A filter chooses, page by page, and a list that chooses little looks at so
// many states only, and says where to go on.
func TestStatusesFilter(t *testing.T) {
	t.Parallel()
	s := startLazyServer(t)
	nc, js := s.raw()
	b := connect(t, events.Config{URL: s.url()})
	const all = 20_000
	var want []string
	for i := range all {
		st := imgd.Status{Request: fmt.Sprintf("%032x", i), Project: "hello", State: imgd.Published, EndedAt: stored}
		if i == 3 || i == 40 || i == 41 || i == 19_000 {
			st.Project, st.State = "other", imgd.Failed
			want = append([]string{st.Request}, want...)
		}
		data, err := json.Marshal(st)
		if err != nil {
			t.Fatal(err)
		}
		if err := nc.Publish("imgd.status."+st.Request, data); err != nil {
			t.Fatal(err)
		}
	}
	if err := nc.FlushTimeout(patience); err != nil {
		t.Fatal(err)
	}
	until(t, "all states stored", func() bool { return count(t, js, "IMGD_STATUS") == all })
	for limit, filter := range map[int]imgd.StatusFilter{2: {Project: "other"}, 100: {State: imgd.Failed}} {
		var got []string
		calls := 0
		for before, more := uint64(0), true; more; calls++ {
			page, next, err := b.Statuses(t.Context(), filter, limit, before)
			if err != nil || len(page) > limit {
				t.Fatalf("got %d items, error %v", len(page), err)
			}
			for _, st := range page {
				got = append(got, st.Request)
			}
			before, more = next, next != 0
		}
		if !slices.Equal(got, want) {
			t.Errorf("%+v by %d: got %v\nwant %v", filter, limit, got, want)
		}
		if calls < 2 {
			t.Errorf("%+v by %d: %d states were read in one call", filter, limit, all)
		}
	}
	for _, filter := range []imgd.StatusFilter{{Project: "other", State: imgd.Published}, {Project: "none"}} {
		page, next, err := b.Statuses(t.Context(), filter, 10, 5000)
		if len(page) != 0 || next != 0 || err != nil {
			t.Errorf("%+v: got %v, next %d, error %v", filter, page, next, err)
		}
	}
}

// writeStatus writes a state as another process does.
func writeStatus(t *testing.T, s *natsServer, st imgd.Status) {
	t.Helper()
	_, js := s.raw()
	if st.State.Final() {
		st.EndedAt = st.AskedAt
	}
	data, err := json.Marshal(st)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), "imgd.status."+st.Request, data); err != nil {
		t.Fatal(err)
	}
}
