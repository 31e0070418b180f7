package integration_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/imgd/imgd/integration/kit"
)

// A restored is a site whose index is lost, or put back as it was earlier.
type restored struct {
	*site
	dir    string
	config kit.Config
	imgd   string
}

func (r *restored) index() string { return filepath.Join(r.dir, "data", "index") }

// run runs imgd with the arguments, which must end with that code, and answers all it said.
func (r *restored) run(code int, args ...string) string {
	r.Helper()
	cmd := exec.CommandContext(r.Context(), r.imgd, args...)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != code {
		r.Fatalf("imgd %s: got %v, want exit code %d\n%s", strings.Join(args, " "), err, code, out)
	}
	return string(out)
}

// recover runs imgd index recover over the data directory.
func (r *restored) recover(code int, args ...string) string {
	r.Helper()
	return r.run(code, slices.Concat([]string{"index", "recover", "--data", filepath.Join(r.dir, "data")}, args)...)
}

func (r *restored) export() string {
	r.Helper()
	out, err := exec.CommandContext(r.Context(), r.imgd, "index", "export", "--index", r.index()).Output()
	r.must(err)
	return string(out)
}

// putBack makes the index what images.json says; nothing if that is empty.
func (r *restored) putBack(images string) {
	r.Helper()
	r.must(os.RemoveAll(r.index()))
	if images != "" {
		r.must(os.MkdirAll(r.index(), 0o755))
		r.must(os.WriteFile(filepath.Join(r.index(), "images.json"), []byte(images), 0o644))
	}
}

func (r *restored) start() {
	r.Helper()
	r.daemon = kit.RunDaemon(r.T, r.dir, r.config)
}

func (r *restored) stop() {
	r.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), firstStop)
	defer cancel()
	r.must(r.daemon.Terminate(ctx))
}

// idle starts the daemon, which must not be ready and say all of these words, runs do, and stops it.
func (r *restored) idle(words []string, do func()) {
	r.Helper()
	d, err := kit.LaunchDaemon(r.dir, r.config)
	r.must(err)
	r.daemon = d
	ctx, cancel := context.WithTimeout(r.Context(), heldTime)
	defer cancel()
	var said string
	err = kit.Wait(ctx, func(ctx context.Context) error {
		endpoints, err := kit.ReadEndpoints(d.Data())
		if err != nil {
			return err
		}
		d.Endpoints = endpoints
		if said, err = readyz(ctx, d.HTTP); err != nil {
			return err
		}
		for _, word := range append(words, "queue", "index") {
			if !strings.Contains(said, word) {
				return fmt.Errorf("/readyz does not say %q: %s", word, said)
			}
		}
		return nil
	})
	if err != nil {
		d.Kill9()
		r.Fatalf("%v\n%s", err, d.LogTail())
	}
	if !strings.Contains(d.Log(), words[0]) {
		r.Errorf("the log does not say %q", words[0])
	}
	do()
	r.stop()
}

// readyz is what /readyz says, which must be that it is not ready.
func readyz(ctx context.Context, server string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, server+"/readyz?verbose", nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(resp.Body); err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusServiceUnavailable {
		return "", fmt.Errorf("/readyz answers %s", resp.Status)
	}
	return b.String(), nil
}

// whole is what an index says, but how far it has come and what was announced.
func (r *restored) whole(images string) string {
	r.Helper()
	var d map[string]any
	r.must(json.Unmarshal([]byte(images), &d))
	for _, field := range []string{"seq", "hash", "told", "crc32c"} {
		delete(d, field)
	}
	b, err := json.MarshalIndent(d, "", " ")
	r.must(err)
	return string(b)
}

// told are the IDs of all events of releases, in their order.
func (r *restored) told(n int) []string {
	r.Helper()
	var ids []string
	messages, err := kit.ReadStream(r.Context(), r.daemon.NATS, "IMGD_EVENTS", "imgd.events.>", n)
	r.must(err)
	for _, m := range messages {
		ids = append(ids, m.Subject[strings.LastIndexByte(m.Subject, '.')+1:])
	}
	return ids
}

