package integration_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgd/imgd/integration/kit"
)

// A hoard is a site whose registry holds what nothing needs.
type hoard struct{ *site }

func newHoard(t *testing.T) (h hoard, config kit.Config) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: the embedded buildkitd needs root")
	}
	s := bareSite(t, scratchFiles("first"))
	config = s.config()
	config.Registry.Listen = freePort(t) // it is part of the repositories' names, and so has to stay
	return startHoard(s, config), config
}

// startHoard starts imgd. At the end of the test all invariants must hold.
func startHoard(s *site, config kit.Config) hoard {
	s.Helper()
	h := hoard{s}
	h.start(s.TempDir(), config)
	s.Cleanup(func() {
		if !h.daemon.Killed() && !h.Failed() {
			h.mustEnd()
		}
		ctx, cancel := context.WithTimeout(context.Background(), atOnce)
		defer cancel()
		if err := h.daemon.Terminate(ctx); err != nil && !h.daemon.Killed() {
			h.Errorf("imgd: %v", err)
		}
		if left := kit.Leftovers(h.daemon.Dir); len(left) > 0 {
			h.Errorf("left behind: %q", left)
		}
		if h.Failed() {
			h.Logf("imgd's log:\n%s", h.daemon.LogTail())
		}
	})
	return h
}

// start starts imgd over what an earlier one left.
func (h hoard) start(dir string, config kit.Config) {
	h.Helper()
	d, err := kit.StartDaemon(h.Context(), dir, config)
	h.must(err)
	h.daemon = d
}

func (h hoard) registry() string { return filepath.Join(h.daemon.Data(), "registry") }

// version builds an image of a few megabytes that no other has.
func (h hoard) version(tag string) (root string) {
	h.Helper()
	h.change("make " + tag)
	h.must(h.repo.Tag(h.Context(), tag, "main"))
	h.build(tag)
	return h.tags()[tag]
}

func (h hoard) change(message string) {
	h.Helper()
	bytes := make([]byte, 3<<20)
	for i := range bytes {
		bytes[i] = byte('!' + rand.IntN(90))
	}
	h.commit(message, map[string]string{"data": string(bytes)})
}

// forget removes all tags that name root.
func (h hoard) forget(root string) {
	h.Helper()
	for tag, names := range h.tags() {
		if names == root {
			h.imgctl("untag", image+":"+tag, "--force", "--reason", "a test")
		}
	}
}

