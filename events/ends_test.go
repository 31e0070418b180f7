package events_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/events"
)

func TestEnds(t *testing.T) {
	s := startServer(t)
	_, js := s.raw()
	b := connect(t, ends(s.url()))
	build := &imgd.BuildError{Message: "exit code: 3", File: "Dockerfile", Line: 7, ExitCode: 3}
	tests := []struct {
		name  string
		err   error
		state imgd.State
		want  imgd.StatusError
	}{
		{"unchanged", fmt.Errorf("admit: v1: held: %w", imgd.ErrUnchanged), imgd.Unchanged, imgd.StatusError{Kind: "unchanged", Message: "admit: v1: held: unchanged"}},
		{"built", fmt.Errorf("admit: %w", &imgd.BuiltError{Root: "sha256:made", Err: fmt.Errorf("not reproducible: %w", imgd.ErrUnchanged)}), imgd.Unchanged,
			imgd.StatusError{Kind: "unchanged", Message: "admit: not reproducible: unchanged", Built: "sha256:made"}},
		{"superseded", fmt.Errorf("main: %w", imgd.ErrSuperseded), imgd.Superseded, imgd.StatusError{Kind: "superseded", Message: "main: superseded"}},
		{"conflict", fmt.Errorf("v1: %w", imgd.ErrConflict), imgd.Conflicted, imgd.StatusError{Kind: "conflict", Message: "v1: conflict"}},
		{"invalid", fmt.Errorf("no such ref: %w", imgd.ErrInvalid), imgd.Failed, imgd.StatusError{Kind: "invalid", Message: "no such ref: invalid request"}},
		{"refused", fmt.Errorf("quota: %w", imgd.ErrRefused), imgd.Failed, imgd.StatusError{Kind: "refused", Message: "quota: refused"}},
		{"build", fmt.Errorf("build: %w", build), imgd.Failed, imgd.StatusError{Kind: "build", Message: "build: build Dockerfile:7: exit code: 3", File: "Dockerfile", Line: 7, ExitCode: 3}},
		{"long", fmt.Errorf("%s%w", strings.Repeat("é", 8<<10), imgd.ErrInvalid), imgd.Failed, imgd.StatusError{Kind: "invalid", Message: strings.Repeat("é", 4<<10)}},
	}
	answers := map[string]error{}
	for _, test := range tests {
		answers["refs/heads/"+test.name] = test.err
	}
	running(t, consume(b, openHandler(t, func(_ context.Context, req *imgd.Request) error { return answers[req.Ref] })))
	var told []imgd.Status
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			st := final(t, b, ask(t, b, "refs/heads/"+test.name))
			if st.State != test.state || st.Error == nil || *st.Error != test.want || st.Release != "" || st.EndedAt.IsZero() {
				t.Errorf("got %s, %+v; want %s, %+v", st.State, st.Error, test.state, test.want)
			}
			if st.State != imgd.Unchanged {
				told = append(told, st)
			}
		})
	}
	empty(t, js)
	checkEnds(t, js, told...)
}

// ends is a config with an image and an index for events.
func ends(url string) events.Config {
	return events.Config{URL: url, IndexID: "0123456789abcdef", Image: func(project string) string { return "demo/" + project }}
}

// checkEnds wants the events of these ends in the stream, each once and in its
// own bytes, and no others.
func checkEnds(t *testing.T, js jetstream.JetStream, want ...imgd.Status) {
	t.Helper()
	got := map[string]*jetstream.RawStreamMsg{}
	all := messages(t, js, "IMGD_EVENTS")
	for _, m := range all {
		got[m.Subject] = m
	}
	if len(all) != len(want) {
		t.Errorf("got %d events, want %d", len(all), len(want))
	}
	for _, st := range want {
		subject, body, err := events.EndEnvelope(st, "demo/"+st.Project, "0123456789abcdef")
		if err != nil {
			t.Fatal(err)
		}
		m := got[subject]
		if m == nil {
			t.Errorf("no event %s among %d", subject, len(all))
			continue
		}
		id := fmt.Sprintf("%s-%d", st.Request, st.AskedAt.UnixMilli())
		if !bytes.Equal(m.Data, body) || m.Header.Get("Nats-Msg-Id") != id || m.Header.Get("Content-Type") != "application/cloudevents+json" {
			t.Errorf("%s: got  %v %s\nwant %s %s", subject, m.Header, m.Data, id, body)
		}
	}
}

