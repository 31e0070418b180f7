package main

import (
	"context"
	"time"
)

// often calls do every so often until ctx is done: first after the shorter of
// first and every, and then so long after do has ended, which answers whether it is
// to come again as soon as the first time. Every 0 is never.
func often(ctx context.Context, every, first time.Duration, do func(context.Context) (soon bool)) {
	if every == 0 {
		return
	}
	first = min(first, every)
	next := time.NewTimer(first)
	defer next.Stop()
	for {
		select {
		case <-next.C:
		case <-ctx.Done():
			return
		}
		wait := every
		if do(ctx) {
			wait = first
		}
		next.Reset(wait)
	}
}
