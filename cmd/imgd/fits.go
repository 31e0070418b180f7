package main

import (
	"context"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/index"
)

// A fitting index decides only while it is the queue's own and has all that it
// has told: an old copy would give tags and generations out again.
type fitting struct {
	*index.Index
	fits func(ctx context.Context) error
}

func (f fitting) Admit(ctx context.Context, rel imgd.Release, known string) (imgd.Release, error) {
	if err := f.fits(ctx); err != nil {
		return imgd.Release{}, err
	}
	return f.Index.Admit(ctx, rel, known)
}

func (f fitting) Publish(ctx context.Context, id string) (imgd.Release, error) {
	if err := f.fits(ctx); err != nil {
		return imgd.Release{}, err
	}
	return f.Index.Publish(ctx, id)
}

func (f fitting) Forgo(ctx context.Context, id, tag, reason string) (imgd.Release, error) {
	if err := f.fits(ctx); err != nil {
		return imgd.Release{}, err
	}
	return f.Index.Forgo(ctx, id, tag, reason)
}

func (f fitting) Abandon(ctx context.Context, id, why string) (imgd.Release, error) {
	if err := f.fits(ctx); err != nil {
		return imgd.Release{}, err
	}
	return f.Index.Abandon(ctx, id, why)
}
