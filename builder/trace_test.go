package builder_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/imgd/imgd/builder"
)

// The calls of a build are in the trace of who asks for it; a probe, which
// nobody asks for, makes none.
func TestTrace(t *testing.T) {
	t.Parallel()
	spans := tracetest.NewInMemoryExporter()
	traces := sdk.NewTracerProvider(sdk.WithSyncer(spans))
	t.Cleanup(func() { _ = traces.Shutdown(context.Background()) })
	b := newBuilder(t, func(c *builder.Config) { c.Traces = traces })
	if err := b.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := len(spans.GetSpans()); n > 0 {
		t.Errorf("a probe made %d spans", n)
	}
	r := newRepo(t, map[string]string{"Dockerfile": "FROM scratch\nCOPY Dockerfile /\n"})
	p, req := r.ask()
	ctx, asking := traces.Tracer("test").Start(t.Context(), "build")
	_, err := b.Build(ctx, p, req)
	asking.End()
	if err != nil {
		t.Fatal(err)
	}
	solve := slices.IndexFunc(spans.GetSpans(), func(s tracetest.SpanStub) bool { return strings.HasSuffix(s.Name, "Control/Solve") })
	if solve < 0 || spans.GetSpans()[solve].Parent.SpanID() != asking.SpanContext().SpanID() {
		t.Errorf("got spans %+v, want one of Solve in the build's", spans.GetSpans())
	}
}
