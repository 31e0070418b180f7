package integration_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/integration/check"
	"github.com/imgd/imgd/integration/kit"
)

const (
	// faultTime is how long imgd may take to notice what it cannot go on with, and to end.
	faultTime = 20 * time.Second
	// attachTime is how long strace may take to hold all of imgd's threads.
	attachTime = 15 * time.Second
)

// A victim is a site whose NATS and index are imgd's own: all that a request rests on is in its data directory, except the
// image. Its registry and buildkitd outlive it, and a gate is before the registry.
type victim struct {
	*site
	dir    string
	config kit.Config
	calls  *kit.HTTPGate
}

const (
	// tags is how many tags of a victim's one commit there are.
	tags = 9
	// padding is how many blanks a message has that is put into the queue: a few of them fill the last page of a file.
	padding = 1 << 10
)

// newVictim makes a repository with the tags v1.0.1 to v1.0.9; run starts imgd.
func newVictim(t *testing.T, buildkitd *kit.Buildkitd) *victim {
	t.Helper()
	registry := startRegistry(t)
	calls, err := kit.StartHTTPGate(registry.Address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { calls.Close() })
	v := &victim{dir: t.TempDir(), calls: calls, site: bareSite(t, scratchFiles(t.Name()))}
	for i := range tags {
		v.must(v.repo.Tag(t.Context(), nth(i+1), "main"))
	}
	v.config = v.site.config()
	v.config.Queue.Lease = lease
	v.config.Build.Slots = 1
	v.config.Registry = kit.RegistryConfig{Address: calls.Addr, PlainHTTP: true}
	v.config.BuildKit = kit.BuildKitConfig{Address: buildkitd.Addr, RegistryAddress: registry.Address()}
	v.place = &check.Site{Data: v.data(), Hosts: map[string]string{calls.Addr: registry.Address()}, Repositories: []string{calls.Addr + "/" + image}}
	return v
}

// nth is a version tag.
func nth(n int) string { return fmt.Sprintf("v1.0.%d", n) }

func (v *victim) data() string { return (&kit.Daemon{Dir: v.dir}).Data() }

// run starts imgd over what the one before left. How that one ended is for the test to say, so only the last is stopped
// by the cleanup.
func (v *victim) run(env ...string) {
	v.Helper()
	d, err := kit.StartDaemon(v.Context(), v.dir, v.config, env...)
	v.must(err)
	if v.daemon == nil {
		v.Cleanup(v.stop)
	}
	v.daemon, v.place.NATS = d, d.NATS
}

func (v *victim) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), atOnce)
	defer cancel()
	_ = v.daemon.Terminate(ctx) // it may have ended badly, as the test wanted
	if v.Failed() {
		v.Logf("imgd's log:\n%s", v.daemon.LogTail())
	}
}

// hold holds imgd's next such call about a manifest whose reference begins so.
func (v *victim) hold(method, reference string) *kit.Hold {
	return v.calls.Arm(kit.Before, func(req *http.Request) bool {
		_, name, about := manifest(req)
		return about && req.Method == method && strings.HasPrefix(name, reference)
	})
}

func (v *victim) waitHeld(hold *kit.Hold) {
	v.Helper()
	select {
	case <-hold.Held():
	case <-v.daemon.Done():
		v.Fatal("imgd ended by itself")
	case <-time.After(heldTime):
		v.Fatal("nothing was held")
	}
}

// try asks for a build over HTTP. What is acknowledged is noted.
func (v *victim) try(ref string) error {
	v.Helper()
	ctx, cancel := context.WithTimeout(v.Context(), faultTime)
	defer cancel()
	body := fmt.Sprintf(`{"ref":%q}`, ref)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, v.daemon.HTTP+"/v1/projects/hello/builds", strings.NewReader(body))
	v.must(err)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var asked struct {
		Request, Detail string
		AskedAt         time.Time
	}
	if err := json.NewDecoder(resp.Body).Decode(&asked); err != nil || resp.StatusCode != http.StatusAccepted {
		return fmt.Errorf("ask for %s: %s %s %w", ref, resp.Status, asked.Detail, err)
	}
	v.asked = append(v.asked, check.Asked{Request: asked.Request, AskedAt: asked.AskedAt})
	return nil
}

// put is try for a client of NATS: what acknowledges is the stream.
func (v *victim) put(ref string) error {
	v.Helper()
	commit, err := v.repo.Rev(v.Context(), ref)
	v.must(err)
	conn, err := nats.Connect(v.daemon.NATS)
	v.must(err)
	defer conn.Close()
	js, err := jetstream.New(conn)
	v.must(err)
	ctx, cancel := context.WithTimeout(v.Context(), faultTime)
	defer cancel()
	go func() { // ends with ctx
		select {
		case <-v.daemon.Done():
			cancel()
		case <-ctx.Done():
		}
	}()
	req := imgd.Request{Project: "hello", Ref: "refs/tags/" + ref, Commit: commit}
	if _, err := js.Publish(ctx, "imgd.requests.hello.tag", fmt.Appendf(nil, `{"schema":1,"ref":%q,"commit":%q%*s}`, req.Ref, req.Commit, padding, "")); err != nil {
		return err
	}
	v.asked = append(v.asked, check.Asked{Request: req.Hash()})
	return nil
}

// inject makes calls of imgd fail, as strace's -e inject takes it, if they are about one of the files (all, if there are
// none), from when it returns until the answer is called, or imgd ends.
func (v *victim) inject(fault string, files ...string) (stop func()) {
	v.Helper()
	return v.injectAt(v.data(), fault, files...)
}

