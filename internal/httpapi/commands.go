package httpapi

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/imgd/imgd"
)

// A Command is the body of what an operator does to a request. It may be
// missing.
type Command struct {
	Reason string `json:"reason,omitempty"` // why; a drop keeps it, and the daemon's log has that of each
}

// caller is who asks, as long as there are no tokens.
const caller = "http"

// A task is one command on the request or the dead letter with that ID.
type task func(ctx context.Context, w http.ResponseWriter, id string, c Command) error

// command reads what all of them have in common.
func command(do task) method {
	return func(w http.ResponseWriter, r *http.Request) error {
		if _, err := parse(r); err != nil {
			return err
		}
		id := r.PathValue("id")
		if !validRequest(id) && !validLetter(id) {
			return unknownRequest(id)
		}
		var body Command
		if err := read(w, r, &body, true); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(r.Context(), answerTime)
		defer cancel()
		return do(ctx, w, id, body)
	}
}

func (a *API) cancelRequest(ctx context.Context, w http.ResponseWriter, id string, c Command) error {
	if validLetter(id) {
		return problem(http.StatusConflict, CodeConflict, id+" is a dead letter, of which nothing runs; retry it, or drop it")
	}
	status, err := a.Commands.Cancel(ctx, id, caller)
	if err != nil {
		return fmt.Errorf("cancel: %w", err)
	}
	a.did("cancel", id, c)
	return a.answerRequest(ctx, w, query{}, status)
}

// retryRequest answers what was asked for again; of a message that is no request
// only the project, for the queue has yet to find out.
func (a *API) retryRequest(ctx context.Context, w http.ResponseWriter, id string, c Command) error {
	req, err := a.Commands.Retry(ctx, id, caller)
	if err != nil {
		return fmt.Errorf("retry: %w", err)
	}
	a.did("retry", id, c)
	if req.ID != "" {
		w.Header().Set("Location", "/v1/requests/"+req.ID)
	}
	return answer(w, http.StatusAccepted, Asked{Request: req.ID, Project: req.Project, Ref: req.Ref, Commit: req.Commit, AskedAt: req.AskedAt})
}

// dropRequest answers what has been dropped: the request as it stands now, or
// the letter as it was.
func (a *API) dropRequest(ctx context.Context, w http.ResponseWriter, id string, c Command) error {
	var letter imgd.Letter
	if validLetter(id) {
		var err error
		if letter, err = a.letter(ctx, id); err != nil {
			return err
		}
	}
	status, err := a.Commands.Drop(ctx, id, caller, c.Reason)
	if err != nil {
		return fmt.Errorf("drop: %w", err)
	}
	a.did("drop", id, c)
	if validLetter(id) {
		return answer(w, http.StatusOK, letter)
	}
	return a.answerRequest(ctx, w, query{}, status)
}

// did leaves a trace of what an operator has done.
func (a *API) did(what, id string, c Command) {
	a.Log.Info("operator's command", "command", what, "request", id, "by", caller, "reason", c.Reason)
}

// validLetter reports whether id can be a dead letter's: dead- and a sequence.
func validLetter(id string) bool {
	n, ok := strings.CutPrefix(id, "dead-")
	return ok && n != "" && len(n) <= len("18446744073709551615") && strings.Trim(n, "0123456789") == ""
}