// age makes all that is in the registry two days old.
func (h hoard) age() {
	h.Helper()
	then := time.Now().Add(-48 * time.Hour)
	h.must(filepath.WalkDir(h.registry(), func(path string, _ fs.DirEntry, err error) error {
		if err == nil {
			err = os.Chtimes(path, then, then)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}))
}

// used are the registry's bytes as du counts them, and as `imgctl usage` says.
func (h hoard) used() (disk, told int64) {
	h.Helper()
	out, err := exec.CommandContext(h.Context(), "du", "-s", "--block-size=1", h.registry()).Output()
	h.must(err)
	_, err = fmt.Sscan(string(out), &disk)
	h.must(err)
	_, err = fmt.Sscan(h.imgctl("usage", "--jq", `.[] | select(.part == "registry") | .bytes`), &told)
	h.must(err)
	return disk, told
}

// pullAll pulls all that images.json names, and checks every byte.
func (h hoard) pullAll() {
	h.Helper()
	images, err := kit.ReadImages(h.daemon.Data())
	h.must(err)
	if len(images.Records) == 0 {
		h.Fatal("images.json names nothing")
	}
	for _, r := range images.Records {
		h.imgctl("verify", r.Image+":"+r.Tag, "--digest", r.Digest)
		if r.IndexDigest != "" {
			h.pull(r.Image, "manifests", r.IndexDigest)
		}
		var m ocispec.Manifest
		h.must(json.Unmarshal(h.pull(r.Image, "manifests", r.Digest), &m))
		for _, blob := range append(m.Layers, m.Config) {
			h.pull(r.Image, "blobs", blob.Digest.String())
		}
	}
}

func (h hoard) pull(image, what, d string) []byte {
	h.Helper()
	req, err := http.NewRequestWithContext(h.Context(), http.MethodGet, "http://"+h.daemon.Registry+"/v2/"+image+"/"+what+"/"+d, nil)
	h.must(err)
	req.Header.Set("Accept", ocispec.MediaTypeImageManifest+", "+ocispec.MediaTypeImageIndex)
	resp, err := http.DefaultClient.Do(req)
	h.must(err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	h.must(err)
	if got := digest.FromBytes(text).String(); got != d {
		h.Errorf("%s %s has the bytes of %s", what, d, got)
	}
	return text
}

// gone reports whether the registry does not have the manifest any more.
func (h hoard) gone(root string) bool {
	h.Helper()
	_, err := os.Stat(filepath.Join(h.registry(), "docker/registry/v2/blobs/sha256", root[7:9], root[7:], "data"))
	return errors.Is(err, fs.ErrNotExist)
}

// TestCollectWhileBuilding: what was untagged is freed, and all that is named is whole, while the very image that is
// being collected is built and pushed again.
func TestCollectWhileBuilding(t *testing.T) {
	t.Parallel()
	h, _ := newHoard(t)
	dead, back := h.version("v1.0.0"), h.version("v1.1.0")
	h.version("v1.2.0")
	h.version("v1.3.0")
	h.forget(dead)
	h.forget(back)
	before, _ := h.used()
	h.imgctl("usage", "--collect")
	if h.gone(dead) {
		t.Error("what a tag has left just now is gone")
	}
	h.age()
	built := make(chan struct{})
	go func() {
		defer close(built)
		h.imgctl("build", "hello", "--ref", "v1.1.0", "--rebuild", "--wait", "-o", "json")
	}()
	for building := true; building; {
		h.imgctl("usage", "--collect")
		select {
		case <-built:
			building = false
		default:
		}
	}
	h.pullAll()
	if h.tags()["v1.1.0"] != back {
		t.Errorf("v1.1.0 is %s, want %s again", h.tags()["v1.1.0"], back)
	}
	disk, told := h.used()
	if freed := before - disk; !h.gone(dead) || freed < 2<<20 {
		t.Errorf("freed %d bytes, want at least 2 MiB, and %s gone", freed, dead)
	}
	if told < disk-disk/20 || told > disk+disk/20 {
		t.Errorf("imgctl usage says %d bytes, du %d", told, disk)
	}
	h.published(5)
}

// TestCollectKeepsForRollback: what a tag named before can be named again, though no tag names it.
func TestCollectKeepsForRollback(t *testing.T) {
	t.Parallel()
	h, _ := newHoard(t)
	h.build("main")
	before := h.tags()["main"]
	h.change("go on")
	h.build("main")
	h.forget(before)
	h.age()
	h.imgctl("usage", "--collect")
	h.imgctl("rollback", image+":main")
	if now := h.tags()["main"]; now != before {
		t.Errorf("main is %s, want %s again", now, before)
	}
	h.pullAll()
}

// litter puts n blobs into the registry that nothing names, each of its own digest.
func (h hoard) litter(n int) (dirs []string) {
	h.Helper()
	for i := range n {
		hex := fmt.Sprintf("%x", sha256.Sum256(fmt.Append(nil, "litter", i)))
		dir := filepath.Join(h.registry(), "docker/registry/v2/blobs/sha256", hex[:2], hex)
		h.must(os.MkdirAll(dir, 0o755))
		h.must(os.WriteFile(filepath.Join(dir, "data"), []byte(strings.Repeat("x", 4096)), 0o644))
		dirs = append(dirs, dir)
	}
	return dirs
}

func left(dirs []string) (n int) {
	for _, dir := range dirs {
		if _, err := os.Stat(dir); err == nil {
			n++
		}
	}
	return n
}

// TestKilledWhileCollecting: after a kill -9 in the middle all that is named is whole, and the next collection ends the
// work.
func TestKilledWhileCollecting(t *testing.T) {
	t.Parallel()
	h, config := newHoard(t)
	dead := h.version("v1.0.0")
	h.version("v1.1.0")
	h.version("v1.2.0")
	h.forget(dead)
	const amount = 20_000
	dirs := h.litter(amount)
	h.age()
	for range 2 {
		t.Logf("killed with %d of %d left", h.killCollecting(dirs), amount)
		h.start(h.daemon.Dir, config)
		h.pullAll()
		h.age()
	}
	h.imgctl("usage", "--collect")
	if n := left(dirs); n > 0 || !h.gone(dead) {
		t.Errorf("%d of %d left, %s gone: %t", n, amount, dead, h.gone(dead))
	}
	h.pullAll()
	h.version("v1.3.0")
	h.pullAll()
}

// killCollecting has the daemon collect, kills it in the middle, and answers how much is left.
func (h hoard) killCollecting(dirs []string) int {
	h.Helper()
	until := left(dirs) - 1 - rand.IntN(len(dirs)/4)
	ended := make(chan error, 1)
	go func() {
		_, err := h.daemon.Imgctl(h.Context(), "usage", "--collect")
		ended <- err
	}()
	for left(dirs) > until {
		select {
		case err := <-ended:
			h.Fatalf("it has ended before it was killed: %v", err)
		default:
		}
	}
	h.daemon.Kill9()
	if err := <-ended; err == nil {
		h.Error("it has ended before it was killed")
	}
	return left(dirs)
}
