package kit_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/imgd/imgd/integration/kit"
)

// What a killed server had acknowledged is there when it is started again, at the same place.
func TestNATSIsKilledAndStarted(t *testing.T) {
	ctx, dir := t.Context(), filepath.Join(t.TempDir(), "nats")
	server, err := kit.StartNATS(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Kill9)
	url := server.URL
	for n := range 3 {
		func() {
			conn, err := nats.Connect(url)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			js, err := jetstream.New(conn)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}, Retention: jetstream.WorkQueuePolicy}); err != nil {
				t.Fatal(err)
			}
			if _, err := js.Publish(ctx, fmt.Sprintf("s.%d", n), []byte("x")); err != nil {
				t.Fatal(err)
			}
		}()
		got, err := kit.ReadQueue(ctx, url, "S")
		if err != nil || len(got) != n+1 || got[n].Subject != fmt.Sprintf("s.%d", n) {
			t.Fatalf("after %d kills it has %+v, %v", n, got, err)
		}
		server.Kill9()
		if _, err := nats.Connect(url); err == nil {
			t.Fatal("a killed server answers")
		}
		if err := server.Start(ctx); err != nil {
			t.Fatal(err)
		}
		if server.URL != url {
			t.Fatalf("it is at %s, was at %s", server.URL, url)
		}
	}
}
