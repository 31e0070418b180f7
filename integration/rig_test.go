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
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/imgd/imgd/integration/check"
	"github.com/imgd/imgd/integration/kit"
	"github.com/imgd/imgd/internal/embedded"
)

const (
	// heldTime is how long a request may take to the step it is to be broken at, and endTime to its end after that: a build
	// of a second, a lease of two and a retry or two after five and fifteen, on a machine that does other things too.
	heldTime = time.Minute
	endTime  = 2 * time.Minute
	// lease is how long a killed daemon's request stays taken.
	lease     = "2s"
	leaseTime = 2 * time.Second

	gitTag   = "v1.2.3"
	wholeSet = "1 1.2 latest v1.2.3"
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

// A rig is a site whose NATS, registry and buildkitd are the test's own. Before them are gates: one for imgd's calls to the
// registry, one for buildkitd's, one for NATS.
type rig struct {
	*site
	config kit.Config
	dir    string // of every daemon started here

	queue     *kit.NATS
	js        jetstream.JetStream // past the gate
	buildkitd *kit.Buildkitd
	lines     *kit.LineGate
	calls     *kit.HTTPGate // imgd's
	pushes    *kit.HTTPGate // buildkitd's
	source    *kit.HTTPGate // of sourceFiles

	requests map[string]string // guarded by mu: image -> its request
}

// newRig starts everything. The repository has one commit, tagged gitTag.
func newRig(t *testing.T, buildkitd *kit.Buildkitd) *rig {
	t.Helper()
	r := bareRig(t, buildkitd)
	r.site.repo = r.addProject("hello", image, scratchFiles(t.Name()))
	r.watch()
	r.start()
	return r
}

// bareRig is a rig without projects and daemon.
func bareRig(t *testing.T, buildkitd *kit.Buildkitd) *rig {
	t.Helper()
	r := &rig{site: &site{T: t}, dir: t.TempDir(), buildkitd: buildkitd, requests: map[string]string{}}
	data := (&kit.Daemon{Dir: r.dir}).Data()
	t.Cleanup(func() {
		if left := kit.Leftovers(r.dir); len(left) > 0 {
			t.Errorf("left behind: %q", left)
		}
	})
	registry := startRegistry(t)
	var err error
	if r.queue, err = kit.StartNATS(t.Context(), filepath.Join(t.TempDir(), "nats")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.queue.Kill9)
	if r.lines, err = kit.StartLineGate(r.queue.URL); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.lines.Close() })
	r.calls, r.pushes = httpGate(t, registry.Address()), httpGate(t, registry.Address())
	r.connect()
	r.place = &check.Site{Data: data, NATS: r.queue.URL, Hosts: map[string]string{r.calls.Addr: registry.Address()}}
	r.config = kit.LocalConfig()
	r.config.Queue.Lease = lease
	r.config.NATS = kit.NATSConfig{URL: r.lines.URL}
	r.config.Registry = kit.RegistryConfig{Address: r.calls.Addr, PlainHTTP: true}
	r.config.BuildKit = kit.BuildKitConfig{Address: buildkitd.Addr, RegistryAddress: r.pushes.Addr}
	return r
}

// watch makes the gates check at each effect that what it rests on is there already. It takes its time.
func (r *rig) watch() {
	r.lines.Watch(r.watchLine)
	r.calls.Watch(r.watchCall)
}

func httpGate(t *testing.T, target string) *kit.HTTPGate {
	t.Helper()
	gate, err := kit.StartHTTPGate(target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { gate.Close() })
	return gate
}

// connect is the test's own connection to NATS, which is there again soon after NATS is.
func (r *rig) connect() {
	r.Helper()
	conn, err := nats.Connect(r.queue.URL, nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond))
	r.must(err)
	r.Cleanup(conn.Close)
	r.js, err = jetstream.New(conn)
	r.must(err)
}

