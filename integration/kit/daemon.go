package kit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"
)

// startTimeout is how long imgd may take until it is ready: buildkitd and the registry come up in a second or two, on a
// machine that compiles beside it in several.
const startTimeout = time.Minute

// stopTimeout is how long RunDaemon's cleanup waits after SIGTERM.
const stopTimeout = 30 * time.Second

// Daemon is an unmodified imgd as a child process.
type Daemon struct {
	Endpoints
	// Dir holds what the daemon was given and made: data/, imgd.yaml and imgd.log.
	Dir string

	child  *child
	killed bool // by Kill9: then its exit is no failure
}

// Endpoints are where a running daemon's parts are found.
type Endpoints struct {
	HTTP     string `json:"http"`     // a URL, without a slash at the end
	NATS     string `json:"nats"`     // a URL
	Registry string `json:"registry"` // host:port
	BuildKit string `json:"buildkit"` // an address as buildctl takes it
}

// StartDaemon is LaunchDaemon, and waits until imgd is ready.
func StartDaemon(ctx context.Context, dir string, config Config, env ...string) (*Daemon, error) {
	d, err := LaunchDaemon(dir, config, env...)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, errors.New("imgd is not ready in time"))
	defer cancel()
	if err := d.WaitReady(ctx); err != nil {
		d.Kill9()
		return nil, fmt.Errorf("start imgd: %w\n%s", err, d.LogTail())
	}
	return d, nil
}

// WaitReady waits until imgd says that it is ready, and knows its Endpoints then.
func (d *Daemon) WaitReady(ctx context.Context) error { return poll(ctx, d.child.done, d.ready) }

// LaunchDaemon runs `imgd serve --data DIR/data --config DIR/imgd.yaml`. Called again with the directory of a daemon that
// has ended, it starts over what that one left. env is added to this process's environment.
func LaunchDaemon(dir string, config Config, env ...string) (*Daemon, error) {
	imgd, err := Bin("imgd")
	if err != nil {
		return nil, err
	}
	d := &Daemon{Dir: dir}
	if err := d.prepare(config); err != nil {
		return nil, err
	}
	log, err := os.OpenFile(d.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close() // the child has its own
	cmd := exec.Command(imgd, "serve", "--data", d.Data(), "--config", d.configFile())
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), env...)
	if d.child, err = startChild(cmd); err != nil {
		return nil, err
	}
	return d, nil
}

// RunDaemon is StartDaemon for a test: it ends the test when the daemon does not start, stops the daemon when the test
// is over and then shows its log if the test failed.
func RunDaemon(tb testing.TB, dir string, config Config, env ...string) *Daemon {
	tb.Helper()
	d, err := StartDaemon(tb.Context(), dir, config, env...)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
		defer cancel()
		if err := d.Terminate(ctx); err != nil && !d.killed {
			tb.Errorf("imgd: %v", err)
		}
		if tb.Failed() {
			tb.Logf("imgd's log:\n%s", d.LogTail())
		}
	})
	return d
}

// Data is the daemon's data directory.
func (d *Daemon) Data() string { return filepath.Join(d.Dir, "data") }

// Kill9 kills the imgd process alone, as the kernel does when memory runs out, and waits until it is gone. What becomes
// of its children is imgd's care. Not to be called while Terminate runs.
func (d *Daemon) Kill9() {
	d.killed = true
	_ = d.child.process.Kill() // an error says that it has ended
	<-d.child.done
}

// Killed reports whether Kill9 was called.
func (d *Daemon) Killed() bool { return d.killed }

// Terminate sends SIGTERM and waits for the end; the error is nil if imgd exited with 0. When ctx ends first, imgd is killed.
func (d *Daemon) Terminate(ctx context.Context) error {
	return d.child.stop(ctx, syscall.SIGTERM)
}

// stopTime is how long a busy machine may take to stop a process.
const stopTime = 30 * time.Second

// Stop makes the process stand still, as a machine that is out of breath or a virtual one that is moved, until Wake. It
// waits until every thread stands: the kernel lets them run until one of them has got its turn to take the signal.
func (d *Daemon) Stop() error {
	if err := d.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(context.Background(), stopTime, errors.New("SIGSTOP does not stop it in time"))
	defer cancel()
	return poll(ctx, d.child.done, d.stands)
}

