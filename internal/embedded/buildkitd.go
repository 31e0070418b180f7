package embedded

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gofrs/flock"
)

const (
	// probeTime bounds one probe: a daemon whose controller is not up yet
	// accepts the connection and lets it wait.
	probeTime = 5 * time.Second
	// startTries is how many deaths in a row end a start. One may be bad luck
	// (the one before still held its root), three are a bad setup.
	startTries = 3
	// defaultWatch is how often a running buildkitd is asked whether it takes
	// builds, and hungProbes failures in a row are its end. That is two minutes:
	// on a machine that swaps or waits for its disk some probes will miss their
	// time, a start with a large cache may take most of a minute, and a kill
	// throws away the work of every build that runs.
	defaultWatch = 10 * time.Second
	hungProbes   = 12
	// drainTime bounds Close even without a deadline: buildkitd waits for
	// running builds as long as they last.
	drainTime = 30 * time.Second
)

// BuildkitdConfig says which buildkitd to run and where it keeps its things.
type BuildkitdConfig struct {
	Binary         string                                       // path of buildkitd, or its name in PATH
	Runc           string                                       // path of runc; empty: runc in PATH
	Dir            string                                       // made if missing, and locked
	Mirrors        map[string][]string                          // registry -> hosts asked before it
	HTTPRegistries []string                                     // registries spoken to without TLS
	TLSRegistries  []string                                     // registries spoken to with TLS, on loopback too, that CAFile may sign for
	CAFile         string                                       // PEM, beside the system's certificates; absolute
	GitCAFile      string                                       // PEM, instead of the system's certificates, for git over https; absolute
	CacheMB        int                                          // MiB that its cache may have; 0: 60% of the disk
	Probe          func(ctx context.Context, addr string) error // nil error: takes builds
	Watch          time.Duration                                // how often Probe is asked, each with so much time; default 10s
	Log            *slog.Logger
}

// Buildkitd is a buildkitd that is started again whenever it dies, and killed
// when it hangs: when twelve probes in a row have failed, two minutes.
type Buildkitd struct {
	site    site
	probe   func(context.Context, string) error
	every   time.Duration // from one probe to the next
	log     *slog.Logger
	lock    *flock.Flock
	deaths  chan error    // of the first startTries lives
	cancel  func()        // asks the supervisor to end
	kill    chan struct{} // closed: at once
	stopped chan struct{} // closed: the supervisor has ended
	starts  atomic.Uint64 // after the first
	close   func(context.Context) error
}

// site is where one buildkitd lives. What has to vanish with a reboot, and the
// socket, whose path may have 107 bytes at most, are under /run.
type site struct {
	binary, runc string
	dir          string // absolute
	name         string // imgd-<hash of dir>: of the directory under /run and of the cgroup
}

func (s site) root() string     { return filepath.Join(s.dir, "root") }
func (s site) config() string   { return filepath.Join(s.dir, "buildkitd.toml") }
func (s site) logFile() string  { return filepath.Join(s.dir, "buildkitd.log") }
func (s site) temp() string     { return filepath.Join(s.dir, "tmp") }
func (s site) wrapper() string  { return filepath.Join(s.dir, "runc") }
func (s site) bin() string      { return filepath.Join(s.dir, "bin") } // first in buildkitd's PATH
func (s site) run() string      { return filepath.Join("/run", s.name) }
func (s site) runcRoot() string { return filepath.Join(s.run(), "runc") }
func (s site) address() string  { return "unix://" + filepath.Join(s.run(), "buildkitd.sock") }

func newSite(cfg BuildkitdConfig) (site, error) {
	binary, err := exec.LookPath(cfg.Binary)
	if err != nil {
		return site{}, fmt.Errorf("find buildkitd: %w", err)
	}
	runc := cfg.Runc
	if runc == "" {
		runc = "runc"
	}
	if runc, err = exec.LookPath(runc); err != nil {
		return site{}, fmt.Errorf("find runc: %w", err)
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return site{}, fmt.Errorf("make directory: %w", err)
	}
	s := site{}
	for target, path := range map[*string]string{&s.binary: binary, &s.runc: runc, &s.dir: cfg.Dir} {
		if *target, err = filepath.Abs(path); err != nil {
			return site{}, fmt.Errorf("find %s: %w", path, err)
		}
	}
	if s.dir, err = filepath.EvalSymlinks(s.dir); err != nil { // mountinfo and the lock know no links
		return site{}, fmt.Errorf("find %s: %w", cfg.Dir, err)
	}
	s.name = fmt.Sprintf("imgd-%.6x", sha256.Sum256([]byte(s.dir)))
	return s, nil
}

