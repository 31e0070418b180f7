package integration_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/imgd/imgd/integration/check"
	"github.com/imgd/imgd/integration/kit"
)

// noticeTime is how long imgd may take to notice what it waits for: while it works it looks every half minute.
const noticeTime = 45 * time.Second

// smallDisk mounts a file system with so many MiB at path, until the test is over: who unmounts it is told by the end of a
// pipe, so also when this process is killed.
func smallDisk(t *testing.T, path string, mib int) {
	t.Helper()
	guard := exec.Command("sh", "-c", `cat; umount -l "$0"`, path)
	guard.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // a Ctrl-C is not for it
	end, err := guard.StdinPipe()
	if err == nil {
		err = errors.Join(os.MkdirAll(path, 0o755), guard.Start())
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(end.Close(), guard.Wait()); err != nil {
			t.Errorf("unmount %s: %v", path, err)
		}
	})
	if err := syscall.Mount("tmpfs", path, "tmpfs", 0, fmt.Sprintf("size=%dm", mib)); err != nil {
		t.Fatal(err)
	}
}

// fill leaves so many MiB of path's file system free; what it answers gives the space back.
func fill(t *testing.T, path string, leave int) (empty func()) {
	t.Helper()
	var fs syscall.Statfs_t
	if err := syscall.Statfs(path, &fs); err != nil {
		t.Fatal(err)
	}
	filler := filepath.Join(path, "filler")
	size := int64(fs.Bavail)*fs.Bsize - int64(leave)<<20
	err := os.WriteFile(filler, make([]byte, size), 0o600)
	if leave == 0 && err == nil { // what was freed meanwhile
		err = os.WriteFile(filler+"2", make([]byte, 1<<20), 0o600)
	}
	if err != nil && !(leave == 0 && errors.Is(err, syscall.ENOSPC)) {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		if err := errors.Join(os.Remove(filler), os.RemoveAll(filler+"2")); err != nil {
			t.Error(err)
		}
	}
}

// waitReady waits until /readyz has all of the lines; none means that imgd is ready.
func (v *victim) waitReady(lines ...string) {
	v.Helper()
	ctx, cancel := context.WithTimeout(v.Context(), noticeTime)
	defer cancel()
	v.must(kit.Wait(ctx, func(ctx context.Context) error {
		_, err := kit.Get(ctx, v.daemon.HTTP+"/readyz")
		if len(lines) == 0 {
			return err
		}
		if err == nil {
			return errors.New("it is ready")
		}
		for _, line := range lines {
			if !strings.Contains(err.Error(), line) {
				return fmt.Errorf("readyz does not say %q: %w", line, err)
			}
		}
		return nil
	}))
}

// waitState waits until each request that was asked for stands as it should.
func (v *victim) waitState(good func(check.State) bool) {
	v.Helper()
	for _, asked := range v.asked {
		v.waitStateOf(asked.Request, good)
	}
}

func (v *victim) waitStateOf(request string, good func(check.State) bool) {
	v.Helper()
	ctx, cancel := context.WithTimeout(v.Context(), endTime)
	defer cancel()
	v.must(kit.Wait(ctx, func(ctx context.Context) error {
		got, err := kit.Get(ctx, v.daemon.HTTP+"/v1/requests/"+request)
		if err != nil {
			return err
		}
		var state check.State
		if err := json.Unmarshal(got, &state); err != nil || !good(state) {
			return fmt.Errorf("it is not there yet: %s %w", got, err)
		}
		return nil
	}))
}

func published(s check.State) bool { return s.State == check.Published }

// Below disk.minFreeMB imgd takes requests in and works on none; with space again it goes on.
func headRoom(v *victim) {
	v.config.Disk = &kit.DiskConfig{MinFreeMB: 32}
	smallDisk(v.T, v.data(), 64)
	v.run()
	hold := v.hold(http.MethodGet, "sha256:")
	v.must(v.try(nth(1)))
	v.waitHeld(hold)
	empty := fill(v.T, v.data(), 16)
	v.waitReady("[-]disk failed", "disk.minFreeMB")
	mend := v.calls.Fault(func(req *http.Request) *kit.Fault {
		if _, _, about := manifest(req); !about {
			return nil
		}
		return &kit.Fault{Status: http.StatusServiceUnavailable, Header: http.Header{"Retry-After": {"60"}}} // too long to wait for
	})
	hold.Drop() // a try that fails has imgd look at once
	v.waitReady("[-]disk failed", "[-]queue failed")
	mend()
	v.must(v.try(nth(2)))
	empty()
	v.waitReady()
	v.mustEnd()
	order := regexp.MustCompile(`(?s)"paused.*"requests are taken up again".*image is built`)
	if log := v.daemon.Log(); strings.Count(log, "image is built") != 3 || !order.MatchString(log) {
		v.Error("the log does not tell of one build, a pause, and two builds")
	}
}