// An old copy of the index, or none, is noticed: imgd takes no work, and tags, events and queue stay. Recovered, it is the
// index that it was, in every record, generation and mark, and works on; nothing is told twice, whatever is killed meanwhile.
func TestRecover(t *testing.T) {
	t.Parallel()
	r := &restored{site: bareSite(t, scratchFiles("one")), dir: t.TempDir()}
	r.watcher.Follows = func(_, _, old, now string) bool { return r.repo.Contains(t.Context(), now, old) }
	r.config = r.site.config()
	var err error
	r.config.Registry.Listen, err = kit.OwnPort() // the registry's name is part of every image's
	r.must(err)
	r.imgd, err = kit.Bin("imgd")
	r.must(err)
	r.start()
	r.must(r.repo.Tag(t.Context(), "v1.0.0", "main"))
	r.build("v1.0.0")
	r.commit("two", scratchFiles("two"))
	r.must(r.repo.Tag(t.Context(), "v1.1.0", "main"))
	r.build("v1.1.0")
	r.imgctl("rollback", image+":latest", "--reason", "v1.1.0 leaks")
	copied := r.export()

	r.imgctl("untag", image+":v1.0.0", "--force", "--reason", "it was a joke")
	r.commit("three", scratchFiles("three"))
	r.must(r.repo.MoveTag(t.Context(), "v1.1.0", "main"))
	r.imgctl("build", "hello", "--ref", "v1.1.0", "--force", "--reason", "a bad release", "--wait")
	r.build("main")
	r.must(r.repo.Tag(t.Context(), "v1.2.0", "main"))
	r.build("v1.2.0")
	r.imgctl("rollback", image+":latest")
	r.imgctl("tag", image+":v1.2.0", "stable")
	r.agreeOn(9)
	r.stop()
	want := r.export()

	r.putBack(copied)
	var asked string
	r.idle([]string{"behind its own events", "imgd index recover"}, func() {
		r.must(r.repo.Tag(t.Context(), "v1.3.0", "main"))
		asked = r.ask("v1.3.0")
		r.imgctl("get", image+":latest")
		r.exit(1, "untag", image+":latest")
		if out := r.recover(1); !strings.Contains(out, "in use by process") {
			t.Errorf("beside the daemon recover says %s", out)
		}
		if n := len(r.told(9)); n != 9 {
			t.Errorf("%d events, want 9", n)
		}
	})
	if got := r.export(); r.whole(got) != r.whole(copied) {
		t.Errorf("it was not idle: got %s\nwant %s", got, copied)
	}
	if out := r.recover(0, "--dry-run"); !strings.Contains(out, "would be recovered") || r.export() != copied {
		t.Errorf("a look says %s, and leaves %s", out, r.export())
	}
	r.recovers(copied, want)
	r.start()
	r.waitFor(asked)
	r.agreeOn(10)
	r.stop()

	want = r.export()
	r.putBack("")
	r.idle([]string{"another index's queue", "imgd index recover"}, func() {})
	r.recovers("", want)
	r.start()
	r.commit("four", scratchFiles("four"))
	r.build("main")
	r.agreeOn(11)
}

// waitFor waits until the request is published.
func (r *restored) waitFor(request string) {
	r.Helper()
	ctx, cancel := context.WithTimeout(r.Context(), buildTime)
	defer cancel()
	r.must(kit.Wait(ctx, func(context.Context) error {
		out, err := r.daemon.Imgctl(ctx, "requests", "show", request, "-o", "json")
		if err == nil && !strings.Contains(out, `"published"`) {
			err = fmt.Errorf("it stands so: %s", out)
		}
		return err
	}))
}

// agreeOn wants the world to hold, with so many events, each once.
func (r *restored) agreeOn(n int) {
	r.Helper()
	r.mustEnd()
	if r.Failed() {
		r.FailNow()
	}
	ids := r.told(n)
	slices.Sort(ids)
	if len(ids) != n || len(slices.Compact(ids)) != n {
		r.Errorf("got events %v, want %d", ids, n)
	}
}

