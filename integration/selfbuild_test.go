package integration_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/imgd/imgd/integration/check"
	"github.com/imgd/imgd/integration/kit"
)

const (
	selfImage = "imgd/imgd"
	selfTag   = "v0.1.0"
	// selfUser is the Dockerfile's.
	selfUser = 65532
	// selfTime bounds the build of all of imgd from nothing on two cores, which takes two to three minutes.
	selfTime = 15 * time.Minute
)

// imgd builds imgd from its own repository as it was last committed, and what it has built works: the image runs by digest,
// as nobody special and with NATS, registry and BuildKit from outside, is healthy, builds an image, and stops when told.
func TestImgdBuildsImgd(t *testing.T) {
	s := newSelfSite(t)
	records := s.selfBuild()
	digest := records[0].Digest
	for _, r := range records {
		if r.Image != selfImage || r.Digest != digest || r.Version != selfTag || r.Platform != "linux/amd64" {
			t.Errorf("record %+v", r)
		}
	}
	if event := s.published(1)[0]; event.Purl.Version != digest || len(event.Custom.Records) != len(records) {
		t.Errorf("event of %s with %d records, want %s with %d", event.Purl, len(event.Custom.Records), digest, len(records))
	}
	s.mustEnd()

	repo := s.daemon.Registry + "/" + selfImage
	version, err := kit.RunByDigest(t.Context(), repo, digest, "imgd", "version")
	s.must(err)
	if version != selfTag {
		t.Errorf("imgd in the image says it is %q, want %s", version, selfTag)
	}
	child := startSelf(s, repo, digest)
	child.mustBeUnprivileged()
	child.mustBeHealthy()
	child.mustBuild()
	child.mustStop()
}

// newSelfSite is a site over this checkout's repository, of which the HEAD is tagged.
func newSelfSite(t *testing.T) *site {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: the embedded buildkitd needs root")
	}
	server, err := kit.ServeGit(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	s := &site{T: t}
	top, err := filepath.Abs("..")
	s.must(err)
	s.repo, err = server.Import(t.Context(), selfImage, top)
	s.must(err)
	s.must(s.repo.Tag(t.Context(), selfTag, "main"))
	s.daemon = kit.RunDaemon(t, t.TempDir(), kit.LocalConfig(kit.ProjectConfig{Name: "imgd", Git: s.repo.URL, Image: selfImage}))
	s.must(kit.PushBaseImages(t.Context(), s.daemon.Registry))
	s.must(kit.PushAlpineImage(t.Context(), s.daemon.Registry))
	return s
}

// selfBuild answers the records of the release.
func (s *site) selfBuild() []kit.Record {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), selfTime)
	defer cancel()
	out, err := s.daemon.Imgctl(ctx, "build", "imgd", "--ref", selfTag, "--wait", "--progress", "plain", "-o", "json")
	s.must(err)
	var records []kit.Record
	s.must(json.Unmarshal([]byte(out), &records))
	if len(records) == 0 {
		s.Fatal("the build answered no record")
	}
	return records
}

// A selfDaemon is an imgd in the container that imgd has built.
type selfDaemon struct {
	*site
	container *kit.Container
	data      string // as this machine sees it
}

// startSelf runs the image as it says itself, with parts of its own beside the daemon that has built it, whose registry both
// use. The settings come by both ways: projects and queue in the volume's file, addresses in the environment.
func startSelf(s *site, repo, digest string) *selfDaemon {
	s.Helper()
	ctx := s.Context()
	queue, err := kit.StartNATS(ctx, filepath.Join(s.TempDir(), "nats"))
	s.must(err)
	s.Cleanup(queue.Kill9)
	buildkitd, err := kit.StartBuildkitd(ctx, s.daemon.Registry)
	s.must(err)
	s.Cleanup(func() { s.must(buildkitd.Close()) })
	c := &selfDaemon{site: &site{T: s.T, repo: bareRepo(s.T, image, scratchFiles("built by the image")),
		daemon: &kit.Daemon{Endpoints: kit.Endpoints{NATS: queue.URL, Registry: s.daemon.Registry}}}}
	s.must(c.repo.Tag(ctx, gitTag, "main"))
	dir := s.TempDir()
	c.data = filepath.Join(dir, "data")
	s.must(os.Mkdir(c.data, 0o700))
	s.must(os.Chown(c.data, selfUser, selfUser))
	config, err := yaml.Marshal(kit.Config{Queue: kit.QueueConfig{Lease: lease}, Git: kit.GitConfig{PlainHTTP: true},
		Projects: []kit.ProjectConfig{{Name: "hello", Git: c.repo.URL, Image: image}}})
	s.must(err)
	s.must(os.WriteFile(filepath.Join(c.data, "imgd.yaml"), config, 0o644))
	c.container, err = kit.StartContainer(ctx, repo, digest, kit.ContainerConfig{
		Env: []string{"IMGD_LISTEN=127.0.0.1:0", "IMGD_NATS_URL=" + queue.URL, "IMGD_REGISTRY_ADDRESS=" + s.daemon.Registry,
			"IMGD_REGISTRY_PLAINHTTP=true", "IMGD_BUILDKIT_ADDRESS=tcp://" + buildkitd.TCP},
		Mounts: map[string]string{c.data: "/var/lib/imgd"},
	})
	s.must(err)
	s.Cleanup(func() {
		if s.Failed() {
			s.Logf("the container's log:\n%s", c.container.Log())
		}
		s.must(c.container.Close())
	})
	c.place = &check.Site{Data: c.data, NATS: queue.URL, Repositories: []string{s.daemon.Registry + "/" + image}}
	c.waitReady()
	return c
}

