package events_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/events"
)

func newTraces(t *testing.T) (*sdk.TracerProvider, *tracetest.InMemoryExporter) {
	t.Helper()
	spans := tracetest.NewInMemoryExporter()
	traces := sdk.NewTracerProvider(sdk.WithSyncer(spans))
	t.Cleanup(func() { _ = traces.Shutdown(context.Background()) })
	return traces, spans
}

// spansOf waits until n spans of that name have ended.
func spansOf(t *testing.T, spans *tracetest.InMemoryExporter, name string, n int) []tracetest.SpanStub {
	t.Helper()
	var found []tracetest.SpanStub
	until(t, name, func() bool {
		found = slices.DeleteFunc(slices.Clone(spans.GetSpans()), func(s tracetest.SpanStub) bool { return s.Name != name })
		return len(found) >= n
	})
	if len(found) != n {
		t.Errorf("%d spans %q, want %d", len(found), name, n)
	}
	return found
}

func attributeOf(s tracetest.SpanStub, key string) string {
	for _, a := range s.Attributes {
		if string(a.Key) == key {
			return a.Value.String()
		}
	}
	return ""
}

// The way into the queue and each try are of the trace of whoever asked, and the
// handler works in it.
func TestTrace(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := s.raw()
	traces, spans := newTraces(t)
	cfg := ends(s.url())
	cfg.Traces = traces
	b := connect(t, cfg)
	var handled []trace.SpanContext
	running(t, consume(b, openHandler(t, func(ctx context.Context, _ *imgd.Request) error {
		if handled = append(handled, trace.SpanContextFromContext(ctx)); len(handled) == 1 {
			return errAway
		}
		return nil
	})))
	ctx, asking := traces.Tracer("test").Start(t.Context(), "ask")
	req, err := b.Submit(ctx, imgd.Request{Project: "hello", Ref: "refs/heads/main", Commit: commit}, "mine")
	asking.End()
	if err != nil {
		t.Fatal(err)
	}
	final(t, b, req)
	empty(t, js)
	enqueue := spansOf(t, spans, "enqueue", 1)[0]
	if enqueue.Parent.SpanID() != asking.SpanContext().SpanID() || attributeOf(enqueue, "imgd.request") != req.ID {
		t.Errorf("enqueue: parent %s, attributes %v", enqueue.Parent.SpanID(), enqueue.Attributes)
	}
	for i, try := range spansOf(t, spans, "handle request", 2) {
		want := []string{"queued", "published"}[i]
		if try.Parent.SpanID() != enqueue.SpanContext.SpanID() || try.SpanContext.TraceID() != asking.SpanContext().TraceID() ||
			attributeOf(try, "imgd.state") != want || attributeOf(try, "imgd.project") != "hello" || try.SpanContext.SpanID() != handled[i].SpanID() {
			t.Errorf("try %d: %+v", i, try)
		}
		if (try.Status.Description != "") != (i == 0) {
			t.Errorf("try %d has status %+v", i, try.Status)
		}
	}
}

// What a client sends by itself is read whatever the case of its headers, and a
// request that gets its commit keeps its trace.
func TestTraceOfOthers(t *testing.T) {
	t.Parallel()
	const id = "0af7651916cd43dd8448eb211c80319c"
	for _, header := range []string{"traceparent", "Traceparent", "TRACEPARENT"} {
		t.Run(header, func(t *testing.T) {
			t.Parallel()
			s := startServer(t)
			_, js := s.raw()
			traces, spans := newTraces(t)
			b := connect(t, events.Config{URL: s.url(), Traces: traces})
			put(t, js, `{"schema":1,"ref":"refs/heads/main"}`, nats.Header{header: {"00-" + id + "-b7ad6b7169203331-01"}})
			running(t, consume(b, openHandler(t, nil)))
			final(t, b, withID(imgd.Request{Project: "hello", Ref: "refs/heads/main", Commit: commit}))
			empty(t, js)
			for _, span := range append(spansOf(t, spans, "handle request", 2), spansOf(t, spans, "enqueue", 1)...) {
				if span.SpanContext.TraceID().String() != id {
					t.Errorf("%s is of trace %s", span.Name, span.SpanContext.TraceID())
				}
			}
		})
	}
}

// A trace changes nothing: not the message's ID, the request's, or what is the
// same; and it leaves the queue for no event, state or dead letter.
func TestTraceChangesNothing(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := s.raw()
	traces, _ := newTraces(t)
	cfg := ends(s.url())
	cfg.Traces, cfg.RetryFor, cfg.Tries = traces, 1, 1
	b, plain := connect(t, cfg), connect(t, ends(s.url()))
	submit := func(b *events.Bus, delivery string, req imgd.Request) imgd.Request {
		t.Helper()
		ctx, span := traces.Tracer("test").Start(t.Context(), "ask")
		defer span.End()
		req.Project, req.Commit = "hello", commit
		asked, err := b.Submit(ctx, req, delivery)
		if err != nil {
			t.Fatal(err)
		}
		return asked
	}
	forced := imgd.Request{Ref: "refs/heads/a", Force: true, Reason: "r"}
	first, second, third := submit(b, "mine", forced), submit(b, "mine", forced), submit(plain, "mine", forced)
	if first.ID != second.ID || first.ID != third.ID || count(t, js, "IMGD_REQUESTS") != 1 {
		t.Errorf("one delivery in three traces is requests %s, %s, %s and %d messages", first.ID, second.ID, third.ID, count(t, js, "IMGD_REQUESTS"))
	}
	queued := messages(t, js, "IMGD_REQUESTS")[0].Header
	if queued.Get(jetstream.MsgIDHeader) != "mine" || len(queued["traceparent"]) != 1 {
		t.Errorf("got headers %v", queued)
	}
	running(t, consume(b, openHandler(t, func(context.Context, *imgd.Request) error { return errors.New("never") })))
	if st := final(t, b, first); st.State != imgd.Dead {
		t.Errorf("got %+v", st)
	}
	empty(t, js)
	for _, stream := range []string{"IMGD_STATUS", "IMGD_EVENTS", "IMGD_DEAD"} {
		all := messages(t, js, stream)
		if len(all) != 1 {
			t.Errorf("%s has %d messages", stream, len(all))
		}
		for _, m := range all {
			for name := range m.Header {
				if strings.HasPrefix(strings.ToLower(name), "trace") {
					t.Errorf("%s has header %s", stream, name)
				}
			}
			if strings.Contains(string(m.Data), "trace") {
				t.Errorf("%s has %s", stream, m.Data)
			}
		}
	}
}

// Without a provider nothing is made and nothing of others read.
func TestUntraced(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := s.raw()
	traces, _ := newTraces(t)
	b := connect(t, events.Config{URL: s.url()})
	ctx, span := traces.Tracer("test").Start(t.Context(), "ask")
	defer span.End()
	req, err := b.Submit(ctx, imgd.Request{Project: "hello", Ref: "refs/heads/main", Commit: commit}, "")
	if err != nil {
		t.Fatal(err)
	}
	if h := messages(t, js, "IMGD_REQUESTS")[0].Header; len(h["traceparent"]) > 0 {
		t.Errorf("got headers %v", h)
	}
	running(t, consume(b, openHandler(t, func(ctx context.Context, _ *imgd.Request) error {
		if trace.SpanContextFromContext(ctx).IsValid() {
			t.Error("handled in a trace")
		}
		return nil
	})))
	final(t, b, req)
}