// On a disk that is full imgd ends; what it had acknowledged is there when there is space again.
func fullDisk(v *victim) {
	v.config.Disk = &kit.DiskConfig{MinFreeMB: 0}
	smallDisk(v.T, v.data(), 48)
	v.run()
	hold := v.hold(http.MethodPut, nth(1))
	v.must(v.try(nth(1)))
	v.waitHeld(hold)
	empty := fill(v.T, v.data(), 0)
	var err error
	for n := 2; err == nil && n <= tags; n++ { // the file's last page has room for some
		err = v.put(nth(n))
	}
	if err == nil {
		v.Errorf("a full disk takes %d requests", tags-1)
	}
	v.Logf("%d requests acknowledged, then: %v", len(v.asked), err)
	v.mustGiveUp("IMGD_REQUESTS", "no space left")
	hold.Drop()
	empty()
	v.run()
	v.mustEnd()
}

// A disk that is slow is no disk that fails.
func slowDisk(v *victim) {
	v.run()
	hold := v.hold(http.MethodPut, nth(1))
	v.must(v.try(nth(1)))
	v.waitHeld(hold)
	const slow = 6 * time.Second // three looks of the watch
	stop := v.inject(fmt.Sprintf("fsync:delay_enter=%d", slow.Microseconds()), requestsFile)
	began := time.Now()
	v.must(v.put(nth(2)))
	if took := time.Since(began); took < slow {
		v.Errorf("the disk was not slow: the acknowledgement came after %v", took)
	}
	stop()
	hold.Pass()
	v.mustEnd()
	select {
	case <-v.daemon.Done():
		v.Error("imgd ended")
	default:
	}
}

// What the registry cannot keep is not published: not when a push fails, nor when a tag's write does, though the tag may be
// there to see.
func registryDisk(v *victim) {
	own := freePort(v.T) // it is part of the repositories' names
	v.config.Registry, v.config.BuildKit.RegistryAddress = kit.RegistryConfig{Listen: own}, ""
	v.place.Hosts, v.place.Repositories = nil, []string{own + "/" + image}
	v.config.Disk = &kit.DiskConfig{MinFreeMB: 0} // imgd is to find out by itself
	registry := filepath.Join(v.data(), "registry")
	smallDisk(v.T, registry, 8)
	v.run()

	empty := fill(v.T, registry, 0)
	v.must(v.try(nth(1)))
	v.waitLog("request failed, trying again")
	v.mustHold(v.look())
	if releases := v.look().Index.Releases; len(releases) > 0 {
		v.Errorf("releases of what was not pushed: %+v", releases)
	}
	empty()
	v.waitState(published)

	stop := v.inject("fsync:error=EIO", "registry/docker/registry/v2/repositories/"+image+"/_manifests/tags/"+nth(2)+"/current")
	v.must(v.try(nth(2)))
	v.waitLog(nth(2) + ": ")
	w := v.look()
	v.mustHold(w)
	if slices.ContainsFunc(w.Index.Records, func(r kit.Record) bool { return r.Tag == nth(2) }) {
		v.Errorf("%s is published, and the registry had no disk for it", nth(2))
	}
	stop()
	v.mustEnd()
}

func (v *victim) waitLog(text string) {
	v.Helper()
	ctx, cancel := context.WithTimeout(v.Context(), endTime)
	defer cancel()
	v.must(kit.Wait(ctx, func(context.Context) error {
		if !strings.Contains(v.daemon.Log(), text) {
			return fmt.Errorf("imgd does not say %q", text)
		}
		return nil
	}))
}

