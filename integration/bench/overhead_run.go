package main

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/imgd/imgd/integration/kit"
)

// imgd has a mode's release of one project made, and answers the time from the ask to the event.
func (c *contest) imgd(ctx context.Context, i int, m mode) (time.Duration, error) {
	began, done, err := c.run(ctx, i, m, c.commit)
	return done.at.Sub(began), err
}

// run asks, and waits for the event and, untimed, for the request's end.
func (s *side) run(ctx context.Context, i int, m mode, commit string) (began time.Time, done event, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, overheadTime, errors.New("no published event in time"))
	defer cancel()
	if !m.named {
		commit = ""
	}
	body, err := json.Marshal(map[string]any{"schema": 1, "ref": "refs/tags/" + m.tag, "commit": commit})
	if err != nil {
		return began, done, err
	}
	began = time.Now()
	if _, err := s.js.Publish(ctx, "imgd.requests."+project(i)+".release", body, jetstream.WithMsgID(s.prefix+m.tag+project(i))); err != nil {
		return began, done, err
	}
	select {
	case done = <-s.events:
	case end := <-s.ended:
		if !strings.Contains(end, `"state":"published"`) {
			return began, done, fmt.Errorf("the request ended without a release: %s", end)
		}
		s.ended <- end
		select {
		case done = <-s.events:
		case <-ctx.Done():
			return began, done, fmt.Errorf("%w\n%s", context.Cause(ctx), s.daemon.LogTail())
		}
	case <-ctx.Done():
		return began, done, fmt.Errorf("%w\n%s", context.Cause(ctx), s.daemon.LogTail())
	}
	select { // what it still does would disturb the next run
	case <-s.ended:
	case <-ctx.Done():
		return began, done, context.Cause(ctx)
	}
	if want := fmt.Sprintf("%s-%d", s.prefix, i); done.image != want {
		return began, done, fmt.Errorf("an event of %s, not of %s", done.image, want)
	}
	return began, done, s.solved(done, m.tag != warmTag)
}

// solved fails if imgd did not have BuildKit build and push what the event names, or BuildKit did not find the one step of the
// Dockerfile in its cache. The log is made by Solve, and each request has its own.
func (s *side) solved(done event, cached bool) error {
	log, err := os.ReadFile(filepath.Join(s.daemon.Data(), "builds", done.request+".jsonl"))
	if err != nil {
		return fmt.Errorf("imgd did not call Solve: %w", err)
	}
	if !bytes.Contains(log, []byte("exporting manifest "+done.root)) || !bytes.Contains(log, []byte("pushing manifest for ")) {
		return fmt.Errorf("the build log of request %s does not tell of a push of %s", done.request, done.root)
	}
	if cached && !bytes.Contains(log, []byte(`"cached":true`)) {
		return fmt.Errorf("BuildKit built request %s anew", done.request)
	}
	return nil
}

// buildctl is the peer: the same solve from the command line, with a push of the same tags.
func (c *contest) buildctl(ctx context.Context, i int, m mode) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, overheadTime)
	defer cancel()
	args, err := c.peerArgs(i, m)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	_, err = kit.Buildctl(ctx, c.daemon.BuildKit, args...)
	return time.Since(began), err
}

// peerArgs are what imgd gives BuildKit, with names in place of a push by digest.
func (c *contest) peerArgs(i int, m mode) ([]string, error) {
	query := url.Values{"ref": {"refs/tags/" + m.tag}, "submodules": {"false"}, "mtime": {"commit"}}
	if m.named {
		query.Set("commit", c.commit)
		query.Set("fetch-by-commit", "true")
	}
	var names []string
	for _, tag := range m.imageTags() {
		names = append(names, fmt.Sprintf("%s/peer-%d:%s", c.daemon.Registry, i, tag))
	}
	var output bytes.Buffer
	fields := csv.NewWriter(&output)
	if err := fields.Write([]string{"type=image", "name=" + strings.Join(names, ","), "push=true", "oci-mediatypes=true", "rewrite-timestamp=true"}); err != nil {
		return nil, err
	}
	fields.Flush()
	args := []string{"build", "--frontend", "dockerfile.v0", "--output", strings.TrimSpace(output.String())}
	for _, opt := range []string{"context=" + c.repo.URL + "?" + query.Encode(), "filename=Dockerfile", "platform=linux/amd64", "cmdline=dockerfile.v0",
		"build-arg:VERSION=" + m.tag, "build-arg:COMMIT=" + c.commit, "build-arg:DATE=" + c.date,
		"build-arg:LDFLAGS=-s -w -X main.version=" + m.tag + " -X main.commit=" + c.commit + " -X main.date=" + c.date,
		fmt.Sprintf("build-arg:SOURCE_DATE_EPOCH=%d", kit.FirstCommit().Unix()),
		"label:org.opencontainers.image.source=" + strings.TrimSuffix(c.repo.URL, ".git"), "label:org.opencontainers.image.revision=" + c.commit,
		"label:org.opencontainers.image.version=" + m.tag, "label:org.opencontainers.image.created=" + c.date,
		"label:org.opencontainers.image.title=" + path.Base(strings.TrimSuffix(c.repo.URL, ".git")), "label:org.opencontainers.image.url=" + strings.TrimSuffix(c.repo.URL, ".git")} {
		args = append(args, "--opt", opt)
	}
	return args, nil
}
