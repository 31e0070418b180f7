package kit

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
)

// child is a process that cannot outlive this one: the kernel kills it when the thread that started it ends, and that
// thread is kept until the child is gone.
type child struct {
	process *os.Process
	// done is closed when the process was waited for; err is valid from then on.
	done chan struct{}
	err  error
}

func startChild(cmd *exec.Cmd) (*child, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	c := &child{done: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		c.process = cmd.Process
		started <- err
		if err != nil {
			return
		}
		c.err = cmd.Wait()
		close(c.done)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return c, nil
}

// stop sends the signal and waits for the end of the process; when ctx ends before it, the process is killed.
func (c *child) stop(ctx context.Context, signal os.Signal) error {
	select {
	case <-c.done:
		return c.err
	default:
	}
	// An error says that it ended in between, which the wait below sees too.
	_ = c.process.Signal(signal)
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
		_ = c.process.Kill()
		<-c.done
		return fmt.Errorf("killed, as it did not stop on %v: %w", signal, context.Cause(ctx))
	}
}