// stands answers nil if all threads are in state T (proc_pid_stat(5)).
func (d *Daemon) stands(context.Context) error {
	tasks := fmt.Sprintf("/proc/%d/task", d.PID())
	threads, err := os.ReadDir(tasks)
	if err != nil {
		return err
	}
	for _, thread := range threads {
		stat, err := os.ReadFile(filepath.Join(tasks, thread.Name(), "stat"))
		if err != nil {
			return err // it has just ended, so that others may have begun
		}
		name := strings.LastIndex(string(stat), ") ") // which may hold anything
		if name < 0 || !strings.HasPrefix(string(stat)[name+2:], "T") {
			return fmt.Errorf("thread %s runs", thread.Name())
		}
	}
	return nil
}

// Wake lets it go on.
func (d *Daemon) Wake() error { return d.Signal(syscall.SIGCONT) }

// Signal sends a signal and does not wait.
func (d *Daemon) Signal(signal os.Signal) error { return d.child.process.Signal(signal) }

// Done is closed when the process has ended.
func (d *Daemon) Done() <-chan struct{} { return d.child.done }

// PID is the process ID of imgd.
func (d *Daemon) PID() int { return d.child.process.Pid }

// Log is all that the daemons started in this directory wrote so far.
func (d *Daemon) Log() string {
	log, err := os.ReadFile(d.logFile())
	if err != nil {
		return err.Error()
	}
	return string(log)
}

// LogTail is the last 200 lines of Log.
func (d *Daemon) LogTail() string {
	lines := strings.Split(d.Log(), "\n")
	return strings.Join(lines[max(0, len(lines)-200):], "\n")
}

// Imgctl runs imgctl against this daemon and returns its stdout. A non-zero exit is an *exec.ExitError in the error, whose
// text has stderr.
func (d *Daemon) Imgctl(ctx context.Context, args ...string) (string, error) {
	imgctl, err := Bin("imgctl")
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, imgctl, args...)
	cmd.Env = append(os.Environ(), "IMGD_DATA="+d.Data(), "IMGD_SERVER=")
	return output(cmd)
}

func (d *Daemon) configFile() string { return filepath.Join(d.Dir, "imgd.yaml") }

func (d *Daemon) logFile() string { return filepath.Join(d.Dir, "imgd.log") }

// prepare writes the config, and removes the endpoints of a daemon that was killed: their ports may be another's by now.
func (d *Daemon) prepare(config Config) error {
	if err := os.MkdirAll(d.Data(), 0o755); err != nil {
		return err
	}
	text, err := yaml.Marshal(config)
	if err != nil {
		return err
	}
	if err := os.WriteFile(d.configFile(), text, 0o644); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(d.Data(), "endpoints.json")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// ready reads the endpoints and asks /readyz.
func (d *Daemon) ready(ctx context.Context) error {
	endpoints, err := ReadEndpoints(d.Data())
	if err != nil {
		return err
	}
	if _, err := Get(ctx, endpoints.HTTP+"/readyz?verbose"); err != nil {
		return err
	}
	d.Endpoints = endpoints
	return nil
}

// ReadEndpoints reads endpoints.json in a data directory. The addresses there may have a scheme or none.
func ReadEndpoints(data string) (Endpoints, error) {
	text, err := os.ReadFile(filepath.Join(data, "endpoints.json"))
	if err != nil {
		return Endpoints{}, err
	}
	var e Endpoints
	if err := json.Unmarshal(text, &e); err != nil {
		return Endpoints{}, fmt.Errorf("endpoints.json: %w", err)
	}
	if !strings.Contains(e.HTTP, "://") {
		e.HTTP = "http://" + e.HTTP
	}
	if !strings.Contains(e.NATS, "://") {
		e.NATS = "nats://" + e.NATS
	}
	if u, err := url.Parse(e.Registry); err == nil && u.Host != "" {
		e.Registry = u.Host
	}
	return e, nil
}

// Get is the body of a URL that answers 200; any other answer is an error that has the body.
func Get(ctx context.Context, address string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("GET %s: %w", address, err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("GET %s: %s\n%s", address, resp.Status, body)
	}
	return body, nil
}