func (c *selfDaemon) waitReady() {
	c.Helper()
	ctx, cancel := context.WithTimeout(c.Context(), time.Minute)
	defer cancel()
	c.must(kit.Wait(ctx, func(ctx context.Context) error {
		endpoints, err := kit.ReadEndpoints(c.data)
		if err != nil {
			return err
		}
		c.daemon.HTTP = endpoints.HTTP
		_, err = kit.Get(ctx, endpoints.HTTP+"/readyz?verbose")
		return err
	}))
}

// mustBeUnprivileged looks at the processes from outside.
func (c *selfDaemon) mustBeUnprivileged() {
	c.Helper()
	uids, err := c.container.UIDs(c.Context())
	c.must(err)
	if len(uids) == 0 || slices.ContainsFunc(uids, func(uid int) bool { return uid != selfUser }) {
		c.Errorf("the container's processes run as %v, want %d", uids, selfUser)
	}
}

// mustBeHealthy runs the health check as the image says it.
func (c *selfDaemon) mustBeHealthy() {
	c.Helper()
	check := selfHealthcheck(c.T)
	said, err := c.container.Exec(c.Context(), check...)
	if err != nil || said != "ok" {
		c.Errorf("%q says %q, %v", check, said, err)
	}
	if said, err := c.container.Exec(c.Context(), append(check, "--data", "/tmp")...); err == nil {
		c.Errorf("%q is healthy where there is no daemon: %q", check, said)
	}
}

// selfHealthcheck is the command in the Dockerfile.
func selfHealthcheck(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile("../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		_, command, found := strings.Cut(line, " CMD [")
		var check []string
		if found && strings.HasPrefix(line, "HEALTHCHECK ") && json.Unmarshal([]byte("["+command), &check) == nil {
			return check
		}
	}
	t.Fatal("the Dockerfile has no HEALTHCHECK with a CMD in the form of a list")
	return nil
}

// mustBuild has the container's imgd build one image, asked for by HTTP.
func (c *selfDaemon) mustBuild() {
	c.Helper()
	request := c.ask(gitTag)
	ctx, cancel := context.WithTimeout(c.Context(), endTime)
	defer cancel()
	c.must(kit.Wait(ctx, func(ctx context.Context) error {
		got, err := kit.Get(ctx, c.daemon.HTTP+"/v1/requests/"+request)
		if err == nil && !strings.Contains(string(got), `"state":"published"`) {
			err = fmt.Errorf("it stands as %s", got)
		}
		return err
	}))
	w := c.mustEnd()
	if len(w.Events) != 1 || len(w.Index.Records) != len(strings.Fields(wholeSet)) {
		c.Errorf("%d events, records %v: want one, of the tags %s", len(w.Events), w.Index.Records, wholeSet)
	}
}

// mustStop tells it to stop, as a container engine does: it ends with 0 and leaves nothing that says it runs.
func (c *selfDaemon) mustStop() {
	c.Helper()
	ctx, cancel := context.WithTimeout(c.Context(), time.Minute)
	defer cancel()
	if err := c.container.Terminate(ctx); err != nil {
		c.Errorf("stop the container: %v", err)
	}
	if resp, err := http.Get(c.daemon.HTTP + "/livez"); err == nil {
		resp.Body.Close()
		c.Error("it answers still")
	}
	if _, err := kit.ReadEndpoints(c.data); !os.IsNotExist(err) {
		c.Errorf("endpoints.json after the end: %v", err)
	}
}
