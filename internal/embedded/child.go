package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// minDelay to maxDelay is the pause before buildkitd is started again; it
	// doubles with each death, and starts over after a life of steadyTime.
	minDelay   = 250 * time.Millisecond
	maxDelay   = 30 * time.Second
	steadyTime = time.Minute
	// killTime is how long a process may take to die of SIGKILL. Longer means
	// that the kernel waits for a disk, and so would we.
	killTime = 10 * time.Second
)

// supervise keeps buildkitd running until life is done.
func (b *Buildkitd) supervise(life context.Context) {
	defer close(b.stopped)
	for delay := minDelay; ; delay = min(2*delay, maxDelay) {
		began := time.Now()
		err := b.runOnce(life)
		if life.Err() != nil {
			return
		}
		if time.Since(began) > steadyTime {
			delay = minDelay
		}
		select {
		case b.deaths <- err:
		default:
		}
		b.log.Warn("buildkitd ended, starting it again", "after", delay, "error", err)
		select {
		case <-life.Done():
			return
		case <-time.After(delay):
		}
		b.starts.Add(1)
	}
}

// runOnce runs one buildkitd to its end, and kills it when it hangs. When life
// is done it asks it to end, and when b.kill is closed it kills it.
func (b *Buildkitd) runOnce(life context.Context) error {
	if err := b.site.prepare(life, b.log); err != nil {
		return err
	}
	c, err := b.site.startChild()
	if err != nil {
		return err
	}
	watching, stop := context.WithCancel(life)
	hung := make(chan error, 1)
	var watch sync.WaitGroup
	watch.Go(func() {
		if err := b.hangs(watching); err != nil {
			hung <- err
		}
	})
	defer watch.Wait()
	defer stop()
	select {
	case <-c.done:
		return c.err
	case err := <-hung:
		b.end(c)
		return fmt.Errorf("killed, as it does not answer: %w", err)
	case <-life.Done():
	}
	if err := c.signal(syscall.SIGTERM); err != nil {
		b.log.Debug("buildkitd was not asked to end", "error", err)
	}
	select {
	case <-c.done:
	case <-b.kill:
		b.end(c)
	}
	return nil
}

// end kills buildkitd and waits until it is gone.
func (b *Buildkitd) end(c *child) {
	if err := c.signal(syscall.SIGKILL); err != nil {
		_ = c.cmd.Process.Kill() // unshare itself; an error means that it has ended
	}
	select {
	case <-c.done:
	case <-time.After(killTime):
		b.log.Error("buildkitd does not die", "pid", c.cmd.Process.Pid)
	}
}

// hangs returns when hungProbes in a row have failed, and why the last did; nil
// when ctx is done. It counts probes, as time also passes while this process
// itself is stopped or starved.
func (b *Buildkitd) hangs(ctx context.Context) error {
	tick := time.NewTicker(b.every)
	defer tick.Stop()
	var err error
	for failed := 0; failed < hungProbes; {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err = b.ask(ctx, b.every); err == nil {
			failed = 0
		} else {
			failed++
		}
	}
	return err
}

// child is unshare with buildkitd as its only child.
type child struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when unshare, and so everything under it, has ended
	err  error         // why; to be read after done
}

// startChild starts buildkitd as first process of a PID namespace: the kernel
// ends all the others of it, the containers included, before it ends. Mounts
// are made in a mount namespace of their own, and end with it too. Each link
// dies with the one before: unshare by Pdeathsig, buildkitd by --kill-child.
// It gets a session of its own, so that a Ctrl-C in a terminal is imgd's alone.
func (s site) startChild() (*child, error) {
	log, err := os.OpenFile(s.logFile(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	defer log.Close()
	cmd := exec.Command("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--",
		s.binary, "--config", s.config(), "--root", s.root(), "--addr", s.address())
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = "/", s.environment(os.Environ()), log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setsid: true}
	c := &child{cmd: cmd, done: make(chan struct{})}
	started := make(chan error, 1)
	go c.run(started) // ends with the child, which runOnce waits for
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start: %w", err)
	}
	return c, nil
}

// run starts the command and waits for it on a thread of its own: Pdeathsig is
// sent when the thread that forked ends, not the process.
func (c *child) run(started chan<- error) {
	runtime.LockOSThread() // for good: the thread ends with this function
	defer close(c.done)
	err := c.cmd.Start()
	started <- err
	if err != nil {
		return
	}
	if c.err = c.cmd.Wait(); c.err == nil {
		c.err = errors.New("ended by itself")
	}
}

// environment is imgd's own, for proxies, certificates and OTEL. buildkitd must
// not tell systemd in our name that it stops, and our settings may hold secrets.
// Its temporary files are where the next start finds them, and its git may be a
// wrapper. It sends its traces where imgd sends its own, under its own name and
// by the same protocol, whose default is another there; an exporter that it does
// not know must not keep it from starting.
func (s site) environment(own []string) []string {
	kept := slices.DeleteFunc(slices.Clone(own), func(pair string) bool {
		return slices.ContainsFunc([]string{"NOTIFY_SOCKET=", "IMGD_", "WATCHDOG_", "TMPDIR=", "PATH=", "OTEL_SERVICE_NAME="},
			func(prefix string) bool { return strings.HasPrefix(pair, prefix) })
	})
	added := []string{"TMPDIR=" + s.temp(), "PATH=" + s.bin() + ":" + os.Getenv("PATH"), "OTEL_IGNORE_ERROR=1"}
	const protocol = "OTEL_EXPORTER_OTLP_PROTOCOL="
	if !slices.ContainsFunc(kept, func(pair string) bool { return strings.HasPrefix(pair, protocol) && pair != protocol }) {
		added = append(added, protocol+"http/protobuf")
	}
	return append(kept, added...)
}

// signal signals buildkitd itself, as unshare ignores SIGTERM. The process is
// held by a pidfd and looked up again, so that it cannot be another one that
// got its number.
func (c *child) signal(sig syscall.Signal) error {
	pid, err := c.inner()
	if err != nil {
		return err
	}
	process, err := os.FindProcess(pid)
	if err != nil {
		return fmt.Errorf("find buildkitd: %w", err)
	}
	defer func() { _ = process.Release() }() // only frees the pidfd
	if again, err := c.inner(); err != nil || again != pid {
		return fmt.Errorf("find buildkitd: %w", errors.Join(os.ErrProcessDone, err))
	}
	if err := process.Signal(sig); err != nil {
		return fmt.Errorf("signal buildkitd: %w", err)
	}
	return nil
}

// inner is the PID of unshare's child.
func (c *child) inner() (int, error) {
	unshare := c.cmd.Process.Pid
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", unshare, unshare))
	if err != nil {
		return 0, fmt.Errorf("find buildkitd: %w", err)
	}
	var pid int
	if _, err := fmt.Sscan(string(text), &pid); err != nil {
		return 0, fmt.Errorf("find buildkitd: unshare %d has no child: %w", unshare, err)
	}
	return pid, nil
}

// prepare waits for a buildkitd of a killed imgd to be gone, cleans up after
// it, and makes the directories for the next.
func (s site) prepare(ctx context.Context, log *slog.Logger) error {
	if err := s.waitReleased(ctx); err != nil {
		return err
	}
	if err := s.clean(ctx, log); err != nil {
		return err
	}
	if err := s.setLogAside(); err != nil { // each life of one that cannot start adds to it
		return err
	}
	for _, dir := range []string{s.root(), s.temp(), s.run(), s.runcRoot()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make directory: %w", err)
		}
	}
	return nil
}
