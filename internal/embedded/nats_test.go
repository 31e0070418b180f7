package embedded_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/imgd/imgd/internal/embedded"
)

func startNATS(t *testing.T, dir string) *embedded.NATS {
	t.Helper()
	n, err := embedded.StartNATS(within(t), embedded.NATSConfig{Dir: dir, Listen: "127.0.0.1:0", Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	return n
}

func stream(t *testing.T, url string) jetstream.JetStream {
	t.Helper()
	conn, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	_, err = js.CreateOrUpdateStream(within(t), jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
	if err != nil {
		t.Fatal(err)
	}
	return js
}

func TestNATSKeepsMessagesOverRestart(t *testing.T) {
	dir := t.TempDir()
	first := startNATS(t, dir)
	if _, err := stream(t, first.URL()).Publish(within(t), "s.a", []byte("kept")); err != nil {
		t.Fatal(err)
	}
	noFailure(t, first.Failed())
	first.Close()
	first.Close() // harmless

	second := startNATS(t, dir)
	conn, err := nats.Connect(second.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	s, err := js.Stream(within(t), "S")
	if err != nil {
		t.Fatal(err)
	}
	msg, err := s.GetLastMsgForSubject(within(t), "s.a")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(msg.Data), "kept"; got != want {
		t.Errorf("message: got %q, want %q", got, want)
	}
}

func TestNATSRefusesToStart(t *testing.T) {
	taken := t.TempDir()
	startNATS(t, taken)
	broken := t.TempDir()
	if err := os.WriteFile(filepath.Join(broken, "jetstream"), []byte("a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	notDir := filepath.Join(broken, "jetstream")
	for name, tc := range map[string]struct {
		dir, listen string
		want        string
	}{
		"directory locked":       {taken, "127.0.0.1:0", fmt.Sprintf("in use by process %d", os.Getpid())},
		"store is a file":        {broken, "127.0.0.1:0", "Can't start JetStream"},
		"directory is a file":    {notDir, "127.0.0.1:0", "not a directory"},
		"port taken":             {t.TempDir(), busyPort(t), "address already in use"},
		"address without port":   {t.TempDir(), "127.0.0.1", "missing port"},
		"port is not a number":   {t.TempDir(), "127.0.0.1:nats", `"127.0.0.1:nats"`},
		"address of nobody here": {t.TempDir(), "192.0.2.1:4222", "cannot assign requested address"},
	} {
		t.Run(name, func(t *testing.T) {
			n, err := embedded.StartNATS(within(t), embedded.NATSConfig{Dir: tc.dir, Listen: tc.listen, Log: quiet()})
			if err == nil {
				n.Close()
				t.Fatal("got no error")
			}
			if !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %q, want it to contain %q", err, tc.want)
			}
		})
	}
}

// A failed start has to give the directory back.
func TestNATSStartsAfterFailedStart(t *testing.T) {
	dir := t.TempDir()
	_, err := embedded.StartNATS(within(t), embedded.NATSConfig{Dir: dir, Listen: busyPort(t), Log: quiet()})
	if err == nil {
		t.Fatal("got no error")
	}
	startNATS(t, dir)
}

func TestNATSStartEndsWithContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	n, err := embedded.StartNATS(ctx, embedded.NATSConfig{Dir: t.TempDir(), Listen: "127.0.0.1:0", Log: quiet()})
	if err == nil { // it was faster
		n.Close()
	} else if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}

func TestNATSTellsOfFullDisk(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	n := startNATS(t, dir)
	js := stream(t, n.URL())
	ctx := within(t)
	if err := os.WriteFile(filepath.Join(dir, "filler"), make([]byte, 8<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("fill the disk: got %v, want %v", err, syscall.ENOSPC)
	}
	for err := error(nil); err == nil; {
		publishing, cancel := context.WithTimeout(ctx, time.Second)
		_, err = js.Publish(publishing, "s.a", make([]byte, 64<<10))
		cancel()
		if ctx.Err() != nil {
			t.Fatal("a full disk takes messages")
		}
	}
	select {
	case err := <-n.Failed():
		t.Logf("told: %v", err)
	case <-ctx.Done():
		t.Fatal("nobody was told")
	}
}
