package integration_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/imgd/imgd/integration/kit"
	"github.com/imgd/imgd/internal/embedded"
)

const (
	// heldTime is how long a request may take to the step it is to be killed at, and endTime to its end after the
	// restart: a build of a second and a lease of two, on a machine that does other things too.
	heldTime = time.Minute
	endTime  = time.Minute
	// lease is how long a killed daemon's request stays taken.
	lease = "2s"

	gitTag   = "v1.2.3"
	wholeSet = "1.2 latest v1.2.3"
)

// sharedBuildkitd outlives every imgd here, so that builds are quick.
func sharedBuildkitd(t *testing.T) *kit.Buildkitd {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: buildkitd needs root")
	}
	mirror := startRegistry(t) // of docker.io; no image here comes from there
	buildkitd, err := kit.StartBuildkitd(t.Context(), mirror.Address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := buildkitd.Close(); err != nil {
			t.Error(err)
		}
	})
	return buildkitd
}

func startRegistry(t *testing.T) *embedded.Registry {
	t.Helper()
	registry, err := embedded.StartRegistry(t.Context(), embedded.RegistryConfig{Dir: t.TempDir(), Listen: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()                // net/http waits five seconds for a connection that never asked anything
		_ = registry.Close(ctx) // it tells of those it cut
	})
	return registry
}

func startNATS(t *testing.T) *embedded.NATS {
	t.Helper()
	server, err := embedded.StartNATS(t.Context(), embedded.NATSConfig{Dir: t.TempDir(), Listen: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	return server
}

// A rig is a site whose NATS and registry are the test's own, with gates before them through which imgd's calls pass and
// buildkitd's do not. The gates check at each effect that what it rests on is there already.
type rig struct {
	*site
	config kit.Config
	dir    string // of every daemon started here
	data   string // its data directory

	nats  string // behind the gate
	js    jetstream.JetStream
	lines *kit.LineGate
	calls *kit.HTTPGate

	registry string // behind the gate

	mu   sync.Mutex // guards lies
	lies []string
}

// newRig starts everything. The repository has one commit, tagged gitTag.
func newRig(t *testing.T, buildkitd *kit.Buildkitd) *rig {
	t.Helper()
	queue, registry := startNATS(t), startRegistry(t)
	first := &kit.Daemon{Dir: t.TempDir()}
	r := &rig{dir: first.Dir, data: first.Data(), nats: queue.URL(), registry: registry.Address()}
	lines, err := kit.StartLineGate(r.nats)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lines.Close() })
	calls, err := kit.StartHTTPGate(r.registry)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { calls.Close() })
	conn, err := nats.Connect(r.nats)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	if r.js, err = jetstream.New(conn); err != nil {
		t.Fatal(err)
	}
	r.lines, r.calls = lines, calls
	r.site = bareSite(t, scratchFiles(t.Name()))
	r.must(r.repo.Tag(t.Context(), gitTag, "main"))
	r.config = r.site.config()
	r.config.Queue.Lease = lease
	r.config.NATS = kit.NATSConfig{URL: lines.URL}
	r.config.Registry = kit.RegistryConfig{Address: calls.Addr, PlainHTTP: true}
	r.config.BuildKit = kit.BuildKitConfig{Address: buildkitd.Addr, RegistryAddress: r.registry}
	lines.Watch(r.watchLine)
	calls.Watch(r.watchCall)
	r.start()
	return r
}

