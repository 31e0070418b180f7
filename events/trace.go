package events

import (
	"context"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/imgd/imgd"
)

// A tracer carries a trace through the queue, in the headers that W3C Trace
// Context names. They are a hint for whoever looks: nothing is decided by them,
// and they stay in the queue. The zero tracer does nothing.
type tracer struct{ trace.Tracer }

func newTracer(traces trace.TracerProvider) tracer {
	if traces == nil {
		return tracer{}
	}
	return tracer{traces.Tracer("github.com/imgd/imgd/events")}
}

// send begins a span for putting m into the queue and gives m its headers; sent
// ends it.
func (t tracer) send(ctx context.Context, m *nats.Msg) (_ context.Context, sent func(imgd.Request, error)) {
	if t.Tracer == nil {
		return ctx, func(imgd.Request, error) {}
	}
	ctx, span := t.Start(ctx, "enqueue", trace.WithSpanKind(trace.SpanKindProducer),
		trace.WithAttributes(attribute.String("messaging.system", "nats"), attribute.String("messaging.destination.name", m.Subject)))
	propagation.TraceContext{}.Inject(ctx, headers(m.Header))
	return ctx, func(req imgd.Request, err error) {
		span.SetAttributes(about(req)...)
		if err != nil {
			span.SetStatus(codes.Error, because("", err).Message)
		}
		span.End()
	}
}

// try begins the span of d, in the trace of whoever put its message into the
// queue: each delivery of a message has one. It sets d.ended; traced ends it.
func (t tracer) try(ctx context.Context, d *delivery) (_ context.Context, traced func()) {
	d.ended = func(imgd.State, error) {}
	if t.Tracer == nil {
		return ctx, func() {}
	}
	ctx = propagation.TraceContext{}.Extract(ctx, headers(d.msg.Headers()))
	ctx, span := t.Start(ctx, "handle request", trace.WithSpanKind(trace.SpanKindConsumer),
		trace.WithAttributes(about(d.req)...), trace.WithAttributes(attribute.Int("imgd.try", d.tries)))
	d.ended = func(s imgd.State, err error) {
		span.SetAttributes(attribute.String("imgd.state", string(s)))
		if err != nil && !slices.Contains([]imgd.State{imgd.Published, imgd.Unchanged, imgd.Superseded, imgd.Cancelled}, s) {
			span.SetStatus(codes.Error, because("", err).Message)
		}
	}
	return ctx, func() { span.End() }
}

// about names the request. What it has not yet is left out.
func about(req imgd.Request) []attribute.KeyValue {
	all := []attribute.KeyValue{
		attribute.String("imgd.request", req.ID), attribute.String("imgd.project", req.Project),
		attribute.String("imgd.ref", req.Ref), attribute.String("imgd.commit", req.Commit),
	}
	return slices.DeleteFunc(all, func(a attribute.KeyValue) bool { return a.Value.AsString() == "" })
}

// headers are a message's, for a propagator. Its names are in lower case, as the
// standard has them, and those of other clients are read whatever their case.
type headers nats.Header

// Get implements propagation.TextMapCarrier.
func (h headers) Get(key string) string {
	for name, values := range h {
		if strings.EqualFold(name, key) && len(values) > 0 {
			return values[0]
		}
	}
	return ""
}

// Set implements propagation.TextMapCarrier.
func (h headers) Set(key, value string) { h[strings.ToLower(key)] = []string{value} }

// Keys implements propagation.TextMapCarrier.
func (h headers) Keys() []string {
	var names []string
	for name := range h {
		names = append(names, name)
	}
	return names
}
