package main_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"io"
	"iter"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
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
	index   *index.Index
	handler http.Handler
	server  *httptest.Server

	registry *registry // that imgctl asks itself

	mu         sync.Mutex
	changed    chan struct{} // closed and replaced by each change
	refs       map[string]string
	served     map[string]digest.Digest // repository:tag -> root
	lacks      map[string]imgd.Lack     // "bytes root" -> what of it is damaged
	stuck      string                   // tag of which the registry answers nothing
	next       imgd.Status              // what the next request becomes
	statuses   map[string]imgd.Status
	letters    []imgd.Letter
	logs       map[string]string
	events     []string // the filter looks for their "what" and "image"
	watched    int      // how often somebody began to wait for the next state or event
	cuts       int      // how many more streams are cut
	cutAfter   int      // so many messages
	down       error
	difference *imgd.Difference // of any two images
	refuse     bool             // as a daemon off loopback does
	slow       bool             // answers nothing
	probes     []httpapi.Probe
	reload     answer // to a reload; that is not this API's yet
}

// An answer is one that a script has made up.
type answer struct {
	status int
	body   string
}

func newWorld(dir string) (*world, error) {
	w := &world{changed: make(chan struct{}), refs: map[string]string{}, served: map[string]digest.Digest{}, lacks: map[string]imgd.Lack{},
		statuses: map[string]imgd.Status{}, logs: map[string]string{}}
	w.registry = &registry{w: w, files: map[string]file{}}
	var err error
	w.index, err = index.Open(index.Config{Dir: dir, History: w, Registry: w, Writer: "test", Now: func() time.Time { return epoch }})
	if err != nil {
		return nil, err
	}
	projects := configured(map[string]imgd.Project{"hello": {Name: "hello", Git: "https://git.test/hello.git", Image: "demo/hello",
		Repositories: []string{repo}, Refs: []string{"*"},
		Retention: imgd.Retention{Never: []string{"pr-9*"}, Rules: []imgd.RetentionRule{{Kinds: []version.Kind{version.KindVersion}, KeepLast: 2}}}}})
	config := httpapi.Config{
		Projects: projects,
		Recorder: &imgd.Pipeline{Capturer: pushedImages{w}, Index: w.index, Lookup: w.index, Registry: "registry.test"},
		Commander: &imgd.Pipeline{Projects: projects, Capturer: pushedImages{w}, Tagger: w, Index: w.index, Lookup: w.index,
			Now: func() time.Time { return epoch.Add(time.Hour) }},
		Expirer: &imgd.Expirer{Index: w.index, Weigher: weights{}, Share: func() int { return 40 }, Pipeline: &imgd.Pipeline{Projects: projects, Tagger: w,
			Index: w.index, Lookup: w.index, Now: func() time.Time { return epoch.Add(8 * 24 * time.Hour) }}},
		Explainer: &imgd.Explainer{Pipeline: &imgd.Pipeline{Projects: projects, Git: commits{w}, Lookup: w.index}, Index: w.index, Builder: planner{}},
		Index:     watchedIndex{w.index, w}, Registry: w, Git: w, Queue: w, Statuses: w, Commands: w, Letters: w, Logs: w, Events: w, Drifts: w, Probes: w.allProbes,
		Usage: func(context.Context) []httpapi.Used {
			return []httpapi.Used{{Part: "index", Path: "/data/index", Bytes: 512, Free: 2 << 40}, {Part: "registry", Path: "/data/registry", Bytes: 3 << 29, Free: 2 << 40},
				{Part: "buildkit", Path: "/data/buildkit", Free: 2 << 40, Error: "buildkitd is away"}}
		},
		Collect: func(context.Context) (httpapi.Collected, error) {
			return httpapi.Collected{Manifests: 2, Blobs: 7, Uploads: 1, Logs: 3, Bytes: 12 << 20, PauseMS: 50}, nil
		},
		Version: httpapi.Version{Version: "v0.1.0", Go: "go1.26"}, Local: true,
	}
	config.Auditor = w.auditor(config)
	api := httpapi.New(config)
	strange := httpapi.New(httpapi.Config{}) // off loopback
	w.handler = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		refuse, slow, reload := w.refuse, w.slow, w.reload
		w.mu.Unlock()
		switch {
		case slow:
			w.change(func() { w.watched++ })
			<-r.Context().Done()
		case refuse:
			strange.ServeHTTP(rw, r)
		case r.URL.Path == "/v1/reload":
			reload.to(rw, r)
		default:
			w.cutting(api).ServeHTTP(rw, r)
		}
	})
	w.server = httptest.NewServer(w.handler)
	return w, nil
}

func (w *world) allProbes() []httpapi.Probe {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.probes
}

// to answers a command, in the way of the API.
func (a answer) to(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/json" {
		a = answer{http.StatusMethodNotAllowed, `{"status":405,"code":"usage","detail":"a reload is a POST of JSON"}`}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(a.status)
	_, _ = io.WriteString(w, a.body)
}

