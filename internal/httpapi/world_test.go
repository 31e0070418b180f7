package httpapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
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

const (
	image = "demo/hello"
	repo  = "registry.test/demo/hello"
	copyR = "copy.test/demo/hello"
)

var epoch = time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)

// commit is a full commit ID made of one letter.
func commit(letter string) string { return strings.Repeat(letter, 40) }

// A world is all that the API asks: the real index, and git, the registry, the
// queue, the states, the logs and the events as one test sets them up.
type world struct {
	t     *testing.T
	index *index.Index
	api   *httpapi.API
	url   string
	doc   openAPI      // holds every answer
	log   bytes.Buffer // of the API; read it when the server has stopped

	mu         sync.Mutex
	changed    chan struct{}                          // closed and replaced by each change
	refs       map[string]string                      // full ref -> commit
	served     map[string]digest.Digest               // repository:tag -> root
	lacks      map[digest.Digest]imgd.Lack            // root -> what is gone of it
	pushed     map[digest.Digest][]ocispec.Descriptor // by another CI: root -> platforms
	deliveries map[string]bool
	asked      []imgd.Request
	statuses   []imgd.Status // in the order they were written
	logs       map[string]string
	events     []string                   // the filter looks for their "what" and "image"
	letters    []imgd.Letter              // in the order they were written
	drifts     []imgd.Drift               // as they were reported
	unreported error                      // of reports, if set
	broken     error                      // of git, registry, queue, states and letters, if set
	difference *imgd.Difference           // of any two images
	resolved   func(repositoryTag string) // called at each look into the registry
	looking    func(context.Context)      // called first by a verification's, if set
}

func newWorld(t *testing.T, configure ...func(*httpapi.Config)) *world {
	t.Helper()
	w := &world{t: t, doc: readOpenAPI(t), changed: make(chan struct{}), refs: map[string]string{}, served: map[string]digest.Digest{}, lacks: map[digest.Digest]imgd.Lack{},
		deliveries: map[string]bool{}, logs: map[string]string{}, resolved: func(string) {}}
	var err error
	w.index, err = index.Open(index.Config{Dir: t.TempDir(), History: w, Registry: registry{w}, Writer: "test", Now: func() time.Time { return epoch }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.index.Close() })
	config := httpapi.Config{
		Projects: configured(map[string]imgd.Project{
			"hello": {Name: "hello", Image: image, Repositories: []string{repo, copyR}, Refs: []string{"refs/heads/*", "refs/tags/v*"}},
			"other": {Name: "other", Image: "demo/other", Repositories: []string{"registry.test/demo/other"}, Refs: []string{"*"}},
		}),
		Recorder: &imgd.Pipeline{Projects: configured(map[string]imgd.Project{"hello": {Image: image, Repositories: []string{repo, copyR}}}), Registry: "registry.test",
			Capturer: registry{w}, Index: w.index, Lookup: w.index, Drifts: w, Now: func() time.Time { return epoch }},
		Commander: &imgd.Pipeline{Projects: configured(map[string]imgd.Project{"hello": {Image: image, Repositories: []string{repo, copyR}}}),
			Capturer: registry{w}, Tagger: registry{w}, Index: w.index, Lookup: w.index, Now: func() time.Time { return epoch.Add(time.Hour) }},
		Expirer: &imgd.Expirer{Index: w.index, Share: func() int { return 100 }, Pipeline: &imgd.Pipeline{
			Projects: configured(map[string]imgd.Project{"hello": {Image: image, Repositories: []string{repo, copyR},
				Retention: imgd.Retention{Rules: []imgd.RetentionRule{{Tags: []string{"old-*"}, TTL: time.Minute}}}}}),
			Tagger: registry{w}, Index: w.index, Lookup: w.index, Now: func() time.Time { return epoch.Add(time.Hour) }}},
		Explainer: &imgd.Explainer{Pipeline: &imgd.Pipeline{Git: commits{w}, Lookup: w.index, Projects: configured(map[string]imgd.Project{
			"hello": {Name: "hello", Image: image, Repositories: []string{repo}, Refs: []string{"refs/heads/*", "refs/tags/v*"}}})}, Index: w.index, Builder: planner{}},
		Index: w.index, Registry: registry{w}, Git: w, Queue: w, Statuses: w,
		Commands: w, Letters: w, Logs: w, Events: w, Drifts: w,
		Version: httpapi.Version{Version: "v0.1.0", Commit: commit("f"), Go: "go1.26.8"},
		Local:   true, KeepAlive: time.Hour, Now: func() time.Time { return epoch },
		Log: slog.New(slog.NewTextHandler(&w.log, nil)),
	}
	config.Auditor = &imgd.Auditor{Verifier: &imgd.Verifier{Index: w.index, Registry: registry{w}, Projects: config.Projects, Drifts: w}, Records: w.index,
		Lister: registry{w}, Pipeline: config.Commander.(*imgd.Pipeline), Patience: time.Nanosecond, Now: func() time.Time { return epoch }}
	for _, c := range configure {
		c(&config)
	}
	w.api = httpapi.New(config)
	server := httptest.NewUnstartedServer(nil)
	server.Config = w.api.Server()
	server.Start()
	t.Cleanup(func() { w.api.Close(); server.Close() })
	w.url = server.URL
	return w
}

