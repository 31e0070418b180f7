package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// A notifier tells systemd how the daemon is, as sd_notify(3) says: READY=1 when
// it serves, RELOADING=1 and READY=1 around a reload, STOPPING=1, and WATCHDOG=1
// if the unit has WatchdogSec. Without NOTIFY_SOCKET it tells nobody.
type notifier struct {
	socket   string
	watchdog time.Duration // between two signs of life; 0: none wanted
	now      func() time.Duration
}

func newNotifier(getenv func(string) string, pid int) notifier {
	n := notifier{socket: getenv("NOTIFY_SOCKET"), now: monotonic}
	usec, err := strconv.ParseInt(getenv("WATCHDOG_USEC"), 10, 64)
	if of := getenv("WATCHDOG_PID"); err == nil && usec > 0 && (of == "" || of == strconv.Itoa(pid)) {
		n.watchdog = time.Duration(usec) * time.Microsecond / 2
	}
	return n
}

// monotonic is the clock that systemd compares reloads by.
func monotonic() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		panic("unreachable: every Linux has this clock: " + err.Error())
	}
	return time.Duration(t.Nano())
}

// tell sends one message. Who does not listen misses nothing that matters here.
func (n notifier) tell(state string) error {
	if n.socket == "" {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: n.socket, Net: "unixgram"}) // a name with @ is abstract
	if err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	_, err = conn.Write([]byte(state))
	if err = errors.Join(err, conn.Close()); err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	return nil
}

// reloading begins a reload, which ready ends.
func (n notifier) reloading() error {
	return n.tell(fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", n.now().Microseconds()))
}

// ready says that it serves, and what it has to say.
func (n notifier) ready(status string) error { return n.tell("READY=1\nSTATUS=" + status) }

func (n notifier) stopping() error { return n.tell("STOPPING=1") }

// live gives signs of life until ctx is done, and tells warn of those that do
// not arrive.
func (n notifier) live(ctx context.Context, warn func(error)) {
	if n.socket == "" || n.watchdog == 0 {
		return
	}
	tick := time.NewTicker(n.watchdog)
	defer tick.Stop()
	for {
		warn(n.tell("WATCHDOG=1"))
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