// stop ends the daemon's process, as it were: what it knows stays.
func (w *world) stop() {
	w.server.CloseClientConnections()
	w.server.Close()
}

// start starts it again, at another address.
func (w *world) start() { w.server = httptest.NewServer(w.handler) }

func (w *world) close() {
	w.stop()
	w.index.Close()
}

// cutting cuts connections off in the middle of streams, as long as it is to.
func (w *world) cutting(next http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, "/log") && r.URL.Path != "/v1/events" && r.URL.Path != "/v1/watch" {
			next.ServeHTTP(rw, r)
			return
		}
		w.mu.Lock()
		cut, after := w.cuts > 0, w.cutAfter
		w.cuts = max(0, w.cuts-1)
		w.mu.Unlock()
		if cut {
			rw = &shortWriter{ResponseWriter: rw, left: after + 1} // after the greeting
		}
		next.ServeHTTP(rw, r)
	})
}

// A shortWriter ends the connection after some messages.
type shortWriter struct {
	http.ResponseWriter
	left int
}

func (s *shortWriter) Unwrap() http.ResponseWriter { return s.ResponseWriter }

// Write takes several messages at once, each of which ends with an empty line.
func (s *shortWriter) Write(b []byte) (int, error) {
	ends := bytes.SplitAfter(b, []byte("\n\n"))
	n := len(ends) - 1
	if n > s.left {
		_, _ = s.ResponseWriter.Write(bytes.Join(ends[:s.left], nil))
		_ = http.NewResponseController(s.ResponseWriter).Flush()
		panic(http.ErrAbortHandler)
	}
	s.left -= n
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

func (w *world) Resolve(_ context.Context, repository, tag string) (ocispec.Descriptor, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if d, ok := w.served[repository+":"+tag]; ok || w.down != nil {
		return ocispec.Descriptor{Digest: d}, w.down
	}
	return ocispec.Descriptor{}, imgd.ErrNotFound
}

func (w *world) Compare(_ context.Context, repository string, a, b digest.Digest) (imgd.Comparison, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := imgd.Comparison{Repository: repository, A: a, B: b, Same: a == b}
	if !c.Same {
		c.Difference = w.difference
	}
	return c, w.down
}

func (w *world) Capture(context.Context, []string, digest.Digest) (ocispec.Descriptor, []ocispec.Descriptor, error) {
	return ocispec.Descriptor{}, nil, imgd.ErrNotFound
}

// A watchedIndex tells who waits for its next entry.
type watchedIndex struct {
	*index.Index
	w *world
}

func (x watchedIndex) Wait(ctx context.Context, seq uint64) error {
	if seq > x.Seq() {
		x.w.change(func() { x.w.watched++ })
	}
	return x.Index.Wait(ctx, seq)
}

// weights says of every image that it has 1.5 MB.
type weights struct{}

func (weights) Contents(_ context.Context, _ string, root digest.Digest) ([]ocispec.Descriptor, error) {
	return []ocispec.Descriptor{{Digest: root, Size: 1_500_000}}, nil
}

// In pushedImages every digest is an image, whoever has pushed it.
type pushedImages struct{ *world }

func (pushedImages) Capture(_ context.Context, _ []string, root digest.Digest) (ocispec.Descriptor, []ocispec.Descriptor, error) {
	d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: root, Size: 479}
	platform := d
	platform.Platform = &ocispec.Platform{OS: "linux", Architecture: "amd64"}
	return d, []ocispec.Descriptor{platform}, nil
}

// Tag and Untag write the registry's tags.
func (w *world) Tag(_ context.Context, repository, tag string, root ocispec.Descriptor) error {
	w.change(func() { w.served[repository+":"+tag] = root.Digest })
	return nil
}

func (w *world) Untag(_ context.Context, repository, tag string, ours func(digest.Digest) bool) error {
	w.change(func() {
		if ours(w.served[repository+":"+tag]) {
			delete(w.served, repository+":"+tag)
		}
	})
	return nil
}

// Submit makes of a request what the script has said.
func (w *world) Submit(ctx context.Context, req imgd.Request, delivery string) (imgd.Request, error) {
	if w.down != nil {
		return req, w.down
	}
	if req.Force || req.Rebuild {
		req.Nonce = delivery
	}
	return w.ask(ctx, req)
}

