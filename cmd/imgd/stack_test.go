package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gofrs/flock"
)

// hold locks the data directory in the name of a process.
func hold(t *testing.T, dir string, pid int) *flock.Flock {
	t.Helper()
	name := filepath.Join(dir, "lock")
	if err := os.WriteFile(name, []byte(strconv.Itoa(pid)+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	lock := flock.New(name)
	if ok, err := lock.TryLock(); !ok || err != nil {
		t.Fatal(ok, err)
	}
	t.Cleanup(func() { _ = lock.Unlock() })
	return lock
}

// What a dead process holds still is waited for.
func TestLockOfTheDead(t *testing.T) {
	cmd := exec.Command("true")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	lock := hold(t, dir, cmd.Process.Pid)
	time.AfterFunc(5*lockPause, func() { _ = lock.Unlock() })
	s := &stack{}
	if err := s.lock(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	if err := s.close(); err != nil {
		t.Error(err)
	}
}

// One that lives is not.
func TestLockOfTheLiving(t *testing.T) {
	dir := t.TempDir()
	hold(t, dir, os.Getpid())
	began := time.Now()
	err := (&stack{}).lock(t.Context(), dir)
	if err == nil || !strings.Contains(err.Error(), "in use by process "+strconv.Itoa(os.Getpid())) {
		t.Errorf("got %v", err)
	}
	if took := time.Since(began); took > lockTime/2 {
		t.Errorf("it took %s to refuse", took)
	}
}
