package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/builder"
	"github.com/imgd/imgd/index"
	"github.com/imgd/imgd/internal/embedded"
	"github.com/imgd/imgd/internal/httpapi"
)

const (
	// collectSoon is when the first collection is, unless it is to be sooner: a
	// daemon that is started every day collects too.
	collectSoon = 10 * time.Minute
	// collectTime bounds one that nobody waits for. The next goes on.
	collectTime = time.Hour
)

// collectOften collects every registry.collectEvery.
func (d *daemon) collectOften(ctx context.Context) {
	often(ctx, d.cfg.Registry.CollectEvery, collectSoon, func(ctx context.Context) (soon bool) {
		bound, cancel := context.WithTimeout(ctx, collectTime)
		defer cancel()
		if _, err := d.collect(bound); err != nil && ctx.Err() == nil {
			d.log.Error("collect what nothing needs any more", "error", err)
		}
		return false
	})
}

// collect removes from the own registry what neither a tag nor the index needs,
// and old build logs. It is safe to interrupt and to repeat: an image that is
// being pushed is young, and one that was built and is not in the index yet is
// built again if it is lost. With an index that is behind its events, or of which
// NATS has not said yet that it is not, nothing is removed.
func (d *daemon) collect(ctx context.Context) (httpapi.Collected, error) {
	if err := d.bus.Fits(ctx); err != nil {
		err = fmt.Errorf("the index may lack what is to stay: %w", err)
		d.metrics.Collected(httpapi.Collected{}, err)
		return httpapi.Collected{}, err
	}
	began, cfg := time.Now(), d.live.config.Load()
	var done httpapi.Collected
	var errs []error
	if d.stack.registry != nil {
		swept, err := d.stack.registry.Collect(ctx, embedded.Keep{For: cfg.Registry.KeepUntagged, Named: d.naming().roots})
		errs = append(errs, err)
		done = httpapi.Collected{Manifests: swept.Manifests, Blobs: swept.Blobs, Uploads: swept.Uploads, Bytes: swept.Bytes,
			PauseMS: swept.Pause.Milliseconds(), PausedMS: swept.Paused.Milliseconds()}
	}
	logs, bytes, err := d.builder.DropLogs(ctx, d.logBounds(ctx, cfg.Build))
	done.Logs, done.Bytes = logs, done.Bytes+bytes
	err = errors.Join(append(errs, err)...)
	d.metrics.Collected(done, err)
	if err == nil {
		d.log.Info("collected what nothing needs any more", "manifests", done.Manifests, "blobs", done.Blobs, "uploads", done.Uploads,
			"logs", done.Logs, "bytes", done.Bytes, "longestPause", time.Duration(done.PauseMS)*time.Millisecond, "paused", time.Duration(done.PausedMS)*time.Millisecond, "took", time.Since(began))
	}
	return done, err
}

// A naming says which roots stay, whether or not a tag names them in the registry:
// those of the records, those that their tags named before, for a rollback, those
// of open releases, and what operators hold.
//
// All of that is read once, while nobody waits. From then on it reads what has
// been admitted and published since, so that it costs next to nothing while writes
// are shut out. Nothing is missed: what is admitted after the first look is open,
// or published after its sequence, or abandoned, and then its root is needed no
// more; what a tag names before it moves on was a record's then, or is that of
// such a release. What was untagged in between is young, as a tag has left it.
type naming struct {
	index *index.Index
	holds *imgd.AuditHolds
	asked bool
	seq   uint64 // the index was looked at up to there
}

func (d *daemon) naming() *naming { return &naming{index: d.index, holds: d.live.holds} }

// roots are those that have come since it was asked last.
func (n *naming) roots() []digest.Digest {
	roots := n.holds.Digests() // a reload changes them, and they are few
	seq := n.index.Seq()       // before the look: what comes meanwhile is looked at twice
	if n.asked && seq == n.seq {
		return roots
	}
	news := n.index.Open()
	if n.asked {
		news = append(news, n.index.Published(n.seq)...)
	} else {
		records, _ := n.index.Records()
		for _, rec := range records {
			roots = append(roots, rec.Root(), rec.Digest, rec.Previous)
		}
	}
	for _, rel := range news {
		roots = append(roots, rel.Root.Digest)
		for _, platform := range rel.Platforms {
			roots = append(roots, platform.Digest)
		}
	}
	n.asked, n.seq = true, seq
	return slices.DeleteFunc(roots, func(d digest.Digest) bool { return d == "" })
}

// logBounds are those of the config. Of a request whose state is not to be had
// the log stays; one whose state has expired ended long ago.
func (d *daemon) logBounds(ctx context.Context, cfg BuildConfig) builder.LogBounds {
	bounds := builder.LogBounds{Bytes: int64(cfg.LogMB) * mib, Ended: func(request string) bool {
		st, found, err := d.bus.Status(ctx, request)
		return err == nil && (!found || st.State.Final())
	}}
	if cfg.LogDays > 0 {
		bounds.Since = time.Now().AddDate(0, 0, -cfg.LogDays)
	}
	return bounds
}
