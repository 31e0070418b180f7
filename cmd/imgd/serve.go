package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/builder"
	"github.com/imgd/imgd/events"
	"github.com/imgd/imgd/index"
	"github.com/imgd/imgd/internal/git"
	"github.com/imgd/imgd/internal/httpapi"
	"github.com/imgd/imgd/publisher"
)

const (
	// sweepEvery is how often open releases are looked for, and openFor how long
	// one may stand admitted before somebody else than its request drives it.
	sweepEvery = 15 * time.Second
	openFor    = time.Minute
	// callTime bounds one call to NATS, of which a lease has time for two.
	callTime = 5 * time.Second
	// flushTime bounds the announcing of what is published, and the ending of
	// HTTP requests, at shutdown. Both go on after the next start.
	flushTime = 5 * time.Second
)

// A setting is where and how the daemon is started.
type setting struct {
	flags  flagValues
	getenv func(string) string
	hangup <-chan os.Signal // SIGHUP: reload
	level  *slog.LevelVar   // of log
	log    *slog.Logger
	notify notifier
}

// A daemon is imgd's parts, wired in the order of the data's path.
type daemon struct {
	setting
	cfg       Config // as it was at the start; what may change since is in live
	live      *live
	stack     *stack
	bus       *events.Bus
	git       *git.Repos
	builder   *builder.Builder
	publisher *publisher.Publisher
	index     *index.Index
	pipeline  *imgd.Pipeline
	auditor   *imgd.Auditor
	metrics   *httpapi.Metrics
	tracing   *tracing
	closings  chan closing
}

// serve runs the daemon until ctx is done, and then stops it in the order of
// the data: intake, builds, announcements, HTTP, NATS.
func serve(ctx context.Context, cfg Config, set setting) (err error) {
	log := set.log
	log.Info("imgd starts", "version", currentVersion(), "data", cfg.Data)
	stack, err := startStack(ctx, cfg, set.getenv, log)
	if err != nil {
		return unlessStopped(ctx, err)
	}
	defer func() { err = errors.Join(err, stack.close()) }()
	tracing, err := startTracing(ctx, set.getenv, set.log)
	if err != nil {
		return err
	}
	defer tracing.close(set.log)
	d := &daemon{setting: set, cfg: cfg, live: newLive(cfg, set.level), stack: stack, tracing: tracing, closings: make(chan closing, maxClosings)}
	d.metrics = httpapi.NewMetrics(func(name string) bool { _, ok := d.live.projects.Get(name); return ok })
	closeAll, err := d.wire(ctx)
	defer func() { err = errors.Join(err, closeAll()) }()
	if err != nil {
		return unlessStopped(ctx, err)
	}
	listener, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return fmt.Errorf("listen for HTTP: %w", err)
	}
	stack.HTTP = "http://" + listener.Addr().String()
	if err := stack.endpoints.write(cfg.Data); err != nil {
		return fmt.Errorf("write endpoints: %w", errors.Join(err, listener.Close()))
	}
	defer func() { err = errors.Join(err, os.Remove(filepath.Join(cfg.Data, "endpoints.json"))) }()
	log.Info("imgd serves", "http", stack.HTTP, "nats", stack.NATS, "registry", stack.Registry, "buildkit", stack.BuildKit)
	d.warn(d.notify.ready("serving"))
	context.AfterFunc(ctx, func() { d.warn(d.notify.stopping()) })
	if err := d.run(ctx, listener); err != nil {
		return err
	}
	log.Info("imgd has stopped")
	return nil
}

// unlessStopped is err, but nil if it was a signal that cut the start short.
func unlessStopped(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	return nil
}

// wire makes the parts; what it answers closes those that were made.
func (d *daemon) wire(ctx context.Context) (closeAll func() error, err error) {
	var closes []func() error
	closeAll = func() error {
		var errs []error
		for i := len(closes) - 1; i >= 0; i-- {
			errs = append(errs, closes[i]())
		}
		return errors.Join(errs...)
	}
	projects := d.cfg.projects(d.stack.Registry)
	d.live.projects.Set(projects)
	d.git, err = git.New(git.Config{Dir: filepath.Join(d.cfg.Data, "git"), Projects: d.live.projects,
		Rules: d.cfg.gitRules(), CAFile: d.stack.gitCertificates, Log: d.log})
	if err != nil {
		return closeAll, err
	}
	credentials := publisher.DockerCredentials(d.cfg.Registry.DockerConfig)
	if err := d.newPublisher(credentials); err != nil {
		return closeAll, err
	}
	d.builder, err = builder.New(ctx, d.builderConfig(credentials))
	if err != nil {
		return closeAll, err
	}
	closes = append(closes, d.builder.Close)
	d.index, err = index.Open(index.Config{Dir: filepath.Join(d.cfg.Data, "index"), History: d.git, Registry: d.publisher, Log: d.log})
	if err != nil {
		return closeAll, err
	}
	closes = append(closes, d.index.Close)
	d.bus, err = connect(ctx, d.busConfig(), startTime)
	if err != nil {
		return closeAll, err
	}
	closes = append(closes, func() error { d.bus.Close(); return nil })
	d.pipeline = &imgd.Pipeline{Projects: d.live.projects, Git: d.git, Peeker: d.git, Builder: d.builder, Capturer: d.publisher, Tagger: d.publisher,
		Index: fitting{d.index, d.bus.Fits}, Lookup: d.index, Asker: d.bus, Drifts: d.bus, AuditHolds: d.live.holds, Registry: d.stack.Registry, Observe: d.stage, Log: d.log}
	d.auditor = d.newAuditor()
	hooks, secrets, err := newHooks(d.cfg, projects, d.hooksConfig())
	if err != nil {
		return closeAll, err
	}
	d.swap(d.cfg, projects, hooks, secrets)
	return closeAll, nil
}

