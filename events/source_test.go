package events_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/version"
)

// A log is an index in memory. Its entries survive the relays that read it. It
// fails the test if it is told of a release whose event is not in the stream.
type log struct {
	t  *testing.T
	js jetstream.JetStream

	mu       sync.Mutex // guards what follows
	grown    chan struct{}
	seq      uint64
	releases []imgd.Release
	told     uint64
	failing  int  // how many more SetTold fail
	taken    bool // they take effect all the same
	failed   chan struct{}
}

func newLog(t *testing.T, s *natsServer) *log {
	t.Helper()
	_, js := s.raw()
	return &log{t: t, js: js, grown: make(chan struct{}), failed: make(chan struct{}, 100)}
}

func (l *log) ID() string { return "0123456789abcdef" }

func (l *log) Seq() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.seq
}

func (l *log) Told() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.told
}

func (l *log) Published(after uint64) []imgd.Release {
	l.mu.Lock()
	defer l.mu.Unlock()
	var found []imgd.Release
	for _, rel := range l.releases {
		if rel.Seq > after {
			found = append(found, rel)
		}
	}
	return found
}

func (l *log) SetTold(_ context.Context, seq uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.check(seq)
	fails := l.failing > 0
	if !fails || l.taken {
		l.told = max(l.told, seq)
		l.grow() // an entry, as in the index
	}
	if fails {
		l.failing--
		l.failed <- struct{}{}
		return errors.New("disk full")
	}
	return nil
}

// check is called with mu held.
func (l *log) check(seq uint64) {
	events, err := l.js.Stream(context.Background(), "IMGD_EVENTS")
	if err != nil {
		return // the server is away
	}
	for _, rel := range l.releases {
		if rel.Seq > seq {
			return
		}
		if _, err := events.GetLastMsgForSubject(context.Background(), "imgd.events.published.*."+rel.ID); errors.Is(err, jetstream.ErrMsgNotFound) {
			l.t.Errorf("told %d, but release %s is not announced", seq, rel.ID)
		}
	}
}

func (l *log) Wait(ctx context.Context, seq uint64) error {
	for {
		l.mu.Lock()
		reached, grown := l.seq >= seq, l.grown
		l.mu.Unlock()
		if reached {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-grown:
		}
	}
}

// grow is called with mu held.
func (l *log) grow() {
	l.seq++
	close(l.grown)
	l.grown = make(chan struct{})
}

// admit and publish a release, two entries.
func (l *log) publish() imgd.Release {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.grow()
	l.grow()
	rel := release(len(l.releases) + 1)
	rel.Seq = l.seq
	l.releases = append(l.releases, rel)
	return rel
}

func (l *log) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.told = 0
}

// release is the nth of a request per release.
func release(n int) imgd.Release {
	asked := time.Date(2026, 11, 21, 9, 59, 0, 123000000, time.UTC)
	req := imgd.Request{Project: "hello", Ref: "refs/tags/v1.2.0", Commit: commit, By: "ann", AskedAt: asked,
		Version: fmt.Sprintf("v1.2.%d", n), Describe: "v1.2.0", CommitTime: asked.Add(-time.Hour)}
	req.ID = fmt.Sprintf("%032x", n)
	sum := func(c string) digest.Digest { return digest.Digest("sha256:" + strings.Repeat(c, 64)) }
	platform := func(arch, c string) ocispec.Descriptor {
		return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: sum(c), Size: 479, Platform: &ocispec.Platform{OS: "linux", Architecture: arch}}
	}
	return imgd.Release{
		ID: req.ID + "-1", Image: "demo/hello", Repositories: []string{"registry.example.com:5000/demo/hello", "other.example.com/hello"},
		State: imgd.ReleasePublished, Request: req, Source: "https://git.example.com/demo/hello", Labels: map[string]string{"env": "prod", "b": "<&>"},
		Root:      ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: sum("f"), Size: 1000},
		Platforms: []ocispec.Descriptor{platform("amd64", "a"), platform("arm64", "b")},
		Tags: []imgd.ReleaseTag{
			{Name: "latest", Kind: version.KindSeries, Generation: 3, Previous: sum("c")},
			{Name: "1.2", Kind: version.KindSeries, Reason: "held by something newer"},
			{Name: "0123456789ab", Kind: version.KindCommit, Generation: 1},
			{Name: req.Version, Kind: version.KindVersion, Generation: 1},
		},
		AdmittedAt: asked.Add(time.Minute), PublishedAt: asked.Add(2 * time.Minute), Seq: uint64(n) * 2,
	}
}
