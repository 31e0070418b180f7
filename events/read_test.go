package events_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/events"
)

func TestEvents(t *testing.T) {
	s := startServer(t)
	b := connect(t, events.Config{URL: s.url(), Timeout: 200 * time.Millisecond})
	l := newLog(t, s)
	running(t, relay(b, l))
	if got := there(t, b, events.EventFilter{}); len(got) != 0 {
		t.Errorf("got %v, want nothing", got)
	}
	for range 5 {
		l.publish()
	}
	l.wholeTold(t)
	all := there(t, b, events.EventFilter{})
	if len(all) != 5 || len(there(t, b, events.EventFilter{Since: 3})) != 2 || len(there(t, b, events.EventFilter{Since: 5})) != 0 || len(there(t, b, events.EventFilter{Since: 99})) != 0 {
		t.Errorf("got %d events from 0, %d from 3, %d from 5", len(all), len(there(t, b, events.EventFilter{Since: 3})), len(there(t, b, events.EventFilter{Since: 5})))
	}
	if e := all[1]; e.Seq != 2 || e.What != "published" || e.Image != "demo/hello" || e.ID != l.Published(0)[1].ID {
		t.Errorf("got %+v", e)
	}

	followed := make(chan events.Event, 100)
	stop := running(t, func(ctx context.Context) error {
		return b.Events(ctx, events.EventFilter{Since: 1}, true, func(e events.Event) error { followed <- e; return nil })
	})
	for want := uint64(2); want <= 5; want++ {
		if e := receive(t, followed, "event"); e.Seq != want {
			t.Errorf("got event %d, want %d", e.Seq, want)
		}
	}
	s.stop()
	s.start()
	l.publish()
	if e := receive(t, followed, "event after the restart"); e.Seq != 6 {
		t.Errorf("got event %d, want 6", e.Seq)
	}
	if err := stop(); !errors.Is(err, context.Canceled) {
		t.Errorf("got error %v, want that of the context", err)
	}
}

func there(t *testing.T, b *events.Bus, filter events.EventFilter) (all []events.Event) {
	t.Helper()
	if err := b.Events(t.Context(), filter, false, func(e events.Event) error { all = append(all, e); return nil }); err != nil {
		t.Fatal(err)
	}
	return all
}

// A reader that may wait for long does not wait for an answer that was lost.
func TestReaderIsLost(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	g := newGate(t, s)
	b := connect(t, events.Config{URL: g.url, Timeout: 300 * time.Millisecond})
	req := ask(t, b, "refs/heads/main")
	tripped := g.lose("CONSUMER.CREATE.IMGD_STATUS", false)
	if st := wait(t, b, req.ID, func(imgd.Status) bool { return true }); st.State != imgd.Queued {
		t.Errorf("got %+v", st)
	}
	receive(t, tripped, "cut")
}

// What the server takes its time for is not taken for the end.
func TestEventsOfASlowServer(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	g := newGate(t, s)
	_, js := s.raw()
	b := connect(t, events.Config{URL: g.url})
	write(t, js, 5, "imgd.events.drift."+token("demo/hello")+".#")
	held, release := g.holdBack(".2-0")
	time.AfterFunc(3*time.Second, release)
	got := there(t, b, events.EventFilter{})
	receive(t, held, "hold")
	if len(got) != 5 {
		t.Errorf("got %d events of 5", len(got))
	}
}

func TestEventsEndsWithItsReader(t *testing.T) {
	s := startServer(t)
	b := connect(t, events.Config{URL: s.url()})
	l := newLog(t, s)
	l.publish()
	running(t, relay(b, l))
	l.wholeTold(t)
	enough := errors.New("enough")
	if err := b.Events(t.Context(), events.EventFilter{}, true, func(events.Event) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("got error %v, want the reader's", err)
	}
}

// token is an image's in a subject, as docs/events.md says to make it.
func token(image string) string { return base64.RawURLEncoding.EncodeToString([]byte(image)) }

// write puts n messages on each subject in turn into IMGD_EVENTS, and answers
// the subjects in the stream's order.
func write(t *testing.T, js jetstream.JetStream, n int, subjects ...string) (written []string) {
	t.Helper()
	for i := range n {
		for j, subject := range subjects {
			subject = strings.ReplaceAll(subject, "#", fmt.Sprintf("%d-%d", i, j))
			written = append(written, subject)
			if _, err := js.PublishAsync(subject, []byte("{}")); err != nil {
				t.Fatal(err)
			}
		}
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-time.After(patience):
		t.Fatal("the stream does not take them")
	}
	return written
}

// foreign are messages that are nobody's events, or not those of the filters
// below, for any image.
func foreign(image string) []string {
	return []string{
		"imgd.events.published", "imgd.events.published." + image, "imgd.events.published." + image + ".#.more",
		"imgd.events.whatever." + image + ".#", "imgd.events." + image + ".published.#",
		"imgd.events.drift." + token("demo/hello2") + ".#", "imgd.events.published." + token("demo") + ".#", "imgd.events.published._.#",
	}
}

