// Command consumer is an example of a service that acts on what imgd publishes. For every release it writes a file
// DIR/<event ID> that names the digest of each tag, once, however often the event is delivered.
//
//	NATS_URL=nats://127.0.0.1:4222 consumer DIR
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// event is the part of a published event that is read here. What else is there is ignored: imgd may add to it.
type event struct {
	ID   string
	Data struct {
		CustomData struct {
			Records []struct{ Image, Tag, Platform, Digest string }
		}
	}
}

func main() {
	log.SetFlags(0)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(os.Args) != 2 {
		log.Fatal("usage: consumer DIR")
	}
	if err := consume(ctx, os.Getenv("NATS_URL"), os.Args[1]); err != nil {
		log.Fatal(err)
	}
}

func consume(ctx context.Context, server, dir string) error {
	nc, err := nats.Connect(server, nats.MaxReconnects(-1))
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	// Durable: the server remembers how far this service came. One event at a time, so that the order is kept even where
	// one has to be tried again.
	consumer, err := js.CreateOrUpdateConsumer(ctx, "IMGD_EVENTS", jetstream.ConsumerConfig{
		Durable: "example", FilterSubject: "imgd.events.published.*.*", MaxAckPending: 1,
	})
	if err != nil {
		return err
	}
	consuming, err := consumer.Consume(func(msg jetstream.Msg) { handle(ctx, dir, msg) })
	if err != nil {
		return err
	}
	defer consuming.Stop()
	select {
	case <-ctx.Done():
		return nil
	case <-consuming.Closed():
		return errors.New("the consumer is gone")
	}
}

// handle acknowledges the event after its effect is durable, never before: a crash in between delivers it again.
func handle(ctx context.Context, dir string, msg jetstream.Msg) {
	var e event
	if err := json.Unmarshal(msg.Data(), &e); err != nil || e.ID == "" {
		log.Printf("%s is no event: %v", msg.Subject(), err)
		_ = msg.Term() // another try would not help
		return
	}
	if err := apply(dir, e); err != nil {
		log.Printf("%s, trying again: %v", e.ID, err)
		_ = msg.NakWithDelay(time.Second)
		return
	}
	if err := msg.DoubleAck(ctx); err != nil {
		log.Printf("%s is done and may come again: %v", e.ID, err)
	}
}

// apply does what the event asks for, unless that was done before. The file is both the effect and the memory of it, so
// the two cannot disagree; with a database, put the ID into the same transaction.
func apply(dir string, e event) error {
	name := filepath.Join(dir, url.PathEscape(e.ID))
	if _, err := os.Stat(name); !errors.Is(err, fs.ErrNotExist) {
		return err // nil: it is there
	}
	f, err := os.CreateTemp(dir, ".new-")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }() // unless it was renamed
	defer f.Close()
	for _, r := range e.Data.CustomData.Records {
		fmt.Fprintln(f, r.Image, r.Tag, r.Platform, r.Digest)
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return err
	}
	fmt.Fprintln(os.Stdout, "applied", e.ID)
	return nil
}
