package integration_test

import (
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/imgd/imgd/integration/kit"
)

// A telescope is a collector of OpenTelemetry: it takes traces by OTLP over HTTP, and throws other signals away.
type telescope struct {
	url string

	mu    sync.Mutex // guards what follows
	spans []tracedSpan
	more  chan struct{} // closed when there are more
}

type tracedSpan struct{ service, trace, id, parent, name string }

func newTelescope(t *testing.T) *telescope {
	t.Helper()
	c := &telescope{more: make(chan struct{})}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/traces", func(w http.ResponseWriter, r *http.Request) {
		if err := c.take(r); err != nil {
			t.Error(err)
		}
		w.Header().Set("Content-Type", "application/x-protobuf")
	})
	mux.HandleFunc("POST /v1/metrics", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Type", "application/x-protobuf") })
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	c.url = server.URL
	return c
}

func (c *telescope) take(r *http.Request) error {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	var sent collector.ExportTraceServiceRequest
	if err := proto.Unmarshal(body, &sent); err != nil || r.Header.Get("Content-Type") != "application/x-protobuf" {
		return fmt.Errorf("%s of %d bytes: %w", r.Header.Get("Content-Type"), len(body), err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, resource := range sent.ResourceSpans {
		service := ""
		for _, a := range resource.Resource.Attributes {
			if a.Key == "service.name" {
				service = a.Value.GetStringValue()
			}
		}
		for _, scope := range resource.ScopeSpans {
			for _, s := range scope.Spans {
				c.spans = append(c.spans, tracedSpan{service, hex.EncodeToString(s.TraceId), hex.EncodeToString(s.SpanId), hex.EncodeToString(s.ParentSpanId), s.Name})
			}
		}
	}
	close(c.more)
	c.more = make(chan struct{})
	return nil
}

// until waits for spans that are ok and answers all there are.
func (c *telescope) until(t *testing.T, ok func([]tracedSpan) bool) []tracedSpan {
	t.Helper()
	timeout := time.After(endTime)
	for {
		c.mu.Lock()
		spans, more := slices.Clone(c.spans), c.more
		c.mu.Unlock()
		if ok(spans) {
			return spans
		}
		select {
		case <-more:
		case <-timeout:
			t.Fatalf("the spans that have come are\n%v", lineages(spans))
		}
	}
}

// lineages are the spans' names after their parents', and the services they are of.
func lineages(spans []tracedSpan) []string {
	byID := map[string]tracedSpan{}
	for _, s := range spans {
		byID[s.trace+s.id] = s
	}
	var all []string
	for _, s := range spans {
		line := s.name
		for parent, ok := byID[s.trace+s.parent]; ok; parent, ok = byID[s.trace+parent.parent] {
			line = parent.name + " > " + line
		}
		all = append(all, s.service+": "+line)
	}
	slices.Sort(all)
	return all
}

// What a signed webhook asks for is one trace, from its delivery to the steps of buildkitd, which sends its own.
func TestTrace(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: the embedded buildkitd needs root")
	}
	seen := newTelescope(t)
	s := bareSite(t, scratchFiles("traced"))
	config, file := s.config(), filepath.Join(t.TempDir(), "secret")
	s.must(os.WriteFile(file, []byte(hookSecret), 0o600))
	config.Projects[0].Webhook = &kit.WebhookConfig{Forge: "github", SecretFile: file}
	s.daemon = kit.RunDaemon(t, t.TempDir(), config, "OTEL_EXPORTER_OTLP_ENDPOINT="+seen.url, "OTEL_SERVICE_NAME=imgd-under-test", "OTEL_BSP_SCHEDULE_DELAY=200")
	commit, err := s.repo.Rev(t.Context(), "main")
	s.must(err)
	hook := hookAsker{url: s.daemon.HTTP, sent: new(atomic.Int64), mu: new(sync.Mutex), draw: rand.New(rand.NewPCG(1, 1)), mustNot: t.Errorf}
	body := fmt.Appendf(nil, `{"ref":"refs/heads/main","after":%q,"head_commit":{"id":%q},"sender":{"login":"ada"}}`, commit, commit)
	if _, err := hook.deliver(t.Context(), "hello", "traced-1", body); err != nil {
		t.Fatal(err)
	}
	const way = "POST /hooks/{forge}/{project} > enqueue > handle request > "
	want := []string{"resolve", "build", "build > moby.buildkit.v1.Control/Solve", "capture", "admit", "tag", "publish"}
	spans := seen.until(t, func(spans []tracedSpan) bool {
		have := lineages(spans)
		return !slices.ContainsFunc(want, func(name string) bool { return !slices.Contains(have, "imgd-under-test: "+way+name) }) &&
			slices.ContainsFunc(have, func(line string) bool {
				return strings.HasPrefix(line, "buildkitd: "+way+"build > moby.buildkit.v1.Control/Solve > ") && strings.Contains(line, "COPY data /data")
			})
	})
	traces := map[string]bool{}
	for _, span := range spans {
		if span.service == "imgd-under-test" {
			traces[span.trace] = true
		}
	}
	if len(traces) != 1 {
		t.Errorf("imgd made %d traces of one delivery:\n%s", len(traces), strings.Join(lineages(spans), "\n"))
	}
	s.agree(1)
}

// A collector that does not answer, or is not there, holds up nothing, and imgd ends in its time.
func TestTraceToNobody(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: the embedded buildkitd needs root")
	}
	done := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-done }))
	t.Cleanup(func() { close(done); server.Close() })
	for name, url := range map[string]string{"hangs": server.URL, "is away": "http://127.0.0.1:1"} {
		t.Run(name, func(t *testing.T) {
			s := bareSite(t, scratchFiles(name))
			s.daemon = kit.RunDaemon(t, t.TempDir(), s.config(), "OTEL_EXPORTER_OTLP_ENDPOINT="+url, "OTEL_BSP_SCHEDULE_DELAY=100")
			s.build("main")
			s.agree(1)
		})
	}
}
