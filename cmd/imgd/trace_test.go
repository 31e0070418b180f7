package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.opentelemetry.io/otel/attribute"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/events"
	"github.com/imgd/imgd/index"
	"github.com/imgd/imgd/internal/embedded"
	"github.com/imgd/imgd/internal/httpapi"
)

const tracedCommit = "0123456789abcdef0123456789abcdef01234567"

// A forgery is git, BuildKit and the registry of the pipeline and the index. The
// first build fails for no reason of its own.
type forgery struct {
	daemon *daemon

	mu     sync.Mutex // guards what follows
	builds int
	tags   map[string]digest.Digest
}

func (f *forgery) Resolve(_ context.Context, _, _, commit string) (imgd.Commit, error) {
	return imgd.Commit{ID: commit, Time: time.Unix(1795255200, 0).UTC()}, nil
}

func (f *forgery) Head(context.Context, string, string) (string, error) { return tracedCommit, nil }

func (f *forgery) Contains(context.Context, string, string, string) (bool, error) { return true, nil }

func (f *forgery) Touched(context.Context, string, string, string) (bool, error) { return true, nil }

// Build makes a span of its own, as the client of BuildKit does.
func (f *forgery) Build(ctx context.Context, _ imgd.Project, _ imgd.Request) (ocispec.Descriptor, error) {
	_, span := f.daemon.tracing.provider.Tracer("test").Start(ctx, "solve")
	defer span.End()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.builds++; f.builds == 1 {
		return ocispec.Descriptor{}, errors.New("buildkitd went away")
	}
	return ocispec.Descriptor{Digest: digest.FromString("root")}, nil
}

func (f *forgery) Capture(_ context.Context, _ []string, root digest.Digest) (ocispec.Descriptor, []ocispec.Descriptor, error) {
	d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: root, Size: 479}
	platform := d
	platform.Platform = &ocispec.Platform{OS: "linux", Architecture: "amd64"}
	return d, []ocispec.Descriptor{platform}, nil
}

func (f *forgery) Tag(_ context.Context, repository, tag string, root ocispec.Descriptor) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tags[repository+":"+tag] = root.Digest
	return nil
}

func (f *forgery) Untag(context.Context, string, string, func(digest.Digest) bool) error { return nil }

// registry is the forgery as the index asks it.
type registry struct{ *forgery }

func (r registry) Resolve(_ context.Context, repository, tag string) (ocispec.Descriptor, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if d, ok := r.tags[repository+":"+tag]; ok {
		return ocispec.Descriptor{Digest: d}, nil
	}
	return ocispec.Descriptor{}, imgd.ErrNotFound
}

