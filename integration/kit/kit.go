// Package kit holds the real parts that the integration tests and the demo put around the unmodified binaries: a git
// server, base images made from the local machine, the daemon as a child process, a throwaway containerd that runs an
// image by digest, gates that hold what imgd says to its registry and to NATS, and readers for what imgd leaves behind. It
// knows imgd by its command line, files and network formats only, and imports none of its packages.
package kit

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// Bin is the path of a binary that `make build` or `make tools` made. They are in $IMGD_BIN, by default bin/ of the
// checkout that this package was compiled from.
func Bin(name string) (string, error) {
	dir := os.Getenv("IMGD_BIN")
	if dir == "" {
		_, file, _, _ := runtime.Caller(0)
		dir = filepath.Join(filepath.Dir(file), "..", "..", "bin")
	}
	path, err := filepath.Abs(filepath.Join(dir, name))
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("%w: run `make build tools test-deps`", err)
	}
	return path, nil
}

// output runs a command and returns what it printed on stdout, without the last newline. What it printed on stderr
// is in the error.
func output(cmd *exec.Cmd) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, stderr.String())
	}
	return strings.TrimSuffix(stdout.String(), "\n"), nil
}

// poll asks until ok answers nil, ctx ends or died is closed. The error then is the last one that ok gave.
func poll(ctx context.Context, died <-chan struct{}, ok func(context.Context) error) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var err error
	for {
		now := ok(ctx)
		if now == nil {
			return nil
		}
		if err == nil || ctx.Err() == nil { // else it says only that time was up
			err = now
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w; last: %w", context.Cause(ctx), err)
		case <-died:
			return fmt.Errorf("the process ended; last: %w", err)
		case <-tick.C:
		}
	}
}

// Wait asks until ok answers nil, or ctx ends; the error then has the last one that ok gave.
func Wait(ctx context.Context, ok func(context.Context) error) error { return poll(ctx, nil, ok) }
