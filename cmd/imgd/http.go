package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/events"
	"github.com/imgd/imgd/internal/httpapi"
)

// api is the HTTP API over the daemon's parts. Once ctx is done it is not ready.
func (d *daemon) api(ctx context.Context) *httpapi.API {
	return httpapi.New(httpapi.Config{
		Projects: d.live.projects, Index: d.index, Registry: d.publisher, Git: d.git,
		Queue: d.bus, Statuses: d.bus, Commands: commands{d.bus, d.pipeline}, Letters: d.bus, Drifts: d.bus, Recorder: d.pipeline, Commander: d.pipeline,
		Explainer: &imgd.Explainer{Pipeline: d.pipeline, Index: d.index, Builder: d.builder},
		Expirer:   d.expirer(), Auditor: audits{d},
		Logs: d.builder, Events: eventStream{d.bus}, Hooks: &d.live.hooks, Reload: d.reload,
		Usage: d.usage, Collect: d.collect,
		Checks: d.checks(ctx), Gauges: d.gauges(), Metrics: d.metrics, Traces: d.tracing.provider, Probes: d.probes,
		Version: httpapi.Version{Version: currentVersion()},
		Local:   isLoopback(d.cfg.Listen), AllowAnonymous: d.cfg.AllowAnonymous, Log: d.log,
	})
}

// parts are what every build needs besides the queue.
func (d *daemon) parts() []httpapi.Check {
	return []httpapi.Check{
		{Name: "registry", Run: func(ctx context.Context) error { return d.publisher.Ping(ctx, d.stack.Registry) }},
		{Name: "buildkit", Run: d.builder.Ping},
		{Name: "disk", Run: d.headRoom},
	}
}

// partTime bounds the look at one part, below what the bus gives to all: a part
// that hangs is named, and the others are heard.
const partTime = 4 * time.Second

// ready says which of them do not work: then no request is taken.
func (d *daemon) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, partTime)
	defer cancel()
	parts := d.parts()
	errs := make([]error, len(parts))
	var all sync.WaitGroup
	for i, part := range parts {
		all.Go(func() {
			if err := part.Run(ctx); err != nil {
				errs[i] = fmt.Errorf("%s: %w", part.Name, err)
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// checks are what must answer before a request can go its way, whether the index,
// which is loaded by the time there is an API, may decide, and whether images.json
// follows it.
func (d *daemon) checks(ctx context.Context) []httpapi.Check {
	checks := []httpapi.Check{
		{Name: "running", Run: func(context.Context) error {
			if ctx.Err() != nil {
				return errors.New("imgd is stopping")
			}
			return nil
		}},
		{Name: "nats", Run: d.bus.Ping},
		{Name: "queue", Run: func(context.Context) error { return d.bus.Paused() }},
		{Name: "index", Run: func(ctx context.Context) error { return errors.Join(d.bus.Fits(ctx), d.indexFollows(ctx)) }},
	}
	return append(checks, d.parts()...)
}

// commands are what operators do to requests: the bus knows where they stand,
// the pipeline what they have admitted.
type commands struct {
	*events.Bus
	pipeline *imgd.Pipeline
}

func (c commands) Drop(ctx context.Context, id, by, reason string) (imgd.Status, error) {
	if rel, ok := c.pipeline.Lookup.Newest(id); ok && rel.Commanded() {
		return dropCommanded(ctx, c.pipeline, rel.Request, by, reason)
	}
	return c.Bus.Drop(ctx, id, by, reason, c.pipeline)
}

// dropCommanded gives up what a command has admitted. It was never in the queue,
// so its state is made here, and stands nowhere.
func dropCommanded(ctx context.Context, d events.Dropper, req imgd.Request, by, reason string) (imgd.Status, error) {
	why := "dropped by " + by
	if reason != "" {
		why += ": " + reason
	}
	why = strings.Join(strings.Fields(why), " ")
	rel, err := d.Drop(ctx, req.ID, why)
	if errors.Is(err, imgd.ErrNotFound) {
		err = fmt.Errorf("%w: %w", imgd.ErrConflict, err) // the release is there, and over
	}
	st := imgd.StatusOf(req, imgd.Failed)
	st.Release, st.Error = rel.ID, &imgd.StatusError{Kind: "dropped", Message: why}
	return st, err
}

// eventStream gives the API events as bytes.
type eventStream struct{ bus *events.Bus }

func (s eventStream) Events(ctx context.Context, filter httpapi.EventFilter, follow bool, f func(seq uint64, event []byte) error) error {
	wanted := events.EventFilter{Since: filter.Since, What: filter.What, Image: filter.Image}
	return s.bus.Events(ctx, wanted, follow, func(e events.Event) error { return f(e.Seq, e.Data) })
}

// isLoopback reports whether only this machine can reach the address.
func isLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