// recovers recovers the index that is there, killed at each of its calls first, and then as a whole, twice.
func (r *restored) recovers(copied, want string) {
	r.Helper()
	r.recover(0)
	after := r.export()
	if r.whole(after) != r.whole(want) {
		r.Errorf("got %s\nwant %s", after, want)
	}
	kills := killsAt(r.T, r.index(), []string{r.imgd, "index", "recover", "--data", filepath.Join(r.dir, "data")}, func(killed bool) {
		now, _ := os.ReadFile(filepath.Join(r.index(), "images.json"))
		if string(now) != copied && string(now) != after {
			r.Errorf("killed, it leaves %s", now)
		}
		if killed {
			r.recover(0)
		}
		if r.export() != after {
			r.Errorf("got %s\nwant %s", r.export(), after)
		}
		r.putBack(copied)
	})
	r.Logf("recover was killed %d times", kills)
	for range 2 {
		r.recover(0)
		if r.export() != after {
			r.Errorf("again: got %s\nwant %s", r.export(), after)
		}
	}
	r.run(0, "index", "check", "--index", r.index())
}

// writingCalls are those that make an index another one.
var writingCalls = []string{"openat", "write", "fsync", "linkat", "unlinkat", "renameat", "ftruncate"}

// killsAt kills the command at each of the calls that it makes on the files of the index, and calls look after each, and after
// the undisturbed end. It answers how often it was killed.
func killsAt(t *testing.T, index string, command []string, look func(killed bool)) (kills int) {
	t.Helper()
	for _, call := range writingCalls {
		for n := 1; ; n++ {
			args := []string{"-f", "-o", filepath.Join(t.TempDir(), "strace.out"), "-e", "trace=" + call, "-e", fmt.Sprintf("inject=%s:signal=KILL:when=%d", call, n)}
			for _, file := range indexFiles[:len(indexFiles)-1] {
				args = append(args, "-P", filepath.Join(index, file))
			}
			cmd := exec.CommandContext(t.Context(), "strace", append(args, command...)...)
			cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
			out, err := cmd.CombinedOutput()
			killed := err != nil
			if killed && !strings.Contains(fmt.Sprint(err), "killed") {
				t.Fatalf("%s %d: %v\n%s", call, n, err, out)
			}
			look(killed)
			if !killed {
				break
			}
			kills++
		}
	}
	if kills < len(writingCalls) {
		t.Errorf("killed %d times only", kills)
	}
	return kills
}

// Killed at any of its calls, an import leaves nothing or all of it, and the same command completes it.
func TestImportKilled(t *testing.T) {
	t.Parallel()
	imgd, err := kit.Bin("imgd")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	index, file := filepath.Join(dir, "index"), filepath.Join(dir, "past.json")
	var lines strings.Builder
	for n := range 300 {
		fmt.Fprintf(&lines, `{"ImageName":"tools/lint","Tag":"v1.0.%d","Digest":"%s","PublishedAt":"2026-01-02T03:04:05Z","SourceRef":"https://git.example.com/tools/lint@%s"}`+"\n", n, digestOf(fmt.Sprint(n)), sourceCommit)
	}
	if err := os.WriteFile(file, []byte(lines.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	command := []string{imgd, "index", "import", file, "--index", index}
	done, nothing := 0, 0
	kills := killsAt(t, index, command, func(killed bool) {
		text, _ := os.ReadFile(filepath.Join(index, "images.json"))
		switch n := bytes.Count(text, []byte(`,"platform":"linux/amd64"`)); n {
		case 0:
			nothing++
		case 300:
			done++
		default:
			t.Errorf("%d records", n)
		}
		for range 2 {
			if out, err := exec.CommandContext(t.Context(), command[0], command[1:]...).CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		}
		if out, err := exec.CommandContext(t.Context(), imgd, "index", "check", "--index", index).CombinedOutput(); err != nil || !strings.Contains(string(out), "records: 300, ") {
			t.Errorf("%v: %s", err, out)
		}
		if err := os.RemoveAll(index); err != nil {
			t.Error(err)
		}
	})
	t.Logf("killed %d times: %d times nothing was there, %d times all", kills, nothing, done)
}