func (w *world) ask(ctx context.Context, req imgd.Request) (imgd.Request, error) {
	req.AskedAt = epoch.Add(time.Duration(w.index.Seq()) * time.Second)
	req.ID = req.Hash()
	w.mu.Lock()
	status := imgd.StatusOf(req, w.next.State)
	status.Tries, status.Error = w.next.Tries, w.next.Error
	w.mu.Unlock()
	if req.Compare && status.State == imgd.Published {
		status.State, status.Error = imgd.Unchanged, &imgd.StatusError{Kind: "unchanged", Message: "built to be compared", Built: digest.FromString(req.Ref)}
	}
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

// publish takes the release of a request all the way.
func (w *world) publish(ctx context.Context, req imgd.Request, what string) (imgd.Release, error) {
	rel, err := w.admit(ctx, req, what)
	if err != nil {
		return rel, err
	}
	w.change(func() {
		for _, t := range rel.Taken() {
			w.served[repo+":"+t.Name] = rel.Root.Digest
		}
	})
	return w.index.Publish(ctx, rel.ID)
}

// admit makes a release of the request. Its image is one of two platforms, whose
// digests come from what.
func (w *world) admit(ctx context.Context, req imgd.Request, what string) (imgd.Release, error) {
	info := version.Info{Ref: req.Ref, Commit: req.Commit, CommitTime: epoch}
	req.Version, _ = version.Of(info)
	req.ID = req.Hash()
	named, err := (*version.Rules)(nil).Apply(info)
	if err != nil {
		return imgd.Release{}, err
	}
	rel := imgd.Release{Image: "demo/hello", Repositories: []string{repo}, Request: req, Source: "https://git.test/hello", Steps: named.Steps,
		Root: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromString(what), Size: 900}}
	if named.TTL > 0 {
		rel.ExpiresAt = req.AskedAt.Add(named.TTL)
	}
	for _, arch := range []string{"amd64", "arm64"} {
		rel.Platforms = append(rel.Platforms, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString(what + arch), Size: 479,
			Platform: &ocispec.Platform{OS: "linux", Architecture: arch}})
	}
	for _, t := range named.Tags {
		if t.Kind == version.KindSeries && len(t.Name) == 1 {
			continue // X goes by the same rules as X.Y
		}
		rel.Tags = append(rel.Tags, imgd.ReleaseTag{Name: t.Name, Kind: t.Kind})
	}
	return w.index.Admit(ctx, rel, "")
}

func (w *world) Status(_ context.Context, request string) (imgd.Status, bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s, ok := w.statuses[request]
	return s, ok, w.down
}

func (w *world) WatchStatus(ctx context.Context, request string) iter.Seq2[imgd.Status, error] {
	return func(yield func(imgd.Status, error) bool) {
		var last imgd.Status
		for first := true; ; first = false {
			err := w.await(ctx, func() bool {
				s, ok := w.statuses[request]
				different := ok && !reflect.DeepEqual(s, last)
				if different {
					last = s
				}
				if different && first {
					w.watched++ // what changes from now on is another state
				}
				return different
			})
			w.change(func() {}) // shows watched
			if err != nil || !yield(last, nil) {
				return
			}
		}
	}
}

func (w *world) Log(ctx context.Context, request string, ended func() bool) (io.ReadCloser, error) {
	w.mu.Lock()
	text, ok := w.logs[request]
	w.mu.Unlock()
	if !ok && ended == nil {
		return nil, imgd.ErrNotFound
	}
	if ended == nil {
		return io.NopCloser(strings.NewReader(text)), nil
	}
	return &growing{w: w, done: ctx.Done(), request: request, ended: ended}, nil
}

// A growing log is read until its request has ended.
type growing struct {
	w       *world
	done    <-chan struct{} // of the reader
	request string
	ended   func() bool
	read    int
}

func (g *growing) Read(b []byte) (int, error) {
	tick := time.NewTicker(time.Millisecond) // ended has no signal
	defer tick.Stop()
	for {
		last := g.ended()
		g.w.mu.Lock()
		n := copy(b, g.w.logs[g.request][g.read:])
		g.w.mu.Unlock()
		if g.read += n; n > 0 {
			return n, nil
		}
		if last {
			return 0, io.EOF
		}
		select {
		case <-tick.C:
		case <-g.done:
			return 0, context.Canceled
		}
	}
}

func (g *growing) Close() error { return nil }

func (w *world) Events(ctx context.Context, filter httpapi.EventFilter, follow bool, f func(uint64, []byte) error) error {
	since := filter.Since
	for {
		w.mu.Lock()
		events := w.events
		w.mu.Unlock()
		for ; since < uint64(len(events)); since++ {
			if !chosen(filter, events[since]) {
				continue
			}
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

// chosen looks at an event's text, as the subjects of IMGD_EVENTS are not here.
func chosen(filter httpapi.EventFilter, event string) bool {
	of := func(what string) bool { return strings.Contains(event, "."+what+".") }
	return (filter.Image == "" || strings.Contains(event, `"image":"`+filter.Image+`"`)) &&
		(len(filter.What) == 0 || slices.ContainsFunc(filter.What, of))
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

// configured are the projects of a config, by name.
func configured(byName map[string]imgd.Project) *imgd.Projects {
	p := new(imgd.Projects)
	p.Set(byName)
	return p
}
