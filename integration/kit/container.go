package kit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// ContainerConfig is what a Container gets, beyond what its image says.
type ContainerConfig struct {
	Env    []string          // KEY=value
	Mounts map[string]string // directory of this machine -> path in the container
}

// Container is a running one, in a throwaway containerd, on this machine's network. Its root file system is read-only, as
// a careful operator has it.
type Container struct {
	engine *containerd
	run    *child // ctr, which stays as long as the container's program does
	log    string
	execs  int
}

// StartContainer pulls repo@digest over plain HTTP and runs what the image says, until Close. repo is host:port/name. It needs root and runc.
func StartContainer(ctx context.Context, repo, digest string, config ContainerConfig) (*Container, error) {
	engine, err := startContainerd(ctx)
	if err != nil {
		return nil, fmt.Errorf("start containerd: %w", err)
	}
	c := &Container{engine: engine, log: engine.path("container.log")}
	if err := c.start(ctx, repo+"@"+digest, config); err != nil {
		return nil, fmt.Errorf("start container of %s: %w", repo, errors.Join(err, engine.close()))
	}
	return c, nil
}

func (c *Container) start(ctx context.Context, ref string, config ContainerConfig) error {
	if _, err := output(c.engine.ctr(ctx, "images", "pull", "--plain-http", ref)); err != nil {
		return err
	}
	args := []string{"run", "--rm", "--net-host", "--read-only"}
	for _, setting := range config.Env {
		args = append(args, "--env", setting)
	}
	for from, to := range config.Mounts {
		args = append(args, "--mount", "type=bind,src="+from+",dst="+to+",options=rbind:rw")
	}
	log, err := os.Create(c.log)
	if err != nil {
		return err
	}
	defer log.Close() // the child has its own
	// Not ctx: it bounds the start, the container outlives it.
	cmd := c.engine.ctr(context.Background(), append(args, ref, c.engine.id)...)
	cmd.Stdout, cmd.Stderr = log, log
	if c.run, err = startChild(cmd); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, errors.New("the container does not run in time"))
	defer cancel()
	if err := poll(ctx, c.run.done, func(ctx context.Context) error { _, err := c.pids(ctx); return err }); err != nil {
		return fmt.Errorf("%w\n%s", err, c.Log())
	}
	return nil
}

// pids are those of the container's processes, as this machine numbers them.
func (c *Container) pids(ctx context.Context) ([]int, error) {
	list, err := output(c.engine.ctr(ctx, "tasks", "ps", c.engine.id))
	if err != nil {
		return nil, err
	}
	var pids []int
	for line := range strings.Lines(list) {
		if pid, err := strconv.Atoi(strings.Fields(line + " -")[0]); err == nil { // not the heading
			pids = append(pids, pid)
		}
	}
	if len(pids) == 0 {
		return nil, errors.New("it has no process")
	}
	return pids, nil
}

// UIDs are the effective user IDs of the container's processes, as the kernel has them.
func (c *Container) UIDs(ctx context.Context) ([]int, error) {
	pids, err := c.pids(ctx)
	if err != nil {
		return nil, err
	}
	var uids []int
	for _, pid := range pids {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if errors.Is(err, os.ErrNotExist) { // it has ended meanwhile
			continue
		}
		if err != nil {
			return nil, err
		}
		_, rest, _ := strings.Cut(string(status), "\nUid:")
		var real, effective int
		if _, err := fmt.Sscan(rest, &real, &effective); err != nil {
			return nil, fmt.Errorf("read Uid of %d: %w", pid, err)
		}
		uids = append(uids, effective)
	}
	return uids, nil
}

// Exec runs a command in the container, as its user, and returns its stdout. An error has its stderr.
func (c *Container) Exec(ctx context.Context, args ...string) (string, error) {
	c.execs++
	exec := []string{"tasks", "exec", "--exec-id", fmt.Sprintf("exec-%d", c.execs), c.engine.id}
	return output(c.engine.ctr(ctx, append(exec, args...)...))
}

// Log is what the container has written so far, stdout and stderr.
func (c *Container) Log() string {
	text, err := os.ReadFile(c.log)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// Done is closed when the container has ended.
func (c *Container) Done() <-chan struct{} { return c.run.done }

// Terminate sends SIGTERM to the container's first process, as `docker stop` does, and waits for its end; the error is nil if
// it exited with 0. It is killed when ctx ends first. Nothing of the container is left then, but its Log stays readable
// until Close.
func (c *Container) Terminate(ctx context.Context) error {
	if _, err := output(c.engine.ctr(ctx, "tasks", "kill", "--signal", "SIGTERM", c.engine.id)); err != nil {
		return err
	}
	return c.run.stop(ctx, syscall.Signal(0)) // only waits
}

// Close ends what still runs and takes everything away.
func (c *Container) Close() error {
	err := c.engine.close()
	ctx, cancel := context.WithTimeout(context.Background(), runCleanup)
	defer cancel()
	_ = c.run.stop(ctx, syscall.SIGTERM) // ctr, which has nothing to wait for any more; how it ends says nothing
	return err
}