// bareSite is a site without a daemon.
func bareSite(t *testing.T, files map[string]string) *site {
	t.Helper()
	server, err := kit.ServeGit(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	repo, err := server.Create(t.Context(), image)
	if err != nil {
		t.Fatal(err)
	}
	s := &site{T: t, repo: repo}
	s.commit("the first", files)
	return s
}

func (r *rig) start() {
	r.Helper()
	r.daemon = kit.RunDaemon(r.T, r.dir, r.config)
}

// ask asks for a build and answers the request's ID.
func (s *site) ask(ref string) string {
	s.Helper()
	body, err := json.Marshal(map[string]string{"ref": ref})
	s.must(err)
	resp, err := http.Post(s.daemon.HTTP+"/v1/projects/hello/builds", "application/json", bytes.NewReader(body))
	s.must(err)
	defer resp.Body.Close()
	var asked struct{ Request, Detail string }
	if err := json.NewDecoder(resp.Body).Decode(&asked); err != nil || resp.StatusCode != http.StatusAccepted || asked.Request == "" {
		s.Fatalf("ask for %s: %s %+v %v", ref, resp.Status, asked, err)
	}
	return asked.Request
}

func (r *rig) waitHeld(hold *kit.Hold) {
	r.Helper()
	select {
	case <-hold.Held():
	case <-r.daemon.Done():
		r.Fatal("imgd ended by itself")
	case <-time.After(heldTime):
		r.Fatalf("nothing was held; %+v", r.look().images)
	}
}

// mustIdle waits until NATS and the registry have taken in all that the dead imgd had sent.
func (r *rig) mustIdle() {
	r.Helper()
	ctx, cancel := context.WithTimeout(r.Context(), endTime)
	defer cancel()
	r.must(errors.Join(r.lines.Idle(ctx), r.calls.Idle(ctx)))
}

// watchLine is asked before NATS sees the line.
func (r *rig) watchLine(l kit.Line) {
	switch {
	case isEvent(l):
		id := l.Subject[strings.LastIndexByte(l.Subject, '.')+1:]
		r.insist("event "+id+" is sent", func() error { return r.hasRelease(id, "published") })
	case isPublishedState(l):
		var status status
		r.insist("state published is sent", func() error {
			return errors.Join(json.Unmarshal(l.Payload, &status), r.hasRelease(status.Release, "published"))
		})
	case isAck(l):
		r.insist("the request is acked", func() error {
			ctx, cancel := context.WithTimeout(context.Background(), endTime)
			defer cancel()
			states, err := kit.ReadStream(ctx, r.nats, "IMGD_STATUS", "imgd.status.>", 0)
			if err == nil && !slices.ContainsFunc(states, func(m kit.Message) bool { return bytes.Contains(m.Data, []byte(`"state":"published"`)) }) {
				err = fmt.Errorf("none of %d states is final", len(states))
			}
			return err
		})
	}
}

// watchCall is asked before the registry sees the call.
func (r *rig) watchCall(req *http.Request) {
	tag := path.Base(req.URL.Path)
	if req.Method != http.MethodPut || !strings.Contains(req.URL.Path, "/manifests/") || strings.Contains(tag, ":") {
		return
	}
	r.insist("tag "+tag+" is put", func() error {
		images, err := kit.ReadImages(r.data)
		if err != nil {
			return err
		}
		if t := tagsOf(images)[tag]; t.Claim == "" && t.Holder == "" {
			return errors.New("images.json has no claim and no holder of it")
		}
		return nil
	})
}

// insist notes what is not so at the moment.
func (r *rig) insist(moment string, so func() error) {
	if err := so(); err != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.lies = append(r.lies, "when "+moment+": "+err.Error())
	}
}

func (r *rig) hasRelease(id, state string) error {
	images, err := kit.ReadImages(r.data)
	if err != nil {
		return err
	}
	if got := releasesOf(images)[id].State; got != state {
		return fmt.Errorf("images.json has release %q as %q, not %s", id, got, state)
	}
	return nil
}

// waitEnd waits until nothing is left to do: the request is acked, and what was published is announced.
func (r *rig) waitEnd(request string) {
	r.Helper()
	ctx, cancel := context.WithTimeout(r.Context(), endTime)
	defer cancel()
	err := kit.Wait(ctx, func(ctx context.Context) error {
		v, err := r.see(ctx)
		if err != nil {
			return err
		}
		s := v.scene(request)
		for _, rel := range releasesOf(v.images) {
			if rel.State == "published" && v.images.Told >= rel.Seq && s.state == "published" && s.queue == "empty" {
				return nil
			}
		}
		return fmt.Errorf("%+v, told %d", s, v.images.Told)
	})
	if err != nil {
		r.Fatalf("the request does not end: %v", err)
	}
}

// mustHaveEnded checks the end of the one request against what had been admitted when imgd was killed.
func (r *rig) mustHaveEnded(request string, dead view) {
	r.Helper()
	v := r.look()
	v.mustBeTrue(r.T)
	want := scene{release: "published", tags: wholeSet, events: 1, state: "published", queue: "empty"}
	for _, wrong := range want.differs(v.scene(request)) {
		r.Errorf("at the end %s", wrong)
	}
	releases := releasesOf(v.images)
	if len(releases) != 1 {
		r.Errorf("%d releases of one request: %v", len(releases), releases)
	}
	for id, before := range releasesOf(dead.images) {
		if after := releases[id]; after.Root != before.Root {
			r.Errorf("release %s was admitted with root %v and has ended with %v", id, before.Root, after.Root)
		}
	}
	if len(v.images.Records) != 3 {
		r.Errorf("%d records, want one for each of %s", len(v.images.Records), wholeSet)
	}
	for _, record := range v.images.Records {
		if v.tags[record.Tag] != record.Digest {
			r.Errorf("%s: the registry has %s, images.json %s", record.Tag, v.tags[record.Tag], record.Digest)
		}
	}
	for _, m := range v.states {
		var status status
		r.must(json.Unmarshal(m.Data, &status))
		if rel, ok := releases[status.Release]; !ok || rel.Request.ID != status.Request {
			r.Errorf("the state names release %q", status.Release)
		}
	}
	r.agree(1)
}
