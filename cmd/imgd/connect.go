package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/imgd/imgd/events"
)

// connectPause is between two tries to reach NATS.
const connectPause = time.Second

// connect connects to NATS, which may come later than imgd where both start
// with their machines. It waits for the server within limit, but not for what
// the server refuses.
func connect(ctx context.Context, cfg events.Config, limit time.Duration) (*events.Bus, error) {
	waiting, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for began := time.Now(); ; {
		bus, err := events.Connect(waiting, cfg)
		if !errors.Is(err, events.ErrAway) {
			return bus, err
		}
		cfg.Log.Warn("NATS does not answer, waiting for it", "url", cfg.URL, "waited", time.Since(began).Round(time.Second).String(), "error", err)
		select {
		case <-time.After(connectPause):
		case <-waiting.Done():
			return nil, fmt.Errorf("%w, nor has it within %s: start the server, or say by nats.url where it is; it is %s now", err, limit, cfg.URL)
		}
	}
}
