package builder_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/builder"
	"github.com/imgd/imgd/internal/embedded"
)

// A buildkitd that hangs until time is up is not the Dockerfile's fault.
func TestBuildkitdHangs(t *testing.T) {
	t.Parallel()
	if world == nil {
		t.Skip("needs root and bin/buildkitd (make tools)")
	}
	dir := t.TempDir()
	bk, err := embedded.StartBuildkitd(t.Context(), embedded.BuildkitdConfig{
		Binary: "../bin/buildkitd", Dir: dir, Probe: builder.Probe, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	b := newBuilder(t, func(c *builder.Config) { c.Address = bk.Address() })
	r := newRepo(t, map[string]string{"Dockerfile": shell + "RUN echo started; sleep 60\n", "busybox": "busybox"})
	p, req := r.ask()
	p.Timeout = 5 * time.Second
	ended := make(chan error, 1)
	go func() {
		_, err := b.Build(t.Context(), p, req)
		ended <- err
	}()
	waitForLog(t, b, req.ID, "c3RhcnRlZA")
	stop(t, filepath.Join(dir, "buildkitd.toml"), syscall.SIGSTOP)
	var fault *imgd.BuildError
	if err := <-ended; err == nil || errors.As(err, &fault) || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("got %v, want a plain error that says so", err)
	}
	stop(t, filepath.Join(dir, "buildkitd.toml"), syscall.SIGCONT)
	expired, expire := context.WithCancel(t.Context())
	expire()
	if err := bk.Close(expired); err != nil {
		t.Error(err)
	}
}

// stop signals the processes that have text in their command line, the
// unshare around buildkitd left out.
func stop(t *testing.T, text string, signal syscall.Signal) {
	t.Helper()
	paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		line, _ := os.ReadFile(path) // it may have ended
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil || !strings.Contains(string(line), text) || strings.HasPrefix(string(line), "unshare") {
			continue
		}
		if err := syscall.Kill(pid, signal); err != nil {
			t.Error(err)
		}
	}
}

// A buildkitd that is killed takes its builds along; that is nobody's fault, and
// the same builder goes on with the next one.
func TestBuildkitdDies(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	start := func() *embedded.Buildkitd {
		t.Helper()
		bk, err := embedded.StartBuildkitd(t.Context(), embedded.BuildkitdConfig{
			Binary: "../bin/buildkitd", Dir: dir, Probe: builder.Probe, Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		return bk
	}
	expired, expire := context.WithCancel(t.Context())
	expire()
	if world == nil {
		t.Skip("needs root and bin/buildkitd (make tools)")
	}
	bk := start()
	b := newBuilder(t, func(c *builder.Config) { c.Address = bk.Address() })
	r := newRepo(t, map[string]string{"Dockerfile": shell + "RUN echo started; sleep 60\n", "busybox": "busybox"})
	p, req := r.ask()
	ended := make(chan error, 1)
	go func() {
		_, err := b.Build(t.Context(), p, req)
		ended <- err
	}()
	waitForLog(t, b, req.ID, "c3RhcnRlZA")
	if err := bk.Close(expired); err != nil {
		t.Error(err)
	}
	var fault *imgd.BuildError
	if err := <-ended; err == nil || errors.As(err, &fault) || errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want a plain error", err)
	}
	bk = start()
	r.write(map[string]string{"Dockerfile": "FROM scratch\nCOPY Dockerfile /\n"})
	p, req = r.ask()
	if _, err := b.Build(t.Context(), p, req); err != nil {
		t.Errorf("after the restart: %v", err)
	}
	if err := bk.Close(t.Context()); err != nil {
		t.Error(err)
	}
}
