package kit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// runCleanup is how long the end of a container and of its containerd may take.
const runCleanup = 20 * time.Second

// RunByDigest pulls repo@digest over plain HTTP into a throwaway containerd, runs it with the args appended to its
// entrypoint's place (none: what the image says) and returns its stdout. repo is host:port/name. It needs root and runc.
// Nothing of it is left afterwards: no process, no mount, no file.
func RunByDigest(ctx context.Context, repo, digest string, args ...string) (stdout string, err error) {
	c, err := startContainerd(ctx)
	if err != nil {
		return "", fmt.Errorf("start containerd: %w", err)
	}
	defer func() { err = errors.Join(err, c.close()) }()
	ref := repo + "@" + digest
	if _, err := output(c.ctr(ctx, "images", "pull", "--plain-http", ref)); err != nil {
		return "", err
	}
	return output(c.ctr(ctx, append([]string{"run", "--rm", ref, c.id}, args...)...))
}

// containerd is a private one. Its sockets and state are in run, its images and containers in root.
type containerd struct {
	id, run, root string
	binary, ctl   string
	child         *child
}

func startContainerd(ctx context.Context) (*containerd, error) {
	c := &containerd{}
	var err error
	if c.binary, err = Bin("containerd"); err != nil {
		return nil, err
	}
	if c.ctl, err = Bin("ctr"); err != nil {
		return nil, err
	}
	if c.run, c.root, err = runDirs(); err != nil {
		return nil, err
	}
	c.id = filepath.Base(c.run)
	if err := c.start(ctx); err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

func (c *containerd) start(ctx context.Context) error {
	config := fmt.Sprintf("version = 3\nroot = %q\nstate = %q\ndisabled_plugins = [%q, %q, %q]\n[grpc]\n  address = %q\n[ttrpc]\n  address = %q\n",
		c.root, c.path("state"),
		"io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime",
		c.path("c.sock"), c.path("t.sock"))
	if err := os.WriteFile(c.path("config.toml"), []byte(config), 0o600); err != nil {
		return err
	}
	log, err := os.Create(c.path("log"))
	if err != nil {
		return err
	}
	defer log.Close() // the child has its own
	cmd := exec.Command(c.binary, "--config", c.path("config.toml"))
	cmd.Stdout, cmd.Stderr = log, log
	// It looks for its shim and for runc there; runc is in sbin.
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(c.binary)+":"+os.Getenv("PATH")+":/usr/sbin:/sbin")
	if c.child, err = startChild(cmd); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, errors.New("containerd does not answer in time"))
	defer cancel()
	err = poll(ctx, c.child.done, func(ctx context.Context) error {
		_, err := output(c.ctr(ctx, "version"))
		return err
	})
	if err != nil {
		text, _ := os.ReadFile(c.path("log"))
		return fmt.Errorf("%w\n%s", err, text)
	}
	return nil
}

func (c *containerd) path(name string) string { return filepath.Join(c.run, name) }

func (c *containerd) ctr(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, c.ctl, append([]string{"--address", c.path("c.sock"), "--namespace", c.id}, args...)...)
}

// close ends the task before containerd, as a shim outlives its containerd; then it takes away what an interrupted run
// may have left. It does not use the caller's context, which may be why the run ended.
func (c *containerd) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), runCleanup)
	defer cancel()
	var err error
	if c.child != nil {
		err = errors.Join(c.endTask(ctx), c.ended(c.child.stop(ctx, syscall.SIGTERM)))
	}
	return errors.Join(err, removeCgroups(c.id), removeDirs(c.run, c.root))
}

// removeCgroups removes the empty cgroups of that name, which runc leaves behind for the namespace, and those below.
func removeCgroups(name string) error {
	var errs []error
	for _, pattern := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		tops, _ := filepath.Glob(filepath.Join(pattern, name)) // errs on bad patterns only
		for _, top := range tops {
			below, _ := filepath.Glob(filepath.Join(top, name)) // the container's, which has the same name
			for _, group := range append(below, top) {
				errs = append(errs, os.Remove(group))
			}
		}
	}
	return errors.Join(errs...)
}

// endTask does nothing after a run that came to its end: `ctr run --rm` has removed the container then.
func (c *containerd) endTask(ctx context.Context) error {
	list, err := output(c.ctr(ctx, "containers", "list", "--quiet"))
	if err != nil || strings.TrimSpace(list) == "" {
		return err
	}
	// The task may not have been started, or have ended: what counts is that the container can be removed.
	_, _ = output(c.ctr(ctx, "tasks", "delete", "--force", c.id))
	_, err = output(c.ctr(ctx, "containers", "delete", c.id))
	return err
}

// ended takes the exit by our own signal for a good end.
func (c *containerd) ended(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() && status.Signal() == syscall.SIGTERM {
			return nil
		}
	}
	return err
}