// newTraced is a daemon whose NATS and index are real, and whose spans are kept.
// stop lets it finish what it has taken.
func newTraced(t *testing.T) (d *daemon, spans *tracetest.InMemoryExporter, stop func()) {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	server, err := embedded.StartNATS(t.Context(), embedded.NATSConfig{Dir: t.TempDir(), Listen: "127.0.0.1:0", Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	spans = tracetest.NewInMemoryExporter()
	cfg := hook(t, "github", "s3cret")
	d = &daemon{setting: setting{log: log}, cfg: cfg, live: newLive(cfg, new(slog.LevelVar)), stack: &stack{}}
	if d.tracing, err = newTracing(t.Context(), sdk.WithSyncer(spans)); err != nil {
		t.Fatal(err)
	}
	projects := d.cfg.projects("r.test")
	d.live.projects.Set(projects)
	d.metrics = httpapi.NewMetrics(func(string) bool { return true })
	d.counted(d.cfg)
	fake := &forgery{daemon: d, tags: map[string]digest.Digest{}}
	if d.index, err = index.Open(index.Config{Dir: t.TempDir(), History: fake, Registry: registry{fake}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.index.Close() })
	d.bus, err = events.Connect(t.Context(), events.Config{URL: server.URL(), IndexID: d.index.ID(), Poll: 100 * time.Millisecond,
		Retry: func(int) time.Duration { return 10 * time.Millisecond }, Observe: d.observer(), Traces: d.tracing.provider, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.bus.Close)
	d.pipeline = &imgd.Pipeline{Projects: d.live.projects, Git: fake, Builder: fake, Capturer: registry{fake}, Tagger: fake,
		Index: d.index, Lookup: d.index, Asker: d.bus, Observe: d.stage, Log: log}
	hooks, _, err := newHooks(d.cfg, projects, d.hooksConfig())
	if err != nil {
		t.Fatal(err)
	}
	d.live.hooks.now.Store(hooks)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = d.bus.Consume(ctx, d.pipeline) })
	running.Go(func() { _ = d.bus.Relay(ctx, d.index) })
	stop = func() { cancel(); running.Wait() }
	t.Cleanup(stop)
	return d, spans, stop
}

// One trace leads from a signed webhook to the builder's own span, by way of the
// queue and the stages, also in the second try, and however often the forge
// delivers.
func TestTraceOfAWebhook(t *testing.T) {
	d, spans, stop := newTraced(t)
	api := httpapi.New(httpapi.Config{Projects: d.pipeline.Projects, Index: d.index, Hooks: &d.live.hooks, Gauges: d.gauges(), Metrics: d.metrics,
		Traces: d.tracing.provider, Local: true})
	for range 2 {
		w := httptest.NewRecorder()
		r := signedPush("s3cret", tracedCommit)
		r.Header.Set("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01") // anybody may send it
		api.ServeHTTP(w, r)
		if w.Code != http.StatusAccepted {
			t.Fatalf("got %d %s", w.Code, w.Body)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for d.index.Told() == 0 {
		if err := d.index.Wait(ctx, d.index.Seq()+1); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	tree := lineages(spans.GetSpans())
	const hook = "POST /hooks/{forge}/{project} > enqueue > handle request > "
	for _, want := range []string{hook + "build > solve", hook + "build > solve", hook + "resolve", hook + "capture", hook + "admit", hook + "tag", hook + "publish"} {
		i := slices.Index(tree, want)
		if i < 0 {
			t.Fatalf("there is no span %s in\n%s", want, strings.Join(tree, "\n"))
		}
		tree = slices.Delete(tree, i, i+1)
	}
	for _, s := range spans.GetSpans() {
		if s.SpanContext.TraceID().String() == "0af7651916cd43dd8448eb211c80319c" {
			t.Errorf("%s is of a trace that a stranger has begun", s.Name)
		}
	}
	scrape := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
	r.Host = "localhost"
	api.ServeHTTP(scrape, r)
	for _, line := range []string{
		`imgd_webhooks_total{code="202",forge="github"} 2`, `imgd_requests_ended_total{project="hello",state="published"} 1`,
		`imgd_request_retries_total{project="hello",reason="error"} 1`, `imgd_publish_latency_seconds_count{project="hello"} 1`,
		`imgd_announce_latency_seconds_count 1`, `imgd_stage_duration_seconds_count{project="hello",result="error",stage="build"} 1`,
		`imgd_stage_duration_seconds_count{project="hello",result="ok",stage="build"} 1`, `imgd_stages_running{stage="build"} 0`,
		`imgd_http_requests_total{code="202",method="POST",route="/hooks/{forge}/{project}"} 2`,
	} {
		if !strings.Contains(scrape.Body.String(), line+"\n") {
			t.Errorf("there is no %s", line)
		}
	}
}

// lineages are the spans, each after its parents.
func lineages(spans tracetest.SpanStubs) []string {
	byID := map[string]tracetest.SpanStub{}
	for _, s := range spans {
		byID[s.SpanContext.TraceID().String()+s.SpanContext.SpanID().String()] = s
	}
	var all []string
	for _, s := range spans {
		line := s.Name
		for parent, ok := s, true; ok; {
			if parent, ok = byID[parent.SpanContext.TraceID().String()+parent.Parent.SpanID().String()]; ok {
				line = parent.Name + " > " + line
			}
		}
		all = append(all, line)
	}
	slices.Sort(all)
	return all
}

// signedPush is a push of main that github has signed.
func signedPush(secret, commit string) *http.Request {
	body := fmt.Sprintf(`{"ref":"refs/heads/main","after":%q,"head_commit":{"id":%q},"sender":{"login":"ada"}}`, commit, commit)
	r := httptest.NewRequest(http.MethodPost, "/hooks/github/hello", strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("X-GitHub-Event", "push")
	r.Header.Set("X-GitHub-Delivery", "72d3162e-cc78-11e3-81ab-4c9367dc0958")
	r.Header.Set("X-Hub-Signature-256", signature(secret, body))
	return r
}

// Traces are off unless a variable says where they go, and cost no provider.
func TestTracingIsOff(t *testing.T) {
	for _, name := range []string{"OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_SDK_DISABLED"} {
		t.Setenv(name, "")
	}
	for _, tt := range []struct {
		env  string // as the process has it
		on   bool
		fail bool
	}{
		{"", false, false},
		{"OTEL_EXPORTER_OTLP_PROTOCOL=grpc", false, false},
		{"OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:1", true, false},
		{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://127.0.0.1:1/v1/traces", true, false},
		{"OTEL_TRACES_EXPORTER=console", true, false},
		{"OTEL_TRACES_EXPORTER=none", false, false},
		{"OTEL_TRACES_EXPORTER=otlp OTEL_SDK_DISABLED=true", false, false},
		{"OTEL_TRACES_EXPORTER=carrier-pigeon", false, true},
	} {
		t.Run(tt.env, func(t *testing.T) {
			env := map[string]string{}
			for pair := range strings.FieldsSeq(tt.env) {
				name, value, _ := strings.Cut(pair, "=")
				env[name] = value
				t.Setenv(name, value)
			}
			got, err := startTracing(t.Context(), func(name string) string { return env[name] }, slog.New(slog.DiscardHandler))
			if (err != nil) != tt.fail {
				t.Fatalf("error %v", err)
			}
			if err == nil && (got.provider != nil) != tt.on {
				t.Errorf("provider is %v", got.provider)
			}
		})
	}
}

// What a registry's address says behind its question mark is nobody's to read.
func TestTracesAreDiscreet(t *testing.T) {
	spans := tracetest.NewInMemoryExporter()
	d, err := newTracing(t.Context(), sdk.WithSyncer(discreet{spans}))
	if err != nil {
		t.Fatal(err)
	}
	_, span := d.provider.Tracer("test").Start(t.Context(), "GET")
	span.SetAttributes(attribute.String("url.full", "https://blobs.test/sha256/ab?X-Amz-Signature=s3cret"), attribute.String("http.url", "https://r.test/?sig=s3cret"),
		attribute.String("url.query", "s3cret"), attribute.Int("http.response.status_code", 200))
	span.End()
	got := fmt.Sprint(spans.GetSpans()[0].Attributes)
	if strings.Contains(got, "s3cret") || !strings.Contains(got, "https://blobs.test/sha256/ab") || !strings.Contains(got, "200") {
		t.Errorf("got %s", got)
	}
}
