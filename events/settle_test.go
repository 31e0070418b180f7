package events_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/events"
)

// dies gives up at the first try.
func dies(cfg events.Config) events.Config {
	cfg.Tries, cfg.RetryFor = 1, time.Nanosecond
	return cfg
}

var errAway = errors.New("the registry is away")

// Each effect of an end, in its order, cut off before it reaches the server and
// after, with a process that goes on and with one that is dead: the end stands
// once, with one letter and one event of the same bytes. Once the state is
// there, the request is not handled again.
func TestEndIsCutOffAtEachSeam(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		err   error
		seams []string // the commit point is the one with the state
	}{
		{"failed", imgd.ErrInvalid, []string{`"state":"failed"`, "imgd.events.failed.", "+ACK"}},
		{"dead", errAway, []string{"imgd.dead.hello", `"state":"dead"`, "imgd.events.dead.", "+ACK"}},
	} {
		stands := false
		for _, seam := range test.seams {
			commits := strings.Contains(seam, "state")
			for _, arrives := range []bool{false, true} {
				again := !stands && !(commits && arrives)
				for _, dead := range []bool{false, true} {
					t.Run(fmt.Sprintf("%s/%s/%v/%v", test.name, strings.Trim(seam, `"+.`), arrives, dead), func(t *testing.T) {
						t.Parallel()
						cutEnd(t, test.err, seam, arrives, dead, again)
					})
				}
			}
			stands = stands || commits
		}
	}
}

func cutEnd(t *testing.T, end error, seam string, arrives, dead, again bool) {
	s := startServer(t)
	_, js := s.raw()
	g := newGate(t, s)
	cfg := dies(ends(g.url))
	cfg.Slots, cfg.Lease, cfg.Timeout = 1, 600*time.Millisecond, 300*time.Millisecond
	b := connect(t, cfg)
	do := func(context.Context, *imgd.Request) error { return end }
	first, second := openHandler(t, do), openHandler(t, do)
	req := ask(t, b, "refs/heads/main")
	cut := g.lose
	if dead {
		cut = g.die
	}
	tripped := cut(seam, arrives)
	stop := running(t, consume(b, first))
	receive(t, tripped, "cut")
	cfg.URL = s.url()
	other := connect(t, cfg)
	if dead {
		b.Close()
		go func() { _ = stop() }() // beside the rest
		running(t, consume(other, second))
	}
	st := final(t, other, req)
	empty(t, js)
	if stands, _, _ := other.Status(t.Context(), req.ID); !stands.EndedAt.Equal(st.EndedAt) || stands.Tries != st.Tries {
		t.Errorf("the end was written again: %+v, first %+v", stands, st)
	}
	want := 1
	if again {
		want = 2
	}
	if n := first.callsOf(req.ID) + second.callsOf(req.ID); n != want {
		t.Errorf("handled %d times, want %d", n, want)
	}
	checkEnds(t, js, st)
	letters := len(messages(t, js, "IMGD_DEAD"))
	if wanted := st.State == imgd.Dead; wanted != (letters == 1) || letters > 1 {
		t.Errorf("got %d dead letters", letters)
	}
}