// addProject adds a project over a repository with one commit, tagged gitTag.
func (r *rig) addProject(name, image string, files map[string]string) *kit.Repo {
	r.Helper()
	repo := bareRepo(r.T, image, files)
	r.must(repo.Tag(r.Context(), gitTag, "main"))
	r.config.Projects = append(r.config.Projects, kit.ProjectConfig{Name: name, Git: repo.URL, Image: image, Labels: map[string]string{"env": "test"}})
	r.place.Repositories = append(r.place.Repositories, r.calls.Addr+"/"+image)
	return repo
}

func bareRepo(t *testing.T, name string, files map[string]string) *kit.Repo {
	t.Helper()
	server, err := kit.ServeGit(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	repo, err := server.Create(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := repo.Commit(t.Context(), "the first", files); err != nil {
		t.Fatal(err)
	}
	return repo
}

// bareSite is a site without a daemon.
func bareSite(t *testing.T, files map[string]string) *site {
	t.Helper()
	return &site{T: t, repo: bareRepo(t, image, files)}
}

func (r *rig) start() {
	r.Helper()
	r.daemon = kit.RunDaemon(r.T, r.dir, r.config)
}

// ask asks for a build and answers the request's ID.
func (s *site) ask(ref string) string {
	s.Helper()
	request, err := s.submit("hello", ref)
	s.must(err)
	return request
}

func (s *site) submit(project, ref string) (request string, err error) {
	body, err := json.Marshal(map[string]string{"ref": ref})
	if err != nil {
		return "", err
	}
	resp, err := http.Post(s.daemon.HTTP+"/v1/projects/"+project+"/builds", "application/json", bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var asked struct {
		Request, Detail string
		AskedAt         time.Time
	}
	if err := json.NewDecoder(resp.Body).Decode(&asked); err != nil || resp.StatusCode != http.StatusAccepted || asked.Request == "" {
		return "", fmt.Errorf("ask for %s: %s %+v: %w", ref, resp.Status, asked, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, check.Asked{Request: asked.Request, AskedAt: asked.AskedAt})
	return asked.Request, nil
}

func (r *rig) waitHeld(hold *kit.Hold) {
	r.Helper()
	select {
	case <-hold.Held():
	case <-r.daemon.Done():
		r.Fatal("imgd ended by itself")
	case <-time.After(heldTime):
		r.Fatalf("nothing was held; %+v", r.look().Index)
	}
}

// mustIdle waits until NATS and the registry have taken in all that the dead imgd had sent.
func (r *rig) mustIdle() {
	r.Helper()
	ctx, cancel := context.WithTimeout(r.Context(), endTime)
	defer cancel()
	r.must(errors.Join(r.lines.Idle(ctx), r.calls.Idle(ctx)))
}

// waitState waits until the request stands there.
func (r *rig) waitState(request, state string) {
	r.Helper()
	r.waitStatus(request, `"state":"`+state+`"`)
}

// waitFailedTry waits until imgd says why a try has failed.
func (r *rig) waitFailedTry(request string) {
	r.Helper()
	r.waitStatus(request, `"error":{`)
}

func (r *rig) waitStatus(request, text string) {
	r.Helper()
	r.must(r.await(request, text))
}

// await waits until the request's state has one of the texts in it.
func (r *rig) await(request string, texts ...string) error {
	ctx, cancel := context.WithTimeout(r.Context(), endTime)
	defer cancel()
	err := kit.Wait(ctx, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, time.Second) // NATS may be dead
		defer cancel()
		status, err := r.js.Stream(ctx, "IMGD_STATUS")
		if err != nil {
			return err
		}
		msg, err := status.GetLastMsgForSubject(ctx, "imgd.status."+request)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(texts, func(text string) bool { return bytes.Contains(msg.Data, []byte(text)) }) {
			return fmt.Errorf("it stands as %s", msg.Data)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("request %s has no %s: %w", request, texts, err)
	}
	return nil
}

// watchLine is asked before NATS sees the line.
func (r *rig) watchLine(l kit.Line) {
	switch {
	case isEvent(l):
		id := l.Subject[strings.LastIndexByte(l.Subject, '.')+1:]
		r.insist("event "+id+" is sent", func() error { return r.hasPublished(id) })
	case isPublishedState(l):
		var s check.State
		r.insist("state published is sent", func() error {
			return errors.Join(json.Unmarshal(l.Payload, &s), r.hasPublished(s.Release))
		})
	case isAck(l):
		r.insist("a request is acked", func() error { return r.hasFinalState(l) })
	}
}

// hasFinalState looks whether the request whose message is acked has ended, or if it is none, is a dead letter. If NATS
// dies meanwhile nobody knows.
func (r *rig) hasFinalState(ack kit.Line) error {
	ctx, cancel := context.WithTimeout(context.Background(), endTime)
	defer cancel()
	messages, err := kit.ReadQueue(ctx, r.queue.URL, "IMGD_REQUESTS")
	i := slices.IndexFunc(messages, func(m kit.Message) bool { return acks(ack, m) })
	if err != nil || i < 0 { // it was acked before
		return nil
	}
	stream, subject := "IMGD_STATUS", "imgd.status.>"
	var ended func(kit.Message) bool
	if project := strings.Split(messages[i].Subject, ".")[2]; json.Valid(messages[i].Data) {
		ended = func(m kit.Message) bool {
			var s check.State
			return json.Unmarshal(m.Data, &s) == nil && s.Final() && s.Project == project
		}
	} else {
		stream, subject = "IMGD_DEAD", "imgd.dead."+project
		ended = func(m kit.Message) bool { return bytes.Equal(m.Data, messages[i].Data) }
	}
	found, err := kit.ReadStream(ctx, r.queue.URL, stream, subject, 0)
	if err == nil && !slices.ContainsFunc(found, ended) {
		return fmt.Errorf("none of %d messages of %s says how %s has ended", len(found), stream, messages[i].Subject)
	}
	return nil
}

// acks reports whether the ack is the message's: $JS.ACK.<stream>.<consumer>.<deliveries>.<stream sequence>.…
func acks(ack kit.Line, m kit.Message) bool {
	fields := strings.Split(ack.Subject, ".")
	return len(fields) > 5 && fields[5] == fmt.Sprint(m.Seq)
}

// watchCall is asked before the registry sees the call.
func (r *rig) watchCall(req *http.Request) {
	image, tag, about := manifest(req)
	if !about || req.Method != http.MethodPut || strings.Contains(tag, ":") {
		return
	}
	r.insist("tag "+image+":"+tag+" is put", func() error {
		index, err := check.ReadIndex(r.place.Data)
		if err != nil {
			return err
		}
		if t := index.Tag(image, tag); t.Claim == "" && t.Holder == "" {
			return errors.New("images.json has no claim and no holder of it")
		}
		return nil
	})
}

// manifest is the image and the reference that the call is about.
func manifest(req *http.Request) (image, reference string, ok bool) {
	dir, reference := path.Split(req.URL.Path)
	image, ok = strings.CutSuffix(strings.TrimPrefix(dir, "/v2/"), "/manifests/")
	return image, reference, ok
}

func (r *rig) hasPublished(id string) error {
	index, err := check.ReadIndex(r.place.Data)
	if err != nil {
		return err
	}
	if got := index.Release(id).State; got != check.Published {
		return fmt.Errorf("images.json has release %q as %q", id, got)
	}
	return nil
}

// waitEnd waits until nothing is left to do: the request is published and acked, and the release announced.
func (r *rig) waitEnd(request string) {
	r.Helper()
	r.waitState(request, check.Published)
}

// mustHaveEnded checks the end of the image's one request against what had been admitted when it was broken.
func (r *rig) mustHaveEnded(image, request string, before *check.World) {
	r.Helper()
	w := r.mustEnd()
	want := scene{release: check.Published, tags: wholeSet, events: 1, state: check.Published, queue: "empty"}
	for _, wrong := range want.differs(sceneOf(w, image, request)) {
		r.Errorf("at the end %s", wrong)
	}
	if before != nil {
		for _, rel := range before.Index.Releases {
			if after := w.Index.Release(rel.ID); after.Root.Digest != rel.Root.Digest {
				r.Errorf("release %s was admitted with root %v and has ended with %v", rel.ID, rel.Root, after.Root)
			}
		}
	}
}
