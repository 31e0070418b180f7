package main

import (
	"context"
	"errors"
	"time"

	"github.com/imgd/imgd"
)

const (
	// firstExpire is how long after the start tags are first cleaned up: what stands
	// open from before is driven by then, and an operator who has mistyped a rule
	// has seen the log.
	firstExpire = time.Minute
	// expireTime bounds one clean-up; the next goes on.
	expireTime = 10 * time.Minute
)

// expirer cleans up by the config in effect.
func (d *daemon) expirer() *imgd.Expirer {
	return &imgd.Expirer{Pipeline: d.pipeline, Index: d.index, Weigher: d.publisher,
		Share: func() int { return d.live.config.Load().Expire.MaxShare }}
}

// expire removes the tags whose time is over, now and then until ctx is done.
func (d *daemon) expire(ctx context.Context) error {
	often(ctx, d.cfg.Expire.Every, firstExpire, func(ctx context.Context) (soon bool) {
		d.cleanUp(ctx)
		return false
	})
	return nil
}

// cleanUp is one clean-up of all images, left out while a part that it needs is
// away. What it does not come to is the next one's.
func (d *daemon) cleanUp(ctx context.Context) {
	if err := d.bus.Paused(); err != nil {
		d.log.Info("tags are not cleaned up: imgd is paused", "error", err)
		return
	}
	bound, cancel := context.WithTimeout(ctx, expireTime)
	defer cancel()
	done, err := d.expirer().Expire(bound, imgd.Expire{By: "imgd"})
	if ctx.Err() != nil {
		return // interrupted, not failed
	}
	d.expired(done)
	d.metrics.HeldBack(len(done.Held))
	for _, image := range done.Held {
		d.log.Warn("too many tags would expire at once, none does; look at `imgctl expire --dry-run`, and give --yes if they are to go", "image", image)
	}
	if err != nil {
		d.log.Warn("tags were not all cleaned up", "error", err)
	}
}

// expired counts and logs what a clean-up has done.
func (d *daemon) expired(done imgd.Expiry) {
	d.metrics.Expired(done)
	for _, item := range done.Items {
		log := d.log.With("tag", item.Image+":"+item.Tag, "why", item.Why, "release", item.Removed)
		switch item.State {
		case imgd.ExpireGone:
			log.Info("tag has expired")
		case imgd.ExpireRefused, imgd.ExpireLeft:
			log.Warn("tag is to expire and is still there", "state", item.State, "error", item.Error)
		}
	}
}

// A closing is a pull request of a project that was closed.
type closing struct{ project, ref, by string }

const (
	// maxClosings is how many of them may wait: a forge closes them one by one.
	maxClosings = 256
	// closeTries is how often the tags of one are tried to be removed, closeDelay
	// apart. What a crash or an outage loses goes when the tags' own time is over.
	closeTries = 5
	closeDelay = time.Minute
)

// closePull has the tags of a closed pull request removed soon.
func (d *daemon) closePull(project, ref, by string) error {
	select {
	case d.closings <- closing{project, ref, by}:
		return nil
	default:
		return errors.New("too many pull requests were closed at once; its tags go when their own time is over")
	}
}

// closePulls removes the tags of closed pull requests until ctx is done.
func (d *daemon) closePulls(ctx context.Context) error {
	for {
		select {
		case c := <-d.closings:
			d.closed(ctx, c)
		case <-ctx.Done():
			return nil
		}
	}
}

// closed removes the tags of one closed pull request.
func (d *daemon) closed(ctx context.Context, c closing) {
	for try := 1; ; try++ {
		bound, cancel := context.WithTimeout(ctx, expireTime)
		done, err := d.expirer().Close(bound, c.project, c.ref, c.by)
		cancel()
		if ctx.Err() != nil {
			return
		}
		d.expired(done)
		switch {
		case errors.Is(err, imgd.ErrInvalid): // the project is gone
			return
		case err == nil && done.Count(imgd.ExpireLeft) == 0:
			return
		case try == closeTries:
			d.log.Warn("tags of a closed pull request are left to their own time", "project", c.project, "ref", c.ref, "error", err)
			return
		}
		select {
		case <-time.After(closeDelay):
		case <-ctx.Done():
			return
		}
	}
}
