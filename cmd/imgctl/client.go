package main

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"time"

	shared "github.com/imgd/imgd/internal/client"
)

// A client speaks to the daemon.
type client struct{ *shared.Client }

func newClient(find func() (string, error)) *client {
	return &client{&shared.Client{Find: find, Agent: "imgctl/" + version}}
}

func (c *client) get(ctx context.Context, path string, query url.Values, v any) error {
	return c.Get(ctx, path, query, v)
}

func (c *client) post(ctx context.Context, path string, body, v any) error {
	return c.Post(ctx, path, body, v)
}

func (c *client) send(ctx context.Context, method, path string, body []byte) (*http.Response, error) {
	return c.Send(ctx, method, path, body)
}

func encode(query url.Values) string { return shared.Encode(query) }

type (
	lostError = shared.LostError
	exitError = shared.ExitError
)

func lost(format string, args ...any) error { return shared.Lost(format, args...) }

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
