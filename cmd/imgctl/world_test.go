package main_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/index"
	"github.com/imgd/imgd/internal/httpapi"
	"github.com/imgd/imgd/version"
)

const repo = "registry.test/demo/hello"

var epoch = time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)

// A world is a daemon as one script sets it up: the real API over the real
// index, and a queue that answers at once.
type world struct {
	index  *index.Index
	server *httptest.Server

	mu       sync.Mutex
	changed  chan struct{} // closed and replaced by each change
	refs     map[string]string
	served   map[string]digest.Digest // repository:tag -> root
	next     imgd.Status              // what the next request becomes
	statuses map[string]imgd.Status
	logs     map[string]string
	events   []string
	watched  int // how often somebody began to wait for a request or an event
	cuts     int // how many more streams are cut after their first message
	down     error
	refuse   bool // as a daemon off loopback does
}

func newWorld(dir string) (*world, error) {
	w := &world{changed: make(chan struct{}), refs: map[string]string{}, served: map[string]digest.Digest{},
		statuses: map[string]imgd.Status{}, logs: map[string]string{}}
	var err error
	w.index, err = index.Open(index.Config{Dir: dir, History: w, Registry: w, Writer: "test", Now: func() time.Time { return epoch }})
	if err != nil {
		return nil, err
	}
	api := httpapi.New(httpapi.Config{
		Projects: map[string]imgd.Project{"hello": {Name: "hello", Image: "demo/hello", Repositories: []string{repo}, Refs: []string{"*"}}},
		Index:    w.index, Registry: w, Git: w, Queue: w, Statuses: w, Logs: w, Events: w,
		Version: httpapi.Version{Version: "v0.1.0", Go: "go1.26"}, Local: true,
	})
	strange := httpapi.New(httpapi.Config{}) // off loopback
	w.server = httptest.NewUnstartedServer(nil)
	w.server.Config = api.Server()
	w.server.Config.Handler = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		refuse := w.refuse
		w.mu.Unlock()
		if refuse {
			strange.ServeHTTP(rw, r)
			return
		}
		w.cutting(api).ServeHTTP(rw, r)
	})
	w.server.Start()
	return w, nil
}

func (w *world) close() {
	w.server.CloseClientConnections()
	w.server.Close()
	w.index.Close()
}

// cutting cuts connections off in the middle of streams, as long as it is to.
func (w *world) cutting(next http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, "/log") && r.URL.Path != "/v1/events" {
			next.ServeHTTP(rw, r)
			return
		}
		w.mu.Lock()
		cut := w.cuts > 0
		w.cuts = max(0, w.cuts-1)
		w.mu.Unlock()
		if cut {
			rw = &shortWriter{ResponseWriter: rw}
		}
		next.ServeHTTP(rw, r)
	})
}

// A shortWriter ends the connection after a message.
type shortWriter struct {
	http.ResponseWriter
	writes int
}

func (s *shortWriter) Unwrap() http.ResponseWriter { return s.ResponseWriter }

func (s *shortWriter) Write(b []byte) (int, error) {
	if s.writes++; s.writes > 2 { // greeting and message
		panic(http.ErrAbortHandler)
	}
	return s.ResponseWriter.Write(b)
}

func (w *world) change(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
	close(w.changed)
	w.changed = make(chan struct{})
}

