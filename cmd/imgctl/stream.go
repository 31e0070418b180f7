package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	shared "github.com/imgd/imgd/internal/client"
	"github.com/imgd/imgd/internal/httpapi"
)

// silence is how long a stream may say nothing before it counts as lost: the
// daemon gives a sign of life every 15 seconds.
const silence = time.Minute

var errSilent = errors.New("nothing was heard for a minute")

// An event is one server-sent event.
type event struct {
	id, name string
	data     []byte
}

// stream gives f each event of the path until that named end, which f gets as
// well. A stream that is cut before is lost.
func (c *client) stream(ctx context.Context, path string, query url.Values, f func(event) error) error {
	return c.read(ctx, func(ctx context.Context) (*http.Response, error) {
		return c.Send(ctx, http.MethodGet, path+shared.Encode(query), nil)
	}, f)
}

// read is stream of what send answers.
func (c *client) read(ctx context.Context, send func(context.Context) (*http.Response, error), f func(event) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	alive := time.AfterFunc(silence, func() { cancel(errSilent) })
	defer alive.Stop()
	resp, err := send(ctx)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := bufio.NewReader(resp.Body)
	for {
		e, err := next(lines, func() { alive.Reset(silence) })
		if err != nil {
			return cut(ctx, err)
		}
		if e.name == "error" {
			return failureOf(e)
		}
		if err := f(e); err != nil || e.name == "end" {
			return err
		}
	}
}

// A feed is a stream that is shown as it comes, for as long as wanted.
type feed struct {
	path  string
	query func() url.Values // for what was not shown yet
	head  func() error      // shown before the first event
	event func(event) error // shows one
	rest  func() string     // the command that shows what was not shown yet
}

// show shows each event of f once: a lost connection is made again. Where there
// was none yet, reached says that the daemon has answered something else.
func (a *app) show(ctx context.Context, f feed, reached bool) error {
	c, head := a.client(), sync.OnceValue(f.head)
	err := a.insist(ctx, func() error {
		err := c.stream(ctx, f.path, f.query(), func(e event) error {
			reached = true
			if err := head(); err != nil || e.name != "" {
				return err
			}
			return f.event(e)
		})
		var lost *lostError
		if !reached && errors.As(err, &lost) {
			return lost.Err
		}
		return err
	})
	if end := stopped(ctx, "; go on with: "+f.rest()); end != nil {
		return end
	}
	return err
}

// printLine prints one line of a feed, whose widths nobody can know before its
// end.
func (a *app) printLine(format string, cells ...any) error {
	_, err := fmt.Fprintln(a.stdout, strings.TrimRight(fmt.Sprintf(format, cells...), " "))
	return err
}

// cut is the error of a stream that ended before its time.
func cut(ctx context.Context, err error) error {
	cause := context.Cause(ctx)
	if cause != nil && !errors.Is(cause, errSilent) {
		return cause
	}
	if cause != nil {
		err = cause
	}
	return shared.Lost("the stream from imgd was cut: %w", err)
}

// failureOf is what the daemon said had gone wrong with the stream.
func failureOf(e event) error {
	var p httpapi.Problem
	if err := json.Unmarshal(e.data, &p); err != nil || p.Status < http.StatusInternalServerError {
		return &p
	}
	return &lostError{Err: &p}
}

// next reads one event, passing over comments. heard is called with each line.
func next(lines *bufio.Reader, heard func()) (event, error) {
	var e event
	var data [][]byte
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return e, err
		}
		heard()
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 && (data != nil || e.name != "") {
			e.data = bytes.Join(data, []byte("\n"))
			return e, nil
		}
		field, value, _ := strings.Cut(string(line), ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "id":
			e.id = value
		case "event":
			e.name = value
		case "data":
			data = append(data, []byte(value))
		}
	}
}
