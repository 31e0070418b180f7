package publisher_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/publisher"
)

// A clock that a test sets forward.
type clock struct {
	mu sync.Mutex // guards at
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) forward(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// read says how often a manifest was read by digest since misbehave.
func (r *registry) read(repository string, desc ocispec.Descriptor) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, s := range r.seen {
		if s == "GET /v2/"+repository+"/manifests/"+desc.Digest.String() {
			n++
		}
	}
	return n
}

// What Capture has read, Tag does not read again for a minute, and in that
// repository only.
func TestTagAfterCapture(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	image := reg.image("demo/hello", "one", amd64())
	reg.image("demo/copy", "one", amd64())
	large := reg.large("demo/hello")
	wall := clock{at: time.Now()}
	p := publisher.New(publisher.Config{Now: wall.now})
	tag := func(repository, tag string, root ocispec.Descriptor, reads int) {
		t.Helper()
		reg.misbehave(nil)
		if err := p.Tag(t.Context(), reg.addr+"/"+repository, tag, root); err != nil {
			t.Fatal(err)
		}
		if got := reg.read(repository, root); got != reads {
			t.Errorf("%s:%s: read by digest %d times, want %d", repository, tag, got, reads)
		}
		if got := reg.tag(repository, tag); got != root.Digest {
			t.Errorf("%s:%s names %s, want %s", repository, tag, got, root.Digest)
		}
	}
	tag("demo/hello", "before", image, 1)
	for _, root := range []ocispec.Descriptor{image, large} {
		if _, _, err := p.Capture(t.Context(), []string{reg.addr + "/demo/hello"}, root.Digest); err != nil {
			t.Fatal(err)
		}
	}
	tag("demo/hello", "v1.0.0", image, 0)
	tag("demo/hello", "latest", image, 0)
	tag("demo/copy", "v1.0.0", image, 1)
	tag("demo/hello", "large", large, 1)
	wall.forward(59 * time.Second)
	tag("demo/hello", "still", image, 0)
	wall.forward(time.Second)
	tag("demo/hello", "after", image, 1)
}

// large pushes an image with a manifest that is too large to be kept.
func (r *registry) large(repository string) ocispec.Descriptor {
	r.t.Helper()
	return r.manifest(repository, "", ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config:      r.blob(repository, ocispec.MediaTypeImageConfig, []byte(`{"os":"linux","architecture":"amd64"}`)),
		Layers:      []ocispec.Descriptor{},
		Annotations: map[string]string{"large": strings.Repeat("x", 64<<10)},
	})
}

// What was read a moment ago may be lost by now: the registry refuses to put a
// manifest whose blobs it does not have, and Tag says what that means.
func TestTagOfWhatWasLostSinceCapture(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	image := reg.image("demo/hello", "one", amd64())
	p := newPublisher()
	if _, _, err := p.Capture(t.Context(), []string{reg.addr + "/demo/hello"}, image.Digest); err != nil {
		t.Fatal(err)
	}
	reg.lose("demo/hello", image)
	reg.misbehave(nil)
	err := p.Tag(t.Context(), reg.addr+"/demo/hello", "latest", image)
	if !errors.Is(err, imgd.ErrNotFound) || reg.read("demo/hello", image) != 0 {
		t.Errorf("got %v, want that it is not found, without a read", err)
	}
	if got := reg.tag("demo/hello", "latest"); got != "404" {
		t.Errorf("the tag names %s, want nothing", got)
	}
}

// lose removes a manifest and all it is made of.
func (r *registry) lose(repository string, image ocispec.Descriptor) {
	r.t.Helper()
	_, _, body := r.direct("GET", repository+"/manifests/"+image.Digest.String(), "", nil)
	var m ocispec.Manifest
	if err := json.Unmarshal(body, &m); err != nil {
		r.t.Fatal(err)
	}
	paths := []string{"manifests/" + image.Digest.String(), "blobs/" + m.Config.Digest.String()}
	for _, layer := range m.Layers {
		paths = append(paths, "blobs/"+layer.Digest.String())
	}
	for _, path := range paths {
		if status, _, said := r.direct("DELETE", repository+"/"+path, "", nil); status != http.StatusAccepted {
			r.t.Fatalf("delete %s: %d %s", path, status, said)
		}
	}
}