func TestEventsFilter(t *testing.T) {
	s := startServer(t)
	_, js := s.raw()
	b := connect(t, events.Config{URL: s.url()})
	hello, other := token("demo/hello"), token("demo/other")
	few := []string{
		"imgd.events.published." + hello + ".#", "imgd.events.published." + other + ".#", "imgd.events.deleted." + hello + ".#",
		"imgd.events.failed." + hello + ".#", "imgd.events.failed._.#", "imgd.events.drift." + other + ".#",
	}
	var all []string
	all = append(all, write(t, js, 40, foreign(hello)...)...)
	all = append(all, write(t, js, 5, few...)...)
	all = append(all, write(t, js, 40, foreign(hello)...)...)
	all = append(all, write(t, js, 5, few...)...)
	all = append(all, write(t, js, 40, foreign(other)...)...)
	tests := []struct {
		name   string
		filter events.EventFilter
		chosen func(what, image string) bool
		n      int
	}{
		{"what", events.EventFilter{What: []string{"failed"}}, func(what, _ string) bool { return what == "failed" }, 20},
		{"image", events.EventFilter{Image: "demo/hello"}, func(_, image string) bool { return image == hello }, 110},
		{"both", events.EventFilter{What: []string{"published"}, Image: "demo/other"}, func(what, image string) bool { return what == "published" && image == other }, 10},
		{"any of several, one twice", events.EventFilter{What: []string{"failed", "deleted", "failed"}, Image: "demo/hello"},
			func(what, image string) bool { return (what == "failed" || what == "deleted") && image == hello }, 20},
		{"none there", events.EventFilter{What: []string{"dead"}}, func(string, string) bool { return false }, 0},
		{"no such image", events.EventFilter{Image: "demo"}, func(_, image string) bool { return image == token("demo") }, 120},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var want []uint64
			for i, subject := range all {
				if p := strings.Split(subject, "."); len(p) == 5 && test.chosen(p[2], p[3]) {
					want = append(want, uint64(i)+1)
				}
			}
			if len(want) != test.n {
				t.Fatalf("the test's own choice has %d events, want %d", len(want), test.n)
			}
			for _, since := range []uint64{0, 1, 320, 333, uint64(len(all)) / 2, 700, uint64(len(all)) - 1, uint64(len(all)), 1 << 40} {
				test.filter.Since = since
				wantNow := slices.DeleteFunc(slices.Clone(want), func(seq uint64) bool { return seq <= since })
				if got := seqs(there(t, b, test.filter)); !slices.Equal(got, wantNow) {
					t.Errorf("since %d: got %v, want %v", since, got, wantNow)
				}
			}
		})
	}
}

func seqs(all []events.Event) (seqs []uint64) {
	for _, e := range all {
		seqs = append(seqs, e.Seq)
	}
	return seqs
}

// Without an image in the subject an event has none.
func TestEventsWithoutImage(t *testing.T) {
	s := startServer(t)
	_, js := s.raw()
	b := connect(t, events.Config{URL: s.url()})
	write(t, js, 1, "imgd.events.failed._.id")
	if got := there(t, b, events.EventFilter{}); len(got) != 1 || got[0].What != "failed" || got[0].Image != "" || got[0].ID != "id" {
		t.Errorf("got %+v", got)
	}
}

func TestEventsFilterRefused(t *testing.T) {
	s := startServer(t)
	b := connect(t, events.Config{URL: s.url()})
	for name, filter := range map[string]events.EventFilter{
		"unknown":         {What: []string{"published", "pushed"}},
		"empty":           {What: []string{""}},
		"wildcard":        {What: []string{"*"}},
		"long image":      {Image: strings.Repeat("a", 256)},
		"after the last ": {Since: math.MaxUint64},
	} {
		for _, follow := range []bool{false, true} {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			err := b.Events(ctx, filter, follow, func(events.Event) error { return nil })
			cancel()
			if !errors.Is(err, imgd.ErrInvalid) {
				t.Errorf("%s, follow %v: got error %v, want %v", name, follow, err, imgd.ErrInvalid)
			}
			if name == "unknown" && !strings.Contains(fmt.Sprint(err), `"pushed": want any of conflict, dead, deleted, drift, failed, published, superseded`) {
				t.Errorf("got error %v, which does not name the known ones", err)
			}
		}
	}
	if got := there(t, b, events.EventFilter{Image: strings.Repeat("a", 255), What: []string{"dead", "drift"}}); len(got) != 0 {
		t.Errorf("got %v", got)
	}
}

