package embedded_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/imgd/imgd/internal/embedded"
)

func TestBuildkitdBuildsAndLeavesNothing(t *testing.T) {
	needBuildkit(t)
	dir, source := t.TempDir(), t.TempDir()
	b := startBuildkitd(t, dir, quiet())
	if err := writeContext(source, "0"); err != nil {
		t.Fatal(err)
	}
	if out, err := build(within(t), b.Address(), source).CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	if _, err := embedded.StartBuildkitd(within(t), config(dir, quiet())); err == nil ||
		!strings.Contains(err.Error(), fmt.Sprintf("in use by process %d", os.Getpid())) {
		t.Errorf("second start: got %v, want it to name the holder of the lock", err)
	}
	closeBuildkitd(t, b)
	if err := leftovers(t, dir, runDir(b)); err != nil {
		t.Error(err)
	}
}

// TestBuildkitdAsksTheMirror builds from an image that docker.io does not have.
func TestBuildkitdAsksTheMirror(t *testing.T) {
	needBuildkit(t)
	r := startRegistry(t, t.TempDir(), quiet())
	pushImage(t, "http://"+r.Address()+"/v2/library/imgd-embedded-test", "v1")
	cfg := config(t.TempDir(), quiet())
	cfg.Mirrors = map[string][]string{"docker.io": {r.Address()}}
	cfg.HTTPRegistries = []string{r.Address()}
	b, err := embedded.StartBuildkitd(within(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeBuildkitd(t, b) })
	source := t.TempDir()
	dockerfile := []byte("FROM imgd-embedded-test:v1\nCOPY Dockerfile /\n")
	if err := os.WriteFile(filepath.Join(source, "Dockerfile"), dockerfile, 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := build(within(t), b.Address(), source).CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
}

func TestBuildkitdComesBack(t *testing.T) {
	needBuildkit(t)
	dir := t.TempDir()
	var log lockedBuffer
	b := startBuildkitd(t, dir, slog.New(slog.NewTextHandler(&log, nil)))
	for range 2 {
		before := daemon(t, dir)
		if err := os.Truncate(filepath.Join(dir, "buildkitd.log"), 17<<20); err != nil { // it has become long
			t.Fatal(err)
		}
		if err := syscall.Kill(before, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, func() error { return workers(within(t), b.Address()) })
		if after := daemon(t, dir); after == before {
			t.Errorf("still PID %d", after)
		}
	}
	if got, want := strings.Count(log.String(), "buildkitd ended, starting it again"), 2; got != want || b.Restarts() != 2 {
		t.Errorf("restarts: got %d in the log and %d counted, want %d: %s", got, b.Restarts(), want, log.String())
	}
	if info, err := os.Stat(filepath.Join(dir, "buildkitd.log")); err != nil || info.Size() > 1<<20 {
		t.Errorf("buildkitd's log: got %v, %v, want a new one", info.Size(), err)
	}
}

func TestBuildkitdThatHangsIsKilled(t *testing.T) {
	needBuildkit(t)
	dir := t.TempDir()
	var log lockedBuffer
	var victim atomic.Int64
	b := startWatched(t, dir, &log, func() error {
		if pid := int(victim.Load()); stopped(pid) {
			return fmt.Errorf("%d is stopped", pid)
		}
		return nil
	})
	before := daemon(t, dir)
	victim.Store(int64(before))
	if err := syscall.Kill(before, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if stopped(before) {
			return fmt.Errorf("%d still hangs", before)
		}
		return workers(within(t), b.Address())
	})
	if want := fmt.Sprintf("killed, as it does not answer: %d is stopped", before); !strings.Contains(log.String(), want) {
		t.Errorf("the log does not say %q: %s", want, log.String())
	}
}

// A buildkitd that does not answer for a while is left alone, again and again.
func TestBuildkitdIsGivenTime(t *testing.T) {
	needBuildkit(t)
	const patience = 12 // probes
	dir := t.TempDir()
	var log lockedBuffer
	var started atomic.Bool
	var asked atomic.Int64
	startWatched(t, dir, &log, func() error {
		if started.Load() && asked.Add(1)%patience != 0 {
			return errors.New("busy")
		}
		return nil
	})
	started.Store(true)
	before := daemon(t, dir)
	eventually(t, func() error {
		if n := asked.Load(); n < 3*patience {
			return fmt.Errorf("asked %d times", n)
		}
		return nil
	})
	if after := daemon(t, dir); after != before || log.String() != "" {
		t.Errorf("got PID %d, want %d; log: %s", after, before, log.String())
	}
}

