package integration_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/imgd/imgd/integration/check"
	"github.com/imgd/imgd/integration/kit"
)

const (
	// cleanTime is how long what imgd ran may live on after it: the kernel kills it at once, and takes a while to unmount.
	cleanTime = 15 * time.Second
	// atOnce is how long imgd may take to end when it is not to wait for a build.
	atOnce = 25 * time.Second
)

// A workshop is a site on the embedded stack with a build that runs for as long as the test wants.
type workshop struct {
	*site
	dir    string
	config kit.Config

	token   string        // in the command line of the build's process, and nowhere else
	arrived chan struct{} // one for each time the build has come to that process
	open    chan struct{} // closed: the process may end
	opening sync.Once
}

// newWorkshop starts imgd and asks for a build; when it returns, that runs inside its container.
func newWorkshop(t *testing.T, grace string) (w *workshop, request string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: the embedded buildkitd needs root")
	}
	w = &workshop{token: rand.Text(), dir: t.TempDir(), arrived: make(chan struct{}, 16), open: make(chan struct{})}
	server := httptest.NewServer(http.HandlerFunc(w.serve))
	t.Cleanup(server.Close)
	t.Cleanup(w.mayEnd) // before it, as Close waits for the answers
	w.site = bareSite(t, map[string]string{"Dockerfile": "FROM busybox\nARG VERSION\nRUN wget -q -O /answer " + server.URL + "/" + w.token + "\n"})
	w.must(w.repo.Tag(t.Context(), gitTag, "main"))
	w.config = w.site.config()
	w.config.Registry.Listen = freePort(t) // it is part of the repositories' names, and so has to stay
	w.config.Queue.Lease = lease
	w.config.Build.Grace = grace
	w.start()
	w.Cleanup(func() { // before imgd is stopped
		if !w.Failed() {
			w.mustEnd()
		}
	})
	w.must(kit.PushBaseImages(t.Context(), w.daemon.Registry))
	request = w.ask(gitTag)
	w.waitArrived()
	return w, request
}

func (w *workshop) serve(_ http.ResponseWriter, r *http.Request) {
	w.arrived <- struct{}{}
	select {
	case <-w.open:
	case <-r.Context().Done():
	}
}

func (w *workshop) mayEnd() { w.opening.Do(func() { close(w.open) }) }

func freePort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// start starts imgd over what an earlier one left. How that one ended is for the test to say, so only the last is
// stopped by the cleanup.
func (w *workshop) start() {
	w.Helper()
	d, err := kit.StartDaemon(w.Context(), w.dir, w.config)
	w.must(err)
	if w.daemon == nil {
		w.Cleanup(w.stop)
	}
	w.daemon = d
}

func (w *workshop) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), atOnce)
	defer cancel()
	_ = w.daemon.Terminate(ctx) // it may have ended badly, as the test wanted
	if w.Failed() {
		w.Logf("imgd's log:\n%s", w.daemon.LogTail())
	}
}

func (w *workshop) waitArrived() {
	w.Helper()
	select {
	case <-w.arrived:
	case <-w.daemon.Done():
		w.Fatal("imgd ended by itself")
	case <-time.After(buildTime):
		w.Fatal("the build does not come to its process")
	}
}

// run is the directory of what has to vanish with a reboot; it holds buildkitd's socket.
func (w *workshop) run() string {
	return filepath.Dir(strings.TrimPrefix(w.daemon.BuildKit, "unix://"))
}

// running is what of the daemon there is on this machine: processes, by imgd's directories and by the build's own command
// line; mounts, in any mount namespace; processes in containers, by their cgroup. (What runc says of a container counts for
// nothing here: it knows the process by its number in buildkitd's PID namespace.)
func (w *workshop) running() (processes, mounts, containers []string) {
	w.Helper()
	for _, mark := range []string{w.daemon.Data(), w.run(), w.token} {
		for _, left := range kit.Leftovers(mark) {
			if strings.HasPrefix(left, "mount ") {
				mounts = append(mounts, left)
			} else {
				processes = append(processes, left)
			}
		}
	}
	for _, dir := range mustGlob("/proc/[0-9]*") { // of what has ended meanwhile nothing can be read
		table, _ := os.ReadFile(filepath.Join(dir, "mountinfo"))
		if bytes.Contains(table, []byte(w.daemon.Data()+"/")) || bytes.Contains(table, []byte(w.run()+"/")) {
			mounts = append(mounts, "mount in the namespace of process "+filepath.Base(dir))
		}
		groups, _ := os.ReadFile(filepath.Join(dir, "cgroup"))
		if bytes.Contains(groups, []byte("/"+filepath.Base(w.run())+"/")) {
			containers = append(containers, "process "+filepath.Base(dir))
		}
	}
	return processes, mounts, containers
}

// containers are those that the daemon's runc has noted, running or not.
func (w *workshop) containers() []string { return mustGlob(filepath.Join(w.run(), "runc", "*")) }

func mustGlob(pattern string) []string {
	found, err := filepath.Glob(pattern)
	if err != nil {
		panic("unreachable: the patterns are good: " + err.Error())
	}
	return found
}

// mustRun sees that what mustBeClean looks for is there while the build runs.
func (w *workshop) mustRun() {
	w.Helper()
	processes, mounts, containers := w.running()
	if len(processes) < 3 || len(mounts) == 0 || len(containers) == 0 || len(w.containers()) == 0 {
		w.Fatalf("while it builds: processes %q, mounts %q, containers %q %q", processes, mounts, containers, w.containers())
	}
}

