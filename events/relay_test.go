package events_test

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/imgd/imgd/events"
)

// wholeTold waits until the source knows that everything is announced.
func (l *log) wholeTold(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		seq, all := l.Seq(), l.Published(0)
		if l.Told() == all[len(all)-1].Seq {
			return
		}
		if err := l.Wait(ctx, seq+1); err != nil {
			t.Fatal("not everything is told")
		}
	}
}

// checkEvents wants the events of the log's releases in the stream, in order,
// each once and in its own bytes.
func checkEvents(t *testing.T, js jetstream.JetStream, l *log) {
	t.Helper()
	got, want := messages(t, js, "IMGD_EVENTS"), l.Published(0)
	if len(got) != len(want) {
		t.Fatalf("got %d events, want %d", len(got), len(want))
	}
	for i, rel := range want {
		subject, body, err := events.Envelope(rel, l.ID())
		if err != nil {
			t.Fatal(err)
		}
		m := got[i]
		if m.Subject != subject || !bytes.Equal(m.Data, body) {
			t.Errorf("event %d: got  %s %s\nwant %s %s", i, m.Subject, m.Data, subject, body)
		}
		if m.Header.Get("Content-Type") != "application/cloudevents+json" || m.Header.Get("Nats-Msg-Id") != rel.ID {
			t.Errorf("event %d: got header %v", i, m.Header)
		}
	}
}

func relay(b *events.Bus, l *log) func(ctx context.Context) error {
	return func(ctx context.Context) error { return b.Relay(ctx, l) }
}

func TestRelay(t *testing.T) {
	s := startServer(t)
	_, js := s.raw()
	l := newLog(t, s)
	l.publish()
	l.publish()
	stop := running(t, relay(connect(t, events.Config{URL: s.url()}), l))
	l.wholeTold(t)
	checkEvents(t, js, l)
	l.publish() // while it waits
	l.wholeTold(t)
	checkEvents(t, js, l)
	if err := stop(); err != nil {
		t.Errorf("got error %v at the end, want none", err)
	}
}

// Whatever the relay had forgotten it did, it finds done.
func TestRelayRepeats(t *testing.T) {
	s := startServer(t)
	_, js := s.raw()
	shortWindow(t, js)
	l := newLog(t, s)
	for range 3 {
		l.publish()
	}
	for range 3 {
		stop := running(t, relay(connect(t, events.Config{URL: s.url()}), l))
		l.wholeTold(t)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		checkEvents(t, js, l)
		l.forget()
		s.stop() // longer than the window
		s.start()
	}
}

// shortWindow makes the server forget message IDs soon: what happens once must
// not rest on them.
func shortWindow(t *testing.T, js jetstream.JetStream) {
	t.Helper()
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "IMGD_EVENTS", Subjects: []string{"imgd.events.>"},
		Storage: jetstream.FileStorage, Duplicates: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
}

func TestRelaysRace(t *testing.T) {
	s := startServer(t)
	_, js := s.raw()
	l := newLog(t, s)
	for range 3 {
		running(t, relay(connect(t, events.Config{URL: s.url()}), l))
	}
	for range 30 {
		l.publish()
	}
	l.wholeTold(t)
	checkEvents(t, js, l)
}

// The event is cut off before it reaches the server, and after.
func TestRelayIsCutOff(t *testing.T) {
	for _, arrives := range []bool{false, true} {
		t.Run(fmt.Sprint(arrives), func(t *testing.T) {
			s := startServer(t)
			_, js := s.raw()
			g := newGate(t, s)
			l := newLog(t, s)
			l.publish()
			b := connect(t, events.Config{URL: g.url, Timeout: 300 * time.Millisecond})
			tripped := g.lose("imgd.events.published", arrives)
			running(t, relay(b, l))
			receive(t, tripped, "cut")
			l.publish()
			l.wholeTold(t)
			checkEvents(t, js, l)
		})
	}
}

// Noting what was announced fails, and fails but took effect.
func TestRelayCannotNote(t *testing.T) {
	for _, taken := range []bool{false, true} {
		t.Run(fmt.Sprint(taken), func(t *testing.T) {
			s := startServer(t)
			_, js := s.raw()
			l := newLog(t, s)
			l.failing, l.taken = 3, taken
			l.publish()
			running(t, relay(connect(t, events.Config{URL: s.url()}), l))
			for range 3 {
				receive(t, l.failed, "failed note")
			}
			l.publish()
			l.wholeTold(t)
			checkEvents(t, js, l)
		})
	}
}

func TestRelayOutlivesAnOutage(t *testing.T) {
	s := startServer(t)
	l := newLog(t, s)
	l.publish()
	b := connect(t, events.Config{URL: s.url(), Timeout: 100 * time.Millisecond})
	stop := running(t, relay(b, l))
	l.wholeTold(t)
	s.stop()
	for range 3 {
		l.publish()
	}
	if err := b.Ping(t.Context()); err == nil { // some tries fail meanwhile
		t.Error("the server is there")
	}
	s.start()
	l.wholeTold(t)
	_, js := s.raw()
	checkEvents(t, js, l)

	s.stop() // and it can be ended while it tries
	l.publish()
	if err := stop(); err != nil {
		t.Errorf("got error %v at the end, want none", err)
	}
	s.start()
}

// However long it could not note how far it came, and though the server has
// forgotten the IDs since, each event is there once, in order.
func TestRelayAfterALongOutage(t *testing.T) {
	s := startServer(t)
	_, js := s.raw()
	shortWindow(t, js)
	l := newLog(t, s)
	for range 5 {
		l.publish()
	}
	l.failing = 1 << 20
	stop := running(t, relay(connect(t, events.Config{URL: s.url()}), l))
	receive(t, l.failed, "failed note") // so all of them are announced
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	s.stop()
	for range 5 {
		l.publish() // while it is down
	}
	s.start()
	windowOver(t, js)
	b := connect(t, events.Config{URL: s.url()})
	stop = running(t, relay(b, l))
	receive(t, l.failed, "failed note")
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	windowOver(t, js)
	l.recover()
	running(t, relay(b, l))
	l.wholeTold(t)
	checkEvents(t, js, l)
}

// recover ends the failures of SetTold.
func (l *log) recover() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failing = 0
}

// Killed between announcing and noting, in the middle of a backlog.
func TestRelayIsInterrupted(t *testing.T) {
	s := startServer(t)
	_, js := s.raw()
	l := newLog(t, s)
	const backlog = 60
	for range backlog {
		l.publish()
	}
	for done := false; !done; {
		stop := running(t, relay(connect(t, events.Config{URL: s.url()}), l))
		had := count(t, js, "IMGD_EVENTS")
		for now := had; now < min(had+7, backlog); now = count(t, js, "IMGD_EVENTS") {
			if t.Context().Err() != nil {
				t.Fatal("the relay stands still")
			}
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		done = count(t, js, "IMGD_EVENTS") == backlog
	}
	running(t, relay(connect(t, events.Config{URL: s.url()}), l))
	l.wholeTold(t)
	checkEvents(t, js, l)
}