// startWatched starts a buildkitd that is asked often, when it is up, by probe.
func startWatched(t *testing.T, dir string, log *lockedBuffer, probe func() error) *embedded.Buildkitd {
	t.Helper()
	cfg := config(dir, slog.New(slog.NewTextHandler(log, nil)))
	cfg.Watch = 50 * time.Millisecond
	var up sync.Once
	cfg.Probe = func(_ context.Context, addr string) error {
		up.Do(func() { eventually(t, func() error { return workers(within(t), addr) }) })
		return probe()
	}
	b, err := embedded.StartBuildkitd(within(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeBuildkitd(t, b) })
	return b
}

// stopped reports whether the process stands still.
func stopped(pid int) bool {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)) // it may have ended
	return strings.Contains(string(status), "\nState:\tT")
}

func TestBuildkitdCloseCutsBuilds(t *testing.T) {
	needBuildkit(t)
	dir, source, nap := t.TempDir(), t.TempDir(), naps(t)
	b := startBuildkitd(t, dir, quiet())
	if err := writeContext(source, nap); err != nil {
		t.Fatal(err)
	}
	cmd := build(within(t), b.Address(), source)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error { return running(t, "/busybox sleep "+nap) })
	ctx, cancel := context.WithTimeout(within(t), 100*time.Millisecond)
	defer cancel()
	if err := b.Close(ctx); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("the build ended well")
	}
	if found := processes(t, "/busybox sleep "+nap); len(found) > 0 {
		t.Errorf("processes: %v", found)
	}
	if err := leftovers(t, dir, runDir(b)); err != nil {
		t.Error(err)
	}
}

func TestBuildkitdTellsWhyItDoesNotStart(t *testing.T) {
	needBuildkit(t)
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "root"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(t.TempDir(), "buildkitd")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho the disk is on fire >&2; exit 3\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		change func(*embedded.BuildkitdConfig)
		want   []string
	}{
		"no binary": {func(c *embedded.BuildkitdConfig) { c.Binary = "/none/buildkitd" }, []string{"/none/buildkitd"}},
		"no runc":   {func(c *embedded.BuildkitdConfig) { c.Runc = "/none/runc" }, []string{"/none/runc"}},
		"root is a file": {func(c *embedded.BuildkitdConfig) { c.Dir = full },
			[]string{"died 3 times", "not a directory"}},
		"dies": {func(c *embedded.BuildkitdConfig) { c.Binary = script },
			[]string{"died 3 times", "exit status 3", "the disk is on fire", "buildkitd.log"}},
		"bad registry": {func(c *embedded.BuildkitdConfig) { c.HTTPRegistries = []string{"a\"]\n[x"} },
			[]string{"is not a registry"}},
		"bad mirror": {func(c *embedded.BuildkitdConfig) { c.Mirrors = map[string][]string{"docker.io": {`"`}} },
			[]string{"is not a registry"}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config(t.TempDir(), quiet())
			tc.change(&cfg)
			_, err := embedded.StartBuildkitd(within(t), cfg)
			if err == nil {
				t.Fatal("got no error")
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %q, want it to contain %q", err, want)
				}
			}
			if err := leftovers(t, cfg.Dir, ""); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestBuildkitdStartEndsWithContext(t *testing.T) {
	needBuildkit(t)
	cfg := config(t.TempDir(), quiet())
	ctx, cancel := context.WithCancel(within(t))
	cfg.Probe = func(context.Context, string) error { cancel(); return errors.New("never") }
	if _, err := embedded.StartBuildkitd(ctx, cfg); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	if err := leftovers(t, cfg.Dir, ""); err != nil {
		t.Error(err)
	}
}

// runDoomed is a process of its own: an imgd, to be killed while it builds.
func runDoomed(dir string) {
	b, err := embedded.StartBuildkitd(context.Background(), config(filepath.Join(dir, "bk"), quiet()))
	if err != nil {
		fmt.Fprintln(os.Stdout, "error", err)
		return
	}
	fmt.Fprintln(os.Stdout, "ready", runDir(b))
	cmd := build(context.Background(), b.Address(), filepath.Join(dir, "source"))
	out, err := cmd.CombinedOutput()
	fmt.Fprintln(os.Stdout, "error: the build ended", err, string(out))
}

func running(t *testing.T, text string) error {
	t.Helper()
	if len(processes(t, text)) == 0 {
		return fmt.Errorf("no process %q", text)
	}
	return nil
}

// startDoomed starts runDoomed, waits for its build to sleep, and returns how
// to kill it and where its socket is.
func startDoomed(t *testing.T, dir, nap string) (kill func(), run string) {
	t.Helper()
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "source"), 0o700), writeContext(filepath.Join(dir, "source"), nap)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "EMBEDDED_TEST_DOOMED="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	t.Cleanup(kill)
	lines := bufio.NewScanner(out)
	lines.Scan()
	run, ok := strings.CutPrefix(lines.Text(), "ready ")
	if !ok {
		t.Fatalf("helper: %s", lines.Text())
	}
	eventually(t, func() error { return running(t, "/busybox sleep "+nap) })
	return kill, run
}

