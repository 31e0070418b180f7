package httpapi_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/internal/httpapi"
)

// Each request is counted under the route it took and the status it got.
func TestRequestsAreCounted(t *testing.T) {
	w := newWorld(t, func(c *httpapi.Config) {
		c.Hooks = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusAccepted) })
	})
	w.publish(w.release("refs/tags/v1.2.3", "a", "A"))
	tags := "/v1/images/" + image + "/tags/v1.2.3"
	for _, r := range [][2]string{{"GET", "/v1/images"}, {"HEAD", "/v1/images"}, {"GET", "/v1/images/" + image}, {"GET", tags}, {"POST", tags + "/verify"},
		{"GET", "/v1/events?follow=0"}, {"HEAD", "/v1/events"}, {"POST", "/hooks/github/hello"}, {"GET", "/livez"}, {"GET", "/v1/requests?what=1"}} {
		w.do(r[0], r[1], "")
	}
	w.do("GET", "/v1/version", "", "Host", "evil.example.com")
	body := w.get("/metrics").body
	for _, line := range []string{
		`{code="200",method="GET",route="/v1/images"} 1`, `{code="200",method="HEAD",route="/v1/images"} 1`,
		`{code="200",method="GET",route="/v1/images/{name}"} 1`, `{code="200",method="GET",route="/v1/images/{name}/tags/{tag}"} 1`,
		`{code="200",method="POST",route="/v1/images/{name}/tags/{tag}/verify"} 1`, `{code="200",method="GET",route="/v1/events"} 1`,
		`{code="200",method="HEAD",route="/v1/events"} 1`, `{code="202",method="POST",route="/hooks/{forge}/{project}"} 1`,
		`{code="200",method="GET",route="/livez"} 1`, `{code="400",method="GET",route="/v1/requests"} 1`, `{code="403",method="GET",route="/v1/version"} 1`,
	} {
		if !strings.Contains(body, "\nimgd_http_requests_total"+line+"\n") {
			t.Errorf("there is no %s in\n%s", line, body)
		}
	}
	if n := strings.Count(body, "\nimgd_http_requests_total{"); n != 11 {
		t.Errorf("%d series, want 11", n)
	}
}

// Who is gone before he is answered, and a handler that panics, are counted as
// such.
func TestUnansweredRequests(t *testing.T) {
	w := newWorld(t, func(c *httpapi.Config) { c.Queue = panicking{} })
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	r := httptest.NewRequestWithContext(gone, http.MethodGet, "/v1/images/none", nil)
	r.Host = "localhost"
	w.api.ServeHTTP(httptest.NewRecorder(), r)
	w.refs["refs/heads/main"] = commit("a")
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic is gone")
			}
		}()
		r := httptest.NewRequest(http.MethodPost, "/v1/projects/hello/builds", strings.NewReader(`{"ref":"main"}`))
		r.Host = "localhost"
		r.Header.Set("Content-Type", "application/json")
		w.api.ServeHTTP(httptest.NewRecorder(), r)
	}()
	body := w.get("/metrics").body
	for _, line := range []string{`{code="499",method="GET",route="/v1/images/{name}"} 1`, `{code="500",method="POST",route="/v1/projects/{project}/builds"} 1`} {
		if !strings.Contains(body, "\nimgd_http_requests_total"+line+"\n") {
			t.Errorf("there is no %s in\n%s", line, body)
		}
	}
}

type panicking struct{}

func (panicking) Submit(context.Context, imgd.Request, string) (imgd.Request, error) {
	panic("a panic that is meant")
}

// A request is a span, in the trace of a caller who may use the API, and what it
// asks of others is in it. Probes and scrapes are none.
func TestRequestsAreTraced(t *testing.T) {
	spans := tracetest.NewInMemoryExporter()
	traces := sdk.NewTracerProvider(sdk.WithSyncer(spans))
	t.Cleanup(func() { _ = traces.Shutdown(context.Background()) })
	var hooked trace.SpanContext
	w := newWorld(t, func(c *httpapi.Config) {
		c.Traces = traces
		c.Hooks = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { hooked = trace.SpanContextFromContext(r.Context()) })
		c.Checks = []httpapi.Check{{Name: "nats", Run: func(context.Context) error { return nil }}}
	})
	const id, parent = "0af7651916cd43dd8448eb211c80319c", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	w.publish(w.release("refs/tags/v1.2.3", "a", "A"))
	w.get("/livez")
	w.get("/readyz")
	w.get("/metrics")
	w.do("GET", "/v1/images/"+image, "", "traceparent", parent)
	w.do("POST", "/hooks/github/hello", "", "traceparent", parent)
	w.do("GET", "/v1/images", "", "traceparent", parent, "Host", "evil.example.com")
	w.broken = errDown
	w.get("/v1/requests")
	var got []string
	for _, s := range spans.GetSpans() {
		line := s.Name
		if s.SpanContext.TraceID().String() == id {
			line += " in the caller's trace"
		}
		if s.Name == "POST /hooks/{forge}/{project}" && s.SpanContext.SpanID() != hooked.SpanID() {
			t.Error("the webhook's handler is not in its span")
		}
		got = append(got, line+" "+s.Status.Description)
	}
	want := []string{"GET /v1/images/{name} in the caller's trace ", "POST /hooks/{forge}/{project} ", "GET /v1/images ", "GET /v1/requests Bad Gateway"}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}
