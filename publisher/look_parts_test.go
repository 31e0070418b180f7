package publisher_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgd/imgd"
)

// A manifest that says a wrong size of a part is damaged itself; another that says
// the right one is not, whichever is looked into first.
func TestLacksOfSizes(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	good := reg.made("demo/hello", "one")
	wrong := good.shared
	wrong.Size++
	bad := reg.manifest("demo/hello", "", ocispec.MediaTypeImageManifest, ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest, Config: good.config, Layers: []ocispec.Descriptor{wrong}})
	longer := good.manifest
	longer.Size++
	both, misled := reg.index("demo/hello", bad, good.manifest), reg.index("demo/hello", good.manifest, longer)
	for _, test := range []struct {
		name   string
		first  ocispec.Descriptor
		second ocispec.Descriptor
		lacks  []digest.Digest // of both
	}{
		{"the wrong one first", bad, good.manifest, []digest.Digest{wrong.Digest}},
		{"the right one first", good.manifest, bad, []digest.Digest{wrong.Digest}},
		{"both in an index", both, good.manifest, []digest.Digest{wrong.Digest}},
		{"a manifest", good.manifest, misled, []digest.Digest{longer.Digest}},
	} {
		for _, depth := range []imgd.VerifyDepth{imgd.DepthParts, imgd.DepthBytes} {
			t.Run(test.name+"/"+string(depth), func(t *testing.T) {
				known, got := &imgd.Known{}, []digest.Digest{}
				for _, root := range []ocispec.Descriptor{test.first, test.second} {
					lacks, err := newPublisher().Lacks(t.Context(), reg.addr+"/demo/hello", root.Digest, depth, known)
					if err != nil {
						t.Fatal(err)
					}
					for _, lack := range lacks {
						got = append(got, lack.Digest)
					}
				}
				if !slices.Equal(got, test.lacks) {
					t.Errorf("got %v, want %v", got, test.lacks)
				}
			})
		}
	}
}

// An index may list what is no image, which is there or not.
func TestLacksOfArtifacts(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	image := reg.made("demo/hello", "one")
	const body, mediaType = `{"mediaType":"application/vnd.example+json"}`, "application/vnd.example+json"
	artifact := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromString(body), Size: int64(len(body))}
	index, err := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{image.manifest, artifact}})
	if err != nil {
		t.Fatal(err)
	}
	root := digest.FromBytes(index) // the registry here takes no such index: others do
	says := func(mediaType, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", mediaType)
			w.Write([]byte(body))
		}
	}
	for _, test := range []struct {
		name   string
		broken http.HandlerFunc
		lacks  string
	}{
		{"there", of(artifact.Digest, says(mediaType, body)), ""},
		{"gone", of(artifact.Digest, ends(http.StatusNotFound)), "manifest " + artifact.Digest.String() + " it is not there"},
		{"other bytes", of(artifact.Digest, served("{}")), "manifest " + artifact.Digest.String() + " read "},
	} {
		t.Run(test.name, func(t *testing.T) {
			reg.misbehave(func(w http.ResponseWriter, r *http.Request) {
				of(root, says(ocispec.MediaTypeImageIndex, string(index)))(w, r)
				test.broken(w, r)
			})
			got, err := newPublisher().Lacks(t.Context(), reg.addr+"/demo/hello", root, imgd.DepthBytes, &imgd.Known{})
			if err != nil || (len(got) == 0) != (test.lacks == "") || !strings.HasPrefix(lacks(got), test.lacks) {
				t.Errorf("got %v, %v; want %q", lacks(got), err, test.lacks)
			}
		})
	}
}

// What nobody runs is not looked through to its end, which there may be none of.
func TestLacksOfNoImage(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	nested := reg.made("demo/hello", "one").manifest
	for range 6 {
		nested = reg.index("demo/hello", nested)
	}
	long := reg.index("demo/hello", slices.Repeat([]ocispec.Descriptor{reg.made("demo/hello", "two").manifest}, 10_001)...)
	for name, root := range map[string]ocispec.Descriptor{"1 parts, 5 indexes deep": nested, "10001 parts, 0 indexes deep": long} {
		lacks, err := newPublisher().Lacks(t.Context(), reg.addr+"/demo/hello", root.Digest, imgd.DepthParts, new(imgd.Known))
		if err != nil || len(lacks) != 1 || !strings.Contains(lacks[0].Why, name) {
			t.Errorf("got %+v, %v, want one that says %q", lacks, err, name)
		}
	}
}