func TestRetries(t *testing.T) {
	s := startServer(t)
	_, js := s.raw()
	tries := make(chan int, 10)
	b := connect(t, events.Config{URL: s.url(), Retry: func(n int) time.Duration {
		tries <- n
		return time.Duration(n) * time.Millisecond
	}})
	waiting := make(chan struct{})
	fails := 3
	h := openHandler(t, func(context.Context, *imgd.Request) error {
		if fails--; fails == 0 {
			<-waiting
			return nil
		}
		return errors.New("the registry is away")
	})
	running(t, consume(b, h))
	acks := tap(t, s)
	req := ask(t, b, "refs/heads/main")
	for want := 1; want <= 2; want++ {
		if got := receive(t, tries, "retry"); got != want {
			t.Errorf("got try %d, want %d", got, want)
		}
		if got, want := untilAck(t, acks, "-NAK"), fmt.Sprintf("%d000000", want); !strings.Contains(got, want) {
			t.Errorf("given back with %q, want delay %s", got, want)
		}
	}
	close(waiting)
	if st := final(t, b, req); st.State != imgd.Published || st.Tries != 3 || st.Error != nil {
		t.Errorf("got %+v, want it published at the third try", st)
	}
	empty(t, js)
}

// A handler that is interrupted by others than the bus has not failed.
func TestInterruptedByOthers(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, js := s.raw()
	b := connect(t, dies(ends(s.url())))
	fails := 2
	running(t, consume(b, openHandler(t, func(context.Context, *imgd.Request) error {
		if fails--; fails >= 0 {
			return fmt.Errorf("build: %w", context.Canceled)
		}
		return nil
	})))
	if st := final(t, b, ask(t, b, "refs/heads/main")); st.State != imgd.Published || st.Tries != 3 {
		t.Errorf("got %+v", st)
	}
	empty(t, js)
}

func TestRetryIsSeen(t *testing.T) {
	s := startServer(t)
	b := connect(t, events.Config{URL: s.url(), Retry: func(int) time.Duration { return time.Hour }})
	running(t, consume(b, openHandler(t, func(context.Context, *imgd.Request) error { return errors.New("the registry is away") })))
	req := ask(t, b, "refs/heads/main")
	st := wait(t, b, req.ID, func(st imgd.Status) bool { return st.Error != nil })
	if st.State != imgd.Queued || st.Tries != 1 || *st.Error != (imgd.StatusError{Kind: "error", Message: "the registry is away"}) {
		t.Errorf("got %+v, error %+v", st, st.Error)
	}
}

func TestRetryDelay(t *testing.T) {
	want := []time.Duration{5 * time.Second, 5 * time.Second, 15 * time.Second, time.Minute, 5 * time.Minute, 15 * time.Minute, 15 * time.Minute}
	for tries, want := range want {
		if got := imgd.RetryDelay(tries); got != want {
			t.Errorf("after %d tries: got %s, want %s", tries, got, want)
		}
	}
}

func TestUnreadable(t *testing.T) {
	for _, cut := range []string{"", "imgd.dead.", "+ACK"} {
		for _, arrives := range []bool{false, true} {
			if cut == "" && arrives {
				continue
			}
			t.Run(fmt.Sprintf("cut at %q/%v", cut, arrives), func(t *testing.T) {
				t.Parallel()
				s := startServer(t)
				_, js := s.raw()
				g := newGate(t, s)
				b := connect(t, events.Config{URL: g.url, Lease: time.Second, Timeout: 300 * time.Millisecond})
				body := []byte(`{"schema":1,"ref":"main"}` + "\x00\xff")
				if _, err := js.Publish(t.Context(), "imgd.requests.hello.branch", body, jetstream.WithMsgID("mine")); err != nil {
					t.Fatal(err)
				}
				if cut != "" {
					g.lose(cut, arrives)
				}
				running(t, consume(b, openHandler(t, nil)))
				empty(t, js)
				letters := messages(t, js, "IMGD_DEAD")
				if len(letters) != 1 {
					t.Fatalf("got %d dead letters, want 1", len(letters))
				}
				l := letters[0]
				if l.Subject != "imgd.dead.hello" || !bytes.Equal(l.Data, body) || !strings.Contains(l.Header.Get("Imgd-Reason"), "body") ||
					l.Header.Get("Imgd-Tries") == "" || l.Header.Get("Imgd-Subject") != "imgd.requests.hello.branch" || l.Header.Get("Imgd-Msg-Id") != "mine" {
					t.Errorf("got %s %q %v", l.Subject, l.Data, l.Header)
				}
				if n := count(t, js, "IMGD_STATUS"); n != 0 {
					t.Errorf("got %d states, want none", n)
				}
			})
		}
	}
}

// The largest message the queue takes still fits into a dead letter.
func TestUnreadableLarge(t *testing.T) {
	s := startServer(t)
	_, js := s.raw()
	b := connect(t, events.Config{URL: s.url()})
	running(t, consume(b, openHandler(t, nil)))
	if _, err := js.Publish(t.Context(), "imgd.requests.x", bytes.Repeat([]byte("\n"), 256<<10)); err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), "imgd.requests.x", make([]byte, 256<<10+1)); err == nil {
		t.Error("a larger one is taken")
	}
	empty(t, js)
	if letters := messages(t, js, "IMGD_DEAD"); len(letters) != 1 || len(letters[0].Data) != 256<<10 {
		t.Errorf("got %d dead letters, want 1", len(letters))
	}
}
