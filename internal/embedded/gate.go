package embedded

import (
	"context"
	"io"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// gatePoll is between two tries to close the gate. Nobody queues up behind the
// try, so a write that syncs a large layer holds up none of the others.
const gatePoll = 2 * time.Millisecond

// A gate is before the registry: it keeps writes out while a collection removes
// something, and notes what is used. Reads pass. What a write needs of the
// network it reads before it goes in, so that it is inside for as long as the
// disk takes.
type gate struct {
	next   http.Handler
	layout layout

	// inside is held for reading by writes, and for writing by who removes.
	inside sync.RWMutex

	mu    sync.Mutex
	fresh []digest.Digest // guarded by mu: manifests written since take, if noted
	noted bool            // guarded by mu: a collection runs
}

// ServeHTTP implements http.Handler. HEAD counts as a write: who hears that a
// blob is there goes on to name it.
func (g *gate) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if req.Method == http.MethodGet {
		g.use(req)
		g.next.ServeHTTP(w, req)
		return
	}
	entered := false
	enter := func() {
		if !entered {
			entered = true
			g.inside.RLock()
			g.use(req)
		}
	}
	defer func() {
		if entered {
			g.inside.RUnlock()
		}
	}()
	if req.ContentLength == 0 {
		enter()
	} else {
		req.Body = atEnd{req.Body, enter}
	}
	g.next.ServeHTTP(w, req)
	if req.Method == http.MethodPut && strings.Contains(req.URL.Path, "/manifests/") {
		g.note(digest.Digest(w.Header().Get("Docker-Content-Digest"))) // empty if it was refused
	}
}

// atEnd calls ended when all of a body was read.
type atEnd struct {
	io.ReadCloser
	ended func()
}

func (b atEnd) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		b.ended()
	}
	return n, err
}

// use makes what the request names young: what a push finds there and does not
// push again, what is read by digest, and what a tag leaves. The time is that of
// the file, so it outlives this process. What is not there is pushed just now.
func (g *gate) use(req *http.Request) {
	before, last := path.Split(req.URL.Path)
	query := req.URL.Query()
	used := []digest.Digest{digest.Digest(query.Get("digest")), digest.Digest(query.Get("mount"))}
	repository, isManifest := strings.CutSuffix(strings.TrimPrefix(before, "/v2/"), "/manifests/")
	switch writes := req.Method == http.MethodPut || req.Method == http.MethodDelete; {
	case strings.Contains(last, ":"):
		if req.Method != http.MethodDelete && (isManifest || req.Method != http.MethodGet) {
			used = append(used, digest.Digest(last))
		}
	case isManifest && writes && filepath.IsLocal(repository):
		if names, err := readLink(g.layout.tag(repository, last)); err == nil {
			used = append(used, names)
		}
	}
	now := time.Now()
	for _, d := range used {
		if d.Validate() == nil {
			_ = os.Chtimes(g.layout.data(d), now, now) // not there, or the disk will say so to who writes
		}
	}
}

// note has the next take answer a manifest that was written.
func (g *gate) note(d digest.Digest) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.noted && d.Validate() == nil {
		g.fresh = append(g.fresh, d)
	}
}

// notes begins, or ends, the noting of what is written.
func (g *gate) notes(noted bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.noted, g.fresh = noted, nil
}

// take answers the manifests that were written since the last take.
func (g *gate) take() []digest.Digest {
	g.mu.Lock()
	defer g.mu.Unlock()
	fresh := g.fresh
	g.fresh = nil
	return fresh
}

// shut waits until no write is inside and lets none in until open.
func (g *gate) shut(ctx context.Context) error {
	tick := time.NewTicker(gatePoll)
	defer tick.Stop()
	for ctx.Err() == nil {
		if g.inside.TryLock() {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	return context.Cause(ctx)
}

func (g *gate) open() { g.inside.Unlock() }
