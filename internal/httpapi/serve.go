package httpapi

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// statusGone is noted for who was gone before he was answered; it is never sent.
const statusGone = 499

// ServeHTTP implements http.Handler. It counts and traces what the routes serve.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	began, out := time.Now(), &recorder{ResponseWriter: w}
	r, span := a.traced(r)
	status := http.StatusInternalServerError // unless the handler returns
	defer func() {
		route := routeOf(r)
		a.Metrics.served(route, methodOf(r), status, time.Since(began))
		if span == nil {
			return
		}
		span.SetName(methodOf(r) + " " + route)
		span.SetAttributes(attribute.String("http.route", route), attribute.Int("http.response.status_code", status))
		if status >= http.StatusInternalServerError {
			span.SetStatus(codes.Error, http.StatusText(status))
		}
		span.End()
	}()
	a.handler.ServeHTTP(out, r)
	status = out.result(r.Context())
}

// traced begins the span of a request, nil if there is to be none: probes and
// scrapes would bury the others. Who may use the API may have begun the trace;
// what a forge, or anybody in its name, sends along is left alone.
func (a *API) traced(r *http.Request) (*http.Request, trace.Span) {
	if a.Traces == nil || slices.Contains([]string{"/livez", "/readyz", "/metrics"}, r.URL.Path) {
		return r, nil
	}
	ctx := r.Context()
	if strings.HasPrefix(r.URL.Path, "/v1/") && a.admit(r.Host) == nil {
		ctx = propagation.TraceContext{}.Extract(ctx, propagation.HeaderCarrier(r.Header))
	}
	ctx, span := a.Traces.Tracer("github.com/imgd/imgd/internal/httpapi").Start(ctx, methodOf(r), trace.WithSpanKind(trace.SpanKindServer),
		trace.WithAttributes(attribute.String("http.request.method", methodOf(r)), attribute.String("url.path", r.URL.Path)))
	return r.WithContext(ctx), span
}

// methodOf is the request's method if it is one of those there are.
func methodOf(r *http.Request) string {
	if slices.Contains([]string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions}, r.Method) {
		return r.Method
	}
	return "other"
}

// routeOf is the path of the document docs/openapi.yaml that the request took,
// after the routes have seen it; "other" if there is none.
func routeOf(r *http.Request) string {
	switch r.Pattern {
	case imagesRoute:
		return imageRoute(r.PathValue("rest"))
	case hooksRoute:
		return "/hooks/{forge}/{project}"
	case "", "/":
		return "other"
	}
	return r.Pattern
}

func imageRoute(rest string) string {
	_, tag, action := splitImage(rest)
	switch {
	case tag == "":
		return "/v1/images/{name}"
	case action == "":
		return "/v1/images/{name}/tags/{tag}"
	}
	return "/v1/images/{name}/tags/{tag}/" + action
}

// A recorder notes the status of an answer.
type recorder struct {
	http.ResponseWriter
	status int
}

// Unwrap is for http.ResponseController.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (w *recorder) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (w *recorder) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

// result is the status after the handler has returned. Without one the server
// answers 200, if anybody is still there.
func (w *recorder) result(ctx context.Context) int {
	switch {
	case w.status != 0:
		return w.status
	case ctx.Err() != nil:
		return statusGone
	}
	return http.StatusOK
}
