package events_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/imgd/imgd/events"
)

// onlyDrift wants one event in the stream, that of drift() as it was first seen.
func onlyDrift(t *testing.T, js jetstream.JetStream, seen time.Time) {
	t.Helper()
	subject, body, err := events.DriftEnvelope(drift(), seen, indexID)
	if err != nil {
		t.Fatal(err)
	}
	got := messages(t, js, "IMGD_EVENTS")
	if len(got) != 1 || got[0].Subject != subject || string(got[0].Data) != string(body) {
		t.Fatalf("got %d events, want one on %s: %s", len(got), subject, body)
	}
	id := subject[len(subject)-32:]
	if h := got[0].Header; h.Get("Content-Type") != "application/cloudevents+json" || h.Get("Nats-Msg-Id") != id {
		t.Errorf("got header %v, want ID %s", h, id)
	}
}

// A drift is told once, by whomever it is seen and whenever, also when the
// server no longer knows the ID of the message.
func TestReportDrift(t *testing.T) {
	s := startServer(t)
	_, js := s.raw()
	shortWindow(t, js)
	first := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	for hours := range 3 {
		b := connect(t, events.Config{URL: s.url(), IndexID: indexID, Now: func() time.Time { return first.Add(time.Duration(hours) * time.Hour) }})
		for range 3 {
			if err := b.ReportDrift(t.Context(), drift()); err != nil {
				t.Fatal(err)
			}
		}
		onlyDrift(t, js, first)
		windowOver(t, js)
	}
	other := drift()
	other.Found = ""
	b := connect(t, events.Config{URL: s.url(), IndexID: indexID})
	if err := b.ReportDrift(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	if n := count(t, js, "IMGD_EVENTS"); n != 2 {
		t.Errorf("got %d events of two drifts", n)
	}
	other.Tag = ""
	if err := b.ReportDrift(t.Context(), other); err == nil {
		t.Error("a drift of no tag is told")
	}
}

// The report is lost on its way, or its answer is: repeated, it is told once.
func TestReportDriftLost(t *testing.T) {
	for _, arrives := range []bool{false, true} {
		t.Run(fmt.Sprint(arrives), func(t *testing.T) {
			s := startServer(t)
			_, js := s.raw()
			shortWindow(t, js)
			g := newGate(t, s)
			seen := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
			b := connect(t, events.Config{URL: g.url, IndexID: indexID, Now: func() time.Time { return seen }, Timeout: 300 * time.Millisecond})
			tripped := g.lose("imgd.events.drift.", arrives)
			if err := b.ReportDrift(t.Context(), drift()); err == nil {
				t.Error("no error, where nobody knows whether it was told")
			}
			receive(t, tripped, "loss")
			windowOver(t, js)
			for deadline := time.Now().Add(patience); ; {
				err := b.ReportDrift(t.Context(), drift())
				if err == nil {
					break
				}
				if time.Now().After(deadline) {
					t.Fatal(err)
				}
			}
			onlyDrift(t, js, seen)
		})
	}
}

// Another's message has the event's ID. That the server drops the event as its
// duplicate is no success.
func TestForeignMessageID(t *testing.T) {
	s := startServer(t)
	_, js := s.raw()
	shortWindow(t, js)
	seen := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	b := connect(t, events.Config{URL: s.url(), IndexID: indexID, Now: func() time.Time { return seen }})
	subject, _, err := events.DriftEnvelope(drift(), seen, indexID)
	if err != nil {
		t.Fatal(err)
	}
	for { // until the report comes before the window is over
		if _, err := js.Publish(t.Context(), "imgd.events.other", nil, jetstream.WithMsgID(subject[len(subject)-32:])); err != nil {
			t.Fatal(err)
		}
		err := b.ReportDrift(t.Context(), drift())
		there := messages(t, js, "IMGD_EVENTS")
		if err != nil && len(there) == 1 {
			break
		}
		if err != nil || len(there) != 2 {
			t.Fatalf("got error %v and %d messages", err, len(there))
		}
		for _, m := range there {
			remove(t, js, m.Sequence)
		}
	}
	windowOver(t, js)
	if err := b.ReportDrift(t.Context(), drift()); err != nil {
		t.Fatal(err)
	}
	remove(t, js, messages(t, js, "IMGD_EVENTS")[0].Sequence)
	onlyDrift(t, js, seen)
}

// The server says that the event is there, where it is not: any more, or because
// the server cannot read its store. That is no success either.
func TestReportDriftNotThere(t *testing.T) {
	s := startServer(t)
	_, js := s.raw()
	shortWindow(t, js)
	g := newGate(t, s)
	seen := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	b := connect(t, events.Config{URL: g.url, IndexID: indexID, Now: func() time.Time { return seen }})
	if err := b.ReportDrift(t.Context(), drift()); err != nil {
		t.Fatal(err)
	}
	windowOver(t, js)
	held, release := g.holdBack("wrong last sequence")
	done := make(chan error, 1)
	go func() { done <- b.ReportDrift(t.Context(), drift()) }()
	receive(t, held, "answer")
	remove(t, js, messages(t, js, "IMGD_EVENTS")[0].Sequence)
	release()
	if err := receive(t, done, "end of the report"); err == nil {
		t.Error("no error, where the event is not there")
	}
	if err := b.ReportDrift(t.Context(), drift()); err != nil {
		t.Fatal(err)
	}
	onlyDrift(t, js, seen)
}

func remove(t *testing.T, js jetstream.JetStream, seq uint64) {
	t.Helper()
	stream, err := js.Stream(t.Context(), "IMGD_EVENTS")
	if err == nil {
		err = stream.DeleteMsg(t.Context(), seq)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// windowOver returns when the server has forgotten the IDs of all messages that
// were sent until now.
func windowOver(t *testing.T, js jetstream.JetStream) {
	t.Helper()
	id := fmt.Sprintf("probe-%d", time.Now().UnixNano())
	for deadline, first := time.Now().Add(patience), true; ; first = false {
		ack, err := js.Publish(t.Context(), "imgd.events.probe", nil, jetstream.WithMsgID(id))
		if err != nil {
			t.Fatal(err)
		}
		if !ack.Duplicate {
			remove(t, js, ack.Sequence)
		}
		if !ack.Duplicate && !first {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the window does not end")
		}
	}
}
