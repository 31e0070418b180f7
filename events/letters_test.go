package events_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/events"
)

func TestLetters(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := s.raw()
	b := connect(t, events.Config{URL: s.url()})
	if got, next, err := b.Letters(t.Context(), 10, 0); len(got) != 0 || next != 0 || err != nil {
		t.Errorf("of none: got %v, next %d, error %v", got, next, err)
	}
	var want []string
	for i := range 25 {
		id := letter(t, js, nil, fmt.Sprintf("%d\xff", i))
		if i%3 == 0 {
			if _, err := b.Drop(t.Context(), id, "ann", "", nil); err != nil {
				t.Fatal(err)
			}
			continue
		}
		want = append([]string{fmt.Sprintf("%s %d\uFFFD", id, i)}, want...)
	}
	for _, limit := range []int{1, 3, len(want), 100} {
		var got []string
		for before, more := uint64(0), true; more; {
			page, next, err := b.Letters(t.Context(), limit, before)
			if err != nil || len(page) > limit {
				t.Fatalf("got %d items, error %v", len(page), err)
			}
			for _, l := range page {
				got = append(got, l.ID+" "+l.Body)
			}
			before, more = next, next != 0
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("by %d: got %q\nwant %q", limit, got, want)
		}
	}
	if d, err := b.Depth(t.Context()); d.Dead != uint64(len(want)) || err != nil {
		t.Errorf("got %+v, error %v", d, err)
	}
}

// The letter of a request has all it takes to be it again.
func TestLetterOfARequest(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := s.raw()
	b := connect(t, dies(ends(s.url())))
	req, err := b.Submit(t.Context(), imgd.Request{Project: "hello", Ref: "refs/heads/main", Commit: commit, Rebuild: true}, "mine")
	if err != nil {
		t.Fatal(err)
	}
	body := messages(t, js, "IMGD_REQUESTS")[0].Data
	running(t, consume(b, openHandler(t, func(context.Context, *imgd.Request) error { return fmt.Errorf("a\nb: %w", errAway) })))
	final(t, b, req)
	m := messages(t, js, "IMGD_DEAD")[0]
	want := map[string]string{"Imgd-Reason": "a b: the registry is away", "Imgd-Tries": "1", "Imgd-Subject": subject, "Imgd-Msg-Id": "mine",
		"Imgd-Request": req.ID, "Imgd-Asked-At": req.AskedAt.Format(time.RFC3339Nano), "Imgd-Nonce": "mine"}
	for header, value := range want {
		if got := m.Header.Get(header); got != value {
			t.Errorf("%s: got %q, want %q", header, got, value)
		}
	}
	if !bytes.Equal(m.Data, body) {
		t.Errorf("got %s, want %s", m.Data, body)
	}
}

func TestDepth(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := connect(t, events.Config{URL: s.url(), Timeout: 200 * time.Millisecond})
	if d, err := b.Depth(t.Context()); d != (imgd.Depth{}) || err != nil {
		t.Errorf("got %+v, error %v", d, err)
	}
	first := ask(t, b, "refs/heads/b0")
	for i := range 2 {
		ask(t, b, fmt.Sprintf("refs/heads/b%d", i+1))
	}
	if d, err := b.Depth(t.Context()); d.Queued != 3 || d.Dead != 0 || !d.Oldest.Truncate(time.Millisecond).Equal(first.AskedAt) || err != nil {
		t.Errorf("got %+v, error %v, want 3 since %s", d, err, first.AskedAt)
	}
	s.stop()
	if _, err := b.Depth(t.Context()); err == nil {
		t.Error("no error without a server")
	}
	s.start()
}

func TestDropDead(t *testing.T) {
	t.Parallel()
	for _, byLetter := range []bool{false, true} {
		t.Run(fmt.Sprint(byLetter), func(t *testing.T) {
			s := startServer(t)
			_, js := s.raw()
			b := connect(t, dies(ends(s.url())))
			gone, kept := dead(t, b, "refs/heads/main"), dead(t, b, "refs/heads/other")
			checkEnds(t, js, gone, kept)
			id := gone.Request
			if byLetter {
				id = "dead-1"
			}
			st, err := b.Drop(t.Context(), id, "ann", "old", nil)
			want := gone
			want.State, want.Error, want.EndedAt = imgd.Cancelled, &imgd.StatusError{Kind: "dropped", Message: "dropped by ann: old"}, st.EndedAt
			if err != nil || !reflect.DeepEqual(st, want) {
				t.Errorf("got %+v, error %v\nwant %+v", st, err, want)
			}
			if stands, _, _ := b.Status(t.Context(), gone.Request); !reflect.DeepEqual(stands, want) {
				t.Errorf("got  %+v\nwant %+v", stands, want)
			}
			letters, _, err := b.Letters(t.Context(), 10, 0)
			if err != nil || len(letters) != 1 || letters[0].Request != kept.Request {
				t.Errorf("got letters %+v, error %v", letters, err)
			}
			if _, err := b.Drop(t.Context(), id, "ann", "old", nil); byLetter != errors.Is(err, imgd.ErrNotFound) || !byLetter != errors.Is(err, imgd.ErrConflict) {
				t.Errorf("repeated: got error %v", err)
			}
		})
	}
}

