package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/imgd/imgd/integration/kit"
)

const (
	memoryBuilds = 4
	// imgd's goal with NATS and registry inside, in MiB (150 MB are 143).
	peakGoal = 143
	// memoryTime bounds the four builds.
	memoryTime = 3 * time.Minute
)

// memory is the most that imgd ever had in memory, with NATS and registry in it, while four builds ran at once, each of which
// then pushed a layer of 32 MiB into that registry.
func memory(ctx context.Context, progress io.Writer) (figures []figure, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, memoryTime, errors.New("four builds did not end in time"))
	defer cancel()
	dir, err := os.MkdirTemp("", "imgd-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	c := &contest{dir: dir}
	defer func() { err = errors.Join(err, c.close()) }()
	hall, err := c.startHall()
	if err != nil {
		return nil, err
	}
	if err := c.startFour(ctx, "http://"+hall.addr); err != nil {
		return nil, err
	}
	all, ctx := errgroup.WithContext(ctx)
	for i := range memoryBuilds {
		all.Go(func() error {
			_, err := c.daemon.Imgctl(ctx, "build", project(i), "--ref", "main", "--wait", "--progress", "quiet")
			return err
		})
	}
	if err := hall.meet(ctx); err != nil {
		return nil, errors.Join(err, all.Wait())
	}
	running, err := peakMiB(c.daemon.PID())
	if err != nil {
		return nil, err
	}
	hall.open()
	if err := all.Wait(); err != nil {
		return nil, err
	}
	peak, err := peakMiB(c.daemon.PID())
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(progress, "peak memory: %.0f MiB while %d builds ran, %.0f MiB after their pushes\n", running, memoryBuilds, peak)
	return []figure{figure{Name: "peak", Value: peak, Unit: "MiB"}.atMost(peakGoal)}, nil
}

// startFour starts an imgd with as many slots and projects as builds are to run. Each build comes to the hall, waits until
// it opens, and makes its layer. Their steps differ, or BuildKit would run one for all.
func (c *contest) startFour(ctx context.Context, hall string) error {
	server, err := kit.ServeGit(ctx, filepath.Join(c.dir, "git"))
	if err != nil {
		return err
	}
	c.closes = append(c.closes, server.Close)
	var projects []kit.ProjectConfig
	for i := range memoryBuilds {
		repo, err := server.Create(ctx, project(i))
		if err != nil {
			return err
		}
		_, err = repo.Commit(ctx, "the only one", map[string]string{"Dockerfile": "FROM busybox\n" +
			"RUN wget -q -O /dev/null " + hall + "/" + project(i) + " && dd if=/dev/urandom of=/layer bs=1M count=32\n"})
		if err != nil {
			return err
		}
		projects = append(projects, kit.ProjectConfig{Name: project(i), Git: repo.URL, Image: project(i)})
	}
	config := kit.LocalConfig(projects...)
	config.Build.Slots, config.Build.Grace = memoryBuilds, "1s"
	daemon, err := kit.StartDaemon(ctx, filepath.Join(c.dir, "imgd"), config)
	if err != nil {
		return err
	}
	c.side = &side{daemon: daemon}
	c.closes = append(c.closes, func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		return daemon.Terminate(ctx)
	})
	return kit.PushBaseImages(ctx, daemon.Registry)
}

// A hall is where the builds wait for each other.
type hall struct {
	addr    string
	arrived chan struct{}
	opened  chan struct{}
}

func (c *contest) startHall() (*hall, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	h := &hall{addr: listener.Addr().String(), arrived: make(chan struct{}, memoryBuilds), opened: make(chan struct{})}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		h.arrived <- struct{}{}
		select {
		case <-h.opened:
		case <-r.Context().Done():
		}
	})}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	c.closes = append(c.closes, func() error {
		err := server.Close()
		if end := <-served; !errors.Is(end, http.ErrServerClosed) {
			err = errors.Join(err, end)
		}
		return err
	})
	return h, nil
}

// meet waits until all builds have come.
func (h *hall) meet(ctx context.Context) error {
	for range memoryBuilds {
		select {
		case <-h.arrived:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

func (h *hall) open() { close(h.opened) }

// peakMiB is the most memory the process ever had, files it has mapped included.
func peakMiB(pid int) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), "VmHWM:")
	var kib float64
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		return 0, fmt.Errorf("read VmHWM of %d: %w", pid, err)
	}
	return kib / 1024, nil
}
