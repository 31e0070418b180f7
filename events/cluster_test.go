package events_test

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/imgd/imgd"
)

// newCluster is three servers in process, to be started.
func newCluster(t *testing.T) []*server.Server {
	t.Helper()
	var routes []*url.URL
	var ports []int
	for range 3 { // each wants to know all routes before it starts
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close() // before they are started
		routes = append(routes, &url.URL{Scheme: "nats-route", Host: l.Addr().String()})
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	var servers []*server.Server
	for i, port := range ports {
		srv, err := server.NewServer(&server.Options{ServerName: fmt.Sprintf("n%d", i), Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(),
			Cluster: server.ClusterOpts{Name: "imgd", Host: "127.0.0.1", Port: port}, Routes: routes, NoSigs: true, NoLog: true})
		if err != nil {
			t.Fatal(err)
		}
		servers = append(servers, srv)
	}
	return servers
}

// In a cluster the streams have three replicas, and outlive a server.
func TestClusterReplicates(t *testing.T) {
	t.Parallel()
	servers := newCluster(t)
	for _, srv := range servers {
		go srv.Start()
		t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
	}
	for _, srv := range servers {
		if !srv.ReadyForConnections(patience) {
			t.Fatal("nats server is not ready")
		}
	}
	nc, err := nats.Connect(servers[0].ClientURL(), nats.MaxReconnects(-1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	insist(t, "the cluster has a leader and all three members", func() error {
		_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "PROBE", Replicas: len(servers)})
		return err
	})
	cfg := ends(servers[0].ClientURL())
	for _, srv := range servers[1:] {
		cfg.URL += "," + srv.ClientURL()
	}
	b := connect(t, cfg)
	for _, name := range []string{"IMGD_REQUESTS", "IMGD_STATUS", "IMGD_EVENTS", "IMGD_DEAD"} {
		stream, err := js.Stream(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if got := stream.CachedInfo().Config.Replicas; got != 3 {
			t.Errorf("%s has %d replicas, want 3", name, got)
		}
	}
	running(t, consume(b, openHandler(t, nil)))
	if st := final(t, b, ask(t, b, "refs/heads/main")); st.State != imgd.Published {
		t.Errorf("got %+v", st)
	}
	servers[0].Shutdown()
	var req imgd.Request
	insist(t, "a request is taken without the first server", func() (err error) {
		req, err = b.Submit(t.Context(), imgd.Request{Project: "hello", Ref: "refs/heads/other", Commit: commit}, "the same each time")
		return err
	})
	if st := final(t, b, req); st.State != imgd.Published {
		t.Errorf("got %+v", st)
	}
}

// insist does it until it succeeds, at most for patience.
func insist(t *testing.T, what string, do func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := do()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, err)
		}
	}
}
