package kit_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/imgd/imgd/integration/kit"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func TestReadStream(t *testing.T) {
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
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
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