// change makes a change that others wait for.
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

// Head and Contains are index.History: each branch is one commit.
func (w *world) Head(_ context.Context, _, ref string) (string, error) { return w.refs[ref], nil }

func (w *world) Contains(_ context.Context, _, head, commit string) (bool, error) {
	return head == commit, nil
}

func (w *world) Expand(_ context.Context, _, short string) (ref, commit string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var found []string
	for _, name := range []string{short, "refs/heads/" + short, "refs/tags/" + short} {
		if w.refs[name] != "" {
			found = append(found, name)
		}
	}
	switch {
	case w.broken != nil:
		return "", "", w.broken
	case len(found) == 0:
		return "", "", fmt.Errorf("there is no branch or tag %s: %w", short, imgd.ErrNotFound)
	case len(found) > 1:
		return "", "", fmt.Errorf("%s is ambiguous: say %s: %w", short, strings.Join(found, " or "), imgd.ErrInvalid)
	}
	return found[0], w.refs[found[0]], nil
}

// Submit takes a request as events does, and fails the test if it is none.
func (w *world) Submit(_ context.Context, req imgd.Request, delivery string) (imgd.Request, error) {
	w.mu.Lock()
	broken, known := w.broken, w.deliveries[delivery]
	w.mu.Unlock()
	if broken != nil {
		return req, broken
	}
	if version.ValidCommit(req.Commit) != nil || !strings.HasPrefix(req.Ref, "refs/") || req.By != "http" || req.ID != "" || req.Nonce != "" {
		w.t.Errorf("the queue got %+v", req)
	}
	if known || !strings.HasPrefix(delivery, "http/") || !strings.HasSuffix(delivery, "/"+req.Project) {
		w.t.Errorf("the queue got delivery %q", delivery)
	}
	if req.AskedAt.IsZero() {
		req.AskedAt = epoch
	}
	if req.Force || req.Rebuild {
		req.Nonce = delivery
	}
	req.ID = req.Hash()
	w.change(func() {
		w.deliveries[delivery] = true
		w.asked = append(w.asked, req)
	})
	w.set(imgd.Status{Request: req.ID, Project: req.Project, Ref: req.Ref, Commit: req.Commit, State: imgd.Queued, AskedAt: req.AskedAt})
	return req, nil
}

// set writes the state of a request.
func (w *world) set(s imgd.Status) {
	w.change(func() {
		w.statuses = slices.DeleteFunc(w.statuses, func(old imgd.Status) bool { return old.Request == s.Request })
		w.statuses = append(w.statuses, s)
	})
}

func (w *world) Status(_ context.Context, request string) (imgd.Status, bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s, ok := w.status(request)
	return s, ok, w.broken
}

func (w *world) status(request string) (imgd.Status, bool) {
	i := slices.IndexFunc(w.statuses, func(s imgd.Status) bool { return s.Request == request })
	if i < 0 {
		return imgd.Status{}, false
	}
	return w.statuses[i], true
}

