package main

import (
	"context"
	"errors"
	"net/url"
	"time"

	shared "github.com/imgd/imgd/internal/client"
)

// A client speaks to the daemon.
type client struct{ *shared.Client }

type (
	lostError = shared.LostError
	exitError = shared.ExitError
)

func usage(format string, args ...any) error { return shared.Usage(format, args...) }

// Delays of insist.
const (
	firstDelay = 200 * time.Millisecond
	lastDelay  = 5 * time.Second
)

// insist repeats try while it is lost on the way, and says so; until ctx is done.
func (a *app) insist(ctx context.Context, try func() error) error {
	delay := firstDelay
	for {
		began := time.Now()
		err := try()
		var l *lostError
		if ctx.Err() != nil || !errors.As(err, &l) {
			return err
		}
		if time.Since(began) > lastDelay {
			delay = firstDelay // it had come through
		}
		a.say("%v; trying again in %s", err, delay)
		select {
		case <-time.After(delay):
		case <-ctx.Done():
		}
		delay = min(2*delay, lastDelay)
	}
}

// pages calls read with the query of each page of a list, until there is no
// next one.
func pages(read func(url.Values) (next string, err error)) error {
	query := url.Values{}
	for {
		next, err := read(query)
		if err != nil || next == "" {
			return err
		}
		query.Set("cursor", next)
	}
}
