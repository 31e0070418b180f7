package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/opencontainers/go-digest"

	"github.com/imgd/imgd"
)

// A Code says how something ended, in one word that scripts can rely on. It is
// the name of imgctl's exit code.
type Code string

// The codes.
const (
	CodeFailed       Code = "failed"
	CodeUsage        Code = "usage"
	CodeDiffers      Code = "differs"
	CodeUnauthorized Code = "unauthorized"
	CodeConflict     Code = "conflict"
	CodeNotFound     Code = "not-found"
	CodeBuildFailed  Code = "build-failed"
	CodeCancelled    Code = "cancelled"
	CodeTimeout      Code = "timeout"
)

// A Problem is the body of every answer that is an error, as RFC 9457 says.
type Problem struct {
	Title  string `json:"title"` // the status in words
	Status int    `json:"status"`
	Detail string `json:"detail"` // what is wrong, and what to do
	Code   Code   `json:"code"`

	Verification *imgd.Verification `json:"verification,omitempty"` // with differs, of a verify
	Wanted       digest.Digest      `json:"wanted,omitempty"`       // with differs and conflict, of a record: what was to be recorded,
	Found        digest.Digest      `json:"found,omitempty"`        // and what the tag names instead
}

func (p *Problem) Error() string { return p.Detail }

const problemType = "application/problem+json"

func problem(status int, code Code, detail string) *Problem {
	return &Problem{Title: http.StatusText(status), Status: status, Detail: detail, Code: code}
}

// usage says that the caller asked in a way that can never work.
func usage(detail string) *Problem { return problem(http.StatusBadRequest, CodeUsage, detail) }

// ends maps errors to answers. What is not in it is the failure of a part that
// the answer needs: git, the registry, the queue.
var ends = []struct {
	err    error
	status int
	code   Code
}{
	{imgd.ErrInvalid, http.StatusBadRequest, CodeUsage},
	{imgd.ErrNotFound, http.StatusNotFound, CodeNotFound},
	{imgd.ErrConflict, http.StatusConflict, CodeConflict},
	{imgd.ErrDiffers, http.StatusConflict, CodeDiffers},
	{context.DeadlineExceeded, http.StatusGatewayTimeout, CodeTimeout},
}

// AsProblem is how the API answers err.
func AsProblem(err error) *Problem {
	var p *Problem
	if errors.As(err, &p) {
		return p
	}
	for _, end := range ends {
		if errors.Is(err, end.err) {
			p = problem(end.status, end.code, err.Error())
			var mismatch *imgd.MismatchError
			if errors.As(err, &mismatch) {
				p.Wanted, p.Found = mismatch.Wanted, mismatch.Found
			}
			return p
		}
	}
	return problem(http.StatusBadGateway, CodeFailed, err.Error())
}

// fail answers err, and logs it if it is not the caller's.
func (a *API) fail(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil {
		return // nobody reads it any more
	}
	p := AsProblem(err)
	if p.Status >= http.StatusInternalServerError {
		a.Log.Warn("request failed", "method", r.Method, "path", r.URL.Path, "status", p.Status, "error", err)
	}
	write(w, p.Status, problemType, p)
}

// answer writes v as JSON.
func answer(w http.ResponseWriter, status int, v any) error {
	write(w, status, "application/json", v)
	return nil
}

func write(w http.ResponseWriter, status int, mediaType string, v any) {
	writeJSON(w, status, mediaType, marshal(v))
}

func marshal(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("unreachable: answers always marshal: " + err.Error())
	}
	return b
}

func writeJSON(w http.ResponseWriter, status int, mediaType string, b []byte) {
	w.Header().Set("Content-Type", mediaType)
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n')) // it fails if the caller is gone: nothing is lost
}
