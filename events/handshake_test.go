package events_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/events"
)

// An owner is an index as the handshake asks it: it has these releases.
type owner struct {
	id string

	mu  sync.Mutex // guards has
	has map[string]uint64
}

func newOwner(id string, rels ...imgd.Release) *owner {
	o := &owner{id: id, has: map[string]uint64{}}
	o.gets(rels...)
	return o
}

func (o *owner) ID() string { return o.id }

func (o *owner) Has(release string, seq uint64) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.has[release] == seq
}

func (o *owner) gets(rels ...imgd.Release) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, rel := range rels {
		o.has[rel.ID] = rel.Seq
	}
}

// tells has the index with that ID tell of the release.
func tells(t *testing.T, js jetstream.JetStream, id string, rel imgd.Release) {
	t.Helper()
	subject, body, err := events.Envelope(rel, id)
	if err == nil {
		_, err = js.Publish(t.Context(), subject, body)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// removal is an untag, published by entry 14.
func removal() imgd.Release {
	rel := untag()
	rel.State, rel.Seq = imgd.ReleasePublished, 14
	return rel
}

// The queue is that of the index that came first. Another takes nothing from it,
// until it is made that one's.
func TestHandshakeOtherIndex(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := s.raw()
	first := connect(t, events.Config{URL: s.url(), Index: newOwner("first")})
	for range 2 {
		if err := first.Fits(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	other := connect(t, events.Config{URL: s.url(), Index: newOwner("other"), Watch: 20 * time.Millisecond})
	err := other.Fits(t.Context())
	if !errors.Is(err, events.ErrOtherIndex) {
		t.Fatalf("got %v, want %v", err, events.ErrOtherIndex)
	}
	for _, words := range []string{"index first", "this is other", "imgd index recover", "nats stream edit IMGD_REQUESTS --metadata imgd.index=other"} {
		if !strings.Contains(err.Error(), words) {
			t.Errorf("%q does not say %q", err, words)
		}
	}
	h := openHandler(t, nil)
	running(t, consume(other, h))
	req := ask(t, other, "refs/heads/main") // the queue takes it all the same
	until(t, "paused by it", func() bool { return errors.Is(other.Paused(), events.ErrOtherIndex) })
	if n := h.callsOf(req.ID); n != 0 {
		t.Errorf("it was handled %d times", n)
	}
	if of, err := other.Owner(t.Context()); err != nil || of != "first" {
		t.Errorf("got owner %q, %v", of, err)
	}
	stream, err := js.Stream(t.Context(), "IMGD_REQUESTS")
	if err != nil {
		t.Fatal(err)
	}
	cfg := stream.CachedInfo().Config
	cfg.Metadata["imgd.index"] = "other"
	if _, err := js.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if st := final(t, other, req); st.State != imgd.Published {
		t.Errorf("got %+v", st)
	}
}

// An index that lacks what it has told takes and tells nothing, be it told last
// or below what others have told.
func TestHandshakeBehind(t *testing.T) {
	t.Parallel()
	told := release(50)
	for name, history := range map[string][]func(t *testing.T, js jetstream.JetStream){
		"published": {func(t *testing.T, js jetstream.JetStream) { tells(t, js, indexID, told) }},
		"deleted": {func(t *testing.T, js jetstream.JetStream) { tells(t, js, indexID, release(1)) },
			func(t *testing.T, js jetstream.JetStream) { tells(t, js, indexID, removal()) }},
		"below others'": {func(t *testing.T, js jetstream.JetStream) {
			tells(t, js, indexID, told)
			for n := range 30 {
				tells(t, js, "other", release(100+n))
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t)
			_, js := s.raw()
			o := newOwner(indexID, release(1))
			b := connect(t, events.Config{URL: s.url(), Index: o, Watch: 20 * time.Millisecond})
			if err := b.Fits(t.Context()); err != nil {
				t.Fatal(err)
			}
			for _, tell := range history {
				tell(t, js)
			}
			late := connect(t, events.Config{URL: s.url(), Index: o, Watch: 20 * time.Millisecond})
			if err := late.Fits(t.Context()); !errors.Is(err, events.ErrBehind) || !strings.Contains(err.Error(), "imgd index recover") {
				t.Fatalf("got %v", err)
			}
			h := openHandler(t, nil)
			running(t, consume(late, h))
			req := ask(t, late, "refs/heads/main")
			l := newLog(t, s)
			for range 5 {
				l.publish()
			}
			before := count(t, js, "IMGD_EVENTS")
			running(t, relay(late, l))
			until(t, "paused by it", func() bool { return errors.Is(late.Paused(), events.ErrBehind) })
			if n := h.callsOf(req.ID); n != 0 || count(t, js, "IMGD_EVENTS") != before {
				t.Errorf("it was handled %d times; %d events, were %d", n, count(t, js, "IMGD_EVENTS"), before)
			}
			o.gets(append(l.Published(0), told, removal())...)
			if st := final(t, late, req); st.State != imgd.Published {
				t.Errorf("got %+v", st)
			}
			l.wholeTold(t)
		})
	}
}

// What others have told is looked through once, however long it takes: longer than
// NATS may take to answer, it would else be found out never.
func TestHandshakeManyOthers(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := s.raw()
	o := newOwner(indexID, release(1))
	b := connect(t, events.Config{URL: s.url(), Index: o, Timeout: 500 * time.Millisecond})
	tells(t, js, indexID, release(1))
	const others = 5_000
	for n := range others {
		subject, body, err := events.Envelope(release(100+n), "other")
		if err == nil {
			_, err = js.PublishAsync(subject, body)
		}
		if err != nil {
			t.Fatal(err)
		}
		if n%1000 == 0 {
			<-js.PublishAsyncComplete()
		}
	}
	<-js.PublishAsyncComplete()
	start := time.Now()
	if err := b.Fits(t.Context()); err != nil {
		t.Fatal(err)
	}
	first := time.Since(start)
	tells(t, js, "other", release(99))
	again := connect(t, events.Config{URL: s.url(), Index: newOwner(indexID)})
	for range 2 { // an error is asked about anew
		start = time.Now()
		if err := again.Fits(t.Context()); !errors.Is(err, events.ErrBehind) || !strings.Contains(err.Error(), release(1).ID) {
			t.Fatalf("got %v", err)
		}
	}
	if second := time.Since(start); second > first/3 {
		t.Errorf("the second time took %s, the first %s", second, first)
	}
}

// Who comes back to NATS asks again: it may have other streams now.
func TestHandshakeAfterReconnect(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	o := newOwner(indexID)
	b := connect(t, events.Config{URL: s.url(), Index: o})
	if err := b.Fits(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, js := s.raw()
	tells(t, js, indexID, release(1))
	if err := b.Fits(t.Context()); err != nil {
		t.Fatalf("it asks again without need: %v", err)
	}
	s.stop()
	s.start()
	until(t, "asked again", func() bool { return errors.Is(b.Fits(t.Context()), events.ErrBehind) })
}

// A NATS that is away has taken nothing back: operators' commands, which do not use
// it, go on.
func TestHandshakeWithoutAnswer(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	looks := make(chan struct{}, 100)
	b := connect(t, events.Config{URL: s.url(), Index: newOwner(indexID), Watch: time.Millisecond, Timeout: 100 * time.Millisecond,
		Ready: func(context.Context) error { // asked after the index was
			select {
			case looks <- struct{}{}:
			default:
			}
			return nil
		}})
	if err := b.Fits(t.Context()); err != nil {
		t.Fatal(err)
	}
	running(t, consume(b, openHandler(t, nil)))
	<-looks // it is there
	s.stop()
	for len(looks) > 0 {
		<-looks
	}
	for range 3 { // the first may have begun before
		<-looks
	}
	if err := b.Fits(t.Context()); err != nil {
		t.Errorf("got %v, want that it fits still", err)
	}
	s.start() // for those who end
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// What an index has told is read back as it was published, without what others
// have told, and with how much is left.
func TestTold(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := s.raw()
	b := connect(t, events.Config{URL: s.url()})
	if of, err := b.Owner(t.Context()); err != nil || of != "" {
		t.Errorf("got owner %q, %v", of, err)
	}
	want := []imgd.Release{release(1), release(2), removal()}
	tells(t, js, indexID, want[0])
	tells(t, js, "other", release(7))
	tells(t, js, indexID, want[1])
	tells(t, js, indexID, want[2])
	if of, err := b.Owner(t.Context()); err != nil || of != indexID {
		t.Errorf("got owner %q, %v", of, err)
	}
	var got []imgd.Release
	var left []uint64
	err := b.Told(t.Context(), indexID, func(rel imgd.Release, n uint64) error {
		got, left = append(got, rel), append(left, n)
		return nil
	})
	if err != nil || asJSON(t, got) != asJSON(t, want) || !slices.Equal(left, []uint64{3, 1, 0}) {
		t.Errorf("got  %+v, left %v, %v\nwant %+v", got, left, err, want)
	}
	broken := errors.New("broken")
	if err := b.Told(t.Context(), indexID, func(imgd.Release, uint64) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.Told(ctx, indexID, func(imgd.Release, uint64) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if _, err := js.Publish(t.Context(), "imgd.events.published.x.y", []byte(`{"source":"urn:imgd:`+indexID+`","data":{"customData":{"release":"y","seq":9}}}`)); err != nil {
		t.Fatal(err)
	}
	if err := b.Told(t.Context(), indexID, func(imgd.Release, uint64) error { return nil }); !errors.Is(err, imgd.ErrInvalid) || !strings.Contains(err.Error(), "release y") {
		t.Errorf("got %v", err)
	}
}
