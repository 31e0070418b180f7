package httpapi

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"sync"
	"time"

	"github.com/imgd/imgd"
)

// getLog answers the build log of a request: as it is, or with ?follow=1 as
// server-sent events until the request has ended: a line of the log each, and
// among them (event: state) where the request stands when that changes, and at
// the end (event: end) how it has ended. With askedAt= it is the log of what was asked for then:
// that of an earlier build for the same request is not shown.
func (a *API) getLog(w http.ResponseWriter, r *http.Request) error {
	q, err := parse(r, "follow", "askedAt")
	if err != nil {
		return err
	}
	follow, err := q.flag("follow", false)
	if err != nil {
		return err
	}
	askedAt, err := q.moment("askedAt")
	if err != nil {
		return err
	}
	status, err := a.status(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	if !follow {
		return a.copyLog(w, r, status)
	}
	return a.stream(w, r, func(ctx context.Context, send send) error {
		return a.followLog(ctx, status.Request, askedAt, send)
	})
}

func (a *API) copyLog(w http.ResponseWriter, r *http.Request, status imgd.Status) error {
	log, err := a.Logs.Log(r.Context(), status.Request, nil)
	if errors.Is(err, imgd.ErrNotFound) {
		return problem(http.StatusNotFound, CodeNotFound,
			fmt.Sprintf("request %s is %s and has no build log here: nothing was built for it, or not yet (?follow=1 waits), or by another daemon", status.Request, status.State))
	}
	if err != nil {
		return fmt.Errorf("read the log of request %s: %w", status.Request, err)
	}
	defer log.Close()
	w.Header().Set("Content-Type", "application/x-ndjson")
	err = eachLine(log, func(line []byte) error {
		_, err := w.Write(line)
		return err
	})
	if err != nil && r.Context().Err() == nil {
		a.Log.Warn("build log is cut off", "request", status.Request, "error", err)
		panic(http.ErrAbortHandler) // so that the reader sees it too
	}
	return nil
}

// A watch sees a request pass by.
type watch struct {
	begun, ended chan struct{} // closed when its build begins and when it has ended
	last         imgd.Status   // once ended is closed
	err          error         // once ended is closed: why nothing more was seen
}

// run closes w's channels as the states come, and tells those that pass; it
// always closes ended.
func (w *watch) run(states iter.Seq2[imgd.Status, error], askedAt time.Time, tell send) {
	defer close(w.ended)
	begin := sync.OnceFunc(func() { close(w.begun) })
	for status, err := range states {
		if w.err = err; err != nil {
			return
		}
		w.last = status
		if status.AskedAt.Before(askedAt) {
			continue
		}
		if status.State == imgd.Building || status.State == imgd.Publishing {
			begin()
		}
		if status.State.Final() || tell(event("state", status)) != nil {
			return
		}
	}
}

// hasEnded is what the log is asked to wait for.
func (w *watch) hasEnded() bool {
	select {
	case <-w.ended:
		return true
	default:
		return false
	}
}

func (a *API) followLog(ctx context.Context, request string, askedAt time.Time, send send) error {
	ctx, cancel := context.WithCancel(ctx)
	w := &watch{begun: make(chan struct{}), ended: make(chan struct{})}
	go w.run(a.Statuses.WatchStatus(ctx, request), askedAt, send)
	defer func() { cancel(); <-w.ended }()

	built := true
	if !askedAt.IsZero() {
		select {
		case <-w.begun:
		case <-w.ended:
			built = false
		}
	}
	if built {
		if err := a.sendLog(ctx, request, w.hasEnded, send); err != nil {
			return err
		}
	}
	<-w.ended
	if err := errors.Join(w.err, ctx.Err()); err != nil {
		return fmt.Errorf("watch the state of request %s: %w", request, err)
	}
	return send(event("end", w.last))
}

// sendLog sends each whole line of the log until it ends.
func (a *API) sendLog(ctx context.Context, request string, ended func() bool, send send) error {
	log, err := a.Logs.Log(ctx, request, ended)
	if errors.Is(err, imgd.ErrNotFound) {
		return nil // it has ended without a build
	}
	if err != nil {
		return fmt.Errorf("read the log of request %s: %w", request, err)
	}
	defer log.Close()
	err = eachLine(log, func(line []byte) error { return send(message{data: line}) })
	if err != nil {
		return fmt.Errorf("read the log of request %s: %w", request, err)
	}
	return nil
}

// eachLine calls f with each line, leaving out what a crash has torn: that
// stands at the end, or before the first line of the build that came after.
func eachLine(log io.Reader, f func(line []byte) error) error {
	lines := bufio.NewReader(log)
	for {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if !json.Valid(line) {
			continue
		}
		if err := f(line); err != nil {
			return err
		}
	}
}
