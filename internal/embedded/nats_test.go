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

// smallDisk mounts a file system of 4 MiB at a new directory; what it answers
// leaves no page of it free.
func smallDisk(t *testing.T) (dir string, fill func()) {
	t.Helper()
	needRoot(t)
	dir = t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	return dir, func() {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "filler"), make([]byte, 8<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("fill the disk: got %v, want %v", err, syscall.ENOSPC)
		}
	}
}

func mustBeTold(t *testing.T, n *embedded.NATS, want string) {
	t.Helper()
	select {
	case err := <-n.Failed():
		if !strings.Contains(err.Error(), want) {
			t.Errorf("told %q, want it to contain %q", err, want)
		}
	case <-within(t).Done():
		t.Fatal("nobody was told")
	}
}

func TestNATSTellsOfFullDisk(t *testing.T) {
	dir, fill := smallDisk(t)
	n := startNATS(t, dir)
	js := stream(t, n.URL())
	ctx := within(t)
	fill()
	for err := error(nil); err == nil; {
		publishing, cancel := context.WithTimeout(ctx, time.Second)
		_, err = js.Publish(publishing, "s.a", make([]byte, 64<<10))
		cancel()
		if ctx.Err() != nil {
			t.Fatal("a full disk takes messages")
		}
	}
	mustBeTold(t, n, "no space left")
}

// The server confirms an acknowledgement even if it could not write it.
func TestNATSTellsOfLostRemoval(t *testing.T) {
	dir, fill := smallDisk(t)
	n := startNATS(t, dir)
	js := stream(t, n.URL())
	ctx := within(t)
	queue, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "Q", Subjects: []string{"q.>"}, Retention: jetstream.WorkQueuePolicy})
	if err != nil {
		t.Fatal(err)
	}
	consumer, err := queue.CreateConsumer(ctx, jetstream.ConsumerConfig{Durable: "c", AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		t.Fatal(err)
	}
	publish := func(size int) (used int) {
		if _, err := js.Publish(ctx, "q.a", make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(blocks(dir, "Q"))
		if err != nil {
			t.Fatal(err)
		}
		return int(info.Size())
	}
	const page = 4096
	first := publish(0)
	if used := publish(page - 2*first); used != page { // so that the removal needs another
		t.Fatalf("%d bytes are used, want %d", used, page)
	}
	batch, err := consumer.Fetch(1)
	if err != nil {
		t.Fatal(err)
	}
	msg := <-batch.Messages()
	fill()
	if err := msg.DoubleAck(ctx); err != nil {
		t.Logf("now it says so: %v", err)
	}
	mustBeTold(t, n, "[Q]") // and not of the note, which has no room either
}

// blocks is the file of a stream's messages.
func blocks(dir, stream string) string {
	return filepath.Join(dir, "jetstream", "$G", "streams", stream, "msgs", "1.blk")
}

// endsNoted waits until the note says that S ends there.
func endsNoted(t *testing.T, dir string, last int) {
	t.Helper()
	eventually(t, func() error {
		text, err := os.ReadFile(filepath.Join(dir, "ends.json"))
		if err == nil && !strings.Contains(string(text), fmt.Sprintf("Z\": %d\n", last)) {
			err = fmt.Errorf("the note says %s", text)
		}
		return err
	})
}

// A file of which the server would only take the beginning is refused.
func TestNATSRefusesLostMessages(t *testing.T) {
	stopped, crashed := t.TempDir(), t.TempDir()
	n := startNATS(t, stopped)
	js := stream(t, n.URL())
	const messages = 40
	for range messages {
		if _, err := js.Publish(within(t), "s.a", make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
	}
	endsNoted(t, stopped, messages)
	if err := os.CopyFS(crashed, os.DirFS(stopped)); err != nil {
		t.Fatal(err)
	}
	n.Close()
	for name, tc := range map[string]struct {
		from   string
		damage func(file string) error
	}{
		"stopped": {from: stopped},
		"crashed": {from: crashed},
		"bit flipped": {crashed, func(file string) error {
			text, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			text[len(text)/2] ^= 1
			return os.WriteFile(file, text, 0o600)
		}},
		"cut":         {crashed, func(file string) error { return os.Truncate(file, 1000) }},
		"empty":       {crashed, func(file string) error { return os.Truncate(file, 0) }},
		"file gone":   {crashed, func(file string) error { return os.Remove(file) }},
		"stream gone": {crashed, func(file string) error { return os.RemoveAll(filepath.Dir(filepath.Dir(file))) }},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			err := os.CopyFS(dir, os.DirFS(tc.from))
			if err == nil && tc.damage != nil {
				err = tc.damage(blocks(dir, "S"))
			}
			if err != nil {
				t.Fatal(err)
			}
			for range 2 { // it stays refused
				if tc.damage == nil {
					startNATS(t, dir).Close()
					continue
				}
				_, err := embedded.StartNATS(within(t), embedded.NATSConfig{Dir: dir, Listen: "127.0.0.1:0", Log: quiet()})
				if want := "it ended with number 40, and ends with number "; err == nil || !strings.Contains(err.Error(), want) {
					t.Fatalf("got %v, want it to contain %q", err, want)
				}
			}
			if err := os.Remove(filepath.Join(dir, "ends.json")); err != nil { // as the error advises
				t.Fatal(err)
			}
			startNATS(t, dir)
		})
	}
}

// What clients remove, and what was not to be kept, is not lost: no note from
// before is against it.
func TestNATSKnowsWhatWasRemoved(t *testing.T) {
	dir := t.TempDir()
	n := startNATS(t, dir)
	js := stream(t, n.URL())
	ctx := within(t)
	_, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "M", Subjects: []string{"m.>"}, Storage: jetstream.MemoryStorage})
	if err != nil {
		t.Fatal(err)
	}
	for _, subject := range []string{"m.a", "s.a", "s.b", "s.c"} {
		if _, err := js.Publish(ctx, subject, nil); err != nil {
			t.Fatal(err)
		}
	}
	endsNoted(t, dir, 3)
	before, err := os.ReadFile(filepath.Join(dir, "ends.json"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := js.Stream(ctx, "S")
	if err == nil {
		err = errors.Join(s.DeleteMsg(ctx, 3), s.Purge(ctx))
	}
	if err != nil {
		t.Fatal(err)
	}
	n.Close()
	if err := os.WriteFile(filepath.Join(dir, "ends.json"), before, 0o600); err != nil {
		t.Fatal(err)
	}
	startNATS(t, dir)
}