func (w *workshop) mustBeClean() {
	w.Helper()
	began := time.Now()
	ctx, cancel := context.WithTimeout(w.Context(), cleanTime)
	defer cancel()
	err := kit.Wait(ctx, func(context.Context) error {
		if processes, mounts, containers := w.running(); len(processes)+len(mounts)+len(containers) > 0 {
			return fmt.Errorf("processes %q, mounts %q, containers %q", processes, mounts, containers)
		}
		return nil
	})
	if err != nil {
		w.Fatalf("left behind: %v", err)
	}
	w.Logf("clean after %v", time.Since(began).Round(time.Millisecond))
}

// mustFinish starts imgd again and sees the request through.
func (w *workshop) mustFinish(request string) {
	w.Helper()
	w.start()
	w.waitArrived() // it builds again
	w.mayEnd()
	w.waitPublished(request)
	w.agree(1)
	if left := w.containers(); len(left) > 0 {
		w.Errorf("containers that runc still knows: %v", left)
	}
}

func (w *workshop) waitPublished(request string) {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), buildTime)
	defer cancel()
	err := kit.Wait(ctx, func(ctx context.Context) error {
		messages, err := kit.ReadStream(ctx, w.daemon.NATS, "IMGD_STATUS", "imgd.status."+request, 1)
		if err != nil {
			return err
		}
		if last := messages[len(messages)-1].Data; !bytes.Contains(last, []byte(`"state":"published"`)) {
			return fmt.Errorf("its state is %s", last)
		}
		return nil
	})
	if err != nil {
		w.Fatalf("the request does not end: %v", err)
	}
}

// waitStopping waits until imgd has understood that it is to stop.
func (w *workshop) waitStopping() {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), atOnce)
	defer cancel()
	w.must(kit.Wait(ctx, func(ctx context.Context) error {
		if _, err := kit.Get(ctx, w.daemon.HTTP+"/readyz"); err == nil {
			return errors.New("it is ready still")
		}
		return nil
	}))
}

func (w *workshop) waitDone(limit time.Duration) {
	w.Helper()
	select {
	case <-w.daemon.Done():
	case <-time.After(limit):
		w.Fatalf("imgd has not ended after %v", limit)
	}
}

// askLate puts a request into the queue of a daemon that is stopping and has a slot free.
func (w *workshop) askLate() {
	w.Helper()
	conn, err := nats.Connect(w.daemon.NATS)
	w.must(err)
	defer conn.Close()
	js, err := jetstream.New(conn)
	w.must(err)
	_, err = js.Publish(w.Context(), "imgd.requests.hello.branch", []byte(`{"schema":1,"ref":"refs/heads/main"}`), jetstream.WithMsgID("test/late/hello"))
	w.must(err)
}

func TestKilledMidBuild(t *testing.T) {
	t.Parallel()
	w, request := newWorkshop(t, "")
	w.mustRun()
	w.daemon.Kill9()
	w.mustBeClean()
	w.mustFinish(request)
}

func TestTerminatedMidBuild(t *testing.T) {
	t.Run("no grace: given back", func(t *testing.T) {
		t.Parallel()
		w, request := newWorkshop(t, "0s")
		w.mustRun()
		ctx, cancel := context.WithTimeout(t.Context(), atOnce)
		defer cancel()
		if err := w.daemon.Terminate(ctx); err != nil {
			t.Errorf("imgd ends with %v", err)
		}
		w.mustBeClean()
		if _, err := os.Stat(w.run()); !os.IsNotExist(err) {
			t.Errorf("%s is left: %v", w.run(), err)
		}
		w.mustFinish(request)
	})
	t.Run("within grace: finished", func(t *testing.T) {
		t.Parallel()
		w, request := newWorkshop(t, "1m")
		w.must(w.daemon.Signal(syscall.SIGTERM))
		w.waitStopping()
		w.askLate()
		w.mayEnd()
		w.waitDone(buildTime)
		if err := w.daemon.Terminate(t.Context()); err != nil { // how it has ended; no second signal
			t.Errorf("imgd ends with %v", err)
		}
		index, err := check.ReadIndex(w.daemon.Data())
		w.must(err)
		for _, rel := range index.Releases {
			if rel.Request.ID != request || rel.State != check.Published || index.Told < rel.Seq {
				t.Errorf("release %s is %s in entry %d, told %d: want it published and announced", rel.ID, rel.State, rel.Seq, index.Told)
			}
		}
		if len(index.Releases) != 1 {
			t.Errorf("%d releases, want that of the build that ran", len(index.Releases))
		}
		w.mustBeClean()
		w.start()
		w.waitPublished(request)
		w.published(2) // the late one has been taken by now
		w.agree(2)
		if len(w.arrived) > 0 { // the late one's steps are those of the first, and cached
			t.Error("what was built was built again")
		}
	})
	t.Run("second signal: at once", func(t *testing.T) {
		t.Parallel()
		w, request := newWorkshop(t, "10m")
		w.must(w.daemon.Signal(syscall.SIGTERM))
		w.waitStopping()
		w.must(w.daemon.Signal(syscall.SIGTERM))
		w.waitDone(atOnce)
		w.mustBeClean()
		w.mustFinish(request)
	})
}