// await waits until f is true.
func (w *world) await(ctx context.Context, f func() bool) error {
	for {
		w.mu.Lock()
		ok, changed := f(), w.changed
		w.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (w *world) Head(_ context.Context, _, ref string) (string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.refs[ref], nil
}

func (w *world) Contains(_ context.Context, _, head, commit string) (bool, error) {
	return head == commit, nil
}

func (w *world) Expand(_ context.Context, _, short string) (ref, commit string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, name := range []string{short, "refs/heads/" + short, "refs/tags/" + short} {
		if w.refs[name] != "" {
			return name, w.refs[name], nil
		}
	}
	return "", "", fmt.Errorf("there is no branch or tag %s: %w", short, imgd.ErrNotFound)
}

func (w *world) Resolve(_ context.Context, repository, tag string) (ocispec.Descriptor, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if d, ok := w.served[repository+":"+tag]; ok || w.down != nil {
		return ocispec.Descriptor{Digest: d}, w.down
	}
	return ocispec.Descriptor{}, imgd.ErrNotFound
}

func (w *world) Capture(context.Context, []string, digest.Digest) (ocispec.Descriptor, []ocispec.Descriptor, error) {
	return ocispec.Descriptor{}, nil, imgd.ErrNotFound
}

// Submit makes of a request what the script has said.
func (w *world) Submit(ctx context.Context, req imgd.Request, delivery string) (imgd.Request, error) {
	if w.down != nil {
		return req, w.down
	}
	req.AskedAt = epoch.Add(time.Duration(w.index.Seq()) * time.Second)
	if req.Force || req.Rebuild {
		req.Nonce = delivery
	}
	req.ID = req.Hash()
	w.mu.Lock()
	status := w.next
	w.mu.Unlock()
	status.Request, status.Project, status.Ref, status.Commit, status.AskedAt = req.ID, req.Project, req.Ref, req.Commit, req.AskedAt
	if status.State == imgd.Published {
		rel, err := w.publish(ctx, req, req.Ref)
		if err != nil {
			return req, err
		}
		status.Release = rel.ID
	}
	w.change(func() {
		w.statuses[req.ID] = status
		if status.State != imgd.Queued {
			w.logs[req.ID] = buildLog
		}
	})
	return req, nil
}

// buildLog is two lines of BuildKit's status: a step, and what it printed.
var buildLog = strings.Join([]string{
	`{"vertexes":[{"digest":"` + digest.FromString("step").String() + `","name":"[build 3/3] RUN go build","started":"2026-11-21T10:00:00Z"}]}`,
	`{"vertexes":[{"digest":"` + digest.FromString("step").String() + `","name":"[build 3/3] RUN go build","started":"2026-11-21T10:00:00Z","completed":"2026-11-21T10:00:01Z"}],` +
		`"logs":[{"vertex":"` + digest.FromString("step").String() + `","stream":1,"data":"` + base64.StdEncoding.EncodeToString([]byte("compiled it\n")) + `","timestamp":"2026-11-21T10:00:01Z"}]}`,
	"",
}, "\n")

// publish takes the release of a request all the way. Its image is one of two
// platforms, whose digests come from what.
func (w *world) publish(ctx context.Context, req imgd.Request, what string) (imgd.Release, error) {
	info := version.Info{Ref: req.Ref, Commit: req.Commit, CommitTime: epoch}
	req.Version, _ = version.Of(info)
	req.ID = req.Hash()
	tags, err := version.Tags(info)
	if err != nil {
		return imgd.Release{}, err
	}
	rel := imgd.Release{Image: "demo/hello", Repositories: []string{repo}, Request: req, Source: "https://git.test/hello",
		Root: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromString(what), Size: 900}}
	for _, arch := range []string{"amd64", "arm64"} {
		rel.Platforms = append(rel.Platforms, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString(what + arch), Size: 479,
			Platform: &ocispec.Platform{OS: "linux", Architecture: arch}})
	}
	for _, t := range tags {
		rel.Tags = append(rel.Tags, imgd.ReleaseTag{Name: t.Name, Kind: t.Kind})
	}
	if rel, err = w.index.Admit(ctx, rel, ""); err != nil {
		return rel, err
	}
	w.change(func() {
		for _, t := range rel.Taken() {
			w.served[repo+":"+t.Name] = rel.Root.Digest
		}
	})
	return w.index.Publish(ctx, rel.ID)
}

func (w *world) Status(_ context.Context, request string) (imgd.Status, bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s, ok := w.statuses[request]
	return s, ok, nil
}

func (w *world) WatchStatus(ctx context.Context, request string) iter.Seq2[imgd.Status, error] {
	return func(yield func(imgd.Status, error) bool) {
		var last imgd.Status
		w.change(func() { w.watched++ })
		for {
			err := w.await(ctx, func() bool {
				s, ok := w.statuses[request]
				different := ok && s != last
				if different {
					last = s
				}
				return different
			})
			if err != nil || !yield(last, nil) {
				return
			}
		}
	}
}

func (w *world) Statuses(context.Context, int, uint64) ([]imgd.Status, uint64, error) {
	return nil, 0, nil
}

func (w *world) Log(_ context.Context, request string, ended func() bool) (io.ReadCloser, error) {
	w.mu.Lock()
	text, ok := w.logs[request]
	w.mu.Unlock()
	if !ok && ended == nil {
		return nil, imgd.ErrNotFound
	}
	return io.NopCloser(strings.NewReader(text)), nil
}

func (w *world) Events(ctx context.Context, since uint64, follow bool, f func(uint64, []byte) error) error {
	for {
		w.mu.Lock()
		events := w.events
		w.mu.Unlock()
		for ; since < uint64(len(events)); since++ {
			if err := f(since+1, []byte(events[since])); err != nil {
				return err
			}
		}
		if !follow {
			return nil
		}
		w.change(func() { w.watched++ })
		if err := w.await(ctx, func() bool { return len(w.events) > int(since) }); err != nil {
			return err
		}
	}
}

// freePort is an address where nobody listens.
func freePort(tb testing.TB) string {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
