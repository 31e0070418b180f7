package publisher_test

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgd/imgd"
)

var _ imgd.Capturer = newPublisher()

func names(manifests []ocispec.Descriptor) []string {
	var out []string
	for _, m := range manifests {
		out = append(out, imgd.PlatformName(m.Platform)+" "+m.Digest.String()+" "+m.MediaType)
	}
	return out
}

func TestCaptureManifest(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	arm := ocispec.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}
	image := reg.image("demo/hello", "one", arm)
	if other := reg.image("demo/copy", "one", arm); other.Digest != image.Digest {
		t.Fatal("the test needs the same image twice")
	}
	root, got, err := newPublisher().Capture(t.Context(), []string{reg.addr + "/demo/hello", reg.addr + "/demo/copy"}, image.Digest)
	if err != nil {
		t.Fatal(err)
	}
	if root.Digest != image.Digest || root.Size != image.Size || root.MediaType != image.MediaType {
		t.Errorf("root %+v, want %+v", root, image)
	}
	if want := []string{"linux/arm64 " + image.Digest.String() + " " + image.MediaType}; !slices.Equal(names(got), want) {
		t.Errorf("got %q, want %q (normalised, from the config)", names(got), want)
	}
	if got[0].Size != image.Size {
		t.Errorf("size %d, want %d", got[0].Size, image.Size)
	}
}

// indexOf pushes an index as BuildKit makes it with provenance, arm64 first.
func indexOf(reg *registry, repository string) (index, amd, arm ocispec.Descriptor) {
	amd = reg.image(repository, "amd", amd64())
	arm = reg.image(repository, "arm", ocispec.Platform{OS: "linux", Architecture: "arm64"})
	about := reg.image(repository, "provenance", ocispec.Platform{OS: "unknown", Architecture: "unknown"})
	listed := func(d ocispec.Descriptor, os, arch, variant string) ocispec.Descriptor {
		d.Platform = &ocispec.Platform{OS: os, Architecture: arch, Variant: variant}
		return d
	}
	attested := listed(about, "linux", "amd64", "") // only the annotation tells
	attested.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest"}
	artifact := listed(about, "linux", "amd64", "")
	artifact.ArtifactType = "application/vnd.example"
	typed := listed(arm, "linux", "arm64", "v8")
	typed.ArtifactType = ocispec.MediaTypeImageConfig // as ko and crane write it
	index = reg.index(repository, typed, amd,         // amd: no platform, the config has it
		listed(about, "unknown", "unknown", ""), attested, artifact)
	return index, amd, arm
}

func TestCaptureIndex(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	index, amd, arm := indexOf(reg, "demo/hello")
	root, got, err := newPublisher().Capture(t.Context(), []string{reg.addr + "/demo/hello"}, index.Digest)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"linux/amd64 " + amd.Digest.String() + " " + amd.MediaType,
		"linux/arm64 " + arm.Digest.String() + " " + arm.MediaType,
	}
	if !slices.Equal(names(got), want) || root.Digest != index.Digest || root.MediaType != ocispec.MediaTypeImageIndex {
		t.Errorf("got %s %q, want %s %q", root.Digest, names(got), index.Digest, want)
	}
}

func TestCaptureNeedsEveryRepository(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	index, amd, _ := indexOf(reg, "demo/hello")
	both := []string{reg.addr + "/demo/hello", reg.addr + "/demo/copy"}
	if _, _, err := newPublisher().Capture(t.Context(), both, index.Digest); !errors.Is(err, imgd.ErrNotFound) || !strings.Contains(err.Error(), "demo/copy") {
		t.Errorf("root is in one of two repositories: %v, want ErrNotFound that names the other", err)
	}
	indexOf(reg, "demo/copy")
	if _, _, err := newPublisher().Capture(t.Context(), both, index.Digest); err != nil {
		t.Fatal(err)
	}
	if status, _, _ := reg.direct("DELETE", "demo/copy/manifests/"+amd.Digest.String(), "", nil); status != http.StatusAccepted {
		t.Fatal(status)
	}
	if _, _, err := newPublisher().Capture(t.Context(), both, index.Digest); !errors.Is(err, imgd.ErrNotFound) || !strings.Contains(err.Error(), amd.Digest.String()) {
		t.Errorf("a platform of the index is gone: %v, want ErrNotFound that names it", err)
	}
}

