package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
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
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	alive := time.AfterFunc(silence, func() { cancel(errSilent) })
	defer alive.Stop()
	resp, err := c.Send(ctx, http.MethodGet, path+shared.Encode(query), nil)
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
