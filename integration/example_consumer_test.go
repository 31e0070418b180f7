package integration_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/events"
	"github.com/imgd/imgd/integration/kit"
	"github.com/imgd/imgd/internal/embedded"
	"github.com/imgd/imgd/version"
)

// eventTime is how long what must happen soon may take.
const eventTime = time.Minute

// eventServer is a NATS with JetStream, as imgd embeds it.
func eventServer(t *testing.T) *embedded.NATS {
	t.Helper()
	server, err := embedded.StartNATS(t.Context(), embedded.NATSConfig{Dir: t.TempDir(), Listen: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	return server
}

// A ledger is an index in memory, for the relay.
type ledger struct {
	mu       sync.Mutex // guards what follows
	releases []imgd.Release
	told     uint64
	changed  chan struct{}
}

func newLedger() *ledger { return &ledger{changed: make(chan struct{})} }

func (l *ledger) ID() string { return "0123456789abcdef" }

func (l *ledger) Seq() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return uint64(len(l.releases))
}

func (l *ledger) Told() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.told
}

func (l *ledger) Published(after uint64) []imgd.Release {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.releases[after:])
}

func (l *ledger) SetTold(_ context.Context, seq uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.told = max(l.told, seq)
	return nil
}

func (l *ledger) Wait(ctx context.Context, seq uint64) error {
	for {
		l.mu.Lock()
		reached, changed := uint64(len(l.releases)) >= seq, l.changed
		l.mu.Unlock()
		if reached {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// publish publishes n releases of the image, or with none n untags of it.
func (l *ledger) publish(n int, image string, root bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for range n {
		l.releases = append(l.releases, someRelease(len(l.releases)+1, image, root))
	}
	close(l.changed)
	l.changed = make(chan struct{})
}

// someRelease is the nth entry of the ledger.
func someRelease(n int, image string, root bool) imgd.Release {
	at := time.Date(2026, 11, 21, 10, 0, n, 0, time.UTC)
	rel := imgd.Release{Image: image, Repositories: []string{"127.0.0.1:5000/" + image}, State: imgd.ReleasePublished,
		Request: imgd.Request{ID: fmt.Sprintf("%032x", n), Project: "hello", Ref: "refs/heads/main", Commit: strings.Repeat("0", 40), By: "ann", AskedAt: at, Version: "v0.0.1"},
		Source:  "https://git.example.com/" + image, PublishedAt: at.Add(time.Second), Seq: uint64(n)}
	rel.ID = rel.Request.ID + "-1"
	rel.Tags = []imgd.ReleaseTag{{Name: "main", Kind: version.KindBranch, Generation: uint64(n), Previous: digest.FromString(fmt.Sprint(n - 1))}}
	if root {
		manifest := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString(fmt.Sprint(n)), Size: 479,
			Platform: &ocispec.Platform{OS: "linux", Architecture: "amd64"}}
		rel.Root, rel.Platforms = manifest, []ocispec.Descriptor{manifest}
	} else {
		rel.Request.Ref, rel.Request.Commit, rel.Request.Version = "", "", ""
	}
	return rel
}

// relayed gives a bus that relays the ledger until the test ends.
func relayed(t *testing.T, url string, l *ledger) *events.Bus {
	t.Helper()
	bus, err := events.Connect(t.Context(), events.Config{URL: url, IndexID: l.ID()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- bus.Relay(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		bus.Close()
	})
	return bus
}

// What really stands in the stream is what the documents say.
func TestEventsAreAsDocumented(t *testing.T) {
	server, l := eventServer(t), newLedger()
	bus := relayed(t, server.URL(), l)
	l.publish(1, "demo/hello", true)
	l.publish(1, "demo/hello", false)
	for _, d := range []imgd.Drift{
		{Kind: imgd.DriftMoved, Image: "demo/hello", Repository: "127.0.0.1:5000/demo/hello", Tag: "main", Wanted: digest.FromString("a"), Found: digest.FromString("b"), Generation: 1},
		{Kind: imgd.DriftBlobMissing, Image: "demo/hello", Repository: "127.0.0.1:5000/demo/hello", Tag: "main", Wanted: digest.FromString("a"),
			Lack: &imgd.Lack{Part: "layer", Digest: digest.FromString("c"), Why: "it is not there"}, Generation: 1},
		{Kind: imgd.DriftUnknownTag, Image: "demo/hello", Repository: "127.0.0.1:5000/demo/hello", Tag: "main", Found: digest.FromString("b")},
	} {
		if err := bus.ReportDrift(t.Context(), d); err != nil {
			t.Fatal(err)
		}
	}
	messages, err := kit.ReadStream(t.Context(), server.URL(), "IMGD_EVENTS", "imgd.events.>", 5)
	if err != nil {
		t.Fatal(err)
	}
	mustBeDocumented(t, messages)
	seen := map[string]int{}
	_, doc := readAsyncAPI(t)
	for _, m := range messages {
		seen[channelOf(t, doc, m.Subject)]++
	}
	if seen["published"] != 1 || seen["deleted"] != 1 || seen["drift"] != 3 {
		t.Errorf("got %v", seen)
	}
}

// mustBeDocumented checks messages of IMGD_EVENTS against docs/: the channel
// that the subject belongs to, its headers and its schema.
func mustBeDocumented(t *testing.T, messages []kit.Message) {
	t.Helper()
	_, doc := readAsyncAPI(t)
	for _, m := range messages {
		if what := channelOf(t, doc, m.Subject); !strings.HasPrefix(m.Subject, "imgd.events."+what+".") {
			t.Errorf("%s is on channel %s", m.Subject, what)
		}
		id := m.Subject[strings.LastIndexByte(m.Subject, '.')+1:]
		if got := strings.Join(slices.Concat(m.Header["Content-Type"], m.Header["Nats-Msg-Id"]), " "); got != "application/cloudevents+json "+id {
			t.Errorf("%s: got headers %s", m.Subject, got)
		}
		if got, _ := asJSON(t, m.Data).(map[string]any)["id"].(string); got != id {
			t.Errorf("%s: got ID %s", m.Subject, got)
		}
		mustMatchSchema(t, m)
	}
}

// An example is integration/consumer, running.
type example struct {
	t     *testing.T
	cmd   *exec.Cmd
	lines chan string // of its output
}

func buildExample(t *testing.T) (binary string) {
	t.Helper()
	binary = filepath.Join(t.TempDir(), "consumer")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "./consumer").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return binary
}

func runExample(t *testing.T, binary, url, dir string) *example {
	t.Helper()
	e := &example{t: t, cmd: exec.CommandContext(t.Context(), binary, dir), lines: make(chan string, 1000)}
	e.cmd.Env = append(os.Environ(), "NATS_URL="+url)
	out, in := io.Pipe()
	e.cmd.Stdout, e.cmd.Stderr = in, in
	if err := e.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(e.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			e.lines <- s.Text()
		}
	}()
	t.Cleanup(func() {
		_ = e.cmd.Process.Kill()
		out.Close() // nobody reads on
		_ = e.cmd.Wait()
		for range e.lines { // so that its reader ends
		}
	})
	return e
}

// until answers what the example printed until there was a line with what is
// wanted, and that line.
func (e *example) until(want string) (lines []string) {
	e.t.Helper()
	for giveUp := time.After(eventTime); ; {
		select {
		case line, ok := <-e.lines:
			if lines = append(lines, line); strings.Contains(line, want) {
				return lines
			}
			if !ok {
				e.t.Fatalf("it has ended without %q: %q", want, lines)
			}
		case <-giveUp:
			e.t.Fatalf("no %q: %q", want, lines)
		}
	}
}

// applied are the IDs of the nth to the mth release.
func applied(n, m int) (lines []string) {
	for ; n <= m; n++ {
		lines = append(lines, fmt.Sprintf("applied %032x-1", n))
	}
	return lines
}

// The consumer that docs/events.md shows does for each release once what it is
// to do, in order: when its effect fails, when it is killed, and when the server has
// forgotten what it had acknowledged.
func TestExampleConsumer(t *testing.T) {
	binary, server, l := buildExample(t), eventServer(t), newLedger()
	bus := relayed(t, server.URL(), l)
	dir := filepath.Join(t.TempDir(), "effects")
	if err := os.WriteFile(dir, nil, 0o600); err != nil { // where the directory should be
		t.Fatal(err)
	}
	l.publish(3, "demo/hello", true)
	e := runExample(t, binary, server.URL(), dir)
	e.until("trying again")
	if err := errors.Join(os.Remove(dir), os.Mkdir(dir, 0o700)); err != nil {
		t.Fatal(err)
	}
	got := e.until(applied(3, 3)[0])
	if got = slices.DeleteFunc(got, func(line string) bool { return strings.Contains(line, "trying again") }); !slices.Equal(got, applied(1, 3)) {
		t.Errorf("got %q, want %q", got, applied(1, 3))
	}
	acknowledged(t, server.URL(), 3) // else the server gives them nobody for half a minute
	if err := e.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = e.cmd.Wait()

	l.publish(2, "demo/other", true) // while it is away
	l.publish(1, "demo/hello", false)
	if err := bus.ReportDrift(t.Context(), imgd.Drift{Kind: imgd.DriftMissing, Image: "demo/hello", Tag: "main"}); err != nil {
		t.Fatal(err)
	}
	l.publish(1, "demo/hello", true)
	if _, err := kit.ReadStream(t.Context(), server.URL(), "IMGD_EVENTS", "imgd.events.published.*.*", 6); err != nil {
		t.Fatal(err)
	}
	foreign(t, server.URL(), "imgd.events.published.x.y", "{")
	e = runExample(t, binary, server.URL(), dir)
	if got, want := e.until("no event"), append(applied(4, 5), applied(7, 7)...); !slices.Equal(got[:len(got)-1], want) {
		t.Errorf("got %q, want %q", got, want)
	}
	forget(t, server.URL(), "example")
	e.until("the consumer is gone")

	l.publish(1, "demo/hello", true)
	e = runExample(t, binary, server.URL(), dir)
	if got := slices.DeleteFunc(e.until(applied(8, 8)[0]), func(line string) bool { return strings.Contains(line, "no event") }); !slices.Equal(got, applied(8, 8)) {
		t.Errorf("got %q, want %q", got, applied(8, 8))
	}
	if err := e.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := e.cmd.Wait(); err != nil {
		t.Errorf("it ends with %v", err)
	}
	effect := string(readFile(t, filepath.Join(dir, fmt.Sprintf("%032x-1", 4))))
	if want := fmt.Sprintf("demo/other main linux/amd64 %s\n", digest.FromString("4")); effect != want {
		t.Errorf("got effect %q, want %q", effect, want)
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 7 {
		t.Errorf("got %d effects, error %v; want 7", len(files), err)
	}
}

func stream(t *testing.T, url string) (jetstream.JetStream, jetstream.Stream) {
	t.Helper()
	conn, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	s, err := js.Stream(t.Context(), "IMGD_EVENTS")
	if err != nil {
		t.Fatal(err)
	}
	return js, s
}

// foreign writes what is no event of imgd's.
func foreign(t *testing.T, url, subject, data string) {
	t.Helper()
	js, _ := stream(t, url)
	if _, err := js.Publish(t.Context(), subject, []byte(data)); err != nil {
		t.Fatal(err)
	}
}

// acknowledged waits until the example has acknowledged all up to the sequence.
func acknowledged(t *testing.T, url string, seq uint64) {
	t.Helper()
	_, s := stream(t, url)
	ctx, cancel := context.WithTimeout(t.Context(), eventTime)
	defer cancel()
	err := kit.Wait(ctx, func(ctx context.Context) error {
		consumer, err := s.Consumer(ctx, "example")
		if err != nil {
			return err
		}
		if at := consumer.CachedInfo().AckFloor.Stream; at < seq {
			return fmt.Errorf("acknowledged up to %d, not %d", at, seq)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// forget removes the durable consumer, and with it how far it came.
func forget(t *testing.T, url, consumer string) {
	t.Helper()
	_, s := stream(t, url)
	if err := s.DeleteConsumer(t.Context(), consumer); err != nil {
		t.Fatal(err)
	}
}
