package builder_test

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/builder"
	"github.com/imgd/imgd/internal/embedded"
)

// world is what all tests of the package share: starting buildkitd takes
// seconds. It is nil where buildkitd cannot run.
var world *parts

type parts struct {
	buildkitd string // address
	root      string // directory of its state
	registry  string
}

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	binary, err := filepath.Abs("../bin/buildkitd")
	if err != nil {
		return 0, err
	}
	if _, err := os.Stat(binary); err != nil || os.Geteuid() != 0 {
		return m.Run(), nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "imgd-builder-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	log := slog.New(slog.DiscardHandler)
	reg, err := embedded.StartRegistry(ctx, embedded.RegistryConfig{Dir: filepath.Join(dir, "registry"), Listen: "127.0.0.1:0", Log: log})
	if err != nil {
		return 0, err
	}
	bk, err := embedded.StartBuildkitd(ctx, embedded.BuildkitdConfig{
		Binary: binary, Dir: filepath.Join(dir, "buildkit"), Probe: builder.Probe, Log: log,
	})
	if err != nil {
		return 0, err
	}
	world = &parts{buildkitd: bk.Address(), root: filepath.Join(dir, "buildkit", "root"), registry: reg.Address()}
	code = m.Run()
	closing, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return code, errors.Join(bk.Close(closing), reg.Close(closing))
}

// newBuilder is a builder on the shared buildkitd, with logs of its own.
func newBuilder(t *testing.T, change ...func(*builder.Config)) *builder.Builder {
	t.Helper()
	if world == nil {
		t.Skip("needs root and bin/buildkitd (make tools)")
	}
	cfg := builder.Config{Address: world.buildkitd, Registry: world.registry, LogDir: t.TempDir()}
	for _, f := range change {
		f(&cfg)
	}
	b, err := builder.New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

// repo is a git repository behind HTTP.
type repo struct {
	t    *testing.T
	dir  string
	url  string
	auth string // user:password that is asked for, if any
}

func newRepo(t *testing.T, files map[string]string) *repo {
	t.Helper()
	root := t.TempDir()
	r := &repo{t: t, dir: filepath.Join(root, "hello.git")}
	r.git("init", "-q", "-b", "main", r.dir)
	r.git("-C", r.dir, "config", "uploadpack.allowAnySHA1InWant", "true")
	r.write(files)
	backend := &cgi.Handler{Path: "/usr/lib/git-core/git-http-backend", Env: []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1"}, Stderr: io.Discard}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		user, password, _ := req.BasicAuth()
		if r.auth != "" && user+":"+password != r.auth {
			w.Header().Set("WWW-Authenticate", "Basic")
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		backend.ServeHTTP(w, req)
	}))
	t.Cleanup(server.Close)
	r.url = server.URL + "/hello.git"
	return r
}

// write commits files; "busybox" as content is busybox.
func (r *repo) write(files map[string]string) {
	r.t.Helper()
	for name, content := range files {
		mode := os.FileMode(0o644)
		if content == "busybox" {
			b, err := os.ReadFile("/usr/bin/busybox")
			if err != nil {
				r.t.Skip("needs busybox-static")
			}
			content, mode = string(b)+rand.Text(), 0o755 // no step that uses it is in buildkitd's cache
		}
		path := filepath.Join(r.dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			r.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			r.t.Fatal(err)
		}
	}
	r.git("-C", r.dir, "add", "-A")
	r.git("-C", r.dir, "commit", "-q", "--allow-empty", "-m", rand.Text()) // buildkitd knows a commit again, whatever the URL
}

func (r *repo) git(args ...string) string {
	r.t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Env = append(os.Environ(), "GIT_AUTHOR_NAME=t", "GIT_AUTHOR_EMAIL=t@example.com", "GIT_COMMITTER_NAME=t", "GIT_COMMITTER_EMAIL=t@example.com",
		"GIT_CONFIG_GLOBAL=/dev/null", "GIT_AUTHOR_DATE="+commitTime.Format(time.RFC3339), "GIT_COMMITTER_DATE="+commitTime.Format(time.RFC3339))
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.t.Fatalf("git %s: %v: %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

var commitTime = time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)

// ask is a project and a request for the repository's HEAD.
func (r *repo) ask() (imgd.Project, imgd.Request) {
	r.t.Helper()
	return r.askFor(r.git("-C", r.dir, "rev-parse", "HEAD"))
}

func (r *repo) askFor(commit string) (imgd.Project, imgd.Request) {
	p := imgd.Project{
		Name: "hello", Git: r.url, Image: "demo/hello", Repositories: []string{registryOf() + "/demo/hello"}, Dockerfile: "Dockerfile", Context: ".",
		Platforms: []string{"linux/amd64"}, LDFlags: "-s -w -X main.version={{.Version}}", Timeout: 2 * time.Minute,
	}
	req := imgd.Request{Project: "hello", Ref: "refs/heads/main", Commit: commit, CommitTime: commitTime, Describe: "v1.2.0"}
	req.ID = req.Hash()
	return p, req
}

func registryOf() string {
	if world == nil {
		return "127.0.0.1:1"
	}
	return world.registry
}

// fetch reads what the registry has, by digest.
func fetch(t *testing.T, kind, repository string, d digest.Digest) []byte {
	t.Helper()
	req, err := http.NewRequest("GET", "http://"+world.registry+"/v2/"+repository+"/"+kind+"/"+d.String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", ocispec.MediaTypeImageManifest+", "+ocispec.MediaTypeImageIndex)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK || digest.FromBytes(body) != d {
		t.Fatalf("%s %s of %s: %d %v", kind, d, repository, resp.StatusCode, err)
	}
	return body
}

// tagsOf are the tags of a repository.
func tagsOf(t *testing.T, repository string) []string {
	t.Helper()
	resp, err := http.Get("http://" + world.registry + "/v2/" + repository + "/tags/list")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var list struct{ Tags []string }
	if err := json.NewDecoder(resp.Body).Decode(&list); err != nil {
		t.Fatal(err)
	}
	return list.Tags
}

// annotationsOf are those of a manifest.
func annotationsOf(t *testing.T, repository string, root digest.Digest) map[string]string {
	t.Helper()
	var manifest ocispec.Manifest
	if err := json.Unmarshal(fetch(t, "manifests", repository, root), &manifest); err != nil {
		t.Fatal(err)
	}
	return manifest.Annotations
}

// image is the config and the files of an image in the registry.
func image(t *testing.T, repository string, root digest.Digest) (config ocispec.Image, files map[string]string, times map[string]time.Time) {
	t.Helper()
	var manifest ocispec.Manifest
	if err := json.Unmarshal(fetch(t, "manifests", repository, root), &manifest); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(fetch(t, "blobs", repository, manifest.Config.Digest), &config); err != nil {
		t.Fatal(err)
	}
	files, times = map[string]string{}, map[string]time.Time{}
	for _, layer := range manifest.Layers {
		unzipped, err := gzip.NewReader(strings.NewReader(string(fetch(t, "blobs", repository, layer.Digest))))
		if err != nil {
			t.Fatal(err)
		}
		for archive := tar.NewReader(unzipped); ; {
			header, err := archive.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			content, err := io.ReadAll(archive)
			if err != nil {
				t.Fatal(err)
			}
			files[header.Name], times[header.Name] = string(content), header.ModTime.UTC()
		}
	}
	return config, files, times
}
