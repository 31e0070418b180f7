package embedded_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/imgd/imgd/internal/embedded"
)

const (
	buildkitdPath = "../../bin/buildkitd"
	buildctlPath  = "../../bin/buildctl"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("NOT TESTED: this needs root, for namespaces and mounts")
	}
}

func needBuildkit(t *testing.T) {
	t.Helper()
	needRoot(t)
	for _, path := range []string{buildkitdPath, buildctlPath} {
		if _, err := os.Stat(path); err != nil {
			t.Fatalf("run make tools: %v", err)
		}
	}
	for _, name := range []string{"runc", "unshare", "busybox"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Fatalf("apt-get install runc util-linux busybox-static: %v", err)
		}
	}
}

func workers(ctx context.Context, addr string) error {
	out, err := exec.CommandContext(ctx, buildctlPath, "--addr", addr, "debug", "workers").CombinedOutput()
	if err == nil && !strings.Contains(string(out), "linux/amd64") {
		err = errors.New("no worker")
	}
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

func config(dir string, log *slog.Logger) embedded.BuildkitdConfig {
	return embedded.BuildkitdConfig{
		Binary: buildkitdPath, Dir: dir, Probe: workers, Log: log,
		Mirrors:        map[string][]string{"docker.io": {"127.0.0.1:5000"}},
		HTTPRegistries: []string{"127.0.0.1:5000", "registry.internal:5000"},
	}
}

func startBuildkitd(t *testing.T, dir string, log *slog.Logger) *embedded.Buildkitd {
	t.Helper()
	b, err := embedded.StartBuildkitd(within(t), config(dir, log))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeBuildkitd(t, b) })
	return b
}

func closeBuildkitd(t *testing.T, b *embedded.Buildkitd) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
	defer cancel()
	if err := b.Close(ctx); err != nil {
		t.Error(err)
	}
}

// processes lists the processes of this machine whose command line contains
// text, ourselves excepted, as PID -> command line.
func processes(t *testing.T, text string) map[int]string {
	t.Helper()
	paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	found := map[int]string{}
	for _, path := range paths {
		raw, _ := os.ReadFile(path) // it may have ended
		line := strings.ReplaceAll(string(raw), "\x00", " ")
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if strings.Contains(line, text) && pid != os.Getpid() {
			found[pid] = line
		}
	}
	return found
}

// daemon is the PID of the buildkitd (not of unshare) of dir.
func daemon(t *testing.T, dir string) int {
	t.Helper()
	for pid, line := range processes(t, dir) {
		if !strings.HasPrefix(line, "unshare") && strings.Contains(line, "--addr") {
			return pid
		}
	}
	t.Fatalf("no buildkitd of %s", dir)
	return 0
}

// runDir is where the socket is.
func runDir(b *embedded.Buildkitd) string {
	return filepath.Dir(strings.TrimPrefix(b.Address(), "unix://"))
}

// leftovers tells what there is outside dir of a buildkitd of dir.
func leftovers(t *testing.T, dir, run string) error {
	t.Helper()
	if found := processes(t, dir); len(found) > 0 {
		return fmt.Errorf("processes: %v", found)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), dir) {
		return fmt.Errorf("mounts: %s", mounts)
	}
	if run == "" {
		return nil
	}
	groups, _ := filepath.Glob("/sys/fs/cgroup/*/" + filepath.Base(run))
	more, _ := filepath.Glob("/sys/fs/cgroup/" + filepath.Base(run))
	if groups = append(groups, more...); len(groups) > 0 {
		return fmt.Errorf("cgroups: %v", groups)
	}
	if _, err := os.Stat(run); err == nil {
		return fmt.Errorf("directory: %s", run)
	}
	return nil
}

// writeContext makes a build context whose build sleeps for seconds.
func writeContext(dir, seconds string) error {
	path, err := exec.LookPath("busybox")
	if err != nil {
		return err
	}
	busybox, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	dockerfile := "FROM scratch\nCOPY busybox /busybox\nRUN [\"/busybox\",\"sleep\",\"" + seconds + "\"]\n"
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "busybox"), busybox, 0o755),
		os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(dockerfile), 0o644))
}

// build is a build of the context in dir. It dies with the test.
func build(ctx context.Context, addr, dir string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, buildctlPath, "--addr", addr, "build", "--progress=plain",
		"--frontend=dockerfile.v0", "--local=context="+dir, "--local=dockerfile="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// naps is a number of seconds that no other process sleeps for.
func naps(t *testing.T) string {
	t.Helper()
	return fmt.Sprintf("%d.%d", 1000+os.Getpid(), time.Now().UnixNano()%1e9)
}
