// Package integration_test runs the unmodified binaries with real BuildKit,
// containerd, NATS and registry, and looks at them from outside.
package integration_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/crane"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/integration/check"
	"github.com/imgd/imgd/integration/kit"
)

const (
	image     = "demo/hello"
	buildTime = 3 * time.Minute
)

// A site is one daemon over one repository.
type site struct {
	*testing.T
	repo   *kit.Repo
	daemon *kit.Daemon

	place   *check.Site // nil: what the daemon itself runs
	asked   []check.Asked
	watcher check.Watcher

	mu   sync.Mutex // guards asked and lies
	lies []string   // what a gate saw that must not be
}

// newSite starts a git server with the hello program and imgd on the embedded
// stack. The base images come from this machine.
func newSite(t *testing.T, files map[string]string) *site {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: the embedded buildkitd needs root")
	}
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
	s.commit("say hello", files)
	s.daemon = kit.RunDaemon(t, t.TempDir(), s.config())
	t.Cleanup(func() { s.mustEnd() }) // before the daemon is stopped
	if err := kit.PushBaseImages(t.Context(), s.daemon.Registry); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *site) config() kit.Config {
	return kit.LocalConfig(kit.ProjectConfig{Name: "hello", Git: s.repo.URL, Image: image, Labels: map[string]string{"env": "test"}})
}

func (s *site) commit(msg string, files map[string]string) string {
	s.Helper()
	id, err := s.repo.Commit(s.Context(), msg, files)
	s.must(err)
	return id
}

func (s *site) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// imgctl runs a command that must succeed.
func (s *site) imgctl(args ...string) string {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), buildTime)
	defer cancel()
	out, err := s.daemon.Imgctl(ctx, args...)
	s.must(err)
	return out
}

// exit runs a command that must end with that code, and answers what it said.
func (s *site) exit(code int, args ...string) string {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), buildTime)
	defer cancel()
	_, err := s.daemon.Imgctl(ctx, args...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != code {
		s.Fatalf("imgctl %s: got %v, want exit code %d", strings.Join(args, " "), err, code)
	}
	return err.Error()
}

// build builds ref and answers the records its tags have then.
func (s *site) build(ref string) []kit.Record {
	s.Helper()
	var records []kit.Record
	s.must(json.Unmarshal([]byte(s.imgctl("build", "hello", "--ref", ref, "--wait", "-o", "json")), &records))
	if len(records) == 0 {
		s.Fatalf("build of %s answered no record", ref)
	}
	return records
}

// tags are what images.json says: tag -> digest.
func (s *site) tags() map[string]string {
	s.Helper()
	images, err := kit.ReadImages(s.daemon.Data())
	s.must(err)
	tags := map[string]string{}
	for _, r := range images.Records {
		tags[r.Tag] = r.Digest
	}
	return tags
}

// published are the events, checked as a stranger would read them; there must
// be n, of as many releases.
func (s *site) published(n int) []*kit.Published {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), time.Minute)
	defer cancel()
	messages, err := kit.ReadStream(ctx, s.daemon.NATS, "IMGD_EVENTS", "imgd.events.published.>", n)
	s.must(err)
	mustBeDocumented(s.T, messages)
	seen := map[string]bool{}
	var events []*kit.Published
	for _, m := range messages {
		event, err := kit.ParsePublished(m)
		s.must(err)
		if seen[event.ID] {
			s.Errorf("event %s stands twice in IMGD_EVENTS", event.ID)
		}
		seen[event.ID] = true
		events = append(events, event)
	}
	if len(events) != n {
		s.Fatalf("%d published events, want %d", len(events), n)
	}
	return events
}

// agree checks that there are so many releases, and that the world is as it must be when nothing is left to do.
func (s *site) agree(releases int) {
	s.Helper()
	s.published(releases)
	s.mustEnd()
}

var exported = regexp.MustCompile(`exporting manifest (sha256:[0-9a-f]{64})`)