func (d *daemon) newPublisher(credentials publisher.Credentials) error {
	roots, err := registryCertificates(d.cfg)
	if err != nil {
		return err
	}
	cfg := publisher.Config{PlainHTTP: d.plainHTTP(), RootCAs: roots, Credentials: credentials, Log: d.log, UntagByPlaceholder: d.cfg.Registry.UntagByPlaceholder}
	if roots != nil {
		cfg.TLS = d.cfg.tlsRegistries()
	}
	d.publisher = publisher.New(cfg)
	return nil
}

func (d *daemon) busConfig() events.Config {
	return events.Config{
		URL: d.stack.NATS, Creds: d.cfg.NATS.CredsFile, Slots: d.cfg.Build.Slots, Lease: d.cfg.Queue.Lease, Timeout: min(callTime, d.cfg.Queue.Lease/2),
		RetryFor: d.cfg.Queue.RetryFor, Tries: d.cfg.Queue.Tries, Grace: d.grace(), Ready: d.ready,
		Index: d.index, Image: d.image, Observe: d.observer(), Traces: d.tracing.provider, Log: d.log,
	}
}

// image is the project's, "" if there is no such project.
func (d *daemon) image(project string) string {
	p, _ := d.live.projects.Get(project)
	return p.Image
}

func (d *daemon) builderConfig(credentials publisher.Credentials) builder.Config {
	return builder.Config{Address: d.stack.BuildKit, LogDir: filepath.Join(d.cfg.Data, "builds"), Registry: d.stack.Registry,
		RegistryAddress: d.cfg.BuildKit.RegistryAddress, PlainHTTP: len(d.plainHTTP()) > 0, Credentials: credentials,
		Traces: d.tracing.provider, Log: d.log}
}

// grace is build.grace as events takes it, where 0 means the default.
func (d *daemon) grace() time.Duration {
	if d.cfg.Build.Grace == 0 {
		return -1
	}
	return d.cfg.Build.Grace
}

func (d *daemon) plainHTTP() []string {
	if d.cfg.Registry.Address == "" || d.cfg.Registry.PlainHTTP {
		return []string{d.stack.Registry}
	}
	return nil
}

// run runs the parts until ctx is done or one of them fails.
func (d *daemon) run(ctx context.Context, listener net.Listener) error {
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	group, work := errgroup.WithContext(work)
	intake, stopIntake := context.WithCancel(ctx)
	defer stopIntake()
	context.AfterFunc(work, stopIntake) // a part has failed
	group.Go(func() error {
		defer stop()
		err := d.bus.Consume(intake, mortal{d.pipeline, work.Done()})
		d.flush(work)
		return err
	})
	group.Go(func() error { return d.bus.Relay(work, d.index) })
	group.Go(func() error { return d.sweep(work) })
	group.Go(func() error { return d.expire(work) })
	group.Go(func() error { return d.closePulls(work) })
	group.Go(func() error { return d.hangups(work) })
	group.Go(func() error { d.collectOften(work); return nil })
	group.Go(func() error { d.auditOften(work); return nil })
	group.Go(func() error { d.notify.live(work, d.warn); return nil })
	for _, failed := range append(d.stack.failed, d.index.Failed()) {
		group.Go(func() error {
			select {
			case err := <-failed:
				return err
			case <-work.Done():
				return nil
			}
		})
	}
	group.Go(func() error { return d.serveHTTP(ctx, work, listener) })
	return group.Wait()
}

// flush waits until the relay has announced what is published.
func (d *daemon) flush(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, flushTime)
	defer cancel()
	for {
		seq := d.index.Seq()
		if len(d.index.Published(d.index.Told())) == 0 {
			return
		}
		if err := d.index.Wait(ctx, seq+1); err != nil {
			d.log.Warn("not all that is published is announced yet; the next start goes on")
			return
		}
	}
}

// sweep drives open releases that nobody drives: at once those that an earlier
// process left behind.
func (d *daemon) sweep(ctx context.Context) error {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for stood := time.Duration(0); ; stood = openFor {
		if err := d.driveOpen(ctx, stood); err != nil && ctx.Err() == nil {
			d.log.Error("drive open releases", "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (d *daemon) driveOpen(ctx context.Context, stood time.Duration) error {
	if err := d.bus.Fits(ctx); err != nil { // they would put tags back
		return err
	}
	return d.pipeline.DriveOpen(ctx, time.Now(), stood)
}

// serveHTTP serves until work is done. Once ctx is done it is not ready.
func (d *daemon) serveHTTP(ctx, work context.Context, listener net.Listener) error {
	server := d.api(ctx).Server()
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	select {
	case err := <-ended:
		return fmt.Errorf("serve HTTP: %w", err)
	case <-work.Done():
	}
	closing, cancel := context.WithTimeout(context.Background(), flushTime)
	defer cancel()
	err := server.Shutdown(closing)
	if errors.Is(err, context.DeadlineExceeded) {
		err = server.Close() // what has not ended by now is cut
	}
	if served := <-ended; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

// mortal handles requests until a part fails: what runs then is not worth its
// grace, as its end could not be written.
type mortal struct {
	events.Handler
	failed <-chan struct{}
}

func (m mortal) Handle(ctx context.Context, req *imgd.Request, report func(imgd.State)) (imgd.Release, error) {
	ctx, cancel := context.WithCancel(ctx)
	var watching sync.WaitGroup
	defer watching.Wait()
	defer cancel()
	watching.Go(func() {
		select {
		case <-m.failed:
			cancel()
		case <-ctx.Done():
		}
	})
	return m.Handler.Handle(ctx, req, report)
}
