package main

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/contrib/exporters/autoexport"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/internal/httpapi"
)

// traceTime bounds the sending of the last spans at shutdown. What a collector
// does not take by then is lost.
const traceTime = 5 * time.Second

// A tracing is the daemon's traces. It is off, and provider is nil, unless one of
// OpenTelemetry's own variables says where they go.
type tracing struct {
	provider trace.TracerProvider // nil: no spans are made
	sdk      *sdk.TracerProvider
}

// startTracing reads OpenTelemetry's variables, which its SDK does by itself.
func startTracing(ctx context.Context, getenv func(string) string, log *slog.Logger) (*tracing, error) {
	if !traced(getenv) {
		return &tracing{}, nil
	}
	exporter, err := autoexport.NewSpanExporter(ctx)
	if err != nil {
		return nil, fmt.Errorf("set up traces: %w (the variables OTEL_* say how)", err)
	}
	if autoexport.IsNoneSpanExporter(exporter) {
		return &tracing{}, nil
	}
	// A collector that is away costs spans and nothing else.
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Warn("traces are not sent", "error", err) }))
	return newTracing(ctx, sdk.WithBatcher(discreet{exporter}))
}

// traced reports whether a variable says where traces go.
func traced(getenv func(string) string) bool {
	off, err := strconv.ParseBool(getenv("OTEL_SDK_DISABLED"))
	return (err != nil || !off) &&
		(getenv("OTEL_TRACES_EXPORTER") != "" || getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") != "")
}

func newTracing(ctx context.Context, opts ...sdk.TracerProviderOption) (*tracing, error) {
	// What the environment says goes before what is said here.
	about, err := resource.New(ctx, resource.WithTelemetrySDK(), resource.WithHost(),
		resource.WithAttributes(attribute.String("service.name", "imgd"), attribute.String("service.version", currentVersion())), resource.WithFromEnv())
	if err != nil {
		return nil, fmt.Errorf("set up traces: %w", err)
	}
	provider := sdk.NewTracerProvider(append(opts, sdk.WithResource(about))...)
	return &tracing{provider: provider, sdk: provider}, nil
}

// A discreet exporter leaves the queries of URLs out of what containerd tells of
// its calls: a registry may send who asks for a blob on to an address whose query
// is the right to read it.
type discreet struct{ sdk.SpanExporter }

// ExportSpans implements sdk.SpanExporter.
func (d discreet) ExportSpans(ctx context.Context, spans []sdk.ReadOnlySpan) error {
	shown := make([]sdk.ReadOnlySpan, len(spans))
	for i, s := range spans {
		shown[i] = discreetSpan{s}
	}
	return d.SpanExporter.ExportSpans(ctx, shown)
}

type discreetSpan struct{ sdk.ReadOnlySpan }

// Attributes implements sdk.ReadOnlySpan.
func (s discreetSpan) Attributes() []attribute.KeyValue {
	all := slices.Clone(s.ReadOnlySpan.Attributes())
	for i, a := range all {
		switch a.Key {
		case "url.full", "http.url":
			address, _, _ := strings.Cut(a.Value.AsString(), "?")
			all[i] = a.Key.String(address)
		case "url.query":
			all[i] = a.Key.String("")
		}
	}
	return all
}

// close sends what has ended. That a collector is away then is no failure of
// the daemon.
func (t *tracing) close(log *slog.Logger) {
	if t.sdk == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), traceTime)
	defer cancel()
	if err := t.sdk.Shutdown(ctx); err != nil {
		log.Warn("the last traces are not sent", "error", err)
	}
}

// stage is an imgd.Observer that makes a span of each stage.
func (t *tracing) stage(ctx context.Context, stage imgd.Stage, req imgd.Request) (context.Context, func(error)) {
	if t.provider == nil {
		return ctx, func(error) {}
	}
	ctx, span := t.provider.Tracer("github.com/imgd/imgd").Start(ctx, string(stage), trace.WithAttributes(
		attribute.String("imgd.request", req.ID), attribute.String("imgd.project", req.Project)))
	return ctx, func(err error) {
		result := httpapi.Result(err)
		span.SetAttributes(attribute.String("imgd.result", result))
		if err != nil && result != "unchanged" && result != "superseded" && result != "interrupted" {
			span.SetStatus(codes.Error, err.Error())
		}
		span.End()
	}
}
