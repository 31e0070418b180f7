package kit_test

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/imgd/imgd/integration/kit"
)

// echoServer says what it hears.
func echoServer(t *testing.T) (addr string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn)
			}()
		}
	}()
	return listener.Addr().String()
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// echo asks for one byte, and waits for it so long.
func echo(conn net.Conn, limit time.Duration) error {
	if err := conn.SetDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	if _, err := conn.Write([]byte("x")); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, make([]byte, 1))
	return err
}

func TestLink(t *testing.T) {
	l, err := kit.StartLink(echoServer(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	addr := l.Addr
	conn := dial(t, addr)
	mustEcho := func(conn net.Conn) {
		t.Helper()
		if err := echo(conn, soon); err != nil {
			t.Fatal(err)
		}
	}
	mend := func() {
		t.Helper()
		if err := l.Mend(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	mustEcho(conn)

	l.Cut()
	if err := echo(conn, soon); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("over a cut link: %v", err)
	}
	if _, err := net.Dial("tcp", addr); err == nil {
		t.Error("a cut link takes a connection")
	}
	mend()
	if l.Addr != addr {
		t.Errorf("mended it is at %s, was at %s", l.Addr, addr)
	}
	conn = dial(t, addr)
	mustEcho(conn)

	if err := l.Stall(); err != nil {
		t.Fatal(err)
	}
	if err := echo(conn, 100*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("over a stalled link: %v", err)
	}
	mend()
	conn = dial(t, addr)
	mustEcho(conn)

	const by = 50 * time.Millisecond
	if err := l.Slow(by); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	mustEcho(conn)
	if took := time.Since(began); took < 2*by {
		t.Errorf("over a link slowed by %v both ways an echo takes %v", by, took)
	}
	mend()
	mustEcho(conn)
}
