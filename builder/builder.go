// Package builder makes images with BuildKit: it turns a project and a request
// into a solve, pushes the result by digest, and keeps the build's log. It is
// the only importer of BuildKit. It knows nothing of tags, the index or events,
// and does not look at what it pushed: that is the publisher's to capture.
package builder

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/Masterminds/semver/v3"
	"github.com/moby/buildkit/client"
	// How addresses other than unix:// and tcp:// are reached.
	_ "github.com/moby/buildkit/client/connhelper/dockercontainer"
	_ "github.com/moby/buildkit/client/connhelper/kubepod"
	_ "github.com/moby/buildkit/client/connhelper/ssh"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/imgd/imgd"
)

const (
	// defaultTimeout is that of a project that names none.
	defaultTimeout = 30 * time.Minute
	// pingTime bounds Ping and Probe: a buildkitd whose controller is not ready
	// takes the connection and does not answer.
	pingTime = 5 * time.Second
	// reconnectTime is the longest pause between two attempts to reach a
	// buildkitd that is gone. gRPC's own default, two minutes, would keep a
	// restarted one unseen for that long.
	reconnectTime = 2 * time.Second
	// minVersion is the oldest buildkitd that does what imgd asks for. 0.28.1
	// has the fixes of CVE-2026-33747 and CVE-2026-33748, 0.30 fetches a git
	// commit by its ID, 0.31 knows the compatibility version of the solves.
	minVersion = "0.31.0"
	// unknownVersion is what a buildkitd says that was built without a version.
	unknownVersion = "v0.0.0+unknown"
)

// Config says where buildkitd is and how it sees the registries.
type Config struct {
	// Address of buildkitd: unix://, tcp://, docker-container://, kube-pod://, ssh://.
	Address string
	// Registry is imgd's own registry (host or host:port), and RegistryAddress
	// the name it has for buildkitd, if that is another.
	Registry, RegistryAddress string
	// PlainHTTP pushes to Registry without TLS. On a loopback address there is
	// none anyway.
	PlainHTTP bool
	// Credentials answers how to log in to the registry on host (host or
	// host:port): user and secret, a secret alone if it is an identity token, or
	// nothing. It is asked at each build. Default: nobody logs in.
	Credentials func(ctx context.Context, host string) (user, secret string, err error)
	// LogDir is where the build logs are kept, one <request>.jsonl each; it is
	// made if missing.
	LogDir string
	// Traces takes the spans of the calls to buildkitd that a trace asks for;
	// buildkitd adds its own to it. Default: none are made.
	Traces trace.TracerProvider
	Log    *slog.Logger // default: none
}

// Builder builds on one buildkitd. Its methods are safe for concurrent use; how
// many builds run at once is the caller's to bound.
type Builder struct {
	cfg    Config
	client *client.Client
	logs   *logs
	secret string // the name under which sessions hand out git's credentials
}

// New returns a Builder. It does not need buildkitd to be there.
func New(ctx context.Context, cfg Config) (*Builder, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(cfg.LogDir, 0o755); err != nil {
		return nil, fmt.Errorf("make directory of build logs: %w", err)
	}
	var opts []client.ClientOpt
	if cfg.Traces != nil {
		opts = append(opts, client.WithTracerProvider(inside{TracerProvider: cfg.Traces}))
	}
	c, err := dial(ctx, cfg.Address, opts...)
	if err != nil {
		return nil, err
	}
	return &Builder{cfg: cfg, client: c, logs: newLogs(cfg.LogDir), secret: rand.Text()}, nil
}

// dial returns a client, which connects when it is used.
func dial(ctx context.Context, address string, opts ...client.ClientOpt) (*client.Client, error) {
	pause := backoff.DefaultConfig
	pause.MaxDelay = reconnectTime
	opts = append(opts, client.WithGRPCDialOption(grpc.WithConnectParams(grpc.ConnectParams{Backoff: pause, MinConnectTimeout: pingTime})))
	c, err := client.New(ctx, address, opts...)
	if err != nil {
		return nil, fmt.Errorf("connect to buildkitd at %s: %w", address, err)
	}
	return c, nil
}

