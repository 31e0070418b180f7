package builder

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	gateway "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/util/grpcerrors"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc/codes"

	"github.com/imgd/imgd"
)

// maxMessage bounds an error's text without the output, in bytes: BuildKit
// repeats the whole command in it.
const maxMessage = 2 << 10

// killed is the exit code of a process that got SIGKILL, most often from the
// kernel when memory runs out.
const killed = 137

// passing are the texts of errors that another try may not meet again. BuildKit
// v0.33.1, which they are of, does not tell the status of a registry, or what
// failed in its graph, by type.
var passing = regexp.MustCompile(`unexpected status.*: (408|429|5\d\d)\b|toomanyrequests|i/o timeout|TLS handshake timeout|` +
	`connection re(fused|set)|broken pipe|no such host|server misbehaving|name resolution|network is unreachable|no route to host|` +
	`unexpected EOF|: EOF$|context (deadline exceeded|canceled)|failed to fetch (oauth|anonymous) token|no active session|` +
	`inconsistent graph state|scheduler error|blob sha256:\S+ not found|no space left on device|[Cc]ould not resolve host`)

// dockerfileFaults are the texts of BuildKit v0.33.1's errors that come from the
// repository but name no line.
var dockerfileFaults = regexp.MustCompile(`dockerfile parse error|failed to read dockerfile: open \S+: (no such file|not a directory|is a directory|not a regular file)|` +
	`target stage .* could not be found|(file with no instructions|cannot be empty)|no build stage in current context|(security\.insecure|network\.host|device \S+) is not allowed`)

// noise is what BuildKit puts before the words that help.
var noise = regexp.MustCompile(`failed to (compute cache key: failed to )?calculate checksum of ref \S+: `)

// passingCodes are those of errors that are buildkitd's and not the build's.
func passingCode(code codes.Code) bool {
	return slices.Contains([]codes.Code{
		codes.Unavailable, codes.Canceled, codes.DeadlineExceeded, codes.Internal, codes.ResourceExhausted,
	}, code)
}

// outcome is how a build that did not succeed ended.
type outcome struct {
	asker, build error        // of the caller's context, and of the build's
	answers      func() error // says whether buildkitd is there; asked when time is up
	limit        time.Duration
	file         string // Dockerfile, seen from the repository's root
}

// explain tells apart who is at fault: the caller who gave up, the Dockerfile,
// for which it is an *imgd.BuildError, or anything else, which may go away. It
// keeps BuildKit's text alone: that its own context was cancelled must not be
// taken for the caller's.
func (f *follower) explain(err error, o outcome) error {
	if o.asker != nil {
		return fmt.Errorf("build: %w", o.asker)
	}
	if o.build != nil {
		if err := o.answers(); err != nil { // it was not the Dockerfile that took so long
			return fmt.Errorf("build: buildkitd does not answer: %w", err)
		}
		return &imgd.BuildError{Message: fmt.Sprintf("timed out after %s (timeout of the project)", short(o.limit))}
	}
	text := noise.ReplaceAllString(strings.TrimPrefix(f.hidden.Replace(err.Error()), "failed to solve: "), "")
	if len(text) > maxMessage {
		text = strings.ToValidUTF8(text[:maxMessage], "") + " …"
	}
	if !f.isFault(err, text) {
		return fmt.Errorf("build: %s", text)
	}
	return f.buildError(err, text, o.file)
}

// isFault reports whether another try would fail as this one did.
func (f *follower) isFault(err error, text string) bool {
	if passingCode(grpcerrors.Code(err)) {
		return false
	}
	var exit *gateway.ExitError
	if errors.As(err, &exit) || dockerfileFaults.MatchString(text) {
		return true
	}
	return len(errdefs.Sources(err)) > 0 && !passing.MatchString(text)
}

func (f *follower) buildError(err error, text, file string) *imgd.BuildError {
	failure := &imgd.BuildError{Message: text, File: file}
	for _, source := range errdefs.Sources(err) {
		if source.Info == nil || len(source.Ranges) == 0 {
			continue
		}
		failure.File, failure.Line = source.Info.Filename, int(source.Ranges[0].Start.Line)
		break
	}
	var exit *gateway.ExitError
	if !errors.As(err, &exit) {
		return failure
	}
	failure.ExitCode = int(exit.ExitCode)
	failure.Message = fmt.Sprintf("the command failed with exit code %d", failure.ExitCode)
	if failure.ExitCode == killed {
		failure.Message += " (killed, perhaps because memory ran out)"
	}
	step := f.step(err)
	if name := f.names[step]; name != "" {
		failure.Message += ": " + name
	}
	if tail := f.tail(step); tail != "" {
		failure.Message += "\n" + tail
	}
	return failure
}

// step is the one that failed.
func (f *follower) step(err error) digest.Digest {
	var vertex *errdefs.VertexError
	if errors.As(err, &vertex) {
		return digest.Digest(vertex.Digest)
	}
	return f.failed
}

// short is d without the zeros of its String: 30m, not 30m0s.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
