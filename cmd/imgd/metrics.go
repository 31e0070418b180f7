package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/events"
	"github.com/imgd/imgd/internal/httpapi"
	"github.com/imgd/imgd/internal/webhook"
)

// counted has the metrics show what cfg has before anything of it is counted.
func (d *daemon) counted(cfg Config) {
	for _, p := range cfg.Projects {
		d.metrics.Configured(p.Name)
		if p.Webhook.Forge != "" {
			d.metrics.Listening(p.Webhook.Forge)
		}
	}
}

// hooksConfig is what webhooks work with.
func (d *daemon) hooksConfig() webhook.Config {
	return webhook.Config{Queue: intake{d.bus}, Answered: d.metrics.Hooked, Close: d.closePull, Log: d.log}
}

// stage is told of each stage of a request, for metrics and traces.
func (d *daemon) stage(ctx context.Context, stage imgd.Stage, req imgd.Request) (context.Context, func(error)) {
	ctx, span := d.tracing.stage(ctx, stage, req)
	ctx, measure := d.metrics.Stage(ctx, stage, req)
	return ctx, func(err error) {
		measure(err)
		span(err)
	}
}

// observer tells the metrics what the bus does.
func (d *daemon) observer() events.Observer {
	return events.Observer{
		Ended: d.metrics.Ended, Retried: d.metrics.Retried, Drifted: d.metrics.Drifted,
		Announced: func(rel imgd.Release) { d.metrics.Announced(rel, time.Now()) },
		LeaseLost: func(l events.Loss) { d.metrics.LeaseLost(string(l)) },
	}
}

// gauges are what /metrics asks of the daemon.
func (d *daemon) gauges() httpapi.Gauges {
	return httpapi.Gauges{
		Depth: d.bus.Depth, Paused: d.bus.Paused,
		Untold:    func() int { return len(d.index.Published(d.index.Told())) },
		IndexSize: d.indexSize, IndexLag: d.indexLag, Restarts: d.stack.restarts, Reloads: d.live.reloads,
	}
}

func (d *daemon) indexSize() (int64, error) {
	info, err := os.Stat(filepath.Join(d.cfg.Data, "index", "images.json"))
	if err != nil {
		return 0, fmt.Errorf("look at the index: %w", err)
	}
	return info.Size(), nil
}

func (d *daemon) indexLag() (entries uint64, failing time.Duration) {
	lag := d.index.Lag()
	if lag.Err != nil {
		failing = time.Since(lag.Since)
	}
	return lag.Entries, failing
}

// indexFollows says since when images.json has not followed the index.
func (d *daemon) indexFollows(context.Context) error {
	lag := d.index.Lag()
	if lag.Err == nil {
		return nil
	}
	return fmt.Errorf("images.json could not be written since %s and lacks %d entries, which the journal has: %w", lag.Since.UTC().Format(time.RFC3339), lag.Entries, lag.Err)
}
