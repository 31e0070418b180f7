package events_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/events"
)

// moved is where a ref goes.
var moved = strings.Repeat("f", 40)

// put puts a message into the queue, as `nats pub` does.
func put(t *testing.T, js jetstream.JetStream, body string, header nats.Header) (at time.Time) {
	t.Helper()
	ack, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: subject, Data: []byte(body), Header: header})
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), "IMGD_REQUESTS")
	if err != nil {
		t.Fatal(err)
	}
	m, err := stream.GetMsg(t.Context(), ack.Sequence)
	if err != nil {
		t.Fatal(err)
	}
	return m.Time.UTC().Truncate(time.Millisecond)
}

// states are the messages of IMGD_STATUS that hold a state: an empty one stands
// for none.
func states(t *testing.T, js jetstream.JetStream) []*jetstream.RawStreamMsg {
	t.Helper()
	return slices.DeleteFunc(messages(t, js, "IMGD_STATUS"), func(m *jetstream.RawStreamMsg) bool { return len(m.Data) == 0 })
}

// withID is the request with its ID.
func withID(req imgd.Request) imgd.Request {
	req.ID = req.Hash()
	return req
}

// A request that names no commit gets the one its ref names, and is known by
// that ID alone.
func TestPin(t *testing.T) {
	t.Parallel()
	const plain, forced = `{"schema":1,"ref":"refs/heads/main","by":"ann"}`, `{"schema":1,"ref":"refs/heads/main","force":true,"reason":"r"}`
	for _, test := range []struct {
		name, body string
		header     nats.Header
		nonce      string
	}{
		{"plain", plain, nil, ""},
		{"plain with IDs", plain, nats.Header{"Nats-Msg-Id": {"mine"}, "Imgd-Nonce": {"other"}}, ""},
		{"forced", forced, nil, "1"},
		{"forced with ID", forced, nats.Header{"Nats-Msg-Id": {"mine"}}, "mine"},
		{"forced with nonce", forced, nats.Header{"Nats-Msg-Id": {"mine"}, "Imgd-Nonce": {"other"}}, "other"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := startServer(t)
			_, js := s.raw()
			b := connect(t, events.Config{URL: s.url()})
			at := put(t, js, test.body, test.header)
			var tries int
			h := openHandler(t, func(context.Context, *imgd.Request) error {
				if tries++; tries == 1 {
					return errors.New("not now")
				}
				return nil
			})
			var resolved int
			h.resolve = func(_ context.Context, req *imgd.Request) error {
				if resolved++; resolved > 1 { // the ref moves
					req.Commit = moved
				}
				return nil
			}
			running(t, consume(b, h))
			force := test.nonce != ""
			want := withID(imgd.Request{Project: "hello", Ref: "refs/heads/main", Commit: commit, Force: force, Nonce: test.nonce})
			st := final(t, b, want)
			if st.State != imgd.Published || st.Tries != 2 || !st.AskedAt.Equal(at) || st.Nonce != test.nonce || st.Force != force {
				t.Errorf("got %+v, want it asked at %s", st, at)
			}
			empty(t, js)
			if got := states(t, js); len(got) != 1 {
				t.Errorf("got %d states, want 1", len(got))
			}
			if resolved != 1 {
				t.Errorf("resolved %d times, want once", resolved)
			}
		})
	}
}