func TestCaptureRefusesWhatIsNoImage(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	index, amd, _ := indexOf(reg, "demo/hello")
	nameless := reg.image("demo/hello", "nameless", ocispec.Platform{})
	amd.Platform = &ocispec.Platform{OS: "linux", Architecture: "amd64"}
	again := reg.image("demo/hello", "again", amd64())
	again.Platform = amd.Platform
	liar := amd
	liar.Size++
	rows := []struct {
		name string
		root ocispec.Descriptor
		want string
	}{
		{"index in an index", reg.index("demo/hello", amd, index), "lists another index"},
		{"no platform", nameless, "names no platform"},
		{"only attestations", reg.index("demo/hello", ocispec.Descriptor{
			MediaType: nameless.MediaType, Digest: nameless.Digest, Size: nameless.Size,
			Platform: &ocispec.Platform{OS: "unknown", Architecture: "unknown"},
		}), "lists no image"},
		{"twice the same platform", reg.index("demo/hello", amd, again), "two manifests for linux/amd64"},
		{"wrong size in the index", reg.index("demo/hello", liar), "its index says"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			_, _, err := newPublisher().Capture(t.Context(), []string{reg.addr + "/demo/hello"}, row.root.Digest)
			if err == nil || !strings.Contains(err.Error(), row.want) || errors.Is(err, imgd.ErrNotFound) {
				t.Errorf("got %v, want an error with %q", err, row.want)
			}
		})
	}
}

func TestCaptureBelievesNothing(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	image := reg.image("demo/hello", "one", amd64())
	_, _, body := reg.direct("GET", "demo/hello/manifests/"+image.Digest.String(), "", nil)
	other := reg.image("demo/hello", "two", amd64())
	confused := `{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageManifest + `","config":{},"layers":[],"manifests":[]}`
	serve := func(kind, contentType, said string, body []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, kind) {
				w.Header().Set("Content-Type", contentType)
				if said != "" {
					w.Header().Set("Docker-Content-Digest", said)
				}
				w.Write(body)
			}
		}
	}
	manifest := func(body string) http.HandlerFunc {
		return serve("/manifests/", ocispec.MediaTypeImageManifest, "", []byte(body))
	}
	rows := []struct {
		name   string
		root   digest.Digest
		broken http.HandlerFunc
		want   string
	}{
		{"wrong bytes", image.Digest, manifest(string(body) + " "), "served bytes of"},
		{"wrong bytes of the config", image.Digest, serve("/blobs/", "", "", []byte("{}")), "read config"},
		{"wrong Docker-Content-Digest", image.Digest, serve("/manifests/", image.MediaType, other.Digest.String(), body), "called them " + other.Digest.String()},
		{"wrong Content-Type", image.Digest, serve("/manifests/", ocispec.MediaTypeImageIndex, "", body), "was served as"},
		{"huge", image.Digest, manifest(strings.Repeat(" ", 4<<20+1)), "larger than"},
		{"endless", image.Digest, func(w http.ResponseWriter, r *http.Request) {
			for err := error(nil); err == nil; {
				_, err = w.Write(make([]byte, 1<<20))
			}
		}, "larger than"},
		{"not JSON", digest.FromString("<html>"), manifest("<html>"), "decode manifest"},
		{"two things at once", digest.FromString(confused), manifest(confused), "has other fields"},
		{"no media type", digest.FromString("{}"), serve("/manifests/", "text/plain", "", []byte("{}")), "text/plain"},
		{"cut off", image.Digest, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "479")
			w.Header().Set("Content-Type", image.MediaType)
			w.Write(body[:100])
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}, "read body"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			reg.misbehave(row.broken)
			_, _, err := newPublisher().Capture(t.Context(), []string{reg.addr + "/demo/hello"}, row.root)
			if err == nil || !strings.Contains(err.Error(), row.want) || errors.Is(err, imgd.ErrNotFound) {
				t.Errorf("got %v, want an error with %q", err, row.want)
			}
		})
	}
	reg.misbehave(nil)
	if _, _, err := newPublisher().Capture(t.Context(), []string{reg.addr + "/demo/hello"}, image.Digest); err != nil {
		t.Errorf("and without the misbehaviour: %v", err)
	}
}

func TestCaptureTakesUntypedManifest(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	typed := reg.image("demo/hello", "one", amd64())
	plain := reg.manifest("demo/hello", "", ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		Config:    reg.blob("demo/hello", ocispec.MediaTypeImageConfig, []byte(`{"os":"linux","architecture":"amd64"}`)),
		Layers:    []ocispec.Descriptor{},
	})
	_, got, err := newPublisher().Capture(t.Context(), []string{reg.addr + "/demo/hello"}, plain.Digest)
	if err != nil || got[0].MediaType != ocispec.MediaTypeImageManifest {
		t.Errorf("mediaType is optional in OCI manifests: %v %+v", err, got)
	}
	if _, _, err := newPublisher().Capture(t.Context(), nil, typed.Digest); err == nil {
		t.Error("no repository at all must not pass")
	}
	if _, _, err := newPublisher().Capture(t.Context(), []string{reg.addr + "/demo/hello"}, "sha256:short"); err == nil {
		t.Error("a digest that is none must not pass")
	}
	if _, _, err := newPublisher().Capture(t.Context(), []string{reg.addr + "/demo/hello:latest"}, typed.Digest); err == nil {
		t.Error("a repository with a tag must not pass")
	}
}
