package events

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/imgd/imgd"
)

// An answer is what the end table decides from.
type answer struct {
	err       error
	release   imgd.Release
	cancelled error        // by whom, nil: by nobody
	stopping  bool         // the daemon is, and has interrupted the handler
	old       bool         // it was tried for long enough, and often enough
	outage    func() error // what is wrong with the parts that every request needs; asked only if the answer turns on it
}

// An end is what a handler's answer means for its request. One that is not
// final is tried again.
type end struct {
	state imgd.State        // where the request stands now
	retry retry             // of a state that is not final
	err   *imgd.StatusError // nil if it was published
}

// A retry is when a request is handled again.
type retry int

const (
	atOnce retry = iota // the try was interrupted, not failed
	soon                // it was not at fault; of an outage nothing is taken until that is over
	later               // with the delay of its tries
)

// endOf is the end table: the only place that decides whether an error is one.
// Whatever was interrupted answers may be the interruption in disguise, a killed
// build for one, so then only a release counts. What was admitted is driven for
// ever: only the index ends it. A Dockerfile that fails while a common part
// does may have failed of it: of a full disk.
func endOf(a answer) end {
	var build *imgd.BuildError
	var built *imgd.BuiltError
	switch {
	case a.err == nil:
		return end{state: imgd.Published}
	case a.release.State == imgd.ReleaseAdmitted, a.release.State == imgd.ReleasePublished,
		a.release.State == imgd.ReleaseAbandoned && !isEnd(a.err):
		return driven(a)
	case a.cancelled != nil:
		return end{state: imgd.Cancelled, err: because(cancelledKind, a.cancelled)}
	case a.stopping:
		return end{state: imgd.Queued, retry: atOnce, err: because("interrupted", a.err)}
	case errors.Is(a.err, imgd.ErrUnchanged):
		e := because("unchanged", a.err)
		if errors.As(a.err, &built) {
			e.Built = built.Root
		}
		return end{state: imgd.Unchanged, err: e}
	case errors.Is(a.err, imgd.ErrSuperseded):
		return end{state: imgd.Superseded, err: because("superseded", a.err)}
	case errors.Is(a.err, imgd.ErrConflict):
		return end{state: imgd.Conflicted, err: because("conflict", a.err)}
	case errors.Is(a.err, imgd.ErrInvalid):
		return end{state: imgd.Failed, err: because("invalid", a.err)}
	case errors.Is(a.err, imgd.ErrRefused):
		return end{state: imgd.Failed, err: because("refused", a.err)}
	case errors.Is(a.err, context.Canceled): // by the daemon, as a part of it has failed
		return end{state: imgd.Queued, retry: soon, err: because("interrupted", a.err)}
	case a.outage() != nil:
		return end{state: imgd.Queued, retry: soon, err: because("outage", a.err)}
	case errors.As(a.err, &build):
		e := because("build", a.err)
		e.File, e.Line, e.ExitCode = build.File, build.Line, build.ExitCode
		return end{state: imgd.Failed, err: e}
	case a.old:
		return end{state: imgd.Dead, err: because("error", a.err)}
	default:
		return end{state: imgd.Queued, retry: later, err: because("error", a.err)}
	}
}

// isEnd reports whether the pipeline says that the request has come to an end.
func isEnd(err error) bool {
	return slices.ContainsFunc([]error{imgd.ErrUnchanged, imgd.ErrSuperseded, imgd.ErrConflict, imgd.ErrInvalid, imgd.ErrRefused},
		func(end error) bool { return errors.Is(err, end) })
}

// driven is the answer of a handler that has admitted a release and could not
// publish it, or has abandoned it and could not give all back yet.
func driven(a answer) end {
	switch {
	case a.cancelled != nil, a.stopping:
		return end{state: imgd.Publishing, retry: atOnce, err: because("interrupted", a.err)}
	case a.outage() != nil:
		return end{state: imgd.Publishing, retry: soon, err: because("outage", a.err)}
	default:
		return end{state: imgd.Publishing, retry: later, err: because("error", a.err)}
	}
}

// maxMessage bounds what a state keeps of an error, in bytes. The whole one is
// in the log.
const maxMessage = 8 << 10

func because(kind string, err error) *imgd.StatusError {
	message := err.Error()
	if len(message) > maxMessage {
		message = message[:maxMessage]
	}
	return &imgd.StatusError{Kind: kind, Message: strings.ToValidUTF8(message, "?")}
}
