// Package client is what the programs have in common: how imgctl and publish
// find the daemon, speak to it, and end, the recording of what another CI has
// pushed, by the daemon or, where none runs, straight into an index, the
// verification of an index without a daemon, and the making of man pages. It decides nothing.
package client

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

	"github.com/imgd/imgd/internal/httpapi"
)

// A Client speaks to the daemon.
type Client struct {
	Find  func() (string, error) // its URL
	Agent string                 // who asks: program/version
}

// A LostError says that the daemon, or the way to it, failed: the same may
// succeed later.
type LostError struct{ Err error }

func (e *LostError) Error() string { return e.Err.Error() }

// Unwrap is what failed.
func (e *LostError) Unwrap() error { return e.Err }

// Lost says that the same may succeed later.
func Lost(format string, args ...any) error { return &LostError{fmt.Errorf(format, args...)} }

// Get reads the answer of a path into v.
func (c *Client) Get(ctx context.Context, path string, query url.Values, v any) error {
	resp, err := c.Send(ctx, http.MethodGet, path+Encode(query), nil)
	if err != nil {
		return err
	}
	return decode(resp, v)
}

// Post sends body as JSON and reads the answer into v.
func (c *Client) Post(ctx context.Context, path string, body, v any) error {
	b, err := json.Marshal(body)
	if err != nil {
		return err
	}
	resp, err := c.Send(ctx, http.MethodPost, path, b)
	if err != nil {
		return err
	}
	return decode(resp, v)
}

// Encode is what follows the path.
func Encode(query url.Values) string {
	if len(query) == 0 {
		return ""
	}
	return "?" + query.Encode()
}

// Send answers a response that is no error; the caller closes its body.
func (c *Client) Send(ctx context.Context, method, path string, body []byte) (*http.Response, error) {
	server, err := c.Find()
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, server+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", c.Agent)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, c.unreachable(ctx, server, err)
	}
	if resp.StatusCode >= http.StatusBadRequest {
		return nil, problemOf(resp)
	}
	return resp, nil
}

func (c *Client) unreachable(ctx context.Context, server string, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err // without method and URL, which are said here
	}
	return Lost("imgd at %s does not answer: %w; is it running? %s", bare(server), err, howToFind)
}

// problemOf is the error that the daemon answered.
func problemOf(resp *http.Response) error {
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10)) // what is missing shows in the message
	var p httpapi.Problem
	if err := json.Unmarshal(body, &p); err != nil || p.Code == "" {
		return fmt.Errorf("%s %s: %s: %s", resp.Request.Method, bare(resp.Request.URL.String()), resp.Status, strings.TrimSpace(string(body)))
	}
	if p.Status >= http.StatusInternalServerError {
		return &LostError{&p}
	}
	return &p
}

func decode(resp *http.Response, v any) error {
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(v); err != nil {
		return Lost("read the answer of %s: %w", bare(resp.Request.URL.String()), err)
	}
	return nil
}
