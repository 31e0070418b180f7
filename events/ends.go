package events

import (
	"errors"
	"strings"

	"github.com/imgd/imgd"
)

// An end is what a handler's answer means for its request. One that is neither
// final nor given back is tried again.
type end struct {
	state    imgd.State        // where the request stands now
	giveBack bool              // at once: the try was interrupted, not failed
	err      *imgd.StatusError // nil if it was published
}

// endOf is the end table: the only place that decides whether an error is one.
// stopping says that the handler was interrupted. What it answers then may be
// the interruption in disguise, a killed build for one, so only a release counts.
func endOf(err error, stopping bool) end {
	var build *imgd.BuildError
	switch {
	case err == nil:
		return end{state: imgd.Published}
	case stopping:
		return end{state: imgd.Queued, giveBack: true, err: because("interrupted", err)}
	case errors.As(err, &build):
		e := because("build", err)
		e.File, e.Line, e.ExitCode = build.File, build.Line, build.ExitCode
		return end{state: imgd.Failed, err: e}
	case errors.Is(err, imgd.ErrUnchanged):
		return end{state: imgd.Unchanged, err: because("unchanged", err)}
	case errors.Is(err, imgd.ErrSuperseded):
		return end{state: imgd.Superseded, err: because("superseded", err)}
	case errors.Is(err, imgd.ErrConflict):
		return end{state: imgd.Conflicted, err: because("conflict", err)}
	case errors.Is(err, imgd.ErrInvalid):
		return end{state: imgd.Failed, err: because("invalid", err)}
	default: // dead letters, the pause during an outage and cancellation come in here
		return end{state: imgd.Queued, err: because("error", err)}
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