// A reader that follows gets every event that its filter chooses once, in
// order, however often its connection is lost, while others are written.
func TestEventsFollowReconnects(t *testing.T) {
	s := startServer(t)
	_, js := s.raw()
	tries := make(tell, 1000)
	b := connect(t, events.Config{URL: s.url(), Name: "reader", Timeout: 300 * time.Millisecond, Log: slog.New(slog.NewTextHandler(tries, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	hello := token("demo/hello")
	mine := []string{"imgd.events.published." + hello + ".#", "imgd.events.failed." + hello + ".#"}
	var written []string
	more := func() {
		for range 20 {
			written = append(written, write(t, js, 1, foreign(hello)...)...)
			written = append(written, write(t, js, 1, mine...)...)
		}
	}
	more()
	follow, stop := context.WithCancel(t.Context())
	followed := make(chan uint64) // unbuffered: what comes next waits, in part on the server
	done := make(chan error, 1)
	go func() {
		filter := events.EventFilter{What: []string{"failed", "published"}, Image: "demo/hello"}
		done <- b.Events(follow, filter, true, func(e events.Event) error {
			select {
			case followed <- e.Seq:
				return nil
			case <-follow.Done():
				return follow.Err()
			}
		})
	}()
	var got, want []uint64
	for range 2 {
		more()
		for range 10 {
			got = append(got, receive(t, followed, "event"))
		}
		s.cut(t, "reader")
		more()
		for range 10 {
			got = append(got, receive(t, followed, "event after a cut"))
		}
		s.stop()
		s.startWithoutJetStream()
		got = append(got, untilTried(t, followed, tries)...)
		s.stop()
		s.start()
	}
	for i, subject := range written {
		if strings.Count(subject, ".") == 4 && strings.Contains(subject, "."+hello+".") && !strings.Contains(subject, "whatever") && !strings.HasPrefix(subject, "imgd.events."+hello) {
			want = append(want, uint64(i)+1)
		}
	}
	for len(got) < len(want) {
		got = append(got, receive(t, followed, "event"))
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v\nwant %v", got, want)
	}
	write(t, js, 1, mine[0])
	if seq := receive(t, followed, "one more event"); seq != uint64(len(written))+1 {
		t.Errorf("after all got event %d, want %d", seq, len(written)+1)
	}
	stop()
	if err := receive(t, done, "end"); !errors.Is(err, context.Canceled) {
		t.Errorf("got error %v, want that of the context", err)
	}
}

// untilTried are the events that come before the reader has to make its consumer
// anew, as the one it had has given up.
func untilTried(t *testing.T, followed <-chan uint64, tries tell) (got []uint64) {
	t.Helper()
	for giveUp := time.After(patience); ; {
		select {
		case seq := <-followed:
			got = append(got, seq)
		case line := <-tries:
			if strings.Contains(line, "reading on after an error") {
				return got
			}
		case <-giveUp:
			t.Fatal("the reader does not try to read on")
		}
	}
}

// tell gives the lines of a log.
type tell chan string

func (l tell) Write(line []byte) (int, error) {
	l <- string(line)
	return len(line), nil
}

// startWithoutJetStream starts a server that takes the connections and has no
// streams.
func (s *natsServer) startWithoutJetStream() {
	s.t.Helper()
	srv, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: s.port, NoSigs: true, NoLog: true})
	if err != nil {
		s.t.Fatal(err)
	}
	go srv.Start()
	if !srv.ReadyForConnections(patience) {
		s.t.Fatal("nats server is not ready")
	}
	s.srv = srv
}

// cut loses the connection of the client with that name, once it has one.
func (s *natsServer) cut(t *testing.T, name string) {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		conns, err := s.srv.Connz(&server.ConnzOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range conns.Conns {
			if c.Name == name {
				if err := s.srv.DisconnectClientByID(c.Cid); err != nil {
					t.Fatal(err)
				}
				return
			}
		}
	}
	t.Fatalf("no connection of %s", name)
}

// What is removed from the stream meanwhile, by an operator, keeps nobody from
// the rest and from the end.
func TestEventsRemoved(t *testing.T) {
	s := startServer(t)
	_, js := s.raw()
	b := connect(t, events.Config{URL: s.url()})
	subject := "imgd.events.published." + token("demo/hello") + ".#"
	write(t, js, 6, subject, "imgd.events.failed._.#")
	stream, err := js.Stream(t.Context(), "IMGD_EVENTS")
	if err != nil {
		t.Fatal(err)
	}
	for _, seq := range []uint64{1, 4, 5, 11} {
		if err := stream.DeleteMsg(t.Context(), seq); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := seqs(there(t, b, events.EventFilter{Image: "demo/hello"})), []uint64{3, 7, 9}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	var got []uint64
	err = b.Events(t.Context(), events.EventFilter{}, false, func(e events.Event) error {
		if got = append(got, e.Seq); e.Seq == 2 {
			return stream.DeleteMsg(t.Context(), 12)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if want := []uint64{2, 3, 6, 7, 8, 9, 10}; !slices.Equal(got, want) && !slices.Equal(got, append(want, 12)) { // it may be here before it goes there
		t.Errorf("got %v, want %v", got, want)
	}
}
