package client_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/index"
	"github.com/imgd/imgd/internal/client"
	"github.com/imgd/imgd/version"
)

// nobody is git and the registry of an index that asks neither.
type nobody struct{}

func (nobody) Head(context.Context, string, string) (string, error)           { return "", imgd.ErrNotFound }
func (nobody) Contains(context.Context, string, string, string) (bool, error) { return false, nil }
func (nobody) Resolve(context.Context, string, string) (d ocispec.Descriptor, err error) {
	return d, imgd.ErrNotFound
}

func (nobody) Capture(context.Context, []string, digest.Digest) (d ocispec.Descriptor, p []ocispec.Descriptor, err error) {
	return d, p, imgd.ErrNotFound
}

// What a daemon publishes while another process verifies its index is no
// difference: that one reads the index again.
func TestVerifyReadsAgain(t *testing.T) {
	dir := t.TempDir()
	x, err := index.Open(index.Config{Dir: dir, History: nobody{}, Registry: nobody{}})
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	var serves atomic.Value // digest.Digest
	var moves, looks atomic.Int32
	publish := func() {
		root := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString(strings.Repeat("x", int(x.Seq()))), Size: 479,
			Platform: &ocispec.Platform{OS: "linux", Architecture: "amd64"}}
		rel, err := x.Admit(t.Context(), imgd.Release{Image: "demo/hello", Root: root, Platforms: []ocispec.Descriptor{root}, Pushed: true,
			Request: imgd.Request{ID: root.Digest.Encoded()[:32]}, Tags: []imgd.ReleaseTag{{Name: "main", Kind: version.KindOther}}}, "")
		if err == nil {
			_, err = x.Publish(t.Context(), rel.ID)
		}
		if err != nil {
			t.Error(err)
		}
		serves.Store(root.Digest)
	}
	registry := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if looks.Add(1); r.Method == http.MethodHead && moves.Add(-1) >= 0 {
			publish()
		}
		if r.Method != http.MethodHead {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
		w.Header().Set("Docker-Content-Digest", serves.Load().(digest.Digest).String())
	}))
	defer registry.Close()
	publish()
	for moved, want := range map[int32]bool{0: true, 1: true, 3: true, 9: false} { // of one that moves all the time it is told how it was at last
		moves.Store(moved)
		var found []imgd.Verification
		err := client.Verify{Index: dir, Registry: strings.TrimPrefix(registry.URL, "http://"), Parallel: 1,
			Each: func(v imgd.Verification) error { found = append(found, v); return nil }}.Run(t.Context())
		if err != nil || len(found) != 1 || found[0].OK != want {
			t.Errorf("moved %d times: got %+v, %v", moved, found, err)
		}
	}
	moves.Store(0)
	serves.Store(digest.FromString("stranger"))
	looks.Store(0)
	var found []imgd.Verification
	err = client.Verify{Index: dir, Registry: strings.TrimPrefix(registry.URL, "http://"),
		Each: func(v imgd.Verification) error { found = append(found, v); return nil }}.Run(t.Context())
	if err != nil || len(found) != 1 || found[0].OK || looks.Load() != 2 { // a HEAD, and a GET of what differs
		t.Errorf("of an index that stays: got %+v, %v after %d calls", found, err, looks.Load())
	}
}
