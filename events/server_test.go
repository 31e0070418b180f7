package events_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/imgd/imgd/events"
)

// patience is how long a test waits for what must happen soon.
const patience = 20 * time.Second

// A natsServer is a real one, in process, that can be stopped and started again
// on its address and data.
type natsServer struct {
	t    testing.TB
	dir  string
	port int
	srv  *server.Server
	lazy bool // syncs nothing: for tests with many messages
}

func startServer(t testing.TB) *natsServer {
	t.Helper()
	s := &natsServer{t: t, dir: t.TempDir(), port: -1}
	s.start()
	t.Cleanup(s.stop)
	return s
}

func startLazyServer(t testing.TB) *natsServer {
	t.Helper()
	s := &natsServer{t: t, dir: t.TempDir(), port: -1, lazy: true}
	s.start()
	t.Cleanup(s.stop)
	return s
}

func (s *natsServer) start() {
	s.t.Helper()
	srv, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: s.port, JetStream: true, StoreDir: s.dir, SyncAlways: !s.lazy, NoSigs: true, NoLog: true,
	})
	if err != nil {
		s.t.Fatal(err)
	}
	go srv.Start()
	if !srv.ReadyForConnections(patience) {
		s.t.Fatal("nats server is not ready")
	}
	s.srv, s.port = srv, srv.Addr().(*net.TCPAddr).Port
}

func (s *natsServer) stop() {
	s.srv.Shutdown()
	s.srv.WaitForShutdown()
}

func (s *natsServer) url() string { return s.srv.ClientURL() }

// raw is a connection of the test's own.
func (s *natsServer) raw() (*nats.Conn, jetstream.JetStream) {
	s.t.Helper()
	nc, err := nats.Connect(s.url(), nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		s.t.Fatal(err)
	}
	return nc, js
}

// connect gives a bus with retries short enough for a test.
func connect(t *testing.T, cfg events.Config) *events.Bus {
	t.Helper()
	if cfg.Retry == nil {
		cfg.Retry = func(int) time.Duration { return 20 * time.Millisecond }
	}
	cfg.Poll = 100 * time.Millisecond
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	b, err := events.Connect(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

// count is how many messages the stream holds.
func count(t *testing.T, js jetstream.JetStream, stream string) uint64 {
	t.Helper()
	s, err := js.Stream(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	return s.CachedInfo().State.Msgs
}

// messages are those of the stream, oldest first.
func messages(t *testing.T, js jetstream.JetStream, stream string) []*jetstream.RawStreamMsg {
	t.Helper()
	s, err := js.Stream(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	var all []*jetstream.RawStreamMsg
	for seq := s.CachedInfo().State.FirstSeq; seq <= s.CachedInfo().State.LastSeq; seq++ {
		if m, err := s.GetMsg(t.Context(), seq); err == nil {
			all = append(all, m)
		}
	}
	return all
}

func receive[T any](t *testing.T, from <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		t.Fatalf("nothing after %s: %s", patience, what)
		panic("unreachable: Fatalf ends the goroutine")
	}
}

// running runs f until the test, or the returned function, ends it, and answers
// its error then.
func running(t *testing.T, f func(ctx context.Context) error) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	var once sync.Once
	var err error
	stop = func() error {
		once.Do(func() {
			cancel()
			err = receive(t, done, "end of what was run")
		})
		return err
	}
	t.Cleanup(func() { _ = stop() })
	return stop
}

// A gate is a TCP proxy before the server that can lose a connection around
// the first message with given bytes in it.
type gate struct {
	url string

	mu      sync.Mutex // guards what follows
	at      []byte     // nil: everything passes
	arrives bool       // the message at which the connection is lost still gets there, its answer never does
	dies    bool       // then nothing passes any more
	dead    bool
	tripped chan struct{}
	hold    []byte // nil: everything comes back
	held    chan struct{}
	release chan struct{}
}

func newGate(t *testing.T, s *natsServer) *gate {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	g := &gate{url: "nats://" + l.Addr().String()}
	target := s.srv.Addr().String()
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			if g.isDead() {
				client.Close()
				continue
			}
			go g.serve(client, target)
		}
	}()
	return g
}

// lose loses the connection once, at the message with those bytes: before the
// server has it, or with arrives after.
func (g *gate) lose(at string, arrives bool) (tripped <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.at, g.arrives, g.tripped = []byte(at), arrives, make(chan struct{})
	return g.tripped
}

// die is lose, after which no connection comes to be any more, as if the process
// had died there.
func (g *gate) die(at string, arrives bool) (tripped <-chan struct{}) {
	tripped = g.lose(at, arrives)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.dies = true
	return tripped
}

func (g *gate) isDead() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.dead
}

func (g *gate) trips(chunk []byte) (trips, arrives bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.at == nil || !bytes.Contains(chunk, g.at) {
		return false, false
	}
	g.at, g.dead = nil, g.dies
	close(g.tripped)
	return true, g.arrives
}

func (g *gate) serve(client net.Conn, target string) {
	defer client.Close()
	up, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	back := make(chan struct{})
	go func() {
		defer close(back)
		g.comeBack(client, up)
		_, _ = io.Copy(io.Discard, up) // so that the server can finish with what it got
		up.Close()
	}()
	g.forward(client, up)
	_ = up.(*net.TCPConn).CloseWrite()
	client.Close()
	<-back
}

func (g *gate) forward(client, up net.Conn) {
	buf := make([]byte, 1<<20)
	for {
		n, err := client.Read(buf)
		if err != nil {
			return
		}
		trips, arrives := g.trips(buf[:n])
		if trips {
			client.Close() // before the server can answer
			if !arrives {
				return
			}
		}
		if _, err := up.Write(buf[:n]); err != nil || trips {
			return
		}
	}
}

// holdBack holds what the server sends, once, from the message with those bytes.
func (g *gate) holdBack(at string) (held <-chan struct{}, release func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.hold, g.held, g.release = []byte(at), make(chan struct{}), make(chan struct{})
	return g.held, sync.OnceFunc(func() { close(g.release) })
}

func (g *gate) comeBack(client, up net.Conn) {
	buf := make([]byte, 1<<20)
	for {
		n, err := up.Read(buf)
		if err != nil {
			return
		}
		g.waitIfHeld(buf[:n])
		if _, err := client.Write(buf[:n]); err != nil {
			return
		}
	}
}

func (g *gate) waitIfHeld(chunk []byte) {
	g.mu.Lock()
	holds := g.hold != nil && bytes.Contains(chunk, g.hold)
	if holds {
		g.hold = nil
		close(g.held)
	}
	release := g.release
	g.mu.Unlock()
	if holds {
		<-release
	}
}
