package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"
)

// A Probe is a closer look at one thing that builds need than /readyz takes: it
// may change something for a moment, as an upload that it starts and cancels.
type Probe struct {
	Name string // nats, push registry/name, git project, ...
	// Run answers what it has found, in a few words, or what is wrong. It ends
	// with ctx, is safe to repeat, and leaves nothing behind.
	Run  func(ctx context.Context) (found string, err error)
	Todo string // what to do if something is wrong
}

// A Checkup is the answer of a check.
type Checkup struct {
	OK    bool      `json:"ok"`    // all of the items are
	Items []Checked `json:"items"` // in the order of the data's path
}

// Checked is what a probe has found.
type Checked struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	TookMS int64  `json:"tookMs"`
	Found  string `json:"found,omitempty"`
	Error  string `json:"error,omitempty"`
	Todo   string `json:"todo,omitempty"` // what to do about the error
}

// Bounds of a check. A part that needs longer to answer one question would hold
// up every build; and a daemon with hundreds of projects asks no forge for all
// of them at once.
const (
	probeTime    = 10 * time.Second
	probesAtOnce = 16
)

// check runs all probes. That something is wrong is an answer, not a problem:
// the check itself has worked.
func (a *API) check(w http.ResponseWriter, r *http.Request) error {
	if _, err := parse(r); err != nil {
		return err
	}
	if err := read(w, r, &struct{}{}, true); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), answerTime)
	defer cancel()
	return answer(w, http.StatusOK, checkup(ctx, a.Probes()))
}

func checkup(ctx context.Context, probes []Probe) Checkup {
	all := Checkup{OK: true, Items: make([]Checked, len(probes))}
	var group errgroup.Group
	group.SetLimit(probesAtOnce)
	for i, p := range probes {
		group.Go(func() error {
			all.Items[i] = p.look(ctx)
			return nil
		})
	}
	_ = group.Wait() // what went wrong stands in the items
	for _, c := range all.Items {
		all.OK = all.OK && c.OK
	}
	return all
}

func (p Probe) look(ctx context.Context) Checked {
	ctx, cancel := context.WithTimeoutCause(ctx, probeTime, fmt.Errorf("no answer within %s", probeTime))
	defer cancel()
	began := time.Now()
	found, err := p.Run(ctx)
	c := Checked{Name: p.Name, OK: err == nil, TookMS: time.Since(began).Milliseconds()}
	if err == nil {
		c.Found = found
		return c
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	c.Error, c.Todo = oneLine(err.Error()), p.Todo
	return c
}
