package events_test

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/events"
)

func equal(a, b imgd.Request) bool { return reflect.DeepEqual(a, b) }

func TestConnectDeclares(t *testing.T) {
	s := startServer(t)
	_, js := s.raw()
	for range 2 { // again changes nothing
		connect(t, events.Config{URL: s.url()})
	}
	want := map[string]struct {
		subject   string
		retention jetstream.RetentionPolicy
		perSub    int64
		age       time.Duration
	}{
		"IMGD_REQUESTS": {"imgd.requests.>", jetstream.WorkQueuePolicy, -1, 0},
		"IMGD_STATUS":   {"imgd.status.>", jetstream.LimitsPolicy, 1, 30 * 24 * time.Hour},
		"IMGD_EVENTS":   {"imgd.events.>", jetstream.LimitsPolicy, -1, 0},
		"IMGD_DEAD":     {"imgd.dead.>", jetstream.LimitsPolicy, -1, 0},
	}
	for name, w := range want {
		stream, err := js.Stream(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		c := stream.CachedInfo().Config
		if len(c.Subjects) != 1 || c.Subjects[0] != w.subject || c.Retention != w.retention || c.MaxMsgsPerSubject != w.perSub ||
			c.MaxAge != w.age || c.Storage != jetstream.FileStorage || !c.AllowDirect {
			t.Errorf("%s: got %+v, want %+v", name, c, w)
		}
	}
}

func TestConnectKeepsWhatAnOperatorChose(t *testing.T) {
	s := startServer(t)
	_, js := s.raw()
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "IMGD_STATUS", Subjects: []string{"imgd.status.>", "ours.>"},
		MaxAge: time.Hour, MaxBytes: 1 << 20, Description: "ours", Storage: jetstream.FileStorage, MaxMsgsPerSubject: 3})
	if err != nil {
		t.Fatal(err)
	}
	connect(t, events.Config{URL: s.url()})
	stream, err := js.Stream(t.Context(), "IMGD_STATUS")
	if err != nil {
		t.Fatal(err)
	}
	c := stream.CachedInfo().Config
	if c.MaxAge != time.Hour || c.MaxBytes != 1<<20 || c.Description != "ours" || len(c.Subjects) != 2 {
		t.Errorf("an operator's settings are gone: %+v", c)
	}
	if c.MaxMsgsPerSubject != 1 || !c.AllowDirect {
		t.Errorf("what imgd needs is missing: %+v", c)
	}
}

func TestConnectRefusesAStreamThatLosesRequests(t *testing.T) {
	s := startServer(t)
	_, js := s.raw()
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "IMGD_REQUESTS", Subjects: []string{"imgd.requests.>"}, Storage: jetstream.MemoryStorage})
	if err != nil {
		t.Fatal(err)
	}
	_, err = events.Connect(t.Context(), events.Config{URL: s.url()})
	if err == nil || !strings.Contains(err.Error(), "IMGD_REQUESTS") {
		t.Errorf("got error %v, want one that names the stream", err)
	}
}

func TestConsumeAdaptsTheConsumer(t *testing.T) {
	s := startServer(t)
	_, js := s.raw()
	connect(t, events.Config{URL: s.url()})
	_, err := js.CreateConsumer(t.Context(), "IMGD_REQUESTS", jetstream.ConsumerConfig{Durable: "imgd", AckPolicy: jetstream.AckExplicitPolicy, MaxDeliver: 3, Description: "ours"})
	if err != nil {
		t.Fatal(err)
	}
	b := connect(t, events.Config{URL: s.url(), Lease: time.Minute})
	h := newHandler(t)
	running(t, consume(b, h))
	ask(t, b, "refs/heads/main")
	receive(t, h.started, "start of the request")
	cons, err := js.Consumer(t.Context(), "IMGD_REQUESTS", "imgd")
	if err != nil {
		t.Fatal(err)
	}
	if c := cons.CachedInfo().Config; c.MaxDeliver != -1 || c.AckWait != time.Minute || c.MaxAckPending != -1 || c.Description != "ours" {
		t.Errorf("got consumer %+v", c)
	}
	h.letGo()
}

func TestPing(t *testing.T) {
	s := startServer(t)
	b := connect(t, events.Config{URL: s.url(), Timeout: 200 * time.Millisecond})
	if err := b.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	s.stop()
	if err := b.Ping(t.Context()); err == nil {
		t.Error("no error without a server")
	}
	s.start()
	for b.Ping(t.Context()) != nil { // until the connection is back
		if t.Context().Err() != nil {
			t.Fatal("no answer from the server that came back")
		}
	}
}

func TestConnectWithoutServer(t *testing.T) {
	if _, err := events.Connect(t.Context(), events.Config{URL: "nats://127.0.0.1:1"}); err == nil {
		t.Error("no error without a server")
	}
}
