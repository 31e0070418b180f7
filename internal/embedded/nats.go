package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gofrs/flock"
	"github.com/nats-io/nats-server/v2/server"
)

const (
	// readyPoll is how often a starting part is asked whether it is ready.
	readyPoll = 25 * time.Millisecond
	// watchPoll is how often the running server is asked whether it is healthy:
	// after a failed write (disk full) it never acknowledges a message of that
	// stream again, and may switch JetStream off, and tells nobody.
	watchPoll = 2 * time.Second
	// sickPolls in a row make a failure. One may be a stream being deleted.
	sickPolls = 2
	// lostWrite is in the server's log, whatever the case of its letters, when a
	// stream could not write. For the removal of an acknowledged message there
	// is no other sign until somebody publishes: the server confirms the
	// acknowledgement, and is healthy.
	lostWrite = "critical write error"
)

// NATSConfig says where the NATS server keeps its streams and listens.
type NATSConfig struct {
	Dir    string // made if missing, and locked
	Listen string // host:port; port 0 takes any free one
	Log    *slog.Logger
}

// NATS is a NATS server with JetStream in this process. Every acknowledged
// message is synced to disk.
type NATS struct {
	server   *server.Server
	dir      string
	lock     *flock.Flock
	url      string
	failed   chan error
	stop     chan struct{}
	close    func()
	running  sync.WaitGroup // the server
	watching sync.WaitGroup
	noted    string // the watch's: what is in ends.json
}

// StartNATS starts the server and returns when it takes connections and has
// recovered every stream, or when ctx is done. It refuses streams that have lost
// messages at their end. The server then runs until Close.
func StartNATS(ctx context.Context, cfg NATSConfig) (*NATS, error) {
	lock, err := lockDir(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("start nats: %w", err)
	}
	srv, err := newNATSServer(cfg)
	if err != nil {
		return nil, fmt.Errorf("start nats: %w", errors.Join(err, lock.Unlock()))
	}
	n := &NATS{server: srv, dir: cfg.Dir, lock: lock, failed: make(chan error, 1), stop: make(chan struct{})}
	n.close = sync.OnceFunc(n.shutdown)
	srv.SetLoggerV2(natsLog{cfg.Log, n.fail}, cfg.Log.Enabled(ctx, slog.LevelDebug), false, false)
	n.running.Go(srv.Start)
	err = n.waitReady(ctx)
	if err == nil {
		err = n.compareEnds()
	}
	if err != nil {
		n.Close()
		return nil, fmt.Errorf("start nats in %s: %w", cfg.Dir, err)
	}
	n.url = "nats://" + reachable(srv.Addr())
	n.watching.Go(n.watch)
	return n, nil
}

func newNATSServer(cfg NATSConfig) (*server.Server, error) {
	host, portText, err := net.SplitHostPort(cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("read listen address: %w", err)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("read listen address %q: %w", cfg.Listen, err)
	}
	opts := &server.Options{
		ServerName: "imgd", Host: host, Port: int(port),
		JetStream: true, StoreDir: cfg.Dir, SyncAlways: true,
		NoSigs: true, DisableJetStreamBanner: true,
	}
	if port == 0 {
		opts.Port = server.RANDOM_PORT
	}
	return server.NewServer(opts)
}

// waitReady trusts the listener and the health of every stream, not
// JetStreamEnabled, which is true even after a failed start.
func (n *NATS) waitReady(ctx context.Context) error {
	tick := time.NewTicker(readyPoll)
	defer tick.Stop()
	for {
		sickness := n.sickness()
		if sickness == nil {
			return nil
		}
		select {
		case err := <-n.failed:
			return err
		case <-ctx.Done():
			return fmt.Errorf("wait until healthy (%w): %w", sickness, context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// watch ends with the first failure it sees, or with Close. A disk that only
// takes its time does not fail: then the looks take as long.
func (n *NATS) watch() {
	tick := time.NewTicker(watchPoll)
	defer tick.Stop()
	var sickness error
	for sick := 0; sick < sickPolls; {
		select {
		case <-n.stop:
			_ = n.noteEnds() // a last time; the note there is does as well
			return
		case <-tick.C:
		}
		if sickness = n.sickness(); sickness == nil {
			sickness = n.noteEnds() // and so it is known that the directory can be written
		}
		if sickness == nil {
			sick = 0
		} else {
			sick++
		}
	}
	n.fail(fmt.Errorf("watch nats: %w", sickness))
}

// sickness is nil while the server takes connections and messages.
func (n *NATS) sickness() error {
	if status := n.server.Healthz(nil); status.Status != "ok" {
		return errors.New(status.Error)
	}
	return nil
}

// fail keeps the first failure; later ones follow from it.
func (n *NATS) fail(err error) {
	select {
	case n.failed <- err:
	default:
	}
}

// URL is the server's address for clients on this machine.
func (n *NATS) URL() string { return n.url }

// Failed delivers the failure, at most one, after which the server is of no
// use and has to be closed.
func (n *NATS) Failed() <-chan error { return n.failed }

// Close stops the server, when it has written what it took, and unlocks its
// directory. It may be called again.
func (n *NATS) Close() { n.close() }

func (n *NATS) shutdown() {
	close(n.stop)
	n.watching.Wait()
	n.server.Shutdown()
	n.server.WaitForShutdown()
	n.running.Wait()
	_ = n.lock.Unlock() // closes the file, which is what frees it
}

// natsLog is the server's logger. The stock one ends the process on Fatalf;
// this one hands the failure over and lets the server return. Notices tell
// only what the server is doing, so they are for debugging.
type natsLog struct {
	log  *slog.Logger
	fail func(error)
}

func (l natsLog) Noticef(format string, args ...any) { l.Debugf(format, args...) }

func (l natsLog) Debugf(format string, args ...any) {
	l.log.Debug("nats: " + fmt.Sprintf(format, args...))
}

func (l natsLog) Tracef(format string, args ...any) { l.Debugf(format, args...) }

func (l natsLog) Warnf(format string, args ...any) {
	l.log.Warn("nats: " + fmt.Sprintf(format, args...))
}

func (l natsLog) Errorf(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	l.log.Error("nats: " + text)
	if strings.Contains(strings.ToLower(text), lostWrite) {
		l.fail(errors.New(text))
	}
}

func (l natsLog) Fatalf(format string, args ...any) { l.fail(fmt.Errorf(format, args...)) }