func (w *world) WatchStatus(ctx context.Context, request string) iter.Seq2[imgd.Status, error] {
	return func(yield func(imgd.Status, error) bool) {
		var last imgd.Status
		for {
			err := w.await(ctx, func() bool {
				s, ok := w.status(request)
				different := ok && !reflect.DeepEqual(s, last)
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

func (w *world) Statuses(_ context.Context, filter imgd.StatusFilter, limit int, before uint64) ([]imgd.Status, uint64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	end := len(w.statuses)
	if before > 0 {
		end = int(before) - 1
	}
	var items []imgd.Status
	for i := end - 1; i >= 0; i-- {
		s := w.statuses[i]
		if filter.State != "" && s.State != filter.State || filter.Project != "" && s.Project != filter.Project {
			continue
		}
		if len(items) == limit {
			return items, uint64(i) + 2, w.broken
		}
		items = append(items, s)
	}
	return items, 0, w.broken
}

func (w *world) Log(ctx context.Context, request string, ended func() bool) (io.ReadCloser, error) {
	w.mu.Lock()
	text, ok := w.logs[request]
	w.mu.Unlock()
	if ended == nil && !ok {
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
		events, broken := w.events, w.broken
		w.mu.Unlock()
		for ; since < uint64(len(events)); since++ {
			if !chosen(filter, events[since]) {
				continue
			}
			if err := f(since+1, []byte(events[since])); err != nil {
				return err
			}
		}
		if broken != nil || !follow {
			return broken
		}
		if err := w.await(ctx, func() bool { return len(w.events) > int(since) || w.broken != nil }); err != nil {
			return err
		}
	}
}

func chosen(filter httpapi.EventFilter, event string) bool {
	var e struct{ What, Image string }
	_ = json.Unmarshal([]byte(event), &e) // what is no event is about nothing
	return (filter.Image == "" || e.Image == filter.Image) && (len(filter.What) == 0 || slices.Contains(filter.What, e.What))
}

// release is what the build of ref at commit c made, on one platform a letter
// of root.
func (w *world) release(ref, c, root string) imgd.Release {
	req := imgd.Request{Project: "hello", Ref: ref, Commit: commit(c), AskedAt: epoch.Add(time.Duration(w.index.Seq()) * time.Second)}
	req.ID = req.Hash()
	info := version.Info{Ref: ref, Commit: req.Commit, CommitTime: epoch}
	req.Version, _ = version.Of(info)
	named, err := (*version.Rules)(nil).Apply(info)
	if err != nil {
		w.t.Fatal(err)
	}
	rel := imgd.Release{Image: image, Repositories: []string{repo, copyR}, Request: req, Source: "https://git.test/hello", Labels: map[string]string{"env": "prod"}}
	for i, letter := range strings.Split(root, "") {
		rel.Platforms = append(rel.Platforms, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString(letter), Size: 479,
			Platform: &ocispec.Platform{OS: "linux", Architecture: []string{"amd64", "arm64"}[i]}})
	}
	rel.Root = rel.Platforms[0]
	if len(rel.Platforms) > 1 {
		rel.Root = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromString(root), Size: 900}
	}
	for _, t := range named.Tags {
		if t.Kind == version.KindSeries && len(t.Name) == 1 {
			continue // X goes by the same rules as X.Y
		}
		rel.Tags = append(rel.Tags, imgd.ReleaseTag{Name: t.Name, Kind: t.Kind})
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.refs[ref] = req.Commit
	return rel
}

func (w *world) admit(rel imgd.Release) imgd.Release {
	w.t.Helper()
	admitted, err := w.index.Admit(w.t.Context(), rel, "")
	if err != nil {
		w.t.Fatal(err)
	}
	return admitted
}

// serve puts the release's tags into the registry.
func (w *world) serve(rel imgd.Release) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, t := range rel.Taken() {
		for _, r := range rel.Repositories {
			w.served[r+":"+t.Name] = rel.Root.Digest
		}
	}
}

// publish takes a release all the way.
func (w *world) publish(rel imgd.Release) imgd.Release {
	w.t.Helper()
	rel = w.admit(rel)
	w.serve(rel)
	published, err := w.index.Publish(w.t.Context(), rel.ID)
	if err != nil {
		w.t.Fatal(err)
	}
	return published
}

// An answer is what the API answered.
type answer struct {
	status int
	header http.Header
	body   string
}

func (w *world) do(method, path, body string, headers ...string) answer {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), method, w.url+path, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(headers); i += 2 {
		if req.Header.Set(headers[i], headers[i+1]); headers[i] == "Host" {
			req.Host = headers[i+1]
		}
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	got := answer{resp.StatusCode, resp.Header, string(text)}
	if err := w.doc.check(method, path, got); err != nil {
		w.t.Error(err)
	}
	return got
}

func (w *world) get(path string) answer { w.t.Helper(); return w.do(http.MethodGet, path, "") }

var errDown = errors.New("it is down")

// configured are the projects of a config, by name.
func configured(byName map[string]imgd.Project) *imgd.Projects {
	p := new(imgd.Projects)
	p.Set(byName)
	return p
}
