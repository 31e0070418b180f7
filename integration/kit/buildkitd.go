package kit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Buildkitd is one of its own, as an operator would run it beside imgd. It can be killed, and started again.
type Buildkitd struct {
	// Addr is its address as buildctl and imgd's config take it; TCP is a second one, host:port. Both stay.
	Addr string
	TCP  string

	run, root string
	child     *child
}

// StartBuildkitd starts one that takes base images of docker.io from the registry at host:port (plain HTTP). It needs
// root and runc. It sits in a PID namespace of its own, so that its containers end with it.
func StartBuildkitd(ctx context.Context, mirror string) (*Buildkitd, error) {
	b := &Buildkitd{}
	var err error
	if b.run, b.root, err = runDirs(); err != nil {
		return nil, err
	}
	b.Addr = "unix://" + filepath.Join(b.run, "b.sock")
	if b.TCP, err = OwnPort(); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	config := fmt.Sprintf("[registry.%q]\n  mirrors = [%q]\n[registry.%q]\n  http = true\n", "docker.io", mirror, mirror)
	if err := os.WriteFile(b.config(), []byte(config), 0o600); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	if err := b.Start(ctx); err != nil {
		return nil, fmt.Errorf("start buildkitd: %w", errors.Join(err, b.Close()))
	}
	return b, nil
}

func (b *Buildkitd) config() string { return filepath.Join(b.run, "config.toml") }

// Start starts it again after Kill9, over what that left.
func (b *Buildkitd) Start(ctx context.Context) error {
	binary, err := Bin("buildkitd")
	if err != nil {
		return err
	}
	logFile := filepath.Join(b.run, "log")
	log, err := os.OpenFile(logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close() // the child has its own
	cmd := exec.Command("unshare", "--pid", "--fork", "--kill-child", "--mount-proc",
		binary, "--config", b.config(), "--root", b.root, "--addr", b.Addr, "--addr", "tcp://"+b.TCP, "--containerd-worker=false", "--oci-worker-net=host",
		"--otel-socket-path", filepath.Join(b.run, "otel.sock")) // or all that start at once want the same
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin") // runc is in sbin
	if b.child, err = startChild(cmd); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, errors.New("buildkitd does not answer in time"))
	defer cancel()
	err = poll(ctx, b.child.done, func(ctx context.Context) error {
		_, err := b.Buildctl(ctx, "debug", "workers")
		return err
	})
	if err != nil {
		text, _ := os.ReadFile(logFile)
		return fmt.Errorf("%w\n%s", err, text)
	}
	return nil
}

// Kill9 kills buildkitd, and with it all its containers, and waits until they are gone.
func (b *Buildkitd) Kill9() {
	for _, pid := range childrenOf(b.child.process.Pid) { // unshare waits for it and ends then
		_ = syscall.Kill(pid, syscall.SIGKILL) // an error says that it has ended
	}
	<-b.child.done
}

// Buildctl runs buildctl against this buildkitd and returns its stdout.
func (b *Buildkitd) Buildctl(ctx context.Context, args ...string) (string, error) {
	return Buildctl(ctx, b.Addr, args...)
}

// Buildctl runs buildctl against the buildkitd at an address and returns its stdout.
func Buildctl(ctx context.Context, addr string, args ...string) (string, error) {
	binary, err := Bin("buildctl")
	if err != nil {
		return "", err
	}
	return output(exec.CommandContext(ctx, binary, append([]string{"--addr", addr}, args...)...))
}

// Close stops buildkitd and removes its files.
func (b *Buildkitd) Close() error {
	if b.child != nil {
		ctx, cancel := context.WithTimeout(context.Background(), runCleanup)
		defer cancel()
		// unshare ignores SIGTERM and ends with its child.
		for _, pid := range childrenOf(b.child.process.Pid) {
			_ = syscall.Kill(pid, syscall.SIGTERM) // an error says that it has ended
		}
		// Signal 0 only waits. buildkitd's exit code after SIGTERM says nothing.
		_ = b.child.stop(ctx, syscall.Signal(0))
	}
	return removeDirs(b.run, b.root)
}

func childrenOf(pid int) []int {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid)) // gone: none
	var pids []int
	for _, field := range strings.Fields(string(text)) {
		if pid, err := strconv.Atoi(field); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}
