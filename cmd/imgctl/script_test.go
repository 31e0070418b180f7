package main_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/imgd/imgd"
	imgctl "github.com/imgd/imgd/cmd/imgctl"
	"github.com/imgd/imgd/version"
)

var update = flag.Bool("update", false, "write what cmp compares into the scripts anew")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"imgctl": imgctl.Main})
}

// Keys of what a script carries along.
type (
	worldKey   struct{}
	contextKey struct{}
)

// TestScripts runs testdata/script. Each script has a daemon of its own, at
// IMGD_SERVER.
func TestScripts(t *testing.T) {
	testscript.Run(t, params(t, "testdata/script"))
}

func params(t *testing.T, dir string) testscript.Params {
	return testscript.Params{
		Dir:                 dir,
		RequireExplicitExec: true,
		UpdateScripts:       *update,
		Setup: func(env *testscript.Env) error {
			w, err := newWorld(filepath.Join(env.WorkDir, "index"))
			if err != nil {
				return err
			}
			env.Defer(w.close)
			registry := httptest.NewServer(w.registry)
			env.Defer(registry.Close)
			env.Setenv("REGISTRY", strings.TrimPrefix(registry.URL, "http://"))
			env.Values[worldKey{}], env.Values[contextKey{}] = w, t.Context()
			env.Setenv("IMGD_SERVER", w.server.URL)
			env.Setenv("GORACE", "atexit_sleep_ms=0") // else each imgctl under -race takes a second to exit
			env.Setenv("NOBODY", freePort(t))
			for _, name := range []string{"v1.2.3", "v1.3.0", "v2.0.0-rc.1"} {
				env.Setenv(strings.NewReplacer(".", "", "-", "").Replace(name), digest.FromString("refs/tags/"+name).String())
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits, "ref": setRef, "publish": publish, "becomes": becomes, "now": now, "served": served, "event": addEvent,
			"watched": watched, "interrupted": interrupted, "cuts": cuts, "down": down, "refuses": refuses, "endpoints": endpoints, "request": request,
			"admit": admit, "claimed": claimed, "letter": letter, "grows": grows, "restarts": restarts,
			"probe": probe, "reloads": reloads, "slow": slow, "state": state, "example": example,
			"differs": differs, "push": push, "damaged": damaged, "lacks": lacks, "stuck": stuck,
		},
	}
}

func worldOf(ts *testscript.TestScript) *world { return ts.Value(worldKey{}).(*world) }

func contextOf(ts *testscript.TestScript) context.Context {
	return ts.Value(contextKey{}).(context.Context)
}

// exits CODE PROGRAM [ARG…] runs a program that must exit with the code.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	code := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("%s exits with %d, want %s", strings.Join(args[1:], " "), code, args[0])
	}
}

// ref FULL LETTER makes a ref name the commit of that letter.
func setRef(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	w.change(func() { w.refs[args[0]] = strings.Repeat(args[1], 40) })
}

// publish FULL LETTER [TARGET] publishes that commit as named by that ref.
func publish(ts *testscript.TestScript, _ bool, args []string) {
	setRef(ts, false, args)
	req := imgd.Request{Project: "hello", Ref: args[0], Commit: strings.Repeat(args[1], 40), AskedAt: epoch}
	if len(args) > 2 {
		req.Target = args[2]
	}
	_, err := worldOf(ts).publish(contextOf(ts), req, args[0])
	ts.Check(err)
}

// admit FULL LETTER MESSAGE leaves a release of that commit open: the last try
// to publish it failed.
func admit(ts *testscript.TestScript, _ bool, args []string) {
	setRef(ts, false, args[:2])
	w := worldOf(ts)
	req := imgd.Request{Project: "hello", Ref: args[0], Commit: strings.Repeat(args[1], 40), AskedAt: epoch}
	rel, err := w.admit(contextOf(ts), req, args[0])
	ts.Check(err)
	status := imgd.StatusOf(rel.Request, imgd.Publishing)
	status.Tries, status.Release, status.Error = 3, rel.ID, &imgd.StatusError{Kind: "error", Message: args[2]}
	w.change(func() { w.statuses[rel.Request.ID] = status })
}

