package imgd_test

import (
	"context"
	"fmt"
	"iter"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgd/imgd"
)

// manyTags is an index of so many tags, none of which is in memory.
type manyTags struct {
	imgd.Truth
	of, images int
}

func (m *manyTags) record(n int) imgd.Record {
	image, tag := fmt.Sprintf("many/%d", n*m.images/m.of), fmt.Sprintf("v%07d", n)
	labels := map[string]string{"text": string(make([]byte, 2<<10))} // as large as records become
	return imgd.Record{Image: image, Tag: tag, Digest: digest.FromString(tag), MediaType: ocispec.MediaTypeImageManifest, Release: tag, Labels: labels, Platform: "linux/amd64", Generation: 1}
}

func (m *manyTags) Find(f imgd.Find) (page []imgd.Record, more bool, seq uint64) {
	n := 0
	if f.After != nil {
		fmt.Sscanf(f.After.Tag, "v%d", &n)
		n++
	}
	for ; n < m.of && len(page) < f.Limit; n++ {
		page = append(page, m.record(n))
	}
	return page, n < m.of, 1
}

func (m *manyTags) Tag(_, tag string) []imgd.Record {
	var n int
	fmt.Sscanf(tag, "v%d", &n)
	return []imgd.Record{m.record(n)}
}

func (m *manyTags) Generation(string, string) uint64 { return 1 }

func (m *manyTags) Seq() uint64 { return 1 }

func (m *manyTags) Wanted(image, tag string) (imgd.Release, bool) {
	return imgd.Release{State: imgd.ReleasePublished, Root: ocispec.Descriptor{Digest: m.Tag(image, tag)[0].Digest}}, true
}

func (m *manyTags) Release(id string) (imgd.Release, bool) {
	var n int
	fmt.Sscanf(id, "v%d", &n)
	return imgd.Release{ID: id, Repositories: []string{"registry.test/" + m.record(n).Image}}, true
}

// mute is a registry that takes a minute to give no answer.
type mute struct {
	*manyTags
	looks func(repository string)
}

func (h mute) Look(_ context.Context, repository, _ string, _ digest.Digest) (ocispec.Descriptor, error) {
	h.looks(repository)
	<-time.After(time.Minute)
	return ocispec.Descriptor{}, errInjected
}

func (h mute) Lacks(context.Context, string, digest.Digest, imgd.VerifyDepth, *imgd.Known) ([]imgd.Lack, error) {
	return nil, errInjected
}

func (h mute) Tags(context.Context, string) iter.Seq2[string, error] {
	return func(func(string, error) bool) {}
}

// weighed is a registry that has all as it should be, of which each image is made
// of parts of its own, and measures the heap now and then.
type weighed struct {
	*manyTags
	every int

	mu    sync.Mutex
	looks int
	most  uint64
}

func (w *weighed) Look(_ context.Context, _, _ string, want digest.Digest) (ocispec.Descriptor, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.looks++; w.looks%w.every == 0 {
		w.most = max(w.most, heap())
	}
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: want}, nil
}

func (w *weighed) Lacks(_ context.Context, repository string, root digest.Digest, _ imgd.VerifyDepth, known *imgd.Known) ([]imgd.Lack, error) {
	known.Add(imgd.Part{Repository: repository, Digest: root, Size: 1})
	return nil, nil
}

func (w *weighed) Tags(context.Context, string) iter.Seq2[string, error] {
	return func(func(string, error) bool) {}
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// grown is by how much the heap is larger at most while so many tags are audited.
func grown(t *testing.T, tags int) int64 {
	index := &manyTags{of: tags, images: tags / 100}
	registry := &weighed{manyTags: index, every: tags / 20}
	a := &imgd.Auditor{Verifier: &imgd.Verifier{Index: index, Registry: registry, Projects: configured(nil)}, Records: index, Lister: registry}
	before := heap()
	found, err := a.Audit(t.Context(), imgd.AuditAsk{})
	if err != nil || found.Tags != tags || found.Differs() != 0 || registry.looks != tags {
		t.Fatalf("got %s, %d looks, %v", found.Summary(), registry.looks, err)
	}
	return int64(registry.most) - int64(before)
}

// Ten times as many tags take no more memory: what is held of them is a page.
func TestAuditMemory(t *testing.T) {
	few, many := grown(t, 1_000), grown(t, 10_000)
	t.Logf("1,000 tags: %d KiB more, 10,000: %d KiB", few>>10, many>>10)
	if many > 3*max(few, 256<<10) {
		t.Errorf("the heap grew by %d KiB with 10,000 tags and by %d with 1,000", many>>10, few>>10)
	}
}
