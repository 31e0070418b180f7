package publisher

import (
	"context"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// recentTime is how long Tag goes by what Capture has read: the two follow
	// each other, and what is lost between them is lost between any two calls.
	recentTime = time.Minute
	// maxRecent bounds how many manifests are kept, and maxRecentSize the bytes
	// of each.
	maxRecent     = 64
	maxRecentSize = 64 << 10
)

// recent are the roots that were captured a moment ago, so that tagging one does
// not read it once more for each tag.
type recent struct {
	now func() time.Time

	mu    sync.Mutex // guards roots
	roots map[string]read
}

// A read is a manifest as a repository served it, checked against its digest.
type read struct {
	desc ocispec.Descriptor
	body []byte
	at   time.Time
}

func (c *recent) keep(where string, desc ocispec.Descriptor, body []byte) {
	if len(body) > maxRecentSize {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.roots == nil || len(c.roots) >= maxRecent {
		c.roots = map[string]read{}
	}
	c.roots[where] = read{desc, body, c.now()}
}

func (c *recent) get(where string) (read, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r, ok := c.roots[where]
	return r, ok && c.now().Sub(r.at) < recentTime
}

// root reads the manifest by its digest, unless that has just been done.
func (r repository) root(ctx context.Context, root digest.Digest) (ocispec.Descriptor, []byte, error) {
	if r, ok := r.recent.get(r.at(root.String())); ok {
		return r.desc, r.body, nil
	}
	return r.manifest(ctx, root.String())
}
