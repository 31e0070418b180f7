package index_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/index"
	"github.com/imgd/imgd/version"
)

const (
	image = "demo/hello"
	repo  = "registry.test/demo/hello"
)

// A world is git and the registry as one test sets them up.
type world struct {
	mu      sync.Mutex
	heads   map[string]string          // ref -> commit
	parents map[string]string          // commit -> its parent
	tags    map[string]digest.Digest   // tag -> root in the registry
	roots   map[digest.Digest][]string // root -> platform digests
	broken  error                      // every answer, if set
	lacks   string                     // a repository that has nothing
	noImage digest.Digest              // a root that is no image
	asked   func()                     // called first when a tag is asked for, if set
}

func newWorld() *world {
	return &world{heads: map[string]string{}, parents: map[string]string{}, tags: map[string]digest.Digest{}, roots: map[digest.Digest][]string{}}
}

func (w *world) Head(_ context.Context, _, ref string) (string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.broken != nil {
		return "", w.broken
	}
	head, ok := w.heads[ref]
	if !ok {
		return "", imgd.ErrNotFound
	}
	return head, nil
}

func (w *world) Contains(_ context.Context, _, head, commit string) (bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := head; c != ""; c = w.parents[c] {
		if c == commit {
			return true, w.broken
		}
	}
	return false, w.broken
}

func (w *world) Resolve(_ context.Context, _, tag string) (ocispec.Descriptor, error) {
	if w.asked != nil {
		w.asked()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if d, ok := w.tags[tag]; ok {
		return ocispec.Descriptor{Digest: d}, w.broken
	}
	return ocispec.Descriptor{}, errors.Join(imgd.ErrNotFound, w.broken)
}

func (w *world) Capture(_ context.Context, repositories []string, root digest.Digest) (ocispec.Descriptor, []ocispec.Descriptor, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if root == "" {
		return ocispec.Descriptor{}, nil, errors.New("an image is asked for by no digest")
	}
	if w.noImage != "" && root == w.noImage {
		return ocispec.Descriptor{}, nil, imgd.ErrInvalid
	}
	if slices.Contains(repositories, w.lacks) {
		return ocispec.Descriptor{}, nil, imgd.ErrNotFound
	}
	names, ok := w.roots[root]
	if !ok {
		return ocispec.Descriptor{}, nil, imgd.ErrNotFound
	}
	return ocispec.Descriptor{Digest: root}, platforms(names...), w.broken
}

func platforms(names ...string) []ocispec.Descriptor {
	var out []ocispec.Descriptor
	for i, n := range names {
		out = append(out, ocispec.Descriptor{
			MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString(n), Size: 479,
			Platform: &ocispec.Platform{OS: "linux", Architecture: []string{"amd64", "arm64"}[i]},
		})
	}
	return out
}

// commit is a full commit ID made of one letter.
func commit(letter string) string { return strings.Repeat(letter, 40) }

var epoch = time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)

// candidate is what the build of ref at commit c made, asked for at second at.
func (w *world) candidate(ref, c, root string, at int) imgd.Release {
	w.mu.Lock()
	defer w.mu.Unlock()
	req := imgd.Request{Project: "hello", Ref: ref, Commit: commit(c), AskedAt: epoch.Add(time.Duration(at) * time.Second)}
	req.ID = req.Hash()
	info := version.Info{Ref: ref, Commit: req.Commit, CommitTime: epoch}
	req.Version, _ = version.Of(info)
	named, err := (*version.Rules)(nil).Apply(info)
	if err != nil {
		panic(err)
	}
	rel := imgd.Release{Image: image, Repositories: []string{repo}, Request: req, Source: "https://git.test/hello",
		Root: ocispec.Descriptor{Digest: digest.FromString(root), MediaType: ocispec.MediaTypeImageManifest, Size: 479}, Platforms: platforms(root)}
	w.roots[rel.Root.Digest] = []string{root}
	for _, t := range named.Tags {
		if t.Kind == version.KindSeries && len(t.Name) == 1 {
			continue // X goes by the same rules as X.Y
		}
		rel.Tags = append(rel.Tags, imgd.ReleaseTag{Name: t.Name, Kind: t.Kind})
	}
	return rel
}

func open(t *testing.T, dir string, w *world) *index.Index {
	t.Helper()
	x, err := index.Open(index.Config{Dir: dir, History: w, Registry: w, Writer: "test", Now: func() time.Time { return epoch }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { x.Close() })
	return x
}
