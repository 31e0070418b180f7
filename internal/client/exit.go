package client

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/imgd/imgd/internal/httpapi"
)

// exits are the names of the exit codes from 0 on.
var exits = [...]httpapi.Code{
	"", httpapi.CodeFailed, httpapi.CodeUsage, httpapi.CodeDiffers, httpapi.CodeUnauthorized, httpapi.CodeConflict,
	httpapi.CodeNotFound, httpapi.CodeBuildFailed, httpapi.CodeCancelled, httpapi.CodeTimeout,
}

// ExitHelp is what --help says of them.
const ExitHelp = `Exit codes: 0 done, 1 failed, 2 usage, 3 differs, 4 unauthorized, 5 conflict, 6 not found,
7 build failed, 8 cancelled, 9 timeout.`

// An ExitError ends the command with its code's number.
type ExitError struct {
	Code    httpapi.Code
	Message string
}

func (e *ExitError) Error() string { return e.Message }

// Usage says that the command was called in a way that can never work.
func Usage(format string, args ...any) error {
	return &ExitError{httpapi.CodeUsage, fmt.Sprintf(format, args...)}
}

// ExitCode is the number for err.
func ExitCode(err error) int {
	if err == nil {
		return 0
	}
	return max(1, slices.Index(exits[:], CodeOf(err)))
}

// CodeOf is the name of err's exit code.
func CodeOf(err error) httpapi.Code {
	var exit *ExitError
	var problem *httpapi.Problem
	switch {
	case errors.As(err, &exit):
		return exit.Code
	case errors.As(err, &problem):
		return problem.Code
	case errors.Is(err, context.Canceled):
		return httpapi.CodeCancelled
	case errors.Is(err, context.DeadlineExceeded):
		return httpapi.CodeTimeout
	}
	return httpapi.CodeFailed
}