// claimed TAG leaves a release open that another CI has pushed.
func claimed(ts *testscript.TestScript, _ bool, args []string) {
	rel := imgd.Release{Image: "tools/lint", Pushed: true, Root: ocispec.Descriptor{Digest: digest.FromString(args[0])},
		Request: imgd.Request{ID: strings.Repeat("0f", 16)}, Tags: []imgd.ReleaseTag{{Name: args[0], Kind: version.KindVersion}}}
	_, err := worldOf(ts).index.Admit(contextOf(ts), rel, "")
	ts.Check(err)
}

// becomes STATE [KIND MESSAGE [FILE LINE CODE]] says what the next requests end as.
func becomes(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	w.change(func() {
		w.next = imgd.Status{State: imgd.State(args[0]), Tries: 1}
		if len(args) > 1 {
			w.next.Error = &imgd.StatusError{Kind: args[1], Message: strings.NewReplacer(`\n`, "\n", `\t`, "\t").Replace(args[2])}
		}
		if len(args) > 3 {
			line, err := strconv.Atoi(args[4])
			ts.Check(err)
			code, err := strconv.Atoi(args[5])
			ts.Check(err)
			w.next.Error.File, w.next.Error.Line, w.next.Error.ExitCode = args[3], line, code
		}
	})
}

// differs WHAT DIFFERENCE says that the next requests build that image to be
// compared, and how it differs from any other, as JSON; "" is not at all.
func differs(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	w.change(func() {
		w.next = imgd.Status{State: imgd.Unchanged, Tries: 1, Error: &imgd.StatusError{Kind: "unchanged", Message: "built to be compared", Built: digest.FromString(args[0])}}
		if w.difference = nil; args[1] != "" {
			w.difference = &imgd.Difference{}
			ts.Check(json.Unmarshal([]byte(args[1]), w.difference))
		}
	})
}

// letter ID PROJECT REASON [REQUEST] adds a dead letter.
func letter(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	l := imgd.Letter{ID: args[0], Project: args[1], Reason: args[2], Tries: 5, At: epoch, Subject: "imgd.requests." + args[1] + ".branch", Body: "{\"rev\":\n\t1}"}
	if len(args) > 3 {
		l.Request = args[3]
	}
	w.change(func() { w.letters = append(w.letters, l) })
}

// grows writes the build log of all requests.
func grows(ts *testscript.TestScript, _ bool, _ []string) {
	w := worldOf(ts)
	w.change(func() {
		for id := range w.statuses {
			w.logs[id] = buildLog
		}
	})
}

// restarts DIR ends the daemon, and starts it again at another address, which it
// writes to endpoints.json.
func restarts(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	ts.Check(os.Remove(filepath.Join(ts.MkAbs(args[0]), "endpoints.json")))
	w.stop()
	w.start()
	endpoints(ts, false, args)
}

// now STATE makes all requests be in that state.
func now(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	w.change(func() {
		for id, s := range w.statuses {
			s.State = imgd.State(args[0])
			w.statuses[id] = s
		}
	})
}

// served TAG WHAT makes the registry serve something else, a digest as it is, or with - nothing.
func served(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	w.change(func() {
		delete(w.served, repo+":"+args[0])
		d := digest.Digest(args[1])
		if d.Validate() != nil {
			d = digest.FromString(args[1])
			ts.Setenv(args[1], d.String())
		}
		if args[1] != "-" {
			w.served[repo+":"+args[0]] = d
		}
	})
}

// event FILE appends to IMGD_EVENTS.
func addEvent(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	text := strings.TrimSpace(ts.ReadFile(args[0]))
	w.change(func() { w.events = append(w.events, text) })
}

// watched [N] waits until somebody has begun to wait for the daemon, N times;
// watched 0 forgets those there were.
func watched(ts *testscript.TestScript, _ bool, args []string) {
	n := 1
	if len(args) > 0 {
		var err error
		n, err = strconv.Atoi(args[0])
		ts.Check(err)
	}
	w := worldOf(ts)
	ts.Check(w.await(contextOf(ts), func() bool { return w.watched >= n }))
	w.change(func() { w.watched = 0 })
}

