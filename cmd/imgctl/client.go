package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/imgd/imgd/internal/httpapi"
)

// A client speaks to the daemon.
type client struct {
	find func() (string, error) // its URL
	http *http.Client
}

func newClient(find func() (string, error)) *client { return &client{find: find, http: &http.Client{}} }

// A lostError says that the daemon, or the way to it, failed: the same may
// succeed later.
type lostError struct{ err error }

func (e *lostError) Error() string { return e.err.Error() }
func (e *lostError) Unwrap() error { return e.err }

func lost(format string, args ...any) error { return &lostError{fmt.Errorf(format, args...)} }

// get reads the answer of a path into v.
func (c *client) get(ctx context.Context, path string, query url.Values, v any) error {
	resp, err := c.send(ctx, http.MethodGet, path+encode(query), nil)
	if err != nil {
		return err
	}
	return decode(resp, v)
}

// post sends body as JSON and reads the answer into v.
func (c *client) post(ctx context.Context, path string, body, v any) error {
	b, err := json.Marshal(body)
	if err != nil {
		return err
	}
	resp, err := c.send(ctx, http.MethodPost, path, b)
	if err != nil {
		return err
	}
	return decode(resp, v)
}

func encode(query url.Values) string {
	if len(query) == 0 {
		return ""
	}
	return "?" + query.Encode()
}

// send answers a response that is no error; the caller closes its body.
func (c *client) send(ctx context.Context, method, path string, body []byte) (*http.Response, error) {
	server, err := c.find()
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, server+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "imgctl/"+version)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreachable(ctx, server, err)
	}
	if resp.StatusCode >= http.StatusBadRequest {
		return nil, problemOf(resp)
	}
	return resp, nil
}

func (c *client) unreachable(ctx context.Context, server string, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err // without method and URL, which are said here
	}
	return lost("imgd at %s does not answer: %w; is it running? %s", server, err, howToFind)
}

// problemOf is the error that the daemon answered.
func problemOf(resp *http.Response) error {
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10)) // what is missing shows in the message
	var p httpapi.Problem
	if err := json.Unmarshal(body, &p); err != nil || p.Code == "" {
		return fmt.Errorf("%s %s: %s: %s", resp.Request.Method, resp.Request.URL, resp.Status, strings.TrimSpace(string(body)))
	}
	if p.Status >= http.StatusInternalServerError {
		return &lostError{&p}
	}
	return &p
}

func decode(resp *http.Response, v any) error {
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(v); err != nil {
		return lost("read the answer of %s: %w", resp.Request.URL, err)
	}
	return nil
}

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