// StartBuildkitd cleans what an imgd that was killed left behind, starts
// buildkitd, and returns when Probe is content. It gives up when ctx is done or
// buildkitd died three times; the error then ends with the tail of its log.
// After it returned, buildkitd is started again for ever, with growing delay;
// each end is logged, which makes two lines a minute of one that cannot start.
func StartBuildkitd(ctx context.Context, cfg BuildkitdConfig) (*Buildkitd, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("start buildkitd: it needs root; give the address of one that runs already instead")
	}
	s, err := newSite(cfg)
	if err != nil {
		return nil, fmt.Errorf("start buildkitd: %w", err)
	}
	lock, err := lockDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("start buildkitd: %w", err)
	}
	if err := s.writeFiles(cfg); err != nil {
		return nil, fmt.Errorf("start buildkitd: %w", errors.Join(err, lock.Unlock()))
	}
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	b := &Buildkitd{
		site: s, probe: cfg.Probe, every: cmp.Or(cfg.Watch, defaultWatch), log: cfg.Log, lock: lock, deaths: make(chan error, startTries),
		cancel: cancel, kill: make(chan struct{}), stopped: make(chan struct{}),
	}
	b.close = onceWith(b.shutdown)
	from := fileSize(s.logFile())
	go b.supervise(life) // Close waits for it
	if err := b.waitReady(ctx); err != nil {
		tail := logTail(s.logFile(), from)
		expired, expire := context.WithCancel(ctx)
		expire()
		return nil, fmt.Errorf("start buildkitd: %w%s", errors.Join(err, b.Close(expired)), tail)
	}
	return b, nil
}

// waitReady asks by an RPC, as buildkitd listens before it can answer.
func (b *Buildkitd) waitReady(ctx context.Context) error {
	tick := time.NewTicker(readyPoll)
	defer tick.Stop()
	for died := 0; ; {
		err := b.ask(ctx, probeTime)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for an answer: %w (last: %w)", context.Cause(ctx), err)
		case death := <-b.deaths:
			if died++; died == startTries {
				return fmt.Errorf("died %d times: %w", died, death)
			}
		case <-tick.C:
		}
	}
}

// ask is one probe.
func (b *Buildkitd) ask(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return b.probe(ctx, b.Address())
}

// Address is where buildkitd listens. It stays the same when buildkitd is
// started again.
func (b *Buildkitd) Address() string { return b.site.address() }

// Restarts is how often buildkitd was started again, as it had died or hung.
func (b *Buildkitd) Restarts() uint64 { return b.starts.Load() }

// Close asks buildkitd to end, which it does when its builds have ended, kills
// it when ctx is done or after 30 s, and removes what it left outside Dir. A
// kill is no error. It may be called again, and then only tells the same.
func (b *Buildkitd) Close(ctx context.Context) error { return b.close(ctx) }

func (b *Buildkitd) shutdown(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, drainTime)
	defer cancel()
	b.cancel()
	select {
	case <-b.stopped:
	case <-ctx.Done():
		close(b.kill)
		<-b.stopped // bounded by killTime
	}
	err := b.site.clean(context.WithoutCancel(ctx), b.log)
	if err = errors.Join(err, b.lock.Unlock()); err != nil {
		return fmt.Errorf("close buildkitd: %w", err)
	}
	return nil
}

// onceWith makes f run once, as what it undoes may by then be another's.
func onceWith(f func(context.Context) error) func(context.Context) error {
	var once sync.Once
	var err error
	return func(ctx context.Context) error {
		once.Do(func() { err = f(ctx) })
		return err
	}
}
