package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/imgd/imgd/integration/kit"
)

// accounted are the modes whose time is told apart, once more and on an imgd of their own: it has the registry behind a
// proxy that notes when each call was under way, and a git that writes down when it ran.
var accounted = []mode{
	{name: "1tag", tag: "v0.4.0-rc.1", named: true},
	{name: "3tags", tag: "v0.4.0", named: true},
}

// A span is a time in which something was under way.
type span struct{ from, to time.Time }

// A meter notes what the second imgd waits for.
type meter struct {
	mu    sync.Mutex             // guards what follows
	calls []span                 // to the registry
	since map[net.Conn]time.Time // calls that are under way

	traces string // directory of git's trace files
}

// parts tells where imgd's time goes. What is under way at once counts once: as Solve, else as registry, else as git. The
// rest is imgd's own, the queue and both fsyncs of the index included, and so are the starts of the git processes.
func (c *contest) parts(ctx context.Context, progress io.Writer) ([]figure, error) {
	m := &meter{traces: filepath.Join(c.dir, "traces"), since: map[net.Conn]time.Time{}}
	s, err := c.startMetered(ctx, m)
	if err != nil {
		return nil, err
	}
	if err := c.warmMetered(ctx, s); err != nil {
		return nil, fmt.Errorf("warm up: %w", err)
	}
	var figures []figure
	for _, mode := range accounted {
		if err := c.repo.Tag(ctx, mode.tag, "main"); err != nil {
			return nil, err
		}
		sums := map[string][]float64{}
		for i := range overheadProjects {
			m.reset()
			began, done, err := s.run(ctx, i, mode, c.commit)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", mode.name, err)
			}
			shares, err := m.shares(s, began, done)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", mode.name, err)
			}
			for name, d := range shares {
				sums[name] = append(sums[name], milliseconds(d))
			}
		}
		for _, name := range []string{"total", "solve", "registry", "git", "own"} {
			f := figure{Name: mode.name + "/where/" + name, Value: median(sums[name]), Unit: "ms"}
			if name == "own" {
				f = f.atMost(ownGoal)
			}
			figures = append(figures, f)
		}
		fmt.Fprintf(progress, "%s: own time from %.1f to %.1f ms\n", mode.name, slices.Min(sums["own"]), slices.Max(sums["own"]))
	}
	return figures, nil
}

// startMetered starts the second imgd.
func (c *contest) startMetered(ctx context.Context, m *meter) (*side, error) {
	proxy, err := m.proxy(c.daemon.Registry)
	if err != nil {
		return nil, err
	}
	c.closes = append(c.closes, proxy.close)
	bin, err := m.tracedGit(c.dir)
	if err != nil {
		return nil, err
	}
	config := kit.Config{Registry: kit.RegistryConfig{Address: proxy.addr, PlainHTTP: true},
		BuildKit: kit.BuildKitConfig{Address: c.daemon.BuildKit, RegistryAddress: c.daemon.Registry}}
	return c.startSide(ctx, "metered", config, []string{"PATH=" + bin + ":" + os.Getenv("PATH")})
}

func (c *contest) warmMetered(ctx context.Context, s *side) error {
	for i := range overheadProjects {
		if _, _, err := s.run(ctx, i, mode{tag: warmTag, named: true}, c.commit); err != nil {
			return err
		}
	}
	return nil
}

// A proxy is before the registry.
type proxy struct {
	addr  string
	close func() error
}

func (m *meter) proxy(registry string) (proxy, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return proxy{}, err
	}
	to := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: registry})
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: to, ConnState: m.note}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	return proxy{addr: listener.Addr().String(), close: func() error {
		err := server.Close()
		if end := <-served; !errors.Is(end, http.ErrServerClosed) {
			err = errors.Join(err, end)
		}
		return err
	}}, nil
}

// note takes the time of a call, from the first byte of its request to the last one of its answer.
func (m *meter) note(conn net.Conn, now http.ConnState) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if now == http.StateActive {
		m.since[conn] = time.Now()
	} else if from, ok := m.since[conn]; ok {
		m.calls = append(m.calls, span{from, time.Now()})
		delete(m.since, conn)
	}
}

// tracedGit makes a directory for PATH whose git notes when it ran, a file each.
func (m *meter) tracedGit(dir string) (string, error) {
	git, err := exec.LookPath("git")
	if err != nil {
		return "", err
	}
	bin := filepath.Join(dir, "bin")
	for _, d := range []string{bin, m.traces} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return "", err
		}
	}
	script := fmt.Sprintf("#!/bin/sh\nGIT_TRACE2_EVENT='%s' exec '%s' \"$@\"\n", m.traces, git)
	return bin, os.WriteFile(filepath.Join(bin, "git"), []byte(script), 0o755)
}

func (m *meter) reset() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls = nil
}

// shares tells one run's time apart.
func (m *meter) shares(s *side, began time.Time, done event) (map[string]time.Duration, error) {
	run := span{began, done.at}
	solve, err := s.solveSpan(done.request)
	if err != nil {
		return nil, err
	}
	git, err := m.gitSpans()
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	calls := slices.Clone(m.calls)
	m.mu.Unlock()
	solving, calling, all := within(run, solve), within(run, slices.Concat(calls, []span{solve})...), within(run, slices.Concat(calls, git, []span{solve})...)
	total := run.to.Sub(run.from)
	return map[string]time.Duration{"total": total, "solve": solving, "registry": calling - solving, "git": all - calling, "own": total - all}, nil
}

// solveSpan is when Solve was under way, as imgd's log says.
func (s *side) solveSpan(request string) (span, error) {
	for line := range strings.Lines(s.daemon.Log()) {
		var entry struct {
			Time    time.Time
			Request string
			Took    string
			Digest  string `json:"containerimage.digest"`
		}
		if json.Unmarshal([]byte(line), &entry) != nil || entry.Request != request || entry.Digest == "" {
			continue
		}
		took, err := time.ParseDuration(entry.Took)
		return span{entry.Time.Add(-took), entry.Time}, err
	}
	return span{}, fmt.Errorf("imgd's log does not tell how long the build of request %s took", request)
}

// gitSpans are the times at which a git of imgd's ran, and removes what tells of them.
func (m *meter) gitSpans() ([]span, error) {
	files, err := filepath.Glob(filepath.Join(m.traces, "*"))
	if err != nil {
		return nil, err
	}
	var spans []span
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
		var first, last struct{ Time time.Time }
		if err := errors.Join(json.Unmarshal(lines[0], &first), json.Unmarshal(lines[len(lines)-1], &last)); err != nil {
			return nil, fmt.Errorf("read git's trace: %w", err)
		}
		spans = append(spans, span{first.Time, last.Time})
		if err := os.Remove(file); err != nil {
			return nil, err
		}
	}
	return spans, nil
}

// within is how much of the whole the spans cover together.
func within(whole span, spans ...span) time.Duration {
	slices.SortFunc(spans, func(a, b span) int { return a.from.Compare(b.from) })
	var covered time.Duration
	at := whole.from
	for _, s := range spans {
		if s.from.After(at) {
			at = s.from
		}
		to := s.to
		if to.After(whole.to) {
			to = whole.to
		}
		if to.After(at) {
			covered += to.Sub(at)
			at = to
		}
	}
	return covered
}
