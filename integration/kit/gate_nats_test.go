package kit_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/imgd/imgd/integration/kit"
)

// lineGate is a gate before a real server, and a stream S read past it.
func lineGate(t *testing.T) (g *kit.LineGate, stored func() []string) {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	js, _ := connect(t, s.ClientURL())
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}}); err != nil {
		t.Fatal(err)
	}
	stored = func() (subjects []string) {
		messages, err := kit.ReadStream(t.Context(), s.ClientURL(), "S", "s.>", 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range messages {
			subjects = append(subjects, m.Subject+" "+string(m.Data))
		}
		return subjects
	}
	if g, err = kit.StartLineGate(s.ClientURL()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	return g, stored
}

func connect(t *testing.T, url string, options ...nats.Option) (jetstream.JetStream, *nats.Conn) {
	t.Helper()
	conn, err := nats.Connect(url, append(options, nats.RetryOnFailedConnect(true), nats.ReconnectWait(time.Millisecond))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	return js, conn
}

// publish publishes with a header, so that it is an HPUB.
func publish(ctx context.Context, js jetstream.JetStream, subject, text string) <-chan error {
	done := make(chan error, 1)
	go func() {
		_, err := js.Publish(ctx, subject, []byte(text), jetstream.WithMsgID(text), jetstream.WithRetryAttempts(0))
		done <- err
	}()
	return done
}

func about(subject string) func(kit.Line) bool {
	return func(l kit.Line) bool { return l.Op == "HPUB" && l.Subject == subject }
}

func TestLineGate(t *testing.T) {
	ctx := t.Context()
	g, stored := lineGate(t)
	js, conn := connect(t, g.URL)
	if err := <-publish(ctx, js, "s.a", "one"); err != nil {
		t.Fatal(err)
	}

	var watched []string
	g.Watch(func(l kit.Line) {
		if l.Op == "HPUB" {
			watched = append(watched, fmt.Sprintf("%s %s %t", l.Subject, l.Payload, bytes.Contains(l.Header, []byte("Nats-Msg-Id: "+string(l.Payload)))))
		}
	})
	before := g.Arm(kit.Before, about("s.b"))
	held := publish(ctx, js, "s.b", "two")
	mustHold(t, before)
	behind := publish(ctx, js, "s.c", "three")
	if other, _ := connect(t, g.URL); <-publish(ctx, other, "s.d", "four") != nil {
		t.Error("another connection waits too")
	}
	if got, want := stored(), []string{"s.a one", "s.d four"}; !slices.Equal(got, want) {
		t.Errorf("while s.b is held the stream has %q, want %q", got, want)
	}
	before.Pass()
	if err := errors.Join(<-held, <-behind); err != nil {
		t.Error(err)
	}

	answered := g.Arm(kit.Answered, about("s.e"))
	held = publish(ctx, js, "s.e", "five")
	mustHold(t, answered)
	if got, want := stored(), []string{"s.a one", "s.d four", "s.b two", "s.c three", "s.e five"}; !slices.Equal(got, want) {
		t.Errorf("the stream has %q, want %q", got, want)
	}
	select {
	case err := <-held:
		t.Errorf("the held answer arrived: %v", err)
	default:
	}
	answered.Pass()
	if err := <-held; err != nil {
		t.Error(err)
	}
	if want := []string{"s.b two true", "s.d four true", "s.c three true", "s.e five true"}; !slices.Equal(watched, want) {
		t.Errorf("watched %q, want %q", watched, want)
	}
	conn.Close()
}

func TestLineGateDrops(t *testing.T) {
	for _, side := range []kit.Side{kit.Before, kit.Answered} {
		t.Run(side.String(), func(t *testing.T) {
			g, stored := lineGate(t)
			back := make(chan struct{}, 1)
			js, _ := connect(t, g.URL, nats.ReconnectHandler(func(*nats.Conn) { back <- struct{}{} }))
			hold := g.Arm(side, about("s.a"))
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			held := publish(ctx, js, "s.a", "one")
			mustHold(t, hold)
			hold.Drop()
			<-back // the connection was cut
			cancel()
			if err := <-held; err == nil {
				t.Error("what was dropped was acknowledged")
			}
			want := []string{"s.a one"}
			if side == kit.Before {
				want = nil
			}
			if got := stored(); !slices.Equal(got, want) {
				t.Errorf("the stream has %q, want %q", got, want)
			}
			if err := <-publish(t.Context(), js, "s.a", "two"); err != nil {
				t.Errorf("after it: %v", err)
			}
		})
	}
}

// Where no answer is awaited none can be held.
func TestLineGateAnswerNeedsReply(t *testing.T) {
	g, stored := lineGate(t)
	js, conn := connect(t, g.URL)
	hold := g.Arm(kit.Answered, func(l kit.Line) bool { return strings.HasPrefix(l.Subject, "s.") })
	if err := conn.Publish("s.a", []byte("one")); err != nil {
		t.Fatal(err)
	}
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	if isHeld(hold) {
		t.Error("held for a message without reply")
	}
	held := publish(t.Context(), js, "s.b", "two")
	mustHold(t, hold)
	if got, want := stored(), []string{"s.a one", "s.b two"}; !slices.Equal(got, want) {
		t.Errorf("the stream has %q, want %q", got, want)
	}
	hold.Pass()
	if err := <-held; err != nil {
		t.Error(err)
	}
}

// rawGate is a gate before a server that takes in everything, to the end of each connection.
func rawGate(t *testing.T) (g *kit.LineGate, client *net.TCPConn, took <-chan string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	all := make(chan string, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		text, _ := io.ReadAll(bufio.NewReader(conn))
		all <- string(text)
	}()
	if g, err = kit.StartLineGate("nats://" + listener.Addr().String()); err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", strings.TrimPrefix(g.URL, "nats://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		_ = listener.Close()
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	return g, conn.(*net.TCPConn), all
}

// Operations are known however they are cut into packets, payloads are not taken for operations, and every byte arrives
// as it was.
func TestLineGateReadsTheProtocol(t *testing.T) {
	g, client, took := rawGate(t)
	var seen []string
	g.Watch(func(l kit.Line) {
		seen = append(seen, fmt.Sprintf("%s %s %s %q %q", l.Op, l.Subject, l.Reply, l.Header, l.Payload))
	})
	held := g.Arm(kit.Before, func(l kit.Line) bool { return bytes.Contains(l.Payload, []byte("marker")) })
	inside := "PUB b 3\r\nmar\r\nker\r\n"
	sent := []string{
		"CONNECT {\"verbose\":false}\r\n", "PING\r\n", "SUB marker 1\r\n",
		fmt.Sprintf("pub\ta  %d\r\n%s\r\n", len(inside), inside),
		"PUB a _INBOX.1 0\r\n\r\n",
		"HPUB a _INBOX.2 12 18\r\nNATS/1.0\r\n\r\nmarker\r\n",
		"HPUB a 12 12\r\nNATS/1.0\r\n\r\n\r\n",
	}
	for _, b := range []byte(strings.Join(sent, "")) {
		if _, err := client.Write([]byte{b}); err != nil { // no Nagle: a packet each
			t.Fatal(err)
		}
	}
	if err := client.Close(); err != nil { // dead, and what it sent is passed on all the same
		t.Fatal(err)
	}
	mustHold(t, held)
	held.Pass()
	if got, want := <-took, strings.Join(sent, ""); got != want {
		t.Errorf("the server took\n%q, want\n%q", got, want)
	}
	mustIdle(t, g)
	want := []string{
		`CONNECT   "" ""`, `PING   "" ""`, `SUB   "" ""`,
		fmt.Sprintf(`PUB a  "" %q`, inside), `PUB a _INBOX.1 "" ""`,
		`HPUB a _INBOX.2 "NATS/1.0\r\n\r\n" "marker"`, `HPUB a  "NATS/1.0\r\n\r\n" ""`,
	}
	if !slices.Equal(seen, want) {
		t.Errorf("read as\n%s\nwant\n%s", strings.Join(seen, "\n"), strings.Join(want, "\n"))
	}
}

func TestLineGateCutsWhatIsNoProtocol(t *testing.T) {
	for _, bad := range []string{"PUB\r\n", "PUB a\r\n", "PUB a x\r\n", "PUB a b c 3\r\n", "HPUB a 3\r\n", "HPUB a 9 3\r\nabc\r\n", "PUB a 99999999999\r\n"} {
		t.Run(bad, func(t *testing.T) {
			g, client, took := rawGate(t)
			if _, err := client.Write([]byte("PING\r\n" + bad + "PING\r\n")); err != nil {
				t.Fatal(err)
			}
			if got := <-took; got != "PING\r\n" {
				t.Errorf("the server took %q", got)
			}
			mustIdle(t, g)
		})
	}
}

func TestLineGateCloseDrops(t *testing.T) {
	g, client, took := rawGate(t)
	hold := g.Arm(kit.Before, func(l kit.Line) bool { return l.Op == "PUB" })
	if _, err := client.Write([]byte("PING\r\nPUB a 0\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	mustHold(t, hold)
	if err := g.Close(); err != nil {
		t.Error(err)
	}
	if got := <-took; got != "PING\r\n" {
		t.Errorf("the server took %q", got)
	}
}