// Close ends the connection, and with it the builds that run.
func (b *Builder) Close() error {
	if err := b.client.Close(); err != nil {
		return fmt.Errorf("close connection to buildkitd: %w", err)
	}
	return nil
}

// Ping asks buildkitd for its version and a worker, and refuses one that is too
// old. One that was built without a version is taken, with a warning.
func (b *Builder) Ping(ctx context.Context) error {
	version, err := ask(ctx, b.client)
	if err != nil {
		return fmt.Errorf("ping buildkitd at %s: %w", b.cfg.Address, err)
	}
	if version == unknownVersion {
		b.cfg.Log.Warn("buildkitd does not know its version, taking it unchecked", "address", b.cfg.Address, "needed", minVersion)
		return nil
	}
	if err := checkVersion(version); err != nil {
		return fmt.Errorf("buildkitd at %s: %w", b.cfg.Address, err)
	}
	return nil
}

// Probe reports whether the buildkitd at address takes builds.
func Probe(ctx context.Context, address string) error {
	c, err := dial(ctx, address)
	if err != nil {
		return err
	}
	_, err = ask(ctx, c)
	return errors.Join(err, c.Close())
}

// ask is answered only when the controller is up and has a worker.
func ask(ctx context.Context, c *client.Client) (version string, err error) {
	ctx, cancel := context.WithTimeout(ctx, pingTime)
	defer cancel()
	workers, err := c.ListWorkers(ctx)
	if err != nil {
		return "", err
	}
	if len(workers) == 0 {
		return "", errors.New("it has no worker")
	}
	info, err := c.Info(ctx)
	if err != nil {
		return "", err
	}
	return info.BuildkitVersion.Version, nil
}

func checkVersion(version string) error {
	v, err := semver.NewVersion(version)
	if err != nil {
		return fmt.Errorf("version %q: %w", version, err)
	}
	if v.LessThan(semver.MustParse(minVersion)) {
		return fmt.Errorf("version %s is too old: imgd needs %s or newer (git commits by ID, security fixes)", version, minVersion)
	}
	return nil
}

// Build builds req's commit and pushes the image by digest, without a tag, to
// every repository of p. It answers the pushed root. The log is rewritten by
// each attempt and read by Log. Errors: *imgd.BuildError if the Dockerfile
// fails or takes longer than p.Timeout, imgd.ErrInvalid for values that cannot
// be injected, context.Canceled if ctx is; anything else is worth another try.
// Safe to repeat: what an interrupted build pushed is unreferenced.
func (b *Builder) Build(ctx context.Context, p imgd.Project, req imgd.Request) (ocispec.Descriptor, error) {
	opt, hide, err := b.solveOpt(p, req)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("prepare build: %w", err)
	}
	log, err := b.logs.start(req.ID)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("start build log: %w", err)
	}
	follow := newFollower(log, hide)
	limit := p.Timeout
	if limit <= 0 {
		limit = defaultTimeout
	}
	building, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	began := time.Now()
	resp, err := b.solve(building, opt, follow)
	took := time.Since(began)
	if logErr := log.end(); logErr != nil {
		b.cfg.Log.Warn("the build log is not complete", "request", req.ID, "error", logErr)
	}
	if err != nil {
		b.heal(ctx, err)
		return ocispec.Descriptor{}, follow.explain(err, outcome{asker: ctx.Err(), build: building.Err(), answers: func() error { return b.Ping(ctx) }, limit: limit, file: opt.FrontendAttrs["filename"]})
	}
	root, err := pushed(resp.ExporterResponse)
	if err == nil {
		b.cfg.Log.Info("image is built and pushed by digest", "request", req.ID, exptypes.ExporterImageDigestKey, root.Digest,
			"took", took.Round(time.Microsecond).String())
	}
	return root, err
}

// solve runs the build and follows its status to the end, without which Solve
// would not return.
func (b *Builder) solve(ctx context.Context, opt client.SolveOpt, follow *follower) (*client.SolveResponse, error) {
	statuses := make(chan *client.SolveStatus)
	followed := make(chan struct{})
	go func() {
		defer close(followed)
		for s := range statuses {
			follow.take(s)
		}
	}()
	resp, err := b.client.Solve(ctx, nil, opt, statuses)
	<-followed // Solve has closed statuses
	return resp, err
}
