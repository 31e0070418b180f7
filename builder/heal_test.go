package builder_test

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/builder"
)

// A buildkitd that was killed while git ran leaves a lock behind, with which git
// fails for ever. That is not the Dockerfile's fault, and the next try of a build
// finds it mended.
func TestDamagedGitCache(t *testing.T) {
	for _, test := range []struct {
		name       string
		dockerfile string // URL and COMMIT are another repository's
	}{
		{"of the context", "FROM scratch\nCOPY Dockerfile /\n"},
		{"that a step adds", "FROM scratch\nADD URL#COMMIT /\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBuilder(t)
			other := newRepo(t, map[string]string{"file": "one"})
			dockerfile := func() string {
				_, req := other.ask()
				return strings.NewReplacer("URL", other.url, "COMMIT", req.Commit).Replace(test.dockerfile)
			}
			r := newRepo(t, map[string]string{"Dockerfile": dockerfile()})
			locked := r.url
			if strings.Contains(test.dockerfile, "URL") {
				locked = other.url
			}
			p, req := r.ask()
			if _, err := b.Build(t.Context(), p, req); err != nil {
				t.Fatal(err)
			}
			lock(t, locked)
			other.write(map[string]string{"file": "two"})
			r.write(map[string]string{"Dockerfile": dockerfile() + "LABEL second=1\n"})
			p, req = r.ask()
			_, err := b.Build(t.Context(), p, req)
			var fault *imgd.BuildError
			if err == nil || errors.As(err, &fault) {
				t.Errorf("with locks: got %v, want a plain error", err)
			}
			if _, err := b.Build(t.Context(), p, req); err != nil {
				t.Errorf("the next try: %v", err)
			}
		})
	}
}

// lock leaves locks in buildkitd's copies of the repository.
func lock(t *testing.T, url string) {
	t.Helper()
	configs, err := filepath.Glob(filepath.Join(world.root, "*", "snapshots", "snapshots", "*", "fs", "config"))
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, config := range configs {
		text, err := os.ReadFile(config)
		if err != nil || !bytes.Contains(text, []byte(url)) {
			continue
		}
		found = true
		for _, name := range []string{"index.lock", "shallow.lock", "config.lock"} {
			if err := os.WriteFile(filepath.Join(filepath.Dir(config), name), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	if !found {
		t.Fatalf("no copy of %s under %s", url, world.root)
	}
}

// What a command prints, or is, damages nothing.
func TestCommandThatSpeaksOfDamage(t *testing.T) {
	var log bytes.Buffer
	b := newBuilder(t, func(c *builder.Config) { c.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	r := newRepo(t, map[string]string{"Dockerfile": shell + "RUN echo \"index.lock': File exists\"; exit 3\n", "busybox": "busybox"})
	p, req := r.ask()
	_, err := b.Build(t.Context(), p, req)
	var fault *imgd.BuildError
	if !errors.As(err, &fault) || fault.ExitCode != 3 || strings.Contains(log.String(), "damaged") {
		t.Errorf("got %v, log %s", err, log.String())
	}
}
