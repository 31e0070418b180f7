package main

import (
	"context"
	"fmt"
	"net"

	"github.com/imgd/imgd/events"
	"github.com/imgd/imgd/internal/httpapi"
)

// api is the HTTP API over the daemon's parts. Once ctx is done it is not ready.
func (d *daemon) api(ctx context.Context) *httpapi.API {
	return httpapi.New(httpapi.Config{
		Projects: d.pipeline.Projects, Index: d.index, Registry: d.publisher, Git: d.git,
		Queue: d.bus, Statuses: d.bus, Logs: d.builder, Events: eventStream{d.bus},
		Checks:  d.checks(ctx),
		Version: httpapi.Version{Version: currentVersion()},
		Local:   isLoopback(d.cfg.Listen), AllowAnonymous: d.cfg.AllowAnonymous, Log: d.log,
	})
}

// checks are what must answer before a request can go its way. The index is
// loaded by the time there is an API.
func (d *daemon) checks(ctx context.Context) []httpapi.Check {
	return []httpapi.Check{
		{Name: "running", Run: func(context.Context) error {
			if ctx.Err() != nil {
				return fmt.Errorf("imgd is stopping")
			}
			return nil
		}},
		{Name: "nats", Run: d.bus.Ping},
		{Name: "registry", Run: func(ctx context.Context) error { return d.publisher.Ping(ctx, d.stack.Registry) }},
		{Name: "buildkit", Run: d.builder.Ping},
	}
}

// eventStream gives the API events as bytes.
type eventStream struct{ bus *events.Bus }

func (s eventStream) Events(ctx context.Context, since uint64, follow bool, f func(seq uint64, event []byte) error) error {
	return s.bus.Events(ctx, since, follow, func(e events.Event) error { return f(e.Seq, e.Data) })
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