// A buildkitd that dies is started again and its build tried again. One that cannot start leaves imgd up and its log
// readable; the queue waits for it.
func TestWatchdogBuildkitd(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: the embedded buildkitd needs root")
	}
	v := newVictim(t, &kit.Buildkitd{}) // none outlives imgd
	v.config.BuildKit = kit.BuildKitConfig{}
	arrived := v.commitWaitingBuilds(nth(1), nth(2))
	binary := filepath.Join(v.dir, "buildkitd")
	v.link(binary, must(kit.Bin("buildkitd")))
	v.run("IMGD_BUILDKIT_BINARY=" + binary)

	v.must(v.try(nth(1)))
	<-arrived
	v.killBuildkitd()
	v.waitState(func(s check.State) bool { return s.State == check.Published && s.Tries > 1 })

	v.must(v.try(nth(2)))
	<-arrived // that of the second try of the first
	<-arrived
	v.link(binary, must(exec.LookPath("false")))
	began := len(v.daemon.Log())
	v.killBuildkitd()
	v.waitReady("[-]buildkit failed", "[-]queue failed")
	pauses := v.waitDeaths(began, 5)
	if !slices.IsSorted(pauses) || pauses[len(pauses)-1] < 8*pauses[0] {
		t.Errorf("it is started again after %v, want pauses that double", pauses)
	}
	if lines := strings.Count(v.daemon.Log()[began:], "\n"); lines > 3*len(pauses) {
		t.Errorf("%d lines in the log for %d deaths:\n%s", lines, len(pauses), v.daemon.Log()[began:])
	}
	v.link(binary, must(kit.Bin("buildkitd")))
	v.waitReady()
	v.mustEnd()
}

// commitWaitingBuilds makes a commit for each tag. The first build of each waits until it is killed, and tells when it has
// arrived there; a later one goes on.
func (v *victim) commitWaitingBuilds(tags ...string) (arrived <-chan string) {
	v.Helper()
	arrivals := make(chan string, 16)
	var mu sync.Mutex // guards seen
	seen := map[string]bool{}
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		again := seen[r.URL.Path]
		seen[r.URL.Path] = true
		mu.Unlock()
		arrivals <- r.URL.Path
		if !again {
			<-r.Context().Done()
		}
	}))
	v.Cleanup(server.Close)
	busybox, err := os.ReadFile(must(exec.LookPath("busybox")))
	v.must(err)
	for _, tag := range tags {
		v.commit("a build that waits", map[string]string{"busybox": string(busybox), "Dockerfile": fmt.Sprintf(
			"FROM scratch\nARG VERSION\nCOPY --chmod=755 busybox /busybox\nRUN [\"/busybox\", \"wget\", \"-q\", \"-O\", \"/answer\", \"%s/%s\"]\n", server.URL, tag)})
		v.must(v.repo.MoveTag(v.Context(), tag, "main"))
	}
	return arrivals
}

func must(path string, err error) string {
	if err != nil {
		panic("unreachable: make test-deps has run: " + err.Error())
	}
	return path
}

// link makes path a link to target, in one step.
func (v *victim) link(path, target string) {
	v.Helper()
	v.must(errors.Join(os.Symlink(target, path+".new"), os.Rename(path+".new", path)))
}

// killBuildkitd kills the daemon's buildkitd, not the unshare around it.
func (v *victim) killBuildkitd() {
	v.Helper()
	config := filepath.Join(v.data(), "buildkit", "buildkitd.toml")
	for _, file := range mustGlob("/proc/[0-9]*/cmdline") {
		line, _ := os.ReadFile(file) // it may have ended
		if !strings.Contains(string(line), config) || strings.HasPrefix(string(line), "unshare") {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		v.must(err)
		v.must(syscall.Kill(pid, syscall.SIGKILL))
		return
	}
	v.Fatal("there is no buildkitd")
}

// waitDeaths waits until buildkitd has ended n times since the log was so long, and answers the pauses before its starts.
func (v *victim) waitDeaths(since, n int) (pauses []time.Duration) {
	v.Helper()
	ctx, cancel := context.WithTimeout(v.Context(), endTime)
	defer cancel()
	v.must(kit.Wait(ctx, func(context.Context) error {
		pauses = nil
		for line := range strings.Lines(v.daemon.Log()[since:]) {
			var entry struct {
				Msg   string
				After time.Duration
			}
			if json.Unmarshal([]byte(line), &entry) == nil && strings.HasPrefix(entry.Msg, "buildkitd ended") {
				pauses = append(pauses, entry.After)
			}
		}
		if len(pauses) < n {
			return fmt.Errorf("%d deaths, not %d", len(pauses), n)
		}
		return nil
	}))
	return pauses
}
