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
	"time"
)

// HTTPGate is a reverse proxy before an HTTP server, a registry for one, which holds what a test asks it to. What it
// passes on has the Host that the client sent.
type HTTPGate struct {
	// Addr is the gate's own host:port.
	Addr string

	gate[*http.Request]
	proxy  *httputil.ReverseProxy
	server *http.Server
	served chan error
}

// StartHTTPGate starts a gate on a free port of the loopback, before the plain HTTP server at target, a host:port.
func StartHTTPGate(target string) (*HTTPGate, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	quiet := log.New(io.Discard, "", 0) // it tells of each connection that a test cuts
	g := &HTTPGate{Addr: listener.Addr().String(), gate: gate[*http.Request]{closing: make(chan struct{})}, served: make(chan error, 1)}
	g.proxy = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: target})
			r.Out.Host = r.In.Host
		},
		Transport:      &http.Transport{DisableCompression: true}, // a pool of its own, closed with the gate
		ErrorLog:       quiet,
		ModifyResponse: g.answered,
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			if errors.Is(err, errDropped) {
				panic(http.ErrAbortHandler)
			}
			http.Error(w, err.Error(), http.StatusBadGateway)
		},
	}
	g.server = &http.Server{Handler: http.HandlerFunc(g.serve), ErrorLog: quiet}
	go func() { g.served <- g.server.Serve(listener) }()
	return g, nil
}

// errDropped ends a request without an answer.
var errDropped = errors.New("dropped by the gate")

// heldAnswer is the key of the Hold for the answer to a request.
type heldAnswer struct{}

func (g *HTTPGate) serve(w http.ResponseWriter, r *http.Request) {
	defer g.enter()()
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
	err := g.server.Close()
	if served := <-g.served; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	ctx, cancel := context.WithTimeout(context.Background(), gateEnd)
	defer cancel()
	err = errors.Join(err, g.Idle(ctx))
	g.proxy.Transport.(*http.Transport).CloseIdleConnections()
	return err
}
