package index_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/imgd/imgd/index"
)

// When nobody knows what is durable, nothing more is written: a journal whose last frame may be torn would be taken for a whole
// one under its other name.
func TestNothingAfterUnknown(t *testing.T) {
	w, dir := newWorld(), t.TempDir()
	x := still(t, dir, w)
	publish(t, x, w.candidate("refs/tags/v1.0.0", "a", "A", 1))
	if err := x.Break(); err != nil {
		t.Fatal(err)
	}
	if _, err := x.Admit(t.Context(), w.candidate("refs/tags/v1.0.1", "b", "B", 2), ""); err == nil {
		t.Fatal("a journal that is closed takes an entry")
	}
	was := names(x, []string{"A"}, "v1.0.0")
	if err := x.Rotate(); err == nil {
		t.Error("a new journal was begun")
	}
	if err := x.Snapshot(); err == nil {
		t.Error("images.json was written")
	}
	if _, err := os.Stat(filepath.Join(dir, "journal.older")); err == nil {
		t.Error("the journal has the name of one that is whole")
	}
	_ = x.Kill() // the journal is closed
	if got := names(open(t, dir, w), []string{"A"}, "v1.0.0"); got != was {
		t.Errorf("opened again: %s, was %s", got, was)
	}
}

// What cannot be cut off a journal is not written over.
func TestNothingAfterFailedRelease(t *testing.T) {
	w, dir := newWorld(), t.TempDir()
	x := still(t, dir, w)
	publish(t, x, w.candidate("refs/tags/v1.0.0", "a", "A", 1))
	if err := x.Break(); err != nil {
		t.Fatal(err)
	}
	if err := x.Snapshot(); err == nil {
		t.Error("a journal that is closed was emptied")
	}
	_, err := x.Admit(t.Context(), w.candidate("refs/tags/v1.0.1", "b", "B", 2), "")
	if err == nil || !strings.Contains(err.Error(), "outcome of the write is unknown: cut") {
		t.Errorf("got %v, want what went wrong before", err)
	}
	_ = x.Kill() // the journal is closed
}

// A snapshot for which there is no room leaves none of it behind, and nothing is lost.
func TestSnapshotWithoutRoom(t *testing.T) {
	w, dir := newWorld(), t.TempDir()
	x := still(t, dir, w)
	publish(t, x, w.candidate("refs/tags/v1.0.0", "a", "A", 1))
	prev := filepath.Join(dir, "images.json.prev")
	if err := os.MkdirAll(filepath.Join(prev, "in the way"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := x.Snapshot(); err == nil {
		t.Fatal("images.json.prev is a directory that is not empty, and was replaced")
	}
	if _, err := os.Stat(filepath.Join(dir, "images.json.tmp")); err == nil {
		t.Error("what was written of it is left")
	}
	publish(t, x, w.candidate("refs/tags/v1.0.1", "b", "B", 2))
	if err := os.RemoveAll(prev); err != nil {
		t.Fatal(err)
	}
	if err := x.Snapshot(); err != nil {
		t.Error(err)
	}
	if err := x.Kill(); err != nil {
		t.Fatal(err)
	}
	if got, want := names(open(t, dir, w), []string{"A", "B"}, "v1.0.0", "v1.0.1"), "v1.0.0=A v1.0.1=B"; got != want {
		t.Errorf("opened again: %s, want %s", got, want)
	}
}

// faulted publishes until some snapshots were written, as the plan of writeTraced says, while a call fails. It answers the last entry that was
// acknowledged, and whether one failed: strace counts by thread.
func faulted(t *testing.T, dir, plan string, trace ...string) (acked uint64, hit bool, err error) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "strace.out")
	args := append([]string{"-f", "-o", out}, trace...)
	cmd := exec.CommandContext(t.Context(), "strace", append(args, os.Args[0])...)
	cmd.Env = append(os.Environ(), powerDir+"="+dir, powerPlan+"="+plan)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	said, err := cmd.Output()
	if line, _, ok := cutLast(string(said)); ok {
		if _, scanErr := fmt.Sscan(line, &acked); scanErr != nil {
			t.Fatal(scanErr)
		}
	}
	if err != nil {
		err = fmt.Errorf("%w: %s", err, stderr.String())
	}
	traced, readErr := os.ReadFile(out)
	if readErr != nil {
		t.Fatal(readErr)
	}
	return acked, bytes.Contains(traced, []byte("(INJECTED)")), err
}

// A disk that has no room for a new journal ends nothing: the one that is there goes on.
func TestRotateWithoutRoom(t *testing.T) {
	t.Parallel()
	for _, call := range []string{"openat:error=ENOSPC:when=3+", "renameat:error=ENOSPC:when=1+"} {
		dir, acked := t.TempDir(), uint64(0)
		run := func(plan string, trace ...string) (hit bool) {
			said, hit, err := faulted(t, dir, plan, trace...)
			if err != nil && (!hit || !strings.Contains(err.Error(), "no space left")) {
				t.Fatalf("%s: %v", call, err)
			}
			acked = max(acked, said)
			if found, err := index.Check(dir); err != nil || found.Seq != acked {
				t.Errorf("%s: entry %d, %v; want %d", call, found.Seq, err, acked)
			}
			return hit
		}
		run("0 0 close") // makes the journal
		name, _, _ := strings.Cut(call, ":")
		hit := false
		for tries := 0; !hit && tries < 5; tries++ {
			hit = run("9 60 close", "-e", "trace="+name, "-e", "inject="+call, "-P", filepath.Join(dir, "journal"))
		}
		if !hit || acked < 120 {
			t.Errorf("%s: injected: %v, entries: %d; want some to be refused, and 120", call, hit, acked)
		}
		run("1 1 close") // with room again
	}
}

// Who reads while a daemon begins a new journal gets all that was acknowledged before: what was in the journal when it looked for
// the older one, and in the older one when it looked for the journal.
func TestExportWhileRotated(t *testing.T) {
	l := journaled(t, 2)
	if err := unix.Mkfifo(l.file("journal.older"), 0o644); err != nil { // holds the reader there
		t.Fatal(err)
	}
	read := make(chan uint64, 1)
	go func() {
		found, err := index.Check(l.dir)
		if err != nil {
			t.Error(err)
		}
		read <- found.Seq
	}()
	there, err := os.OpenFile(l.file("journal.older"), os.O_WRONLY, 0) // once the reader is there
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(l.file("journal"), l.file("journal.older")); err != nil {
		t.Fatal(err)
	}
	l.write("journal", nil)
	there.Close()
	if seq := <-read; seq != 4 {
		t.Errorf("entry %d, want 4", seq)
	}
}
