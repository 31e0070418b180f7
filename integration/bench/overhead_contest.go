package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/imgd/imgd/integration/kit"
)

// A contest is both sides over one git repository with one commit: imgd with its embedded NATS, registry and buildkitd, and
// buildctl, which uses the same buildkitd and registry.
type contest struct {
	dir     string
	repo    *kit.Repo
	commit  string
	date    string // of the commit, RFC 3339
	version string // of buildctl
	*side

	closes []func() error
}

// A side is one imgd and what the benchmark hears of it.
type side struct {
	prefix string // of its images
	daemon *kit.Daemon
	js     jetstream.JetStream
	events chan event  // published ones, as a consumer of the stream gets them
	ended  chan string // states that are ends
}

// An event is a published one, and when it was there.
type event struct {
	image, request, root string
	at                   time.Time
}

// contestFiles build from nothing but what is in the repository; no build arg is used, so that each build after the first
// is fully cached. What a Dockerfile takes from the net would be the same for both sides.
var contestFiles = map[string]string{
	"Dockerfile": "FROM scratch\nCOPY app /app\nENTRYPOINT [\"/app\"]\n",
	"app":        strings.Repeat("an app\n", 1<<15),
}

func startContest(ctx context.Context, dir string) (_ *contest, err error) {
	c := &contest{dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.close())
		}
	}()
	server, err := kit.ServeGit(ctx, filepath.Join(dir, "git"))
	if err != nil {
		return nil, err
	}
	c.closes = append(c.closes, server.Close)
	if c.repo, err = server.Create(ctx, "bench"); err != nil {
		return nil, err
	}
	if c.commit, err = c.repo.Commit(ctx, "the only one", contestFiles); err != nil {
		return nil, err
	}
	c.date = kit.FirstCommit().Format(time.RFC3339)
	if c.side, err = c.startSide(ctx, "imgd", kit.Config{}, nil); err != nil {
		return nil, err
	}
	version, err := kit.Buildctl(ctx, c.daemon.BuildKit, "--version")
	if fields := strings.Fields(version); len(fields) > 2 {
		c.version = fields[2]
	}
	return c, err
}

// startSide starts an imgd with all projects. What config names replaces parts of the embedded stack.
func (c *contest) startSide(ctx context.Context, prefix string, config kit.Config, env []string) (*side, error) {
	var projects []kit.ProjectConfig
	for i := range overheadProjects {
		projects = append(projects, kit.ProjectConfig{Name: project(i), Git: c.repo.URL, Image: fmt.Sprintf("%s-%d", prefix, i), Tags: contestRules})
	}
	local := kit.LocalConfig(projects...)
	if config.Registry.Address != "" {
		local.Registry, local.BuildKit = config.Registry, config.BuildKit
	}
	local.Build.Grace = "1s"
	s := &side{prefix: prefix, events: make(chan event, overheadProjects), ended: make(chan string, overheadProjects)}
	var err error
	if s.daemon, err = kit.StartDaemon(ctx, filepath.Join(c.dir, prefix), local, env...); err != nil {
		return nil, err
	}
	c.closes = append(c.closes, func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		return s.daemon.Terminate(ctx)
	})
	return s, c.listen(ctx, s)
}

func project(i int) string { return fmt.Sprintf("p%d", i) }

// listen hears of events when they are in the stream, and of ends.
func (c *contest) listen(ctx context.Context, s *side) error {
	conn, err := nats.Connect(s.daemon.NATS)
	if err != nil {
		return err
	}
	c.closes = append(c.closes, func() error { conn.Close(); return nil })
	if s.js, err = jetstream.New(conn); err != nil {
		return err
	}
	for stream, take := range map[string]func(jetstream.Msg){"IMGD_EVENTS": s.takeEvent, "IMGD_STATUS": s.takeState} {
		consumer, err := s.js.OrderedConsumer(ctx, stream, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverNewPolicy})
		if err != nil {
			return fmt.Errorf("listen to %s: %w", stream, err)
		}
		listening, err := consumer.Consume(take)
		if err != nil {
			return fmt.Errorf("listen to %s: %w", stream, err)
		}
		c.closes = append(c.closes, func() error { listening.Stop(); return nil })
	}
	return nil
}

func (s *side) takeEvent(msg jetstream.Msg) {
	at := time.Now()
	fields := strings.Split(msg.Subject(), ".") // imgd.events.<what>.<image>.<ID>
	if len(fields) != 5 || fields[2] != "published" {
		return
	}
	image, _ := base64.RawURLEncoding.DecodeString(fields[3]) // else it is nobody's, and the run fails
	parsed, err := kit.ParsePublished(kit.Message{Subject: msg.Subject(), Data: msg.Data(), Header: msg.Headers()})
	if err != nil {
		return
	}
	s.events <- event{image: string(image), request: parsed.Custom.Request, root: parsed.Purl.Version, at: at}
}

func (s *side) takeState(msg jetstream.Msg) {
	if strings.Contains(string(msg.Data()), `"endedAt":"`) {
		s.ended <- string(msg.Data())
	}
}

// close ends what was started, the last first.
func (c *contest) close() error {
	var errs []error
	for i := len(c.closes) - 1; i >= 0; i-- {
		errs = append(errs, c.closes[i]())
	}
	return errors.Join(errs...)
}

// warm builds warmTag on both sides.
func (c *contest) warm(ctx context.Context) error {
	if err := c.repo.Tag(ctx, warmTag, "main"); err != nil {
		return err
	}
	for i := range overheadProjects {
		m := mode{tag: warmTag, named: true}
		if _, err := c.imgd(ctx, i, m); err != nil {
			return err
		}
		if _, err := c.buildctl(ctx, i, m); err != nil {
			return err
		}
	}
	return nil
}
