package embedded_test

import (
	"context"
	"log/slog"
	"net"
	"os"
	"testing"
	"time"
)

// patience is how long a test waits for what has to happen.
const patience = 60 * time.Second

func TestMain(m *testing.M) {
	if dir := os.Getenv("EMBEDDED_TEST_DOOMED"); dir != "" {
		runDoomed(dir)
		return
	}
	os.Exit(m.Run())
}

// within is the test's context, ended early enough to tell what hung.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// eventually asks until it is told nil, and fails the test with the last error.
func eventually(t *testing.T, ask func() error) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	ctx := within(t)
	for {
		err := ask()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("after %v still: %v", patience, err)
		case <-tick.C:
		}
	}
}

// busyPort is an address that something listens on.
func busyPort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	return listener.Addr().String()
}

func noFailure(t *testing.T, failed <-chan error) {
	t.Helper()
	select {
	case err := <-failed:
		t.Errorf("failed: %v", err)
	default:
	}
}
