package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// systemd is the socket that a unit's process tells.
func systemd(t *testing.T, name string) (env func(...string) func(string) string, heard func() string) {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	env = func(pairs ...string) func(string) string {
		all := map[string]string{"NOTIFY_SOCKET": name}
		for i := 0; i+1 < len(pairs); i += 2 {
			all[pairs[i]] = pairs[i+1]
		}
		return func(key string) string { return all[key] }
	}
	heard = func() string {
		t.Helper()
		buf := make([]byte, 1024)
		if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		n, err := conn.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
	return env, heard
}

func TestNotify(t *testing.T) {
	for _, name := range []string{filepath.Join(t.TempDir(), "notify"), fmt.Sprintf("@imgd-test-%d", time.Now().UnixNano())} {
		env, heard := systemd(t, name)
		n := newNotifier(env(), 1)
		before := monotonic().Microseconds()
		for _, tt := range []struct {
			tell func() error
			want string
		}{
			{func() error { return n.ready("serving") }, "READY=1\nSTATUS=serving"},
			{n.stopping, "STOPPING=1"},
			{n.reloading, "RELOADING=1\nMONOTONIC_USEC="},
		} {
			if err := tt.tell(); err != nil {
				t.Fatal(err)
			}
			got := heard()
			if !strings.HasPrefix(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			var at int64
			if n, _ := fmt.Sscanf(got, "RELOADING=1\nMONOTONIC_USEC=%d", &at); n == 1 && (at < before || at > monotonic().Microseconds()) {
				t.Errorf("reloading at %d, not since %d", at, before)
			}
		}
	}
	if err := newNotifier(func(string) string { return "" }, 1).ready("serving"); err != nil {
		t.Errorf("without a socket: %v", err)
	}
	gone := func(key string) string { return map[string]string{"NOTIFY_SOCKET": "/nonexistent/notify"}[key] }
	if err := newNotifier(gone, 1).ready("serving"); err == nil {
		t.Error("nobody listens, and there is no error")
	}
}

func TestWatchdog(t *testing.T) {
	env, heard := systemd(t, filepath.Join(t.TempDir(), "notify"))
	for _, tt := range []struct {
		pairs []string
		want  time.Duration
	}{
		{nil, 0},
		{[]string{"WATCHDOG_USEC", "20000"}, 10 * time.Millisecond},
		{[]string{"WATCHDOG_USEC", "20000", "WATCHDOG_PID", "17"}, 10 * time.Millisecond},
		{[]string{"WATCHDOG_USEC", "20000", "WATCHDOG_PID", "18"}, 0},
		{[]string{"WATCHDOG_USEC", "soon"}, 0},
		{[]string{"WATCHDOG_USEC", "-1"}, 0},
	} {
		n := newNotifier(env(tt.pairs...), 17)
		if n.watchdog != tt.want {
			t.Errorf("%q: got %s, want %s", tt.pairs, n.watchdog, tt.want)
		}
		if n.watchdog == 0 {
			n.live(t.Context(), func(error) {}) // returns
			continue
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		var failed error
		go func() { defer close(ended); n.live(ctx, func(err error) { failed = errors.Join(failed, err) }) }()
		for range 3 {
			if got := heard(); got != "WATCHDOG=1" {
				t.Errorf("got %q", got)
			}
		}
		cancel()
		<-ended
		if failed != nil {
			t.Error(failed)
		}
	}
}
