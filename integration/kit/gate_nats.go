package kit

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Line is one operation of the NATS protocol, with its payload if it has one.
// https://docs.nats.io/reference/reference-protocols/nats-protocol
type Line struct {
	Op      string // in capitals: CONNECT, PUB, HPUB, SUB, MSG, HMSG, +OK, ...
	Subject string // of PUB, HPUB, MSG and HMSG, as the following
	Reply   string // where an answer is awaited, "" if none is
	Header  []byte // of HPUB and HMSG
	Payload []byte // without the header

	raw []byte
}

// LineGate is a proxy before a NATS server without TLS, which holds what a test asks it to. It knows whole operations, however they
// are cut into packets. Side Answered means the first message to the reply subject of what matched; what has no reply
// subject is not held there. What follows a held operation on its connection, in the same direction, waits behind it.
type LineGate struct {
	// URL is the gate's own nats://host:port.
	URL string

	gate[Line]
	target   string
	listener net.Listener
	running  sync.WaitGroup

	mu    sync.Mutex // guards conns
	conns map[*lineConn]bool
}

// StartLineGate starts a gate on a free port of the loopback, before the server at target, a nats://host:port.
func StartLineGate(target string) (*LineGate, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	g := &LineGate{URL: "nats://" + listener.Addr().String(), gate: gate[Line]{closing: make(chan struct{})},
		target: strings.TrimPrefix(target, "nats://"), listener: listener, conns: map[*lineConn]bool{}}
	g.running.Go(g.accept)
	return g, nil
}

func (g *LineGate) accept() {
	for {
		client, err := g.listener.Accept()
		if err != nil {
			return // closed
		}
		server, err := net.Dial("tcp", g.target)
		if err != nil {
			_ = client.Close() // as the server itself would refuse
			continue
		}
		c := &lineConn{gate: g, client: client.(*net.TCPConn), server: server.(*net.TCPConn)}
		if !g.add(c) {
			c.cut()
			return
		}
		leave := g.enter()
		g.running.Go(func() {
			defer leave()
			c.serve()
			g.remove(c)
		})
	}
}

func (g *LineGate) add(c *lineConn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.conns == nil {
		return false
	}
	g.conns[c] = true
	return true
}

func (g *LineGate) remove(c *lineConn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.conns, c)
}

// Close drops what is held, cuts all connections and ends the gate. It may be called again.
func (g *LineGate) Close() error {
	if !g.close() {
		return nil
	}
	err := g.listener.Close()
	g.mu.Lock()
	conns := g.conns
	g.conns = nil
	g.mu.Unlock()
	for c := range conns {
		c.cut()
	}
	g.running.Wait()
	return err
}

// lineConn is one client's connection, and the one behind it.
type lineConn struct {
	gate           *LineGate
	client, server *net.TCPConn

	mu      sync.Mutex // guards answers
	answers []answer
}

// answer is a hold for the first message to a subject.
type answer struct {
	subject string
	hold    *Hold
}

func (c *lineConn) serve() {
	var both sync.WaitGroup
	both.Go(c.toServer)
	both.Go(c.toClient)
	both.Wait()
	c.cut()
}

func (c *lineConn) cut() {
	_ = c.client.Close() // both may be closed already
	_ = c.server.Close()
}

// toServer passes on what the client says, to its last whole operation even if it is dead by then.
func (c *lineConn) toServer() {
	from := bufio.NewReader(c.client)
	for {
		line, err := readLine(from)
		if err != nil {
			// The server closes when it has taken in what came before this, which ends toClient.
			_ = c.server.CloseWrite()
			return
		}
		if !c.passes(line) {
			c.cut()
			return
		}
		if _, err := c.server.Write(line.raw); err != nil {
			c.cut()
			return
		}
	}
}

// passes waits if the line is held before the server.
func (c *lineConn) passes(line Line) bool {
	hold, side := c.gate.meet(line)
	if hold == nil {
		return true
	}
	if side == Before {
		return hold.wait(c.gate.closing)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answers = append(c.answers, answer{line.Reply, hold})
	return true
}

// toClient passes on what the server says. A client that is gone does not end it: closing then could take from the
// server what it has not read yet.
func (c *lineConn) toClient() {
	from := bufio.NewReader(c.server)
	for {
		line, err := readLine(from)
		if err != nil {
			_ = c.client.Close()
			return
		}
		if hold := c.answer(line.Subject); hold != nil && !hold.wait(c.gate.closing) {
			c.cut()
			return
		}
		if _, err := c.client.Write(line.raw); err != nil {
			_, _ = io.Copy(io.Discard, from) // ends with the server's end of the connection
			return
		}
	}
}

// answer is the hold for a message of the server, nil if there is none.
func (c *lineConn) answer(subject string) *Hold {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.IndexFunc(c.answers, func(a answer) bool { return subject != "" && a.subject == subject })
	if i < 0 {
		return nil
	}
	hold := c.answers[i].hold
	c.answers = slices.Delete(c.answers, i, i+1)
	return hold
}

// Arm is as gate.Arm says; of what is held at side Answered, only what awaits an answer matches.
func (g *LineGate) Arm(side Side, match func(Line) bool) *Hold {
	return g.gate.Arm(side, func(line Line) bool {
		return (side == Before || line.Reply != "") && match(line)
	})
}

// readLine reads one operation. What is cut short by the end of the stream is an error.
func readLine(from *bufio.Reader) (Line, error) {
	raw, err := from.ReadBytes('\n')
	if err != nil {
		return Line{}, err
	}
	line := Line{raw: raw}
	fields := strings.Fields(string(raw))
	if len(fields) == 0 {
		return line, nil
	}
	line.Op = strings.ToUpper(fields[0])
	form, ok := messageForms[line.Op]
	if !ok {
		return line, nil
	}
	return line, form.read(&line, fields[1:], from)
}

// messageForm says what stands in an operation that has a payload:
//
//	PUB <subject> [reply] <size>          HPUB <subject> [reply] <header size> <size of both>
//	MSG <subject> <sid> [reply] <size>    HMSG <subject> <sid> [reply] <header size> <size of both>
type messageForm struct{ sid, header bool }

var messageForms = map[string]messageForm{
	"PUB": {}, "HPUB": {header: true}, "MSG": {sid: true}, "HMSG": {sid: true, header: true},
}

func (f messageForm) read(line *Line, fields []string, from *bufio.Reader) error {
	bad := func() error { return fmt.Errorf("not the NATS protocol: %q", line.raw) }
	if len(fields) == 0 {
		return bad()
	}
	line.Subject, fields = fields[0], fields[1:]
	if f.sid && len(fields) > 0 {
		fields = fields[1:]
	}
	sizes := 1
	if f.header {
		sizes = 2
	}
	if len(fields) == sizes+1 {
		line.Reply, fields = fields[0], fields[1:]
	}
	if len(fields) != sizes {
		return bad()
	}
	total, err := strconv.ParseUint(fields[sizes-1], 10, 31)
	if err != nil {
		return errors.Join(bad(), err)
	}
	head := uint64(0)
	if f.header {
		if head, err = strconv.ParseUint(fields[0], 10, 31); err != nil || head > total {
			return errors.Join(bad(), err)
		}
	}
	start := uint64(len(line.raw))
	line.raw = append(line.raw, make([]byte, total+uint64(len("\r\n")))...)
	if _, err := io.ReadFull(from, line.raw[start:]); err != nil {
		return err
	}
	line.Header, line.Payload = line.raw[start:start+head], line.raw[start+head:start+total]
	return nil
}
