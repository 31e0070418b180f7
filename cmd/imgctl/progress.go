package main

import (
	"context"
	"encoding/json"
	"errors"
	"hash/maphash"
	"io"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/builder"
)

// modes are BuildKit's ways to show a build.
var modes = [...]string{"auto", "plain", "tty", "quiet", "rawjson"}

// checkProgress refuses, before anything is asked, what cannot be shown.
func (w *waiting) checkProgress() error {
	if !slices.Contains(modes[:], w.progress) {
		return usage("--progress %q is none of %s", w.progress, strings.Join(modes[:], ", "))
	}
	if w.progress == "auto" && w.noColor {
		w.progress = "plain" // BuildKit's display of a terminal has colours
	}
	if w.progress == "tty" && !isTerminal(w.display) {
		return usage("--progress tty wants a terminal; plain needs none")
	}
	return nil
}

// show shows the lines of a build log.
func (w *waiting) show(ctx context.Context, lines io.Reader) error {
	return builder.Replay(ctx, lines, w.display, w.progress)
}

// followLog shows the build log of a request as it grows, until the request has
// ended. After a lost connection it goes on behind what it has shown.
func (w *waiting) followLog(ctx context.Context, request string, query url.Values) error {
	lines, pipe := io.Pipe()
	log := onceEach{to: pipe, seed: maphash.MakeSeed(), shown: map[uint64]bool{}}
	both, ctx := errgroup.WithContext(ctx)
	both.Go(func() error {
		err := w.show(ctx, lines)
		lines.CloseWithError(errors.Join(err, io.ErrClosedPipe))
		return err
	})
	both.Go(func() error {
		c, told := w.client(), 0 // the last try whose failure was told
		err := w.insist(ctx, func() error {
			log.again = true
			return c.stream(ctx, "/v1/requests/"+request+"/log", query, func(e event) error {
				if e.name != "" {
					told = w.tellFailure(e, told)
					return nil
				}
				return log.write(append(e.data, '\n'))
			})
		})
		return errors.Join(err, pipe.Close()) // what has been read of the log is shown to its end
	})
	return both.Wait()
}

// A onceEach passes lines on that come again from the first one whenever the
// connection was lost. Lines of a build log carry the time, so no two are alike.
type onceEach struct {
	to    io.Writer
	seed  maphash.Seed
	shown map[uint64]bool
	again bool // nothing new has come yet over this connection
}

func (o *onceEach) write(line []byte) error {
	sum := maphash.Bytes(o.seed, line)
	if o.again && o.shown[sum] {
		return nil
	}
	o.again, o.shown[sum] = false, true
	_, err := o.to.Write(line)
	return err
}

// tellFailure says why a request that goes on has failed so far, once for each
// try, and answers the last one told.
func (a *app) tellFailure(e event, told int) int {
	var s imgd.Status
	if e.name != "state" || json.Unmarshal(e.data, &s) != nil || s.Error == nil || s.Tries <= told {
		return told
	}
	a.say("try %d failed, imgd tries again: %s", s.Tries, s.Error.Message)
	return s.Tries
}
