package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/gofrs/flock"

	"github.com/imgd/imgd/builder"
	"github.com/imgd/imgd/internal/embedded"
)

const (
	// startTime bounds the start of the embedded parts, and the wait for the NATS
	// of others. buildkitd answers after a second or two, later on a machine that
	// is busy.
	startTime = 90 * time.Second
	// closeTime bounds the end of each embedded part; no build runs by then.
	closeTime = 15 * time.Second
	// lockTime is how long a dead process may hold the data directory, and
	// lockPause is between two looks. A child has its parent's files until it
	// becomes another program, for which it may have to wait its turn.
	lockTime  = 5 * time.Second
	lockPause = 20 * time.Millisecond
)

// endpoints say where the parts are; DIR/endpoints.json tells imgctl.
type endpoints struct {
	HTTP     string `json:"http"`
	NATS     string `json:"nats"`
	Registry string `json:"registry"`
	BuildKit string `json:"buildkit"`
}

// A stack is the parts imgd works with: its own where the config names none.
type stack struct {
	endpoints
	gitCertificates string // file of those that git trusts; "" for the system's

	failed []<-chan error // of its own parts: what ended one that should run
	closes []func() error

	restarts func() uint64      // of its own buildkitd; nil: it has none
	registry *embedded.Registry // nil: it has none of its own
}

// startStack locks the data directory and starts the parts.
func startStack(ctx context.Context, cfg Config, getenv func(string) string, log *slog.Logger) (_ *stack, err error) {
	s := &stack{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if err := s.lock(ctx, cfg.Data); err != nil {
		return nil, err
	}
	if s.gitCertificates, err = gitCertificates(cfg, getenv); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, startTime, fmt.Errorf("the embedded parts did not start within %s", startTime))
	defer cancel()
	if err := s.startNATS(ctx, cfg, log); err != nil {
		return nil, err
	}
	if err := s.startRegistry(ctx, cfg, log); err != nil {
		return nil, err
	}
	return s, s.startBuildkitd(ctx, cfg, log)
}

// lock takes the data directory for this process. The lock of a process that was
// killed may live on for a moment, in a child that it was just starting.
func (s *stack) lock(ctx context.Context, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make data directory: %w", err)
	}
	lock := flock.New(filepath.Join(dir, "lock"))
	ok, err := lock.TryLock()
	holder, _ := os.ReadFile(lock.Path())
	if err == nil && !ok && !alive(string(holder)) {
		ctx, cancel := context.WithTimeout(ctx, lockTime)
		defer cancel()
		if ok, err = lock.TryLockContext(ctx, lockPause); errors.Is(err, context.DeadlineExceeded) {
			err = nil
		}
	}
	if err != nil {
		return fmt.Errorf("lock data directory: %w", err)
	}
	if !ok {
		return fmt.Errorf("data directory %s is in use by process %s; stop that imgd, or give this one another --data", dir, strings.TrimSpace(string(holder)))
	}
	s.closes = append(s.closes, lock.Unlock)
	return os.WriteFile(lock.Path(), []byte(strconv.Itoa(os.Getpid())+"\n"), 0o644)
}

// alive reports whether the process runs, as far as this one may see.
func alive(process string) bool {
	pid, err := strconv.Atoi(strings.TrimSpace(process))
	return err == nil && !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH)
}

func (s *stack) startNATS(ctx context.Context, cfg Config, log *slog.Logger) error {
	if s.NATS = cfg.NATS.URL; s.NATS != "" {
		return nil
	}
	n, err := embedded.StartNATS(ctx, embedded.NATSConfig{Dir: filepath.Join(cfg.Data, "nats"), Listen: cfg.NATS.Listen, Log: log})
	if err != nil {
		return fmt.Errorf("%w (nats.listen names another port, nats.url another server)", err)
	}
	s.NATS = n.URL()
	s.failed = append(s.failed, n.Failed())
	s.closes = append(s.closes, func() error { n.Close(); return nil })
	return nil
}

func (s *stack) startRegistry(ctx context.Context, cfg Config, log *slog.Logger) error {
	if s.Registry = cfg.Registry.Address; s.Registry != "" {
		return nil
	}
	r, err := embedded.StartRegistry(ctx, embedded.RegistryConfig{Dir: filepath.Join(cfg.Data, "registry"), Listen: cfg.Registry.Listen, Log: log})
	if err != nil {
		return fmt.Errorf("%w (registry.listen names another port, registry.address another registry)", err)
	}
	s.Registry, s.registry = r.Address(), r
	s.failed = append(s.failed, r.Failed())
	s.closes = append(s.closes, bounded(r.Close))
	return nil
}

func (s *stack) startBuildkitd(ctx context.Context, cfg Config, log *slog.Logger) error {
	if s.BuildKit = cfg.BuildKit.Address; s.BuildKit != "" {
		return nil
	}
	binary, err := findBuildkitd(cfg.BuildKit.Binary)
	if err != nil {
		return err
	}
	config := embedded.BuildkitdConfig{
		Binary: binary, Dir: filepath.Join(cfg.Data, "buildkit"), Log: log, Probe: builder.Probe,
		Mirrors: map[string][]string{"docker.io": {s.Registry}}, GitCAFile: s.gitCertificates, CacheMB: cfg.BuildKit.CacheMB,
	}
	if cfg.Registry.CAFile != "" {
		config.CAFile, config.TLSRegistries = cfg.Registry.CAFile, cfg.tlsRegistries()
	}
	if cfg.Registry.Address == "" || cfg.Registry.PlainHTTP {
		config.HTTPRegistries = []string{s.Registry}
	}
	b, err := embedded.StartBuildkitd(ctx, config)
	if err != nil {
		return err
	}
	s.BuildKit, s.restarts = b.Address(), b.Restarts
	s.closes = append(s.closes, bounded(b.Close))
	return nil
}

// findBuildkitd looks beside imgd's own binary first: make tools puts it there.
func findBuildkitd(name string) (string, error) {
	if name != "" {
		return name, nil
	}
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), "buildkitd")
		if _, err := os.Stat(beside); err == nil {
			return beside, nil
		}
	}
	path, err := exec.LookPath("buildkitd")
	if err != nil {
		return "", errors.New("no buildkitd beside imgd or in PATH: run make tools, or set buildkit.binary, or buildkit.address to one that runs already")
	}
	return path, nil
}

func bounded(stop func(context.Context) error) func() error {
	return func() error {
		ctx, cancel := context.WithTimeout(context.Background(), closeTime)
		defer cancel()
		return stop(ctx)
	}
}

// close ends the parts, the last started first, and unlocks the directory.
func (s *stack) close() error {
	var errs []error
	for i := len(s.closes) - 1; i >= 0; i-- {
		errs = append(errs, s.closes[i]())
	}
	return errors.Join(errs...)
}

// write makes endpoints.json, replaced in one step so that nobody reads half.
func (e endpoints) write(dir string) error {
	b, err := json.MarshalIndent(e, "", "  ")
	if err != nil {
		return err
	}
	tmp := filepath.Join(dir, "endpoints.json.tmp")
	if err := os.WriteFile(tmp, append(b, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(dir, "endpoints.json"))
}
