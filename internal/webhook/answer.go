package webhook

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"strings"
)

// The codes of problems, as FORMATS and the rest of the HTTP API have them.
const (
	codeFailed       = "failed"
	codeUsage        = "usage"
	codeUnauthorized = "unauthorized"
	codeNotFound     = "not-found"
	codeTimeout      = "timeout"
)

// A problem is the body of an answer that is an error, as RFC 9457 says.
type problem struct {
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	Code   string `json:"code"`

	cause error      // only for the log
	level slog.Level // to log it at
}

func newProblem(status int, code, detail string) *problem {
	return &problem{Title: http.StatusText(status), Status: status, Detail: detail, Code: code, level: slog.LevelWarn}
}

// again is the problem that another delivery may not have.
func again(detail string, cause error) *problem {
	p := newProblem(http.StatusServiceUnavailable, codeFailed, detail)
	p.cause = cause
	return p
}

// retryAfter is when to deliver again, in seconds: then no body is in memory any
// more that took the room, and a queue that was restarted may be back.
const retryAfter = "10"

// An outcome is what became of a delivery: without a problem and without
// requests it was ignored.
type outcome struct {
	problem  *problem
	requests []asked
	reasons  []string // why nothing was asked for, of each project or of all
	refused  error    // what an operator should know of it
}

// status is that of the answer.
func (o outcome) status() int {
	switch {
	case o.problem != nil:
		return o.problem.Status
	case len(o.requests) == 0:
		return http.StatusOK
	}
	return http.StatusAccepted
}

// asked is one request in the answer.
type asked struct {
	Project string `json:"project"`
	Request string `json:"request"`
}

// answer logs the delivery, once, and tells the forge.
func (h *Handler) answer(ctx context.Context, w http.ResponseWriter, d *delivery, o outcome) {
	log := h.log.With("project", d.project, "forge", d.forge.name, "delivery", d.id, "event", short(d.event))
	level, cause, reason := slog.LevelInfo, o.refused, strings.Join(o.reasons, "; ")
	if cause != nil {
		level = slog.LevelWarn
	}
	if o.problem != nil {
		level, cause = o.problem.level, o.problem.cause
	}
	if cause != nil {
		log = log.With("error", cause)
	}
	switch {
	case o.problem != nil:
		log.Log(ctx, level, "webhook refused", "status", o.problem.Status, "detail", o.problem.Detail)
		writeProblem(w, o.problem)
	case len(o.requests) == 0:
		log.Log(ctx, level, "webhook ignored", "reason", reason)
		write(w, o.status(), "application/json", map[string]string{"ignored": reason})
	default:
		log.Log(ctx, level, "webhook asked for builds", "requests", o.requests)
		write(w, o.status(), "application/json", map[string][]asked{"requests": o.requests})
	}
}

func writeProblem(w http.ResponseWriter, p *problem) {
	if p.Status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", retryAfter)
	}
	write(w, p.Status, "application/problem+json", p)
}

func write(w http.ResponseWriter, status int, mediaType string, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		panic("unreachable: answers always marshal: " + err.Error())
	}
	w.Header().Set("Content-Type", mediaType)
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n')) // it fails if the forge is gone: what it asked for is in the queue
}

// shown bounds, in bytes, how much of the forge's words an answer or a log
// repeats.
const shown = 200

func short(s string) string {
	if len(s) <= shown {
		return s
	}
	return strings.ToValidUTF8(s[:shown], "") + "…"
}
