package kit_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/imgd/imgd/integration/kit"
)

// baseRegistry is a registry in process that has the base images.
func baseRegistry(t *testing.T) (host string) {
	t.Helper()
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	host = strings.TrimPrefix(server.URL, "http://")
	if err := kit.PushBaseImages(t.Context(), host); err != nil {
		t.Fatal(err)
	}
	return host
}

func digestOf(t *testing.T, host, image string) string {
	t.Helper()
	ref, err := name.NewTag(host+"/"+image, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	desc, err := remote.Head(ref, remote.WithContext(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	return desc.Digest.String()
}

func TestBaseImagesAreTheSameEachTime(t *testing.T) {
	first, again := baseRegistry(t), baseRegistry(t)
	for _, image := range []string{kit.GoImage, kit.BusyboxImage} {
		if got, want := digestOf(t, again, image), digestOf(t, first, image); got != want {
			t.Errorf("%s is %s, was %s", image, got, want)
		}
	}
	// Made anew, without the cache, they are the same too.
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	fresh := baseRegistry(t)
	for _, image := range []string{kit.GoImage, kit.BusyboxImage} {
		if got, want := digestOf(t, fresh, image), digestOf(t, first, image); got != want {
			t.Errorf("%s is %s when made anew, was %s", image, got, want)
		}
	}
}

func TestRunByDigest(t *testing.T) {
	host := baseRegistry(t)
	repo, digest := host+"/library/busybox", digestOf(t, host, kit.BusyboxImage)
	got, err := kit.RunByDigest(t.Context(), repo, digest, "sh", "-c", "echo out; echo err >&2; id -u")
	if err != nil {
		t.Fatal(err)
	}
	if want := "out\n0"; got != want {
		t.Errorf("stdout is %q, want %q", got, want)
	}
	if _, err := kit.RunByDigest(t.Context(), repo, digest, "sh", "-c", "echo no >&2; exit 3"); err == nil {
		t.Error("no error of a program that exits with 3")
	} else if !strings.Contains(err.Error(), "no\n") {
		t.Errorf("the error lacks the program's stderr: %v", err)
	}
	if _, err := kit.RunByDigest(t.Context(), repo, "sha256:"+strings.Repeat("0", 64)); err == nil {
		t.Error("no error for a digest that is not there")
	}
	nothingLeft(t)
}

func TestRunByDigestInterrupted(t *testing.T) {
	host := baseRegistry(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	seconds := fmt.Sprintf("9%08d", os.Getpid()) // tells this sleep from all others
	go func() {
		defer cancel()
		for !slices.ContainsFunc(kit.Leftovers(seconds), func(p string) bool { return strings.HasSuffix(p, ": sleep "+seconds) }) {
			if ctx.Err() != nil {
				return
			}
			runtime.Gosched()
		}
	}()
	_, err := kit.RunByDigest(ctx, host+"/library/busybox", digestOf(t, host, kit.BusyboxImage), "sleep", seconds)
	if err == nil || !errors.Is(ctx.Err(), context.Canceled) {
		t.Errorf("an interrupted run gives %v", err)
	}
	if left := kit.Leftovers(seconds); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	nothingLeft(t)
}

// nothingLeft looks for what a containerd or buildkitd that this process ran keeps, by the names of its directories.
func nothingLeft(t *testing.T) {
	t.Helper()
	name := fmt.Sprintf("imgd-kit-%d-", os.Getpid())
	for _, dir := range []string{"/run", os.TempDir()} {
		if left, _ := filepath.Glob(filepath.Join(dir, name+"*")); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	}
	if left := kit.Leftovers(name); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), name) {
		t.Errorf("mounts left behind:\n%s", mounts)
	}
}

// The parts fit together: an ordinary Dockerfile of a repository on the git server builds from the stand-in of its base
// image, and what was pushed runs and prints what the ldflags say.
func TestHelloBuildsAndRuns(t *testing.T) {
	ctx := t.Context()
	host := baseRegistry(t)
	repo, err := serveGit(t).Create(ctx, "hello")
	if err != nil {
		t.Fatal(err)
	}
	commit, err := repo.Commit(ctx, "hello", kit.HelloFiles())
	if err != nil {
		t.Fatal(err)
	}
	buildkitd, err := kit.StartBuildkitd(ctx, host)
	if err != nil {
		t.Fatal(err)
	}
	metadata := filepath.Join(t.TempDir(), "metadata.json")
	_, err = buildkitd.Buildctl(ctx, "build", "--frontend", "dockerfile.v0", "--metadata-file", metadata,
		"--opt", fmt.Sprintf("context=%s?ref=refs/heads/main&commit=%s&fetch-by-commit=true", repo.URL, commit),
		"--opt", "build-arg:LDFLAGS=-s -w -X main.version=v1.2.3 -X main.commit="+commit+" -X main.date=2026-11-21T10:00:00Z",
		"--output", "type=image,name="+host+"/demo/hello,push=true,push-by-digest=true")
	if err != nil {
		t.Fatal(err)
	}
	if err := buildkitd.Close(); err != nil {
		t.Error(err)
	}
	var built struct {
		Digest string `json:"containerimage.digest"`
	}
	text, err := os.ReadFile(metadata)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &built); err != nil {
		t.Fatal(err)
	}
	got, err := kit.RunByDigest(ctx, host+"/demo/hello", built.Digest)
	if err != nil {
		t.Fatal(err)
	}
	if want := "hello v1.2.3, commit " + commit + " of 2026-11-21T10:00:00Z"; got != want {
		t.Errorf("the image prints %q, want %q", got, want)
	}
	nothingLeft(t)
}
