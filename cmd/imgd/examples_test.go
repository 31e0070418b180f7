package main

import (
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"github.com/imgd/imgd/index"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"imgd": main})
}

// TestExamples runs each example of each command's help by a shell, as who reads
// it would, but for the data directory and the port, which are the test's. The
// daemon's own buildkitd needs root: it is told of another one, which is away.
func TestExamples(t *testing.T) {
	var n int
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		if cmd.Example == "" || cmd.Short == "" {
			t.Errorf("%s has no example or no description", cmd.CommandPath())
		}
		for line := range strings.Lines(cmd.Example) {
			line = strings.TrimSpace(line)
			if !strings.Contains(line, cmd.CommandPath()+" ") && !strings.HasSuffix(line, cmd.CommandPath()) {
				t.Errorf("%q is no example of %s", line, cmd.CommandPath())
			}
			n++
			t.Run(line, func(t *testing.T) { t.Parallel(); newExample(t).run(line) })
		}
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(rootCommand(io.Discard))
	if n < 12 {
		t.Errorf("found only %d examples", n)
	}
}

// releases is the past of another system.
const releases = `[{"ImageName":"myorg/app","Tag":"v1.4.0","Digest":"sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
"PublishedAt":"2026-01-02T03:04:05Z","SourceRef":"https://git.example.com/myorg/app@0123456789012345678901234567890123456789"}]`

// An example is run in a directory that has an imgd.yaml and a past,
// for a data directory with an empty index.
type example struct {
	*testing.T
	dir, data string
}

func newExample(t *testing.T) *example {
	e := &example{T: t, dir: t.TempDir(), data: filepath.Join(t.TempDir(), "data")}
	e.write("imgd.yaml", []byte("log: {level: warn}\n"))
	e.write("releases.json", []byte(releases))
	x, err := index.Open(index.Config{Dir: filepath.Join(e.data, "index")})
	if err != nil {
		t.Fatal(err)
	}
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	return e
}

func (e *example) write(name string, text []byte) {
	e.Helper()
	if err := os.WriteFile(filepath.Join(e.dir, name), text, 0o600); err != nil {
		e.Fatal(err)
	}
}

func (e *example) command(line string) *exec.Cmd {
	line = strings.NewReplacer("/var/lib/imgd", e.data, "/mnt/backup", e.data, "127.0.0.1:7070", "127.0.0.1:0", "/etc/imgd", e.dir).Replace(line)
	ctx, cancel := context.WithTimeout(e.Context(), time.Minute)
	e.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, "bash", "-euc", "exec env "+line)
	cmd.Dir = e.dir
	cmd.Env = append(os.Environ(), "IMGD_DATA="+e.data, "IMGD_LISTEN=127.0.0.1:0", "IMGD_NATS_LISTEN=127.0.0.1:0", "IMGD_REGISTRY_LISTEN=127.0.0.1:0",
		"IMGD_BUILDKIT_ADDRESS=tcp://127.0.0.1:1")
	return cmd
}

// run runs the line, which must exit with 0 and show something or leave a file.
func (e *example) run(line string) {
	e.Helper()
	if strings.Contains(line, "imgd serve") {
		e.served(line, "imgd health")()
		return
	}
	if strings.Contains(line, "imgd health") {
		defer e.served("imgd serve", line)()
		return
	}
	if strings.Contains(line, "import images.json") {
		whole, err := index.Export(filepath.Join(e.data, "index"))
		if err != nil {
			e.Fatal(err)
		}
		e.write("images.json", whole)
	}
	if strings.Contains(line, "imgd index recover") { // from streams that are there
		e.served("imgd serve", "imgd health")()
	}
	before, _ := os.ReadDir(e.dir)
	out, err := e.command(line).CombinedOutput()
	after, _ := os.ReadDir(e.dir)
	if err != nil || len(out) == 0 && len(after) == len(before) {
		e.Errorf("%v\n%s", err, out)
	}
}

// served starts the daemon by one line, and waits until another one finds that
// it lives. The daemon must stop when it is told to.
func (e *example) served(serve, health string) (stop func()) {
	e.Helper()
	cmd := e.command(serve)
	var log strings.Builder
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		e.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		out, err := e.command(health).CombinedOutput()
		if err == nil && string(out) == "ok\n" {
			break
		}
		select {
		case err := <-ended:
			e.Fatalf("%v\n%s", err, &log)
		default: // a health check takes its time to start
		}
	}
	return func() {
		e.Helper()
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			e.Fatal(err)
		}
		if err := <-ended; err != nil {
			e.Errorf("%v\n%s", err, &log)
		}
	}
}