// interrupted CODE TEXT PROGRAM [ARG…] runs a program, sends it SIGINT when it
// has written TEXT, and puts what it wrote into the files out and err.
func interrupted(ts *testscript.TestScript, _ bool, args []string) {
	dir, _, _ := strings.Cut(ts.Getenv("PATH"), string(filepath.ListSeparator)) // where testscript puts imgctl
	cmd := exec.CommandContext(contextOf(ts), filepath.Join(dir, args[2]), args[3:]...)
	cmd.Env = append(os.Environ(), "IMGD_SERVER="+ts.Getenv("IMGD_SERVER"), "GORACE="+ts.Getenv("GORACE"))
	var stdout, stderr strings.Builder
	heard := make(chan struct{})
	hear := sync.OnceFunc(func() { close(heard) })
	cmd.Stdout, cmd.Stderr = listener{&stdout, args[1], hear}, listener{&stderr, args[1], hear}
	ts.Check(cmd.Start())
	select {
	case <-heard:
	case <-contextOf(ts).Done():
	}
	ts.Check(cmd.Process.Signal(os.Interrupt))
	_ = cmd.Wait() // the exit code says it
	ts.Check(os.WriteFile(ts.MkAbs("out"), []byte(stdout.String()), 0o644))
	ts.Check(os.WriteFile(ts.MkAbs("err"), []byte(stderr.String()), 0o644))
	if got := strconv.Itoa(cmd.ProcessState.ExitCode()); got != args[0] {
		ts.Fatalf("%s exits with %s, want %s\n%s", strings.Join(args[2:], " "), got, args[0], stderr.String())
	}
}

// A listener hears a text in what is written.
type listener struct {
	all  *strings.Builder
	text string
	hear func()
}

func (l listener) Write(b []byte) (int, error) {
	n, err := l.all.Write(b)
	if strings.Contains(l.all.String(), l.text) {
		l.hear()
	}
	return n, err
}

// cuts N [AFTER] makes the next N streams break off after so many messages, one
// if it is not said.
func cuts(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	after := 1
	if len(args) > 1 {
		after, err = strconv.Atoi(args[1])
		ts.Check(err)
	}
	w.change(func() { w.cuts, w.cutAfter = n, after })
}

// down MESSAGE breaks the queue and the registry.
func down(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	w.change(func() { w.down = errors.New(args[0]) })
}

// refuses makes the daemon refuse all, as one off loopback does.
func refuses(ts *testscript.TestScript, _ bool, _ []string) {
	w := worldOf(ts)
	w.change(func() { w.refuse = true })
}

// endpoints DIR writes the daemon's endpoints.json.
func endpoints(ts *testscript.TestScript, _ bool, args []string) {
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(dir, 0o755))
	b, err := json.Marshal(map[string]string{"http": worldOf(ts).server.URL})
	ts.Check(err)
	ts.Check(os.WriteFile(filepath.Join(dir, "endpoints.json"), b, 0o644))
}

// request NAME [REF] puts the ID of the only request, or that of the ref, into a
// variable.
func request(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	w.mu.Lock()
	defer w.mu.Unlock()
	var found []string
	for id, s := range w.statuses {
		if len(args) < 2 || s.Ref == args[1] {
			found = append(found, id)
		}
	}
	if len(found) != 1 {
		ts.Fatalf("there are %d requests", len(found))
	}
	ts.Setenv(args[0], found[0])
}

// What is taken for IMAGE:TAG stands in a path as it is.
func FuzzTagPath(f *testing.F) {
	for _, s := range []string{"", "demo/hello:v1", "a:b", ":b", "a:", "a/../b:c", "a?b:c", "a%2fb:c", "a//b:c", "/a:b", "a@sha256:00", "h:5000/a:b", "a:b/c", "a b:c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		path, err := imgctl.TagPath(s)
		if err != nil || path == "" {
			return
		}
		image, tag, _ := strings.Cut(s, ":")
		if want := "/v1/images/" + image + "/tags/" + tag; path != want {
			t.Errorf("%q: got %q, want %q", s, path, want)
		}
		u, err := url.Parse("http://imgd" + path)
		if err != nil {
			return // no URL, so nothing is asked
		}
		if u.Path != path || u.RawQuery != "" || u.Fragment != "" {
			t.Errorf("%q: the path %q is read as %q", s, path, u)
		}
	})
}
