package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/url"
	"os"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
	"golang.org/x/term"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/builder"
)

// modes are BuildKit's ways to show a build.
var modes = [...]string{"auto", "plain", "tty", "quiet", "rawjson"}

func progressHelp() string { return "how to show the build: " + strings.Join(modes[:], ", ") }

// checkProgress refuses, before anything is asked, a mode that w cannot show.
func checkProgress(mode string, w io.Writer) error {
	if !slices.Contains(modes[:], mode) {
		return usage("--progress %q is none of %s", mode, strings.Join(modes[:], ", "))
	}
	file, ok := w.(*os.File)
	if mode == "tty" && (!ok || !term.IsTerminal(int(file.Fd()))) {
		return usage("--progress tty wants a terminal; plain needs none")
	}
	return nil
}

// followLog shows the build log of a request as it grows, until the request has
// ended. After a lost connection it is shown again from its start.
func (a *app) followLog(ctx context.Context, request string, query url.Values, show func(context.Context, io.Reader) error) error {
	c := a.client()
	told := 0 // the last try whose failure was told
	return a.insist(ctx, func() error {
		lines, w := io.Pipe()
		both, ctx := errgroup.WithContext(ctx)
		both.Go(func() error {
			err := show(ctx, lines)
			lines.CloseWithError(errors.Join(err, io.ErrClosedPipe))
			return err
		})
		both.Go(func() error {
			err := c.stream(ctx, "/v1/requests/"+request+"/log", query, func(e event) error {
				if e.name != "" {
					told = a.tellFailure(e, told)
					return nil
				}
				_, err := w.Write(append(e.data, '\n'))
				return err
			})
			return errors.Join(err, w.Close()) // what has been read of the log is shown to its end
		})
		return both.Wait()
	})
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

// show is a display of a build on w.
func show(w io.Writer, mode string) func(context.Context, io.Reader) error {
	return func(ctx context.Context, lines io.Reader) error { return builder.Replay(ctx, lines, w, mode) }
}
