package main_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"github.com/imgd/imgd"
	imgctl "github.com/imgd/imgd/cmd/imgctl"
	"github.com/imgd/imgd/internal/httpapi"
)

// exampleID is the request that the examples are about.
const exampleID = "0f3c2b9d8a7e6f5041328374655647ab"

// usual is what the examples find.
const usual = `publish refs/tags/v1.2.3 a
ref refs/heads/main b
becomes published
letter dead-7 hello 'unknown field "rev"'
event published.json
event failed.json
probe nats
reloads 200 {"changed":["log.level"],"restart":["nats.url"]}
exec imgctl drift --now
`

// events are two of IMGD_EVENTS.
const events = `-- published.json --
{"specversion":"1.0","type":"dev.cdevents.artifact.published.0.3.0","id":"r-1","subject":"pkg:oci/hello","time":"2026-11-21T10:00:00Z","data":{}}
-- failed.json --
{"specversion":"1.0","type":"dev.imgd.failed.v1","id":"r","data":{"image":"demo/hello","state":"failed"}}
`

// unusual is what the examples of some commands find beyond that.
var unusual = map[string]string{
	"imgctl":                 "state " + exampleID + " failed\n",
	"imgctl publish":         "served v1.5.0 sha256:" + strings.Repeat("0", 64) + "\n",
	"imgctl logs":            "state " + exampleID + " published\n",
	"imgctl rollback":        "publish refs/tags/v1.3.0 b\n",
	"imgctl requests":        "state " + exampleID + " failed\n",
	"imgctl requests show":   "state " + exampleID + " failed\n",
	"imgctl requests retry":  "state " + exampleID + " failed\n",
	"imgctl requests cancel": "state " + exampleID + " building\n",
	"imgctl requests drop":   "state " + exampleID + " dead\n",
}

// TestExamples runs each example of each command's help by a shell, as who reads
// it would, each in a world of its own.
func TestExamples(t *testing.T) {
	dir, n := t.TempDir(), 0
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		examples := strings.Split(strings.TrimSpace(cmd.Example), "\n")
		if cmd.Example == "" || cmd.Short == "" {
			t.Errorf("%s has no example or no description", cmd.CommandPath())
		}
		for i, line := range examples {
			line = strings.TrimSpace(line)
			if !strings.Contains(line, cmd.CommandPath()+" ") && !strings.HasSuffix(line, cmd.CommandPath()) {
				t.Errorf("%q is no example of %s", line, cmd.CommandPath())
			}
			n++
			name := strings.ReplaceAll(cmd.CommandPath(), " ", "-") + "-" + strconv.Itoa(i+1) + ".txtar"
			script := usual + unusual[cmd.CommandPath()] + "example line\n-- line --\n" + line + "\n" + events
			if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(imgctl.Root())
	if n < 30 {
		t.Errorf("found only %d examples", n)
	}
	testscript.Run(t, params(t, dir))
}

// example FILE runs the shell's command in it, which must exit with 0 and show
// something. One that goes on for ever is interrupted when it has nothing more
// to do.
func example(ts *testscript.TestScript, _ bool, args []string) {
	line := strings.TrimSpace(ts.ReadFile(args[0]))
	ctx, cancel := context.WithCancel(contextOf(ts))
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-euc", line)
	cmd.Dir = ts.MkAbs(".")
	for _, name := range []string{"PATH", "HOME", "IMGD_SERVER", "GORACE"} {
		cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
	}
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	before, err := os.ReadDir(cmd.Dir)
	ts.Check(err)
	wantCode := 0
	w := worldOf(ts)
	if strings.Contains(line, "events -f") || strings.Contains(line, "imgctl watch") {
		wantCode = 8
		ts.Check(cmd.Start())
		ts.Check(w.await(ctx, func() bool { return w.watched > 0 }))
		ts.Check(cmd.Process.Signal(os.Interrupt))
		_ = cmd.Wait() // the exit code says it
	} else {
		var exit *exec.ExitError
		if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
	}
	if got := cmd.ProcessState.ExitCode(); got != wantCode {
		ts.Fatalf("%s\nexits with %d, want %d\n%s", line, got, wantCode, out.String())
	}
	files, err := os.ReadDir(cmd.Dir)
	ts.Check(err)
	if out.Len() == 0 && len(files) == len(before) && !strings.HasPrefix(line, "source ") && !strings.Contains(line, "select(.ok | not)") && !strings.Contains(line, "select(.same | not)") {
		ts.Fatalf("%s\nshows nothing, and leaves %v", line, files)
	}
}

// state ID STATE makes a request of main stand so.
func state(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	w.change(func() {
		w.statuses[args[0]] = imgd.Status{Request: args[0], Project: "hello", Ref: "refs/heads/main", Commit: strings.Repeat("b", 40),
			State: imgd.State(args[1]), Tries: 1, AskedAt: epoch, By: "http"}
		w.logs[args[0]] = buildLog
	})
}

// probe NAME [ERROR HINT] adds a probe to the daemon's check.
func probe(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	p := httpapi.Probe{Name: args[0], Run: func(context.Context) (string, error) { return "it is there", nil }}
	if len(args) > 1 {
		p.Run = func(context.Context) (string, error) { return "", fmt.Errorf("%s", args[1]) }
		p.Todo = args[2]
	}
	w.change(func() { w.probes = append(w.probes, p) })
}

// reloads STATUS BODY is what the daemon answers to a reload.
func reloads(ts *testscript.TestScript, _ bool, args []string) {
	status, err := strconv.Atoi(args[0])
	ts.Check(err)
	w := worldOf(ts)
	w.change(func() { w.reload = answer{status, args[1]} })
}

// slow makes the daemon take requests and answer none.
func slow(ts *testscript.TestScript, _ bool, _ []string) {
	w := worldOf(ts)
	w.change(func() { w.slow = true })
}