// A release tag: every place where its digest stands says the same, and the
// image run by digest prints the version that was injected.
func TestRelease(t *testing.T) {
	s := newSite(t, kit.HelloFiles())
	commit := s.commit("more", nil)
	s.must(s.repo.AnnotatedTag(t.Context(), "v1.2.3", "main", "the release"))
	records := s.build("v1.2.3")

	var tags []string
	for _, r := range records {
		tags = append(tags, r.Tag)
		if r.Digest != records[0].Digest || r.Platform != "linux/amd64" || r.Version != "v1.2.3" || r.Labels["env"] != "test" ||
			r.SourceRef != strings.TrimSuffix(s.repo.URL, ".git")+"@"+commit || r.Generation != 1 {
			t.Errorf("record %+v", r)
		}
	}
	if got := strings.Join(tags, " "); got != "v1.2.3 1.2 1 latest" {
		t.Errorf("tags %s, want v1.2.3 1.2 1 latest", got)
	}
	digest := records[0].Digest
	log, err := os.ReadFile(filepath.Join(s.daemon.Data(), "builds", requestOf(records[0])+".jsonl"))
	s.must(err)
	if m := exported.FindSubmatch(log); m == nil || string(m[1]) != digest {
		t.Errorf("BuildKit exported %s, the record says %s", m, digest)
	}
	if built := s.builtDigest(requestOf(records[0])); built != digest {
		t.Errorf("BuildKit answered containerimage.digest %s, the record says %s", built, digest)
	}
	event := s.published(1)[0]
	if event.Purl.Version != digest || event.Purl.Qualifiers.Map()["tag"] != "v1.2.3" || event.Purl.Qualifiers.Map()["repository_url"] != s.daemon.Registry+"/"+image {
		t.Errorf("purl %s, want digest %s and tag v1.2.3", event.Purl, digest)
	}
	s.agree(1)
	ref := s.imgctl("get", image+":v1.2.3", "-o", "digest")
	if want := s.daemon.Registry + "/" + image + "@" + digest; ref != want {
		t.Errorf("-o digest: got %s, want %s", ref, want)
	}
	out, err := kit.RunByDigest(t.Context(), s.daemon.Registry+"/"+image, digest)
	s.must(err)
	if want := "hello v1.2.3, commit " + commit + " of 2026-11-21T10:01:00Z\n"; strings.TrimSpace(out) != strings.TrimSpace(want) {
		t.Errorf("the image says %q, want %q", out, want)
	}
	s.imgctl("verify", image+":v1.2.3", "--digest", digest)
	labels(t, s.daemon.Registry+"/"+image+"@"+digest, map[string]string{
		"org.opencontainers.image.version": "v1.2.3", "org.opencontainers.image.revision": commit,
		"org.opencontainers.image.source": strings.TrimSuffix(s.repo.URL, ".git"), "org.opencontainers.image.created": "2026-11-21T10:01:00Z", "env": "test"})
}

// builtDigest is the containerimage.digest that BuildKit answered, by imgd's
// log.
func (s *site) builtDigest(request string) string {
	s.Helper()
	for line := range strings.Lines(s.daemon.Log()) {
		var entry struct {
			Request string `json:"request"`
			Digest  string `json:"containerimage.digest"`
		}
		if json.Unmarshal([]byte(line), &entry) == nil && entry.Request == request && entry.Digest != "" {
			return entry.Digest
		}
	}
	return "none"
}

func requestOf(r kit.Record) string {
	request, _, _ := strings.Cut(r.Release, "-")
	return request
}

