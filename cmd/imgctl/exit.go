package main

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

const exitHelp = `Exit codes: 0 done, 1 failed, 2 usage, 3 differs, 4 unauthorized, 5 conflict, 6 not found,
7 build failed, 8 cancelled, 9 timeout.`

// An exitError ends imgctl with its code's number.
type exitError struct {
	code    httpapi.Code
	message string
}

func (e *exitError) Error() string { return e.message }

func usage(format string, args ...any) error {
	return &exitError{httpapi.CodeUsage, fmt.Sprintf(format, args...)}
}

// exitCode is the number for err.
func exitCode(err error) int {
	if err == nil {
		return 0
	}
	return max(1, slices.Index(exits[:], codeOf(err)))
}

func codeOf(err error) httpapi.Code {
	var exit *exitError
	var problem *httpapi.Problem
	switch {
	case errors.As(err, &exit):
		return exit.code
	case errors.As(err, &problem):
		return problem.Code
	case errors.Is(err, context.Canceled):
		return httpapi.CodeCancelled
	case errors.Is(err, context.DeadlineExceeded):
		return httpapi.CodeTimeout
	}
	return httpapi.CodeFailed
}
