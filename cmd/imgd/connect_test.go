package main

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/imgd/imgd/events"
	"github.com/imgd/imgd/internal/embedded"
)

// A heard handler tells of each line that is logged.
type heard struct {
	slog.Handler
	lines chan string
}

func (h heard) Handle(_ context.Context, r slog.Record) error {
	select {
	case h.lines <- r.Message:
	default:
	}
	return nil
}

func (heard) Enabled(context.Context, slog.Level) bool { return true }

// gone is the address of a NATS that was there.
func gone(t *testing.T) string {
	t.Helper()
	n := startNATS(t, "127.0.0.1:0")
	n.Close()
	return strings.TrimPrefix(n.URL(), "nats://")
}

func startNATS(t *testing.T, listen string) *embedded.NATS {
	t.Helper()
	n, err := embedded.StartNATS(t.Context(), embedded.NATSConfig{Dir: t.TempDir(), Listen: listen, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	return n
}

// A NATS that comes after imgd is waited for, and the log says so meanwhile.
func TestConnectWaits(t *testing.T) {
	addr, log := gone(t), heard{slog.DiscardHandler, make(chan string, 1)}
	came := make(chan error, 1)
	go func() {
		bus, err := connect(t.Context(), events.Config{URL: "nats://" + addr, Log: slog.New(log)}, startTime)
		if err == nil {
			bus.Close()
		}
		came <- err
	}()
	for range 3 { // seconds
		select {
		case line := <-log.lines:
			if line != "NATS does not answer, waiting for it" {
				t.Errorf("the log says %q", line)
			}
		case err := <-came:
			t.Fatalf("it did not wait: %v", err)
		}
	}
	startNATS(t, addr)
	if err := <-came; err != nil {
		t.Error(err)
	}
}

// Then it says what to do; and who stops imgd meanwhile need not wait.
func TestConnectGivesUp(t *testing.T) {
	addr := gone(t)
	cfg := events.Config{URL: "nats://" + addr, Log: slog.New(slog.DiscardHandler)}
	_, err := connect(t.Context(), cfg, time.Nanosecond)
	if !errors.Is(err, events.ErrAway) || !strings.Contains(err.Error(), "nats.url") || !strings.Contains(err.Error(), addr) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	log := heard{slog.DiscardHandler, make(chan string, 1)}
	go func() { <-log.lines; cancel() }()
	cfg.Log = slog.New(log)
	began := time.Now()
	if _, err = connect(ctx, cfg, time.Hour); err == nil || time.Since(began) > time.Minute {
		t.Errorf("got %v after %s", err, time.Since(began))
	}
}