func labels(t *testing.T, ref string, want map[string]string) {
	t.Helper()
	raw, err := crane.Config(ref, crane.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	var config struct {
		Config struct{ Labels map[string]string } `json:"config"`
	}
	if err := json.Unmarshal(raw, &config); err != nil {
		t.Fatal(err)
	}
	for key, value := range want {
		if got := config.Config.Labels[key]; got != value {
			t.Errorf("label %s: got %q, want %q", key, got, value)
		}
	}
}

// queued publishes a request as any NATS client may, and waits until it stands
// there.
func (s *site) queued(req imgd.Request, state string) {
	s.Helper()
	conn, err := nats.Connect(s.daemon.NATS)
	s.must(err)
	defer conn.Close()
	js, err := jetstream.New(conn)
	s.must(err)
	_, err = js.Publish(s.Context(), "imgd.requests."+req.Project+".branch", fmt.Appendf(nil, `{"schema":1,"ref":%q,"commit":%q}`, req.Ref, req.Commit))
	s.must(err)
	ctx, cancel := context.WithTimeout(s.Context(), time.Minute)
	defer cancel()
	s.must(kit.Wait(ctx, func(ctx context.Context) error {
		got, err := kit.Get(ctx, s.daemon.HTTP+"/v1/requests/"+req.Hash())
		if err == nil && !strings.Contains(string(got), `"state":"`+state+`"`) {
			err = fmt.Errorf("it is not %s: %s", state, got)
		}
		return err
	}))
}

// scratchFiles build in a second: no toolchain.
func scratchFiles(content string) map[string]string {
	return map[string]string{"Dockerfile": "FROM scratch\nARG VERSION\nLABEL built=$VERSION\nCOPY data /data\n", "data": content}
}

func TestRefsAndCommits(t *testing.T) {
	s := newSite(t, scratchFiles("one"))
	first, err := s.repo.Rev(t.Context(), "main")
	s.must(err)
	rewritten := false
	s.watcher.Follows = func(_, _, old, now string) bool { return rewritten || s.repo.Contains(t.Context(), now, old) }

	t.Run("branch and tag push of one commit are two releases", func(t *testing.T) {
		branch := s.build("main")
		s.must(s.repo.Tag(t.Context(), "v1.0.0", "main"))
		tag := s.build("v1.0.0")
		if branch[0].Release == tag[0].Release || branch[0].Digest == tag[0].Digest {
			t.Errorf("branch %s %s, tag %s %s: want two releases", branch[0].Release, branch[0].Digest, tag[0].Release, tag[0].Digest)
		}
		s.agree(2)
	})
	t.Run("a second tag on a commit already built", func(t *testing.T) {
		s.must(s.repo.Tag(t.Context(), "v1.0.1", "main"))
		s.build("v1.0.1")
		tags := s.tags()
		if tags["v1.0.1"] == "" || tags["latest"] != tags["v1.0.1"] || tags["v1.0.0"] == tags["v1.0.1"] {
			t.Errorf("tags %v", tags)
		}
		s.agree(3)
	})
	t.Run("the same ask twice is one release", func(t *testing.T) {
		before := s.tags()
		again := s.build("v1.0.1")
		if again[0].Digest != before["v1.0.1"] {
			t.Errorf("got %s, want %s", again[0].Digest, before["v1.0.1"])
		}
		s.agree(3)
	})
	t.Run("a branch reset to an older commit", func(t *testing.T) {
		older := s.tags()["main"]
		s.commit("two", map[string]string{"data": "two"})
		s.build("main")
		if s.tags()["main"] == older {
			t.Fatal("main did not move")
		}
		s.must(s.repo.Reset(t.Context(), first))
		rewritten = true
		s.build("main")
		if got := s.tags()["main"]; got != older {
			t.Errorf("after the reset main is %s, want %s", got, older)
		}
		s.agree(5)
	})
	t.Run("a moved tag is a conflict", func(t *testing.T) {
		before := s.tags()
		s.commit("three", map[string]string{"data": "three"})
		s.must(s.repo.MoveTag(t.Context(), "v1.0.0", "main"))
		said := s.exit(5, "build", "hello", "--ref", "v1.0.0", "--wait")
		if !strings.Contains(said, before["v1.0.0"]) {
			t.Errorf("the refusal does not name %s: %s", before["v1.0.0"], said)
		}
		if s.tags()["v1.0.0"] != before["v1.0.0"] {
			t.Error("v1.0.0 moved")
		}
		s.agree(5)
	})
	t.Run("a ref that is gone", func(t *testing.T) {
		s.exit(6, "build", "hello", "--ref", "gone", "--wait")
		s.must(s.repo.Branch(t.Context(), "short-lived", "main"))
		gone := s.commit("four", map[string]string{"data": "four"})
		s.must(s.repo.Checkout(t.Context(), "main"))
		s.must(s.repo.DeleteRef(t.Context(), "refs/heads/short-lived"))
		s.queued(imgd.Request{Project: "hello", Ref: "refs/heads/short-lived", Commit: gone}, "superseded")
		s.agree(5)
	})
	t.Run("a Dockerfile that fails", func(t *testing.T) {
		s.commit("broken", map[string]string{"Dockerfile": "FROM busybox\nRUN echo so it goes && exit 3\n"})
		said := s.exit(7, "build", "hello", "--ref", "main", "--wait")
		for _, want := range []string{"Dockerfile:2", "3", "so it goes"} {
			if !strings.Contains(said, want) {
				t.Errorf("the failure does not say %q: %s", want, said)
			}
		}
		s.agree(5)
	})
}