// injectAt does so for files in that directory.
func (s *site) injectAt(dir, fault string, files ...string) (stop func()) {
	s.Helper()
	call, _, _ := strings.Cut(fault, ":")
	args := []string{"-f", "-p", fmt.Sprint(s.daemon.PID()), "-o", filepath.Join(s.daemon.Dir, "strace.out"), "-e", "trace=" + call, "-e", "inject=" + fault}
	for _, file := range files {
		args = append(args, "-P", filepath.Join(dir, file))
	}
	cmd := exec.Command("strace", args...)
	said := &lockedBuffer{}
	cmd.Stderr = said
	s.must(cmd.Start())
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // with imgd, or by the signal
		close(ended)
	}()
	stop = sync.OnceFunc(func() {
		_ = cmd.Process.Signal(os.Interrupt) // an error says that it has ended
		<-ended
	})
	s.Cleanup(stop)
	ctx, cancel := context.WithTimeout(s.Context(), attachTime)
	defer cancel()
	s.must(kit.Wait(ctx, func(context.Context) error {
		if !strings.Contains(said.String(), " attached") {
			return fmt.Errorf("strace is not attached: %s", said)
		}
		return nil
	}))
	return stop
}

type lockedBuffer struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// mustGiveUp waits until imgd has ended by itself, and wants it to have failed and said why.
func (v *victim) mustGiveUp(why ...string) {
	v.Helper()
	began := time.Now()
	select {
	case <-v.daemon.Done():
	case <-time.After(faultTime):
		v.Fatalf("imgd goes on for %v after a fault", faultTime)
	}
	v.Logf("imgd ended after %v", time.Since(began).Round(time.Millisecond))
	var exit *exec.ExitError
	if err := v.daemon.Terminate(v.Context()); !errors.As(err, &exit) || exit.ExitCode() != 1 { // how it has ended
		v.Errorf("imgd ended with %v, want exit status 1", err)
	}
	lines := strings.Split(strings.TrimSpace(v.daemon.Log()), "\n")
	last := lines[len(lines)-1]
	v.Logf("its last words: %s", last)
	for _, text := range why {
		if !strings.Contains(last, text) {
			v.Errorf("its last words are %q, want %q in them", last, text)
		}
	}
	if _, err := kit.ReadImages(v.data()); err != nil {
		v.Error(err)
	}
}

const (
	requestsFile = "nats/jetstream/$G/streams/IMGD_REQUESTS/msgs/1.blk"
	statusFile   = "nats/jetstream/$G/streams/IMGD_STATUS/msgs/1.blk"
	eventsFile   = "nats/jetstream/$G/streams/IMGD_EVENTS/msgs/1.blk"
)

// A fault is what a disk does to a file that imgd cannot go on without. When it comes, one request is admitted and has no
// tag yet, and another stands behind it. The first one meets it on its way on, unless a third is asked for.
type fault struct {
	name, inject, file string
	why                []string // what imgd is to say
	ask                bool     // for a third
	orphan             bool     // NATS 2.15.2 keeps for ever, and gives to nobody, an acknowledged message that it could not remove
}

var faults = []fault{
	{name: "queue, not synced", inject: "fsync:error=EIO", file: requestsFile, ask: true, why: []string{"IMGD_REQUESTS", "input/output error"}},
	{name: "queue, disk full", inject: "pwrite64:error=ENOSPC", file: requestsFile, ask: true, why: []string{"IMGD_REQUESTS", "no space left"}},
	{name: "ack, not synced", inject: "fsync:error=EIO", file: requestsFile, orphan: true, why: []string{"IMGD_REQUESTS", "input/output error"}},
	{name: "state, not synced", inject: "fsync:error=EIO", file: statusFile, why: []string{"IMGD_STATUS", "input/output error"}},
	{name: "event, not synced", inject: "fsync:error=EIO", file: eventsFile, why: []string{"IMGD_EVENTS", "input/output error"}},
	{name: "index, not synced", inject: "fdatasync:error=EIO", file: "index/journal", why: []string{"journal", "input/output error"}},
	{name: "images.json, not synced", inject: "fsync:error=EIO", file: "index/images.json.tmp", why: []string{"images.json", "input/output error"}},
	{name: "images.json, rename not synced", inject: "fsync:error=EIO", file: "index", why: []string{"/index:", "input/output error"}},
}

// A disk fails imgd, is slow, or has no space: imgd ends where it cannot keep its word, and waits where it can, and what it
// has acknowledged ends published.
func TestWatchdogDisk(t *testing.T) {
	t.Parallel()
	buildkitd := sharedBuildkitd(t)
	type row struct {
		name string
		test func(*victim)
	}
	rows := []row{{"registry", registryDisk}, {"slow", slowDisk}, {"head room", headRoom}, {"full", fullDisk}}
	for _, f := range faults {
		rows = append(rows, row{f.name, f.test})
	}
	runRows(t, rowsAtOnce, rows, func(r row) string { return r.name }, func(t *testing.T, r row) { r.test(newVictim(t, buildkitd)) })
}

func (f fault) test(v *victim) {
	v.run()
	hold := v.hold(http.MethodPut, nth(1))
	v.must(v.try(nth(1)))
	v.waitHeld(hold)
	v.must(v.put(nth(2)))
	stop := v.inject(f.inject, f.file)
	if !f.ask {
		hold.Pass()
	} else if err := v.try(nth(3)); err == nil {
		v.Error("it acknowledged what it could not keep")
	}
	v.mustGiveUp(f.why...)
	hold.Drop()
	stop()
	v.run()
	if !f.orphan {
		v.mustEnd()
		return
	}
	v.waitState(published)
	v.mustHold(v.look())
}
