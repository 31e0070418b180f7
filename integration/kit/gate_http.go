package kit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"testing/iotest"
	"time"
)

// HTTPGate is a reverse proxy before an HTTP server, a registry for one, which holds what a test asks it to, and fails as
// the test asks it to. What it passes on has the Host that the client sent.
type HTTPGate struct {
	// Addr is the gate's own host:port, the same all the time.
	Addr string

	gate[*http.Request]
	proxy *httputil.ReverseProxy

	faultsMu sync.Mutex // guards faults
	faults   []*func(*http.Request) *Fault

	upMu   sync.Mutex   // guards server and served
	server *http.Server // nil while the gate is down
	served chan error
}

// StartHTTPGate starts a gate on a free port of the loopback, before the plain HTTP server at target, a host:port.
func StartHTTPGate(target string) (*HTTPGate, error) {
	quiet := log.New(io.Discard, "", 0) // it tells of each connection that a test cuts
	g := &HTTPGate{Addr: ownHost() + ":0", gate: gate[*http.Request]{closing: make(chan struct{})}}
	g.proxy = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: target})
			r.Out.Host = r.In.Host
		},
		Transport:      &http.Transport{DisableCompression: true}, // a pool of its own, closed with the gate
		ErrorLog:       quiet,
		ModifyResponse: g.answered,
		FlushInterval:  -1, // what comes before a cut arrives
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			if errors.Is(err, errDropped) {
				panic(http.ErrAbortHandler)
			}
			http.Error(w, err.Error(), http.StatusBadGateway)
		},
	}
	return g, g.Up()
}

// Up makes the gate listen again after Down.
func (g *HTTPGate) Up() error {
	g.upMu.Lock()
	defer g.upMu.Unlock()
	if g.server != nil {
		return nil
	}
	listener, err := net.Listen("tcp", g.Addr)
	if err != nil {
		return fmt.Errorf("start gate: %w", err)
	}
	server, served := &http.Server{Handler: http.HandlerFunc(g.serve), ErrorLog: log.New(io.Discard, "", 0)}, make(chan error, 1)
	g.Addr, g.server, g.served = listener.Addr().String(), server, served
	go func() { served <- server.Serve(listener) }()
	return nil
}

// Down cuts all connections and refuses new ones until Up.
func (g *HTTPGate) Down() error {
	g.upMu.Lock()
	defer g.upMu.Unlock()
	if g.server == nil {
		return nil
	}
	err := g.server.Close()
	if served := <-g.served; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	g.server = nil
	return err
}

// A Fault is what becomes of a request, or of its answer, at a gate that fails.
type Fault struct {
	// Status is what the gate itself answers, with Header and Body; 0: the server is asked.
	Status int
	Header http.Header
	Body   string
	// Cut ends the connection in the middle of the answer's body, and where there is none instead of the answer.
	Cut bool
}

// Fault makes the gate ask f about everything that comes from now on, before anything is held. What it answers is done; nil
// lets pass. It may be asked of several requests at once, and must not read a body.
func (g *HTTPGate) Fault(f func(*http.Request) *Fault) (mend func()) {
	g.faultsMu.Lock()
	defer g.faultsMu.Unlock()
	g.faults = append(g.faults, &f)
	return func() {
		g.faultsMu.Lock()
		defer g.faultsMu.Unlock()
		g.faults = slices.DeleteFunc(g.faults, func(other *func(*http.Request) *Fault) bool { return other == &f })
	}
}

// fault is the first that is for the request.
func (g *HTTPGate) fault(r *http.Request) *Fault {
	g.faultsMu.Lock()
	faults := slices.Clone(g.faults)
	g.faultsMu.Unlock()
	for _, f := range faults {
		if fault := (*f)(r); fault != nil {
			return fault
		}
	}
	return nil
}

// fail is what the gate does instead of passing the request on. Of an answer to be cut it sees to when that is there.
func (f *Fault) fail(w http.ResponseWriter) {
	for key, values := range f.Header {
		w.Header()[key] = values
	}
	body := f.Body
	if f.Cut {
		if body == "" {
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		body = body[:len(body)/2]
	}
	w.WriteHeader(f.Status)
	_, _ = io.WriteString(w, body) // the client may be gone
	if f.Cut {
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
}

// cut halves the answer's body; what it gives after that ends the connection.
func cut(resp *http.Response) error {
	body, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	if len(body) == 0 {
		return errDropped
	}
	resp.Body = io.NopCloser(io.MultiReader(bytes.NewReader(body[:len(body)/2]), iotest.ErrReader(errDropped)))
	return nil
}

// errDropped ends a request without an answer.
var errDropped = errors.New("dropped by the gate")

// heldAnswer is the key of the Hold for the answer to a request, cutAnswer that of an answer to be cut.
type (
	heldAnswer struct{}
	cutAnswer  struct{}
)

func (g *HTTPGate) serve(w http.ResponseWriter, r *http.Request) {
	defer g.enter()()
	if fault := g.fault(r); fault != nil && fault.Status > 0 {
		fault.fail(w)
		return
	} else if fault != nil && fault.Cut {
		r = r.WithContext(context.WithValue(r.Context(), cutAnswer{}, true))
	}
	hold, side := g.meet(r)
	if hold == nil {
		g.proxy.ServeHTTP(w, r)
		return
	}
	// What is held may outlive its client, and is let pass then as what was on its way.
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context())) // of one without cancel the proxy watches the client
	defer cancel()
	if side == Answered {
		ctx = context.WithValue(ctx, heldAnswer{}, hold)
	} else if !hold.wait(g.closing) {
		panic(http.ErrAbortHandler)
	}
	r = r.WithContext(ctx)
	r.Body = io.NopCloser(bytes.NewReader(body))
	g.proxy.ServeHTTP(w, r)
}

// answered holds an answer that the server has given in full.
func (g *HTTPGate) answered(resp *http.Response) error {
	if resp.Request.Context().Value(cutAnswer{}) != nil {
		return cut(resp)
	}
	hold, ok := resp.Request.Context().Value(heldAnswer{}).(*Hold)
	if !ok {
		return nil
	}
	body, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	if !hold.wait(g.closing) {
		return errDropped
	}
	return nil
}

// gateEnd is how long the server behind a gate may take for what it has been asked when the gate is closed.
const gateEnd = 10 * time.Second

// Close drops what is held, cuts all connections and ends the gate. It may be called again.
func (g *HTTPGate) Close() error {
	if !g.close() {
		return nil
	}
	err := g.Down()
	ctx, cancel := context.WithTimeout(context.Background(), gateEnd)
	defer cancel()
	err = errors.Join(err, g.Idle(ctx))
	g.proxy.Transport.(*http.Transport).CloseIdleConnections()
	return err
}