// Every effect of it lost, before and after, and the process dead there: one
// request comes of it.
func TestPinIsCutOff(t *testing.T) {
	t.Parallel()
	commitless := withID(imgd.Request{Project: "hello", Ref: "refs/heads/main"})
	for _, at := range []string{`"state":"resolving"`, "IMGD_REQUESTS/1/", `"state":"queued"`, "Imgd-Request: ", "+ACK"} {
		for _, arrives := range []bool{false, true} {
			for _, dies := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%v/%v", strings.Trim(at, `"+/`), arrives, dies), func(t *testing.T) {
					t.Parallel()
					s := startServer(t)
					_, js := s.raw()
					g := newGate(t, s)
					b := connect(t, events.Config{URL: g.url, Slots: 1, Lease: 600 * time.Millisecond, Timeout: 300 * time.Millisecond})
					cut := g.lose
					if dies {
						cut = g.die
					}
					put(t, js, `{"schema":1,"ref":"refs/heads/main"}`, nil)
					tripped := cut(at, arrives)
					stop := running(t, consume(b, openHandler(t, nil)))
					receive(t, tripped, "cut")
					other := connect(t, events.Config{URL: s.url(), Lease: 600 * time.Millisecond})
					if dies {
						b.Close()
						go func() { _ = stop() }() // beside the rest
						running(t, consume(other, openHandler(t, nil)))
					}
					final(t, other, withID(imgd.Request{Project: "hello", Ref: "refs/heads/main", Commit: commit}))
					empty(t, js)
					if st, found, err := other.Status(t.Context(), commitless.ID); found || err != nil {
						t.Errorf("a state is left under the ID without commit: %+v, error %v", st, err)
					}
					if n := len(states(t, js)); n != 1 {
						t.Errorf("got %d states, want 1", n)
					}
				})
			}
		}
	}
}

// What resolving comes to ends the request under the ID it has, by the same
// table.
func TestPinFails(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := s.raw()
	b := connect(t, ends(s.url()))
	h := openHandler(t, nil)
	var tries int
	h.resolve = func(_ context.Context, req *imgd.Request) error {
		if tries++; tries < 3 {
			return errors.New("git is away")
		}
		return fmt.Errorf("no such ref: %w", imgd.ErrInvalid)
	}
	running(t, consume(b, h))
	req, err := b.Submit(t.Context(), imgd.Request{Project: "hello", Ref: "refs/heads/gone"}, "")
	if err != nil {
		t.Fatal(err)
	}
	wait(t, b, req.ID, func(st imgd.Status) bool { return st.State == imgd.Queued && st.Error.Message == "git is away" })
	st := final(t, b, req)
	if st.State != imgd.Failed || st.Error.Kind != "invalid" || st.Commit != "" || st.Tries != 3 {
		t.Errorf("got %+v", st)
	}
	empty(t, js)
	checkEnds(t, js, st)
}

// What is of no commit after all, or of none that can be, is no request.
func TestPinToNoCommit(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := connect(t, events.Config{URL: s.url()})
	h := openHandler(t, nil)
	h.resolve = func(_ context.Context, req *imgd.Request) error {
		req.Commit = "HEAD"
		return nil
	}
	running(t, consume(b, h))
	req, err := b.Submit(t.Context(), imgd.Request{Project: "hello", Ref: "refs/heads/main"}, "")
	if err != nil {
		t.Fatal(err)
	}
	if st := final(t, b, req); st.State != imgd.Failed || st.Error.Kind != "invalid" {
		t.Errorf("got %+v", st)
	}
}

// A shutdown while it resolves gives it back.
func TestPinIsInterrupted(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := s.raw()
	b := connect(t, events.Config{URL: s.url(), Lease: 10 * patience, Grace: -1})
	h := openHandler(t, nil)
	resolving := make(chan struct{})
	h.resolve = func(ctx context.Context, _ *imgd.Request) error {
		close(resolving)
		<-ctx.Done()
		return nil // as if it had not noticed
	}
	stop := running(t, consume(b, h))
	put(t, js, `{"schema":1,"ref":"refs/heads/main"}`, nil)
	receive(t, resolving, "resolving")
	if err := stop(); err != nil {
		t.Error(err)
	}
	if n := count(t, js, "IMGD_REQUESTS"); n != 1 {
		t.Errorf("got %d messages in the queue, want 1", n)
	}
	running(t, consume(b, openHandler(t, nil)))
	final(t, b, withID(imgd.Request{Project: "hello", Ref: "refs/heads/main", Commit: commit}))
	empty(t, js)
}
