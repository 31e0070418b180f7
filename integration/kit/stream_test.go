package kit_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/imgd/imgd/integration/kit"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func startJetStream(t *testing.T) (*server.Server, jetstream.JetStream) {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	conn, err := nats.Connect(s.ClientURL(), nats.RetryOnFailedConnect(true))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	return s, js
}

func TestReadStream(t *testing.T) {
	s, js := startJetStream(t)
	ctx := t.Context()
	if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}}); err != nil {
		t.Fatal(err)
	}
	if got, err := kit.ReadStream(ctx, s.ClientURL(), "S", "s.>", 0); err != nil || len(got) != 0 {
		t.Errorf("the empty stream gives %v, %v", got, err)
	}
	late := make(chan error, 1)
	go func() { // while it is waited for
		var errs []error
		for _, subject := range []string{"s.a.1", "s.b.1", "s.a.2"} {
			_, err := js.Publish(ctx, subject, []byte(subject), jetstream.WithMsgID(subject))
			errs = append(errs, err)
		}
		late <- errors.Join(errs...)
	}()
	got, err := kit.ReadStream(ctx, s.ClientURL(), "S", "s.a.>", 2)
	if err := errors.Join(err, <-late); err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got[0].Subject != "s.a.1" || got[1].Seq != 3 || string(got[1].Data) != "s.a.2" ||
		got[1].Header["Nats-Msg-Id"][0] != "s.a.2" {
		t.Errorf("got %+v", got)
	}
	short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	if _, err := kit.ReadStream(short, s.ClientURL(), "S", "s.a.>", 3); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("waiting for one too many gives %v", err)
	}
}

// A server that is killed takes what it was about to answer along: a look at a queue is told so, and one at a stream asks
// again, long before the time is up that they may take.
func TestReadWithoutAnAnswer(t *testing.T) {
	s, js := startJetStream(t)
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}}); err != nil {
		t.Fatal(err)
	}
	gate, err := kit.StartLineGate(s.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	defer gate.Close()
	lost := func(read func(context.Context) error) error {
		hold := gate.Arm(kit.Answered, func(l kit.Line) bool { return strings.HasPrefix(l.Subject, "$JS.API.") })
		go func() { <-hold.Held(); hold.Drop() }()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err := read(ctx)
		if ctx.Err() != nil {
			t.Error("it waits for what does not come")
		}
		return err
	}
	if err := lost(func(ctx context.Context) error { _, err := kit.ReadStream(ctx, gate.URL, "S", "s.>", 0); return err }); err != nil {
		t.Errorf("the stream, asked again: %v", err)
	}
	if err := lost(func(ctx context.Context) error { _, err := kit.ReadQueue(ctx, gate.URL, "S"); return err }); err == nil {
		t.Error("the queue was read though the answer was lost")
	}
}