// Each effect cut off, and repeated.
func TestDropDeadIsCutOff(t *testing.T) {
	t.Parallel()
	for _, at := range []string{"STREAM.MSG.DELETE", `"state":"cancelled"`} {
		for _, arrives := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/%v", strings.Trim(at, `"`), arrives), func(t *testing.T) {
				t.Parallel()
				s := startServer(t)
				_, js := s.raw()
				b := connect(t, dies(ends(s.url())))
				st := dead(t, b, "refs/heads/main")
				g := newGate(t, s)
				operator := connect(t, events.Config{URL: g.url, Timeout: 300 * time.Millisecond})
				tripped := g.lose(at, arrives)
				_, err := operator.Drop(t.Context(), st.Request, "ann", "", nil)
				receive(t, tripped, "cut")
				if err == nil {
					t.Error("no error")
				}
				until(t, "answer", func() bool {
					_, err := operator.Drop(t.Context(), st.Request, "ann", "", nil)
					return err == nil || errors.Is(err, imgd.ErrConflict)
				})
				if now, _, _ := b.Status(t.Context(), st.Request); now.State != imgd.Cancelled || now.Error.Kind != "dropped" {
					t.Errorf("got %+v", now)
				}
				if n := count(t, js, "IMGD_DEAD"); n != 0 {
					t.Errorf("got %d letters, want none", n)
				}
			})
		}
	}
}

// Who asks for it again is faster.
func TestDropDeadIsOutrun(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := connect(t, dies(ends(s.url())))
	dead := dead(t, b, "refs/heads/main")
	g := newGate(t, s)
	operator := connect(t, events.Config{URL: g.url})
	held, release := g.holdBack(`"state":"dead"`) // what Drop reads
	defer release()
	ended := make(chan error, 1)
	go func() {
		_, err := operator.Drop(t.Context(), dead.Request, "ann", "", nil)
		ended <- err
	}()
	receive(t, held, "state that Drop reads")
	again, err := b.Retry(t.Context(), dead.Request, "ann")
	if err != nil {
		t.Fatal(err)
	}
	release()
	if err := receive(t, ended, "end of Drop"); !errors.Is(err, imgd.ErrConflict) {
		t.Errorf("got error %v, want ErrConflict", err)
	}
	if st, _, _ := b.Status(t.Context(), dead.Request); st.State != imgd.Queued || !st.AskedAt.Equal(again.AskedAt) {
		t.Errorf("got %+v, want it queued again", st)
	}
}

// The letter of a later ask, which is about to end dead, is not that ask's.
func TestRetryKeepsLaterLetters(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := s.raw()
	b := connect(t, events.Config{URL: s.url()})
	req := ask(t, b, "refs/heads/main")
	writeStatus(t, s, imgd.StatusOf(req, imgd.Failed))
	gone := letter(t, js, nats.Header{"Imgd-Request": {req.ID}, "Imgd-Asked-At": {req.AskedAt.Format(time.RFC3339Nano)}}, "x")
	kept := letter(t, js, nats.Header{"Imgd-Request": {req.ID}, "Imgd-Asked-At": {req.AskedAt.Add(time.Millisecond).Format(time.RFC3339Nano)}}, "x")
	if _, err := b.Retry(t.Context(), req.ID, "ann"); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]bool{gone: false, kept: true} {
		if _, found, err := b.Letter(t.Context(), id); found != want || err != nil {
			t.Errorf("%s: found %v, error %v", id, found, err)
		}
	}
}

// A letter that is no request's, or of an ask that another has answered since,
// is only thrown away.
func TestDropLetter(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := s.raw()
	b := connect(t, events.Config{URL: s.url()})
	id := letter(t, js, nats.Header{"Imgd-Tries": {"2"}}, "x")
	st, err := b.Drop(t.Context(), id, "ann", "", nil)
	want := imgd.Status{Project: "hello", State: imgd.Cancelled, Tries: 2, Error: &imgd.StatusError{Kind: "dropped", Message: "dropped by ann"}, EndedAt: st.EndedAt}
	if err != nil || !reflect.DeepEqual(st, want) {
		t.Errorf("got %+v, error %v", st, err)
	}
	req := ask(t, b, "refs/heads/main")
	again := imgd.StatusOf(req, imgd.Dead) // of a later ask
	writeStatus(t, s, again)
	id = letter(t, js, nats.Header{"Imgd-Request": {req.ID}, "Imgd-Asked-At": {"2020-01-01T00:00:00Z"}}, "x")
	if st, err := b.Drop(t.Context(), id, "ann", "", nil); err != nil || st.State != imgd.Dead {
		t.Errorf("got %+v, error %v", st, err)
	}
	if n := count(t, js, "IMGD_DEAD"); n != 0 {
		t.Errorf("got %d letters, want none", n)
	}
}

func TestDropRefuses(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := connect(t, events.Config{URL: s.url()})
	for _, id := range []string{"", "x", strings.Repeat("0", 32), "dead-1"} {
		if _, err := b.Drop(t.Context(), id, "ann", "", nil); !errors.Is(err, imgd.ErrNotFound) {
			t.Errorf("%q: got error %v, want ErrNotFound", id, err)
		}
	}
	req := ask(t, b, "refs/heads/main")
	for state, words := range map[imgd.State]string{imgd.Queued: "cancel it", imgd.Resolving: "cancel it", imgd.Building: "cancel it",
		imgd.Published: "has ended published", imgd.Failed: "has ended failed", imgd.Cancelled: "has ended cancelled"} {
		writeStatus(t, s, imgd.StatusOf(req, state))
		st, err := b.Drop(t.Context(), req.ID, "ann", "", dropper{imgd.ErrNotFound})
		isConflict(t, st, err, state, words)
	}
}