// The order of the effects, as the server sees them.
func TestEndInOrder(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	nc, _ := s.raw()
	b := connect(t, dies(ends(s.url())))
	seen := make(chan *nats.Msg, 100)
	for _, subject := range []string{"imgd.>", "$JS.ACK.IMGD_REQUESTS.>"} {
		if _, err := nc.ChanSubscribe(subject, seen); err != nil {
			t.Fatal(err)
		}
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	running(t, consume(b, openHandler(t, func(context.Context, *imgd.Request) error { return errAway })))
	ask(t, b, "refs/heads/main")
	for _, want := range []string{"imgd.dead.", `"state":"dead"`, "imgd.events.dead.", "+ACK"} {
		m := receive(t, seen, want)
		for ; m.Subject == "imgd.requests.hello.branch" || bytes.Contains(m.Data, []byte(`ing"`)) || bytes.Contains(m.Data, []byte(`"queued"`)); m = receive(t, seen, want) {
		}
		if !strings.Contains(m.Subject+string(m.Data), want) {
			t.Errorf("got %s %s, want %s", m.Subject, m.Data, want)
		}
	}
}

// What keeps failing is given up when it is both old and was tried often.
func TestDead(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := s.raw()
	now := make(chan time.Duration, 1)
	now <- 0
	cfg := ends(s.url())
	cfg.RetryFor, cfg.Tries = time.Hour, 3
	cfg.Now = func() time.Time {
		d := <-now
		now <- d
		return time.Now().Add(d)
	}
	b := connect(t, cfg)
	h := newHandler(t)
	tries := make(chan error)
	h.do = func(context.Context, *imgd.Request) error { return <-tries }
	h.letGo()
	running(t, consume(b, h))
	old, young := ask(t, b, "refs/heads/old"), imgd.Request{}
	for range 5 { // often, but not old
		tries <- errAway
	}
	wait(t, b, old.ID, func(st imgd.Status) bool { return st.State == imgd.Building && st.Tries == 6 })
	<-now
	now <- 2 * time.Hour
	tries <- errAway
	st := final(t, b, old)
	if st.State != imgd.Dead || st.Tries != 6 || *st.Error != (imgd.StatusError{Kind: "error", Message: errAway.Error()}) {
		t.Errorf("got %+v, error %+v", st, st.Error)
	}
	letters, _, err := b.Letters(t.Context(), 10, 0)
	if err != nil || len(letters) != 1 || letters[0].Request != old.ID || letters[0].Tries != 6 || letters[0].Reason != errAway.Error() {
		t.Errorf("got letters %+v, error %v", letters, err)
	}
	young = ask(t, b, "refs/heads/young") // as old by that clock, but not tried often
	for range 2 {
		tries <- errAway
	}
	wait(t, b, young.ID, func(st imgd.Status) bool { return st.State == imgd.Building && st.Tries == 3 })
	tries <- errAway
	second := final(t, b, young)
	if second.State != imgd.Dead || second.Tries != 3 {
		t.Errorf("got %+v", second)
	}
	empty(t, js)
	checkEnds(t, js, st, second)
}

// What was admitted is driven for ever, and shows what is wrong.
func TestAdmittedIsNeverDead(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := s.raw()
	b := connect(t, dies(ends(s.url())))
	h := openHandler(t, nil)
	errs := []error{errAway, imgd.ErrInvalid, imgd.ErrConflict, imgd.ErrRefused, imgd.ErrSuperseded, &imgd.BuildError{Message: "x"}, context.DeadlineExceeded}
	var tries int
	h.drive = func(context.Context, *imgd.Request) error {
		if tries++; tries <= len(errs) {
			return fmt.Errorf("settle: %w", errs[tries-1])
		}
		return nil
	}
	running(t, consume(b, h))
	req := ask(t, b, "refs/heads/main")
	st := wait(t, b, req.ID, func(st imgd.Status) bool { return st.State == imgd.Publishing && st.Error != nil })
	if st.Release != req.ID+"-1" || st.Error.Kind != "error" || !strings.HasPrefix(st.Error.Message, "settle: ") {
		t.Errorf("got %+v, error %+v", st, st.Error)
	}
	if st := final(t, b, req); st.State != imgd.Published || st.Tries != len(errs)+1 {
		t.Errorf("got %+v", st)
	}
	empty(t, js)
	checkEnds(t, js)
}

// Of two asks for the same request, each has its event, and the state is the
// later's.
func TestEndOfAnEarlierAsk(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := s.raw()
	b := connect(t, ends(s.url()))
	h := newHandler(t)
	h.do = func(context.Context, *imgd.Request) error { return imgd.ErrInvalid }
	first := ask(t, b, "refs/heads/main")
	stop := running(t, consume(b, h))
	receive(t, h.started, "start")
	// Another daemon has the later ask meanwhile, as this one's lease was lost.
	later := imgd.StatusOf(first, imgd.Building)
	later.AskedAt, later.Tries = first.AskedAt.Add(time.Second), 1
	writeStatus(t, s, later)
	h.letGo()
	empty(t, js)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	all := messages(t, js, "IMGD_EVENTS")
	if len(all) != 1 || !strings.HasSuffix(all[0].Subject, fmt.Sprintf("%s-%d", first.ID, first.AskedAt.UnixMilli())) {
		t.Fatalf("got %d events, want that of the first ask", len(all))
	}
	if st, _, _ := b.Status(t.Context(), first.ID); st.State != imgd.Building {
		t.Errorf("got %+v, want the later ask's state", st)
	}
}

// The first end of an ask stands, whatever a process that has lost its lease
// says later, and the event is that end's; but published goes before it.
func TestFirstEndStands(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		second error
		want   imgd.State
	}{{imgd.ErrConflict, imgd.Failed}, {nil, imgd.Published}} {
		t.Run(fmt.Sprint(test.second), func(t *testing.T) {
			s := startServer(t)
			_, js := s.raw()
			b := connect(t, ends(s.url()))
			h := newHandler(t)
			h.do = func(context.Context, *imgd.Request) error { return test.second }
			req := ask(t, b, "refs/heads/main")
			running(t, consume(b, h))
			receive(t, h.started, "start")
			wait(t, b, req.ID, func(st imgd.Status) bool { return st.State == imgd.Building })
			st := imgd.StatusOf(req, imgd.Failed)
			st.Tries, st.Error = 1, &imgd.StatusError{Kind: "invalid", Message: "another's"}
			writeStatus(t, s, st)
			h.letGo()
			empty(t, js)
			stands, _, _ := b.Status(t.Context(), req.ID)
			if stands.State != test.want {
				t.Errorf("got %+v", stands)
			}
			if test.want == imgd.Failed {
				st.EndedAt = st.AskedAt
				checkEnds(t, js, st)
			}
		})
	}
}

