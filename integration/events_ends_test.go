package integration_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/events"
	"github.com/imgd/imgd/integration/kit"
)

// ends is a handler that answers each ref with its error.
type ends map[string]error

func (a ends) Resolve(context.Context, *imgd.Request) error { return nil }

func (a ends) Handle(_ context.Context, req *imgd.Request, _ func(imgd.State)) (imgd.Release, error) {
	return imgd.Release{}, a[req.Ref]
}

// What really stands in the stream when requests have ended is what the
// documents say.
func TestEndsAreAsDocumented(t *testing.T) {
	server := eventServer(t)
	h := ends{
		"refs/heads/build":      &imgd.BuildError{Message: "exit code: 3", File: "Dockerfile", Line: 7, ExitCode: 3},
		"refs/heads/invalid":    fmt.Errorf("no such ref: %w", imgd.ErrInvalid),
		"refs/heads/conflict":   fmt.Errorf("v1: %w", imgd.ErrConflict),
		"refs/heads/superseded": fmt.Errorf("main: %w", imgd.ErrSuperseded),
		"refs/heads/unchanged":  fmt.Errorf("main: %w", imgd.ErrUnchanged),
		"refs/heads/dead":       errors.New("500 Internal Server Error"),
	}
	bus, err := events.Connect(t.Context(), events.Config{URL: server.URL(), IndexID: "0123456789abcdef", RetryFor: time.Nanosecond, Tries: 1,
		Image: func(project string) string { return map[string]string{"hello": "demo/hello"}[project] }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- bus.Consume(ctx, h) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		bus.Close()
	})
	for ref := range h {
		for _, project := range []string{"hello", "forgotten"} {
			req := imgd.Request{Project: project, Ref: ref, Commit: strings.Repeat("0", 40), By: "ann", Reason: "a test", Rebuild: true,
				Args: map[string]string{"A": "b"}, Target: "server", Platforms: []string{"linux/amd64"}}
			if _, err := bus.Submit(t.Context(), req, project+ref); err != nil {
				t.Fatal(err)
			}
		}
	}
	messages, err := kit.ReadStream(t.Context(), server.URL(), "IMGD_EVENTS", "imgd.events.>", 2*(len(h)-1))
	if err != nil {
		t.Fatal(err)
	}
	mustBeDocumented(t, messages)
	seen := map[string]int{}
	_, doc := readAsyncAPI(t)
	for _, m := range messages {
		seen[channelOf(t, doc, m.Subject)]++
	}
	if seen["failed"] != 4 || seen["conflict"] != 2 || seen["superseded"] != 2 || seen["dead"] != 2 {
		t.Errorf("got %v", seen)
	}
}
