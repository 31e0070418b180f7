package events

import "github.com/imgd/imgd"

// An Observer is told what happens, for metrics. Its funcs decide nothing, must
// not block and are called from any goroutine; one that is nil is not called.
type Observer struct {
	// Ended is called with the end of each ask, once it is settled; again only if
	// the message comes once more after a crash.
	Ended func(imgd.Status)
	// Retried is called with what a try has come to that another follows: the
	// kind of its error is interrupted, outage or error.
	Retried func(imgd.Status)
	// Announced is called when the release's event is in IMGD_EVENTS; again only
	// if that was not noted before a crash.
	Announced func(imgd.Release)
	// Drifted is called with each drift that was reported, the same one too.
	Drifted func(imgd.Drift)
	// LeaseLost is called when a running request may be, or has been, given to
	// another.
	LeaseLost func(Loss)
}

// A Loss is how a lease is lost.
type Loss string

// The losses.
const (
	Unsent  Loss = "unsent"  // a sign of life could not be sent
	Expired Loss = "expired" // the request came again while it was handled here
)

func (o Observer) withDefaults() Observer {
	if o.Ended == nil {
		o.Ended = func(imgd.Status) {}
	}
	if o.Retried == nil {
		o.Retried = func(imgd.Status) {}
	}
	if o.Announced == nil {
		o.Announced = func(imgd.Release) {}
	}
	if o.Drifted == nil {
		o.Drifted = func(imgd.Drift) {}
	}
	if o.LeaseLost == nil {
		o.LeaseLost = func(Loss) {}
	}
	return o
}