func TestBuildkitdDiesWithItsKilledParent(t *testing.T) {
	needBuildkit(t)
	dir, nap := t.TempDir(), naps(t)
	kill, run := startDoomed(t, dir, nap)
	bk := filepath.Join(dir, "bk")
	containers, err := os.ReadDir(filepath.Join(run, "runc"))
	if err != nil || len(containers) == 0 {
		t.Fatalf("runc's state: got %v, %v, want a container", containers, err)
	}

	if left, err := filepath.Glob(filepath.Join(bk, "root/runc-*/executor/*")); err != nil || len(left) == 0 {
		t.Fatalf("bundles: got %v, %v, want one", left, err)
	}
	began := time.Now()
	kill()
	eventually(t, func() error {
		if found := processes(t, "/busybox sleep "+nap); len(found) > 0 {
			return fmt.Errorf("processes: %v", found)
		}
		return leftovers(t, dir, "")
	})
	t.Logf("all gone after %v", time.Since(began))

	stale := filepath.Join(bk, "root", "stale mount")
	if err := errors.Join(os.Mkdir(stale, 0o700), syscall.Mount("tmpfs", stale, "tmpfs", 0, "")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(stale, syscall.MNT_DETACH) }) // fails, if all is well
	b := startBuildkitd(t, bk, quiet())
	if got, want := runDir(b), run; got != want {
		t.Errorf("directory: got %s, want %s", got, want)
	}
	if left, err := os.ReadDir(filepath.Join(run, "runc")); err != nil || len(left) > 0 {
		t.Errorf("runc's state after the next start: got %v, %v, want none", left, err)
	}
	if left, err := filepath.Glob(filepath.Join(bk, "root/runc-*/executor/*")); err != nil || len(left) > 0 {
		t.Errorf("bundles after the next start: got %v, %v, want none", left, err)
	}
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(mounts), dir) {
		t.Errorf("mounts after the next start: %v %s", err, mounts)
	}
	closeBuildkitd(t, b)
	if err := leftovers(t, bk, run); err != nil {
		t.Error(err)
	}
}

// TestBuildkitdBoundsItsCache: what is asked for holds, also where it is less
// than what buildkitd would keep however full the disk is.
func TestBuildkitdBoundsItsCache(t *testing.T) {
	needBuildkit(t)
	for most, want := range map[int]string{0: `maxUsedSpace = "60%"`, 100: `maxUsedSpace = "100MB"`} {
		dir := t.TempDir()
		cfg := config(dir, quiet())
		cfg.CacheMB = most
		b, err := embedded.StartBuildkitd(within(t), cfg)
		if err != nil {
			t.Fatal(err)
		}
		closeBuildkitd(t, b)
		text, err := os.ReadFile(filepath.Join(dir, "buildkitd.toml"))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Count(string(text), want) != 2 || most > 0 && strings.Count(string(text), `reservedSpace = "100MB"`) != 2 {
			t.Errorf("of %d MiB: got %s, want %s twice", most, text, want)
		}
	}
}
