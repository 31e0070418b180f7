package builder

import (
	"context"
	"errors"
	"fmt"
	"strings"

	gateway "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/util/grpcerrors"
	"google.golang.org/grpc/codes"

	"github.com/imgd/imgd"
)

// permanent are texts of BuildKit's errors that another try would only repeat
// and that carry no type.
var permanent = [...]string{
	"dockerfile parse error",
	"failed to read dockerfile",
	"repository does not contain ref",
	"target stage",
	"no build stage in current context",
	"insufficient_scope",
	"authorization failed",
	"access denied",
	"unsupported frontend capability",
	"not allowed", // an entitlement or a source policy
}

// explain says what err means for the request: *imgd.BuildError if the
// Dockerfile or what it needs failed for good, the cancellation if ctx was
// cancelled, and otherwise an error worth another try.
func explain(ctx context.Context, err error, log *logWriter) error {
	if ctx.Err() != nil {
		return fmt.Errorf("build: %w", context.Cause(ctx))
	}
	failure := &imgd.BuildError{Message: message(err)}
	if sources := errdefs.Sources(err); len(sources) > 0 {
		locate(failure, sources[len(sources)-1])
	}
	var exit *gateway.ExitError
	if errors.As(err, &exit) {
		failure.ExitCode = int(exit.ExitCode)
		failure.Message += hint(failure.ExitCode) + log.tail()
		return failure
	}
	if passing(err) || !final(err, failure) {
		return fmt.Errorf("build: %w", err)
	}
	return failure
}

// message is err without the words that every error of a solve begins with.
func message(err error) string {
	text := err.Error()
	for _, prefix := range []string{"failed to solve: ", "rpc error: code = Unknown desc = "} {
		text = strings.TrimPrefix(text, prefix)
	}
	return text
}

func locate(failure *imgd.BuildError, source *errdefs.Source) {
	if source.Info != nil {
		failure.File = source.Info.Filename
	}
	if len(source.Ranges) > 0 {
		failure.Line = int(source.Ranges[0].Start.Line)
	}
}

func hint(exitCode int) string {
	if exitCode == 137 {
		return " (killed: perhaps the machine ran out of memory)"
	}
	return ""
}

// passing reports whether err is of a kind that goes away. BuildKit gives
// Unknown to what a Dockerfile does wrong.
func passing(err error) bool {
	switch grpcerrors.Code(err) {
	case codes.Unavailable, codes.Internal, codes.ResourceExhausted, codes.DeadlineExceeded, codes.Canceled, codes.Aborted:
		return true
	}
	text := err.Error()
	for _, sign := range []string{"no active session", "inconsistent graph state", "scheduler error", "connection reset", "connection refused",
		"unexpected EOF", "i/o timeout", "TLS handshake timeout", "no such host", "toomanyrequests", "failed to fetch oauth token",
		": 408 ", ": 429 ", ": 500 ", ": 502 ", ": 503 ", ": 504 "} {
		if strings.Contains(text, sign) {
			return true
		}
	}
	return false
}

// final reports whether another try would only fail the same way: BuildKit
// says which line is wrong, or one of the texts it has for that.
func final(err error, failure *imgd.BuildError) bool {
	if failure.Line > 0 {
		return true
	}
	text := strings.ToLower(err.Error())
	for _, sign := range permanent {
		if strings.Contains(text, sign) {
			return true
		}
	}
	return false
}
