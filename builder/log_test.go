package builder_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/builder"
)

func TestLogReplay(t *testing.T) {
	t.Parallel()
	b := newBuilder(t)
	p, req := newRepo(t, map[string]string{"Dockerfile": shell + "RUN echo hello from $(echo inside)\n", "busybox": "busybox"}).ask()
	if _, err := b.Build(t.Context(), p, req); err != nil {
		t.Fatal(err)
	}
	log, err := b.Log(t.Context(), req.ID, nil)
	if err != nil {
		t.Fatal(err)
	}
	raw := readAll(t, log)
	log.Close()
	for mode, want := range map[string]string{"plain": "hello from inside", "auto": "exporting manifest sha256:", "rawjson": `"vertexes"`, "quiet": ""} {
		var shown strings.Builder
		torn := raw + `{"vertexes":[{"dig`
		if err := builder.Replay(t.Context(), strings.NewReader(torn), &shown, mode); err != nil || !strings.Contains(shown.String(), want) {
			t.Errorf("%s: %v: %s", mode, err, shown.String())
		}
		if mode == "quiet" && shown.String() != "" {
			t.Errorf("quiet: %s", shown.String())
		}
		if mode == "rawjson" && strings.Count(shown.String(), "\n") != strings.Count(raw, "\n") {
			t.Errorf("rawjson: %d lines of %d", strings.Count(shown.String(), "\n"), strings.Count(raw, "\n"))
		}
	}
	if err := builder.Replay(t.Context(), strings.NewReader(raw), io.Discard, "loud"); err == nil {
		t.Error("there is no such mode")
	}
	if err := builder.Replay(t.Context(), strings.NewReader("<html>\n"), io.Discard, "plain"); err == nil {
		t.Error("that is no log")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := builder.Replay(ctx, strings.NewReader(raw), io.Discard, "plain"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
}

// A follower sees the output while the step runs, and of a retry all.
func TestLogFollow(t *testing.T) {
	t.Parallel()
	b := newBuilder(t)
	r := newRepo(t, map[string]string{"Dockerfile": shell + "RUN echo started; sleep 1; echo ended; exit 1\n", "busybox": "busybox"})
	p, req := r.ask()
	var over atomic.Bool
	got := make(chan string, 1)
	go func() { // before there is a log
		log, err := b.Log(t.Context(), req.ID, over.Load)
		if err != nil {
			got <- err.Error()
			return
		}
		defer log.Close()
		var shown strings.Builder
		if err := builder.Replay(t.Context(), log, &shown, "plain"); err != nil {
			shown.WriteString(err.Error())
		}
		got <- shown.String()
	}()
	ended := make(chan error, 1)
	go func() {
		_, err := b.Build(t.Context(), p, req)
		ended <- err
	}()
	waitForLog(t, b, req.ID, "c3RhcnRlZA")
	select {
	case err := <-ended:
		t.Fatalf("the build had ended when its first output was seen: %v", err)
	default:
	}
	if err := <-ended; err == nil {
		t.Fatal("want a failure")
	}
	r.write(map[string]string{"Dockerfile": shell + "RUN echo next attempt\n"})
	id := req.ID
	p, req = r.ask()
	req.ID = id
	if _, err := b.Build(t.Context(), p, req); err != nil {
		t.Fatal(err)
	}
	over.Store(true)
	shown := <-got
	for _, want := range []string{"started", "ended", "next attempt"} {
		if !strings.Contains(shown, want) {
			t.Errorf("the follower did not see %q:\n%s", want, shown)
		}
	}
	log, err := b.Log(t.Context(), id, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	if raw := readAll(t, log); strings.Contains(raw, "c3RhcnRlZA") {
		t.Error("the log of the attempt before is still there")
	}
}

func TestLogOfNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b, err := builder.New(t.Context(), builder.Config{Address: "unix:///run/imgd-no-such.sock", LogDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	id := strings.Repeat("a", 32)
	if _, err := b.Log(t.Context(), id, nil); !errors.Is(err, imgd.ErrNotFound) {
		t.Errorf("got %v, want ErrNotFound", err)
	}
	if _, err := b.Log(t.Context(), id, func() bool { return true }); !errors.Is(err, imgd.ErrNotFound) {
		t.Errorf("got %v, want ErrNotFound", err)
	}
	for _, bad := range []string{"", "../" + id, strings.Repeat("A", 32), id + "\n", id + "a"} {
		if _, err := b.Log(t.Context(), bad, nil); !errors.Is(err, imgd.ErrInvalid) {
			t.Errorf("%q: got %v, want ErrInvalid", bad, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := b.Log(ctx, id, func() bool { return false }); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the context's end", err)
	}
	// A log that a crash left behind is over.
	if err := os.WriteFile(filepath.Join(dir, id+".jsonl"), []byte("{}\n{\"vert"), 0o644); err != nil {
		t.Fatal(err)
	}
	log, err := b.Log(t.Context(), id, func() bool { return true })
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	if got := readAll(t, log); got != "{}\n{\"vert" {
		t.Errorf("got %q", got)
	}
	waiting, cancelWait := context.WithCancel(t.Context())
	log, err = b.Log(waiting, id, func() bool { return false })
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cancelWait()
	if _, err := io.ReadAll(log); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
}
