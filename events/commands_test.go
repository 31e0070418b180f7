package events_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/events"
)

// The whole ask is asked again, under the same ID.
func TestRetry(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := s.raw()
	b := connect(t, dies(ends(s.url())))
	want := imgd.Request{Project: "hello", Ref: "refs/tags/v1", Commit: commit, By: "ann", Reason: "why", Force: true,
		Args: map[string]string{"A": "b"}, Target: "x", Platforms: []string{"linux/arm64"}}
	for _, test := range []struct {
		state  imgd.State
		answer error
	}{
		{imgd.Superseded, imgd.ErrSuperseded}, {imgd.Conflicted, imgd.ErrConflict}, {imgd.Failed, imgd.ErrInvalid}, {imgd.Dead, errAway},
	} {
		t.Run(string(test.state), func(t *testing.T) {
			first := true
			stop := running(t, consume(b, openHandler(t, func(context.Context, *imgd.Request) error {
				if first {
					first = false
					return test.answer
				}
				return nil
			})))
			asked, err := b.Submit(t.Context(), want, "github/"+string(test.state)+"/hello")
			if err != nil {
				t.Fatal(err)
			}
			st := final(t, b, asked)
			if st.State != test.state {
				t.Fatalf("got %+v", st)
			}
			empty(t, js)
			again, err := b.Retry(t.Context(), asked.ID, "bob")
			if err != nil {
				t.Fatal(err)
			}
			wanted := asked
			wanted.By, wanted.AskedAt = "bob", again.AskedAt
			if !reflect.DeepEqual(again, wanted) || !again.AskedAt.After(asked.AskedAt) {
				t.Errorf("got  %+v\nwant %+v", again, wanted)
			}
			end := final(t, b, again)
			if end.State != imgd.Published || end.Request != asked.ID || end.By != "bob" || end.Nonce != asked.Nonce || end.Reason != "why" {
				t.Errorf("got %+v", end)
			}
			empty(t, js)
			if n := count(t, js, "IMGD_DEAD"); n != 0 {
				t.Errorf("got %d dead letters, want none", n)
			}
			if _, err := b.Retry(t.Context(), asked.ID, "bob"); !errors.Is(err, imgd.ErrConflict) || !strings.Contains(err.Error(), "nothing to try again") {
				t.Errorf("of a published one: got error %v", err)
			}
			if err := stop(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestRetryRefuses(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := s.raw()
	b := connect(t, events.Config{URL: s.url()})
	for _, id := range []string{"", "*", "x", strings.Repeat("0", 32), "dead-1", "dead-0", "dead-01", "dead-x"} {
		if _, err := b.Retry(t.Context(), id, "ann"); !errors.Is(err, imgd.ErrNotFound) {
			t.Errorf("%q: got error %v, want ErrNotFound", id, err)
		}
	}
	req := ask(t, b, "refs/heads/main")
	for _, state := range []imgd.State{imgd.Queued, imgd.Resolving, imgd.Building, imgd.Publishing, imgd.Published, imgd.Unchanged} {
		writeStatus(t, s, imgd.StatusOf(req, state))
		if _, err := b.Retry(t.Context(), req.ID, "ann"); !errors.Is(err, imgd.ErrConflict) {
			t.Errorf("%s: got error %v, want ErrConflict", state, err)
		}
	}
	if n := count(t, js, "IMGD_REQUESTS"); n != 1 {
		t.Errorf("got %d messages in the queue, want 1", n)
	}
}

// dead makes a dead letter of the request.
func dead(t *testing.T, b *events.Bus, ref string) imgd.Status {
	t.Helper()
	stop := running(t, consume(b, openHandler(t, func(context.Context, *imgd.Request) error { return errAway })))
	st := final(t, b, ask(t, b, ref))
	until(t, "empty queue", func() bool { d, err := b.Depth(t.Context()); return err == nil && d.Queued == 0 })
	if err := stop(); err != nil || st.State != imgd.Dead {
		t.Fatalf("got %+v, error %v", st, err)
	}
	return st
}

// Each effect of it cut off, and then repeated: the request is asked for once
// more, and its letter gone.
func TestRetryIsCutOff(t *testing.T) {
	t.Parallel()
	for _, at := range []string{"imgd.requests.hello", `"state":"queued"`, "STREAM.MSG.DELETE"} {
		for _, arrives := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/%v", strings.Trim(at, `"`), arrives), func(t *testing.T) {
				t.Parallel()
				s := startServer(t)
				_, js := s.raw()
				g := newGate(t, s)
				b := connect(t, dies(ends(s.url())))
				st := dead(t, b, "refs/heads/main")
				other := dead(t, b, "refs/heads/other")
				operator := connect(t, events.Config{URL: g.url, Timeout: 300 * time.Millisecond})
				tripped := g.lose(at, arrives)
				_, err := operator.Retry(t.Context(), st.Request, "ann")
				receive(t, tripped, "cut")
				if letters, _, _ := b.Letters(t.Context(), 10, 0); err != nil && len(letters) != 2 {
					t.Errorf("the letter is gone before the request is asked for again: %+v", letters)
				}
				for deadline := time.Now().Add(patience); time.Now().Before(deadline); { // not connected yet
					if _, err = operator.Retry(t.Context(), st.Request, "ann"); err == nil || errors.Is(err, imgd.ErrConflict) {
						break
					}
				}
				if err != nil && !errors.Is(err, imgd.ErrConflict) {
					t.Fatal(err)
				}
				if n := count(t, js, "IMGD_REQUESTS"); n != 1 {
					t.Errorf("got %d messages in the queue, want 1", n)
				}
				letters, _, err := b.Letters(t.Context(), 10, 0)
				if err != nil || len(letters) != 1 || letters[0].Request != other.Request {
					t.Errorf("got letters %+v, error %v, want the other request's", letters, err)
				}
				running(t, consume(b, openHandler(t, nil)))
				if end := wait(t, b, st.Request, func(now imgd.Status) bool { return now.State.Final() && now.AskedAt.After(st.AskedAt) }); end.State != imgd.Published {
					t.Errorf("got %+v", end)
				}
			})
		}
	}
}

// A request that never found its commit is asked for again without one.
func TestRetryWithoutCommit(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := s.raw()
	b := connect(t, events.Config{URL: s.url()})
	h := openHandler(t, nil)
	gone := true
	h.resolve = func(context.Context, *imgd.Request) error {
		if gone {
			return imgd.ErrInvalid
		}
		return nil
	}
	stop := running(t, consume(b, h))
	req, err := b.Submit(t.Context(), imgd.Request{Project: "hello", Ref: "refs/heads/main", Rebuild: true}, "mine")
	if err != nil {
		t.Fatal(err)
	}
	final(t, b, req)
	empty(t, js)
	for range 2 { // the second try of one end is not swallowed
		if _, err := b.Retry(t.Context(), req.ID, "ann"); err != nil {
			t.Fatal(err)
		}
		empty(t, js)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	gone = false
	running(t, consume(b, h))
	if _, err := b.Retry(t.Context(), req.ID, "ann"); err != nil {
		t.Fatal(err)
	}
	pinned := withID(imgd.Request{Project: "hello", Ref: "refs/heads/main", Commit: commit, Rebuild: true, Nonce: "mine"})
	if st := final(t, b, pinned); st.State != imgd.Published || st.By != "ann" {
		t.Errorf("got %+v", st)
	}
}

// What could not be read goes back as it was.
func TestRetryLetter(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := s.raw()
	b := connect(t, events.Config{URL: s.url()})
	body := `{"schema":2,"ref":"refs/heads/main"}`
	put(t, js, body, nats.Header{"Nats-Msg-Id": {"mine"}, "Imgd-Nonce": {"n"}})
	stop := running(t, consume(b, openHandler(t, nil)))
	empty(t, js)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	letters, _, err := b.Letters(t.Context(), 10, 0)
	if err != nil || len(letters) != 1 {
		t.Fatalf("got %+v, error %v", letters, err)
	}
	l := letters[0]
	want := imgd.Letter{ID: "dead-1", Project: "hello", Reason: l.Reason, Tries: 1, At: l.At, Subject: subject, Body: body}
	if l != want || !strings.Contains(l.Reason, "schema 2") || time.Since(l.At) > time.Hour {
		t.Errorf("got  %+v\nwant %+v", l, want)
	}
	if same, found, err := b.Letter(t.Context(), "dead-1"); same != want || !found || err != nil {
		t.Errorf("got %+v, found %v, error %v", same, found, err)
	}
	for range 2 { // repeated
		req, err := b.Retry(t.Context(), "dead-1", "ann")
		if err == nil && !reflect.DeepEqual(req, imgd.Request{Project: "hello"}) || err != nil && !errors.Is(err, imgd.ErrNotFound) {
			t.Errorf("got %+v, error %v", req, err)
		}
	}
	queued := messages(t, js, "IMGD_REQUESTS")
	if len(queued) != 1 || queued[0].Subject != subject || string(queued[0].Data) != body ||
		queued[0].Header.Get("Nats-Msg-Id") != "retry/dead-1" || queued[0].Header.Get("Imgd-Nonce") != "n" {
		t.Errorf("got %d messages: %+v", len(queued), queued)
	}
	if _, found, err := b.Letter(t.Context(), "dead-1"); found || err != nil {
		t.Errorf("the letter is still there, error %v", err)
	}
}

func TestRetryLetterIsCutOff(t *testing.T) {
	t.Parallel()
	for _, at := range []string{"imgd.requests.hello", "STREAM.MSG.DELETE"} {
		for _, arrives := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/%v", at, arrives), func(t *testing.T) {
				t.Parallel()
				s := startServer(t)
				_, js := s.raw()
				g := newGate(t, s)
				b := connect(t, events.Config{URL: g.url, Timeout: 300 * time.Millisecond})
				letter(t, js, nats.Header{"Imgd-Subject": {subject}}, "x")
				tripped := g.lose(at, arrives)
				_, err := b.Retry(t.Context(), "dead-1", "ann")
				receive(t, tripped, "cut")
				until(t, "no letter", func() bool {
					_, err = b.Retry(t.Context(), "dead-1", "ann")
					return errors.Is(err, imgd.ErrNotFound)
				})
				if n := count(t, js, "IMGD_REQUESTS"); n != 1 {
					t.Errorf("got %d messages in the queue, want 1", n)
				}
			})
		}
	}
}

// letter writes a dead letter as another process does.
func letter(t *testing.T, js jetstream.JetStream, header nats.Header, body string) string {
	t.Helper()
	ack, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: "imgd.dead.hello", Header: header, Data: []byte(body)})
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("dead-%d", ack.Sequence)
}

// A letter of a request stands for it; one whose request is forgotten goes back
// as the same request.
func TestRetryLetterOfARequest(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := s.raw()
	b := connect(t, dies(ends(s.url())))
	st := dead(t, b, "refs/heads/main")
	letters, _, err := b.Letters(t.Context(), 10, 0)
	if err != nil || len(letters) != 1 || letters[0].Request != st.Request {
		t.Fatalf("got %+v, error %v", letters, err)
	}
	again, err := b.Retry(t.Context(), letters[0].ID, "ann")
	if err != nil || again.ID != st.Request || again.By != "ann" {
		t.Errorf("got %+v, error %v", again, err)
	}
	running(t, consume(b, openHandler(t, nil)))
	final(t, b, again)
	if n := count(t, js, "IMGD_DEAD"); n != 0 {
		t.Errorf("got %d letters, want none", n)
	}

	forgotten := withID(imgd.Request{Project: "hello", Ref: "refs/heads/old", Commit: commit, Rebuild: true, Nonce: "n"})
	id := letter(t, js, nats.Header{"Imgd-Subject": {subject}, "Imgd-Nonce": {"n"}, "Imgd-Request": {forgotten.ID}, "Imgd-Asked-At": {"2020-01-01T00:00:00Z"}},
		`{"schema":1,"ref":"refs/heads/old","commit":"`+commit+`","rebuild":true}`)
	if _, err := b.Retry(t.Context(), id, "ann"); err != nil {
		t.Error(err)
	}
	final(t, b, forgotten)
}

// Nobody gets at other subjects by a forged letter.
func TestRetryForgedLetter(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := s.raw()
	b := connect(t, events.Config{URL: s.url()})
	for _, subject := range []string{"", "imgd.status.x", "imgd.events.published.x.y", "imgd.requests.a b"} {
		id := letter(t, js, nats.Header{"Imgd-Subject": {subject}}, "x")
		if _, err := b.Retry(t.Context(), id, "ann"); err == nil {
			t.Errorf("%q: no error", subject)
		}
		if _, found, _ := b.Letter(t.Context(), id); !found {
			t.Errorf("%q: the letter is gone", subject)
		}
	}
	for _, stream := range []string{"IMGD_REQUESTS", "IMGD_STATUS", "IMGD_EVENTS"} {
		if n := count(t, js, stream); n != 0 {
			t.Errorf("got %d messages in %s", n, stream)
		}
	}
}

// A release that is being published for ever is given up, while its handler
// runs or waits.
func TestDropRelease(t *testing.T) {
	t.Parallel()
	for _, runs := range []bool{true, false} {
		t.Run(fmt.Sprint(runs), func(t *testing.T) {
			s := startServer(t)
			_, js := s.raw()
			cfg := ends(s.url())
			cfg.Retry = func(int) time.Duration { return 300 * time.Millisecond }
			b := connect(t, cfg)
			h := openHandler(t, nil)
			answers := make(chan error, 1)
			h.drive = func(context.Context, *imgd.Request) error { return <-answers }
			running(t, consume(b, h))
			req := ask(t, b, "refs/heads/main")
			if !runs {
				answers <- errAway
			}
			wait(t, b, req.ID, func(st imgd.Status) bool { return st.State == imgd.Publishing && runs == (st.Error == nil) })
			st, err := b.Drop(t.Context(), req.ID, "ann", "no quota", h)
			want := imgd.StatusError{Kind: "dropped", Message: "dropped by ann: no quota"}
			if err != nil || st.State != imgd.Failed || *st.Error != want || st.Release != req.ID+"-1" || st.EndedAt.IsZero() {
				t.Errorf("got %+v, error %v", st, err)
			}
			checkEnds(t, js, st)
			if runs {
				answers <- imgd.ErrRefused
			}
			empty(t, js)
			if stands, _, _ := b.Status(t.Context(), req.ID); !reflect.DeepEqual(stands, st) {
				t.Errorf("got  %+v\nwant %+v", stands, st)
			}
			checkEnds(t, js, st)
			st, err = b.Drop(t.Context(), req.ID, "ann", "", h)
			isConflict(t, st, err, imgd.Failed, "has ended failed")
		})
	}
}

// What the pipeline cannot give up is not ended.
func TestDropFails(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := s.raw()
	b := connect(t, ends(s.url()))
	req := ask(t, b, "refs/heads/main")
	st := imgd.StatusOf(req, imgd.Publishing)
	writeStatus(t, s, st)
	for _, test := range []struct{ err, want error }{{imgd.ErrNotFound, imgd.ErrConflict}, {imgd.ErrConflict, imgd.ErrConflict}, {errAway, errAway}} {
		got, err := b.Drop(t.Context(), req.ID, "ann", "", dropper{test.err})
		if !errors.Is(err, test.want) || errors.Is(err, imgd.ErrNotFound) || got.State != imgd.Publishing {
			t.Errorf("%v: got %+v, error %v", test.err, got, err)
		}
	}
	if now, _, _ := b.Status(t.Context(), req.ID); now.State != imgd.Publishing {
		t.Errorf("got %+v", now)
	}
	checkEnds(t, js)
}

type dropper struct{ err error }

func (d dropper) Drop(context.Context, string, string) (imgd.Release, error) {
	return imgd.Release{State: imgd.ReleaseAbandoned}, d.err
}

// Each effect of it cut off, and then repeated or left to the next try.
func TestDropIsCutOff(t *testing.T) {
	t.Parallel()
	for _, at := range []string{`"state":"failed"`, "imgd.events.failed."} {
		for _, arrives := range []bool{false, true} {
			for _, repeated := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%v/%v", strings.Trim(at, `".`), arrives, repeated), func(t *testing.T) {
					t.Parallel()
					s := startServer(t)
					_, js := s.raw()
					b := connect(t, ends(s.url()))
					g := newGate(t, s)
					cfg := ends(g.url)
					cfg.Timeout = 300 * time.Millisecond
					operator := connect(t, cfg)
					h := openHandler(t, nil)
					h.drive = func(context.Context, *imgd.Request) error { return errAway }
					stop := running(t, consume(b, h))
					req := ask(t, b, "refs/heads/main")
					wait(t, b, req.ID, func(st imgd.Status) bool { return st.State == imgd.Publishing })
					if err := stop(); err != nil {
						t.Fatal(err)
					}
					tripped := g.lose(at, arrives)
					if _, err := operator.Drop(t.Context(), req.ID, "ann", "", h); err == nil {
						t.Error("no error")
					}
					receive(t, tripped, "cut")
					if repeated {
						until(t, "answer", func() bool {
							_, err := operator.Drop(t.Context(), req.ID, "ann", "", h)
							return err == nil || errors.Is(err, imgd.ErrConflict)
						})
					}
					running(t, consume(b, h))
					st := final(t, b, req)
					empty(t, js)
					if st.State != imgd.Failed {
						t.Errorf("got %+v", st)
					}
					checkEnds(t, js, st)
				})
			}
		}
	}
}