// A project that is not configured has no image to name.
func TestEndOfAnUnknownProject(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := s.raw()
	b := connect(t, events.Config{URL: s.url()})
	running(t, consume(b, openHandler(t, func(context.Context, *imgd.Request) error { return imgd.ErrInvalid })))
	st := final(t, b, ask(t, b, "refs/heads/main"))
	empty(t, js)
	subject, _, _ := events.EndEnvelope(st, "", "")
	if all := messages(t, js, "IMGD_EVENTS"); len(all) != 1 || all[0].Subject != subject {
		t.Errorf("got %d events, want %s", len(all), subject)
	}
}

// An ask that was told, is delivered again when a later one tells the states, and
// ends otherwise then, stays told as it was.
func TestToldOnceWhateverItEndsAs(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := s.raw()
	g := newGate(t, s)
	cfg := ends(g.url)
	cfg.Lease = 600 * time.Millisecond
	b := connect(t, cfg)
	first := ask(t, b, "refs/heads/main")
	tripped := g.die("+ACK", false)
	stop := running(t, consume(b, openHandler(t, func(context.Context, *imgd.Request) error { return imgd.ErrInvalid })))
	receive(t, tripped, "cut")
	cfg.URL = s.url()
	other := connect(t, cfg)
	told := final(t, other, first)
	second := ask(t, other, "refs/heads/main")
	if !second.AskedAt.After(first.AskedAt) || second.ID != first.ID {
		t.Fatalf("asked %+v, then %+v", first, second)
	}
	b.Close()
	go func() { _ = stop() }() // beside the rest
	running(t, consume(other, openHandler(t, func(context.Context, *imgd.Request) error { return imgd.ErrSuperseded })))
	empty(t, js)
	checkEnds(t, js, told, final(t, other, second))
}
