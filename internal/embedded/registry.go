package embedded

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem" // the only way handlers.NewApp finds a driver
	"github.com/gofrs/flock"
	"github.com/sirupsen/logrus"
)

const (
	// headerTime ends connections that never send a request. Bodies have no
	// limit: a layer may take long.
	headerTime = 10 * time.Second
	// idleTime is how long a client keeps its connection between requests.
	idleTime = 2 * time.Minute
	// catalogSize is the registry's own default, which it only sets for
	// configurations that come from a file.
	catalogSize = 1000
)

// RegistryConfig says where the registry keeps its blobs and listens.
type RegistryConfig struct {
	Dir    string // made if missing, and locked
	Listen string // host:port; port 0 takes any free one
	Log    *slog.Logger
}

// Registry is an OCI registry in this process: plain HTTP, no accounts, tags
// and manifests can be deleted. It syncs the contents of files; new directories
// and the renames that end an upload rest on the file system's journal.
type Registry struct {
	app     *handlers.App
	cancel  context.CancelFunc
	server  *http.Server
	lock    *flock.Flock
	address string
	failed  chan error
	running sync.WaitGroup

	gate       *gate
	collecting sync.Mutex // one Collect at a time
}

// StartRegistry starts the registry; when it returns, clients can connect. ctx
// bounds the start, the registry runs until Close.
func StartRegistry(ctx context.Context, cfg RegistryConfig) (*Registry, error) {
	lock, err := lockDir(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("start registry: %w", err)
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("start registry: %w", errors.Join(err, lock.Unlock()))
	}
	routeLogrus(cfg.Log)
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	app, err := newRegistryApp(life, cfg.Dir)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("start registry: %w", errors.Join(err, listener.Close(), lock.Unlock()))
	}
	r := &Registry{app: app, cancel: cancel, lock: lock, failed: make(chan error, 1)}
	r.address = reachable(listener.Addr())
	r.gate = &gate{next: app, layout: layout(filepath.Join(cfg.Dir, "docker", "registry", "v2"))}
	r.server = &http.Server{
		Handler: r.gate, ReadHeaderTimeout: headerTime, IdleTimeout: idleTime,
		ErrorLog: slog.NewLogLogger(cfg.Log.Handler(), slog.LevelDebug),
	}
	r.running.Go(func() { r.serve(listener) })
	return r, nil
}

// newRegistryApp configures the registry. There is no cache of blob
// descriptors: it would go on to promise blobs that a garbage collection took.
func newRegistryApp(ctx context.Context, dir string) (app *handlers.App, err error) {
	defer func() {
		if p := recover(); p != nil { // NewApp panics on what it cannot use
			err = fmt.Errorf("configure registry in %s: %v", dir, p)
		}
	}()
	cfg := &configuration.Configuration{
		Version: configuration.CurrentVersion,
		Storage: configuration.Storage{
			"filesystem": {"rootdirectory": dir},
			"delete":     {"enabled": true},
		},
		Catalog: configuration.Catalog{MaxEntries: catalogSize},
	}
	cfg.HTTP.Secret = rand.Text() // signs upload sessions, which end with the process
	return handlers.NewApp(ctx, cfg), nil
}

func (r *Registry) serve(listener net.Listener) {
	if err := r.server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		r.failed <- fmt.Errorf("serve registry: %w", err)
	}
}

// Address is the registry's host:port for clients on this machine.
func (r *Registry) Address() string { return r.address }

// Failed delivers the failure, at most one, after which the registry answers
// nobody and has to be closed.
func (r *Registry) Failed() <-chan error { return r.failed }

// Close lets running requests end, cuts those that last longer than ctx, and
// unlocks the directory. It may be called again.
func (r *Registry) Close(ctx context.Context) error {
	err := r.server.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, r.server.Close())
	}
	r.running.Wait()
	err = errors.Join(err, r.app.Shutdown(), r.lock.Unlock())
	r.cancel()
	if err != nil {
		return fmt.Errorf("close registry: %w", err)
	}
	return nil
}

// routeLogrus sends what libraries write to logrus' standard logger, the only
// place the registry can log to, to log at level debug: the registry calls every
// "not found" an error. It stays so after Close, as the alternative is their
// chatter on standard error; the newest registry of a process wins.
func routeLogrus(log *slog.Logger) {
	std := logrus.StandardLogger()
	std.SetOutput(io.Discard)
	hooks := make(logrus.LevelHooks)
	hooks.Add(logrusHook{log})
	std.ReplaceHooks(hooks)
}

type logrusHook struct{ log *slog.Logger }

// Levels and Fire make a logrus.Hook.
func (logrusHook) Levels() []logrus.Level { return logrus.AllLevels }

func (h logrusHook) Fire(entry *logrus.Entry) error {
	ctx := entry.Context
	if ctx == nil {
		ctx = context.Background()
	}
	if !h.log.Enabled(ctx, slog.LevelDebug) {
		return nil
	}
	attrs := make([]slog.Attr, 0, len(entry.Data)+1)
	attrs = append(attrs, slog.String("severity", entry.Level.String()))
	for key, value := range entry.Data {
		attrs = append(attrs, slog.Any(key, value))
	}
	h.log.LogAttrs(ctx, slog.LevelDebug, "library: "+entry.Message, attrs...)
	return nil
}
