package imgd

import (
	"context"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	// maxKnown bounds the parts that are remembered: some 200 bytes each.
	maxKnown = 100_000
	// lackTime is for how long it is believed that a part is not whole: an audit may
	// take hours, and a build that pushes the part again heals it.
	lackTime = time.Minute
)

// A Known remembers which parts of images one run, of one depth, has found, so
// that what many share is looked at once. The zero value is ready. Safe for
// concurrent use.
type Known struct {
	mu    sync.Mutex // guards what follows
	found map[Part]*finding
	parts int
	bytes int64
}

// A Part is what an image consists of, as something lists it: two may say the same
// digest and other sizes, of which one is wrong.
type Part struct {
	Repository string
	Digest     digest.Digest
	Size       int64 // -1 if nobody says it
}

// A finding is what a look at a part has found, once done is closed.
type finding struct {
	done chan struct{}
	lack string
	err  error
	at   time.Time
}

// stale reports whether it has to be looked at again, once done is closed.
func (f *finding) stale() bool { return f.err != nil || f.lack != "" && time.Since(f.at) > lackTime }

// Whole reports whether the part was found whole.
func (k *Known) Whole(p Part) bool {
	k.mu.Lock()
	f := k.found[p]
	k.mu.Unlock()
	if f == nil {
		return false
	}
	select {
	case <-f.done:
		return f.lack == "" && f.err == nil
	default:
		return false
	}
}

// Add remembers that the part was found whole, for which all its bytes were
// read.
func (k *Known) Add(p Part) {
	f := &finding{done: make(chan struct{})}
	close(f.done)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.remember(p, f)
	k.remember(Part{p.Repository, p.Digest, -1}, f)
	k.parts++
	k.bytes += p.Size
}

// Once answers what look says of the part: why it is not whole, "" if it is, for
// which so many bytes were read. Of those who ask at the same time, or later, one
// looks, and the others hear what it has found; only after an error, which says
// nothing of the part, or a while after it was not whole does the next one look.
func (k *Known) Once(ctx context.Context, p Part, look func() (lack string, bytes int64, err error)) (string, error) {
	for {
		k.mu.Lock()
		f := k.found[p]
		if f == nil {
			f = &finding{done: make(chan struct{})}
			k.remember(p, f)
			k.mu.Unlock()
			return k.look(p, f, look)
		}
		k.mu.Unlock()
		select {
		case <-f.done:
		case <-ctx.Done():
			return "", ctx.Err()
		}
		if !f.stale() {
			return f.lack, nil
		}
		k.forget(p, f)
	}
}

func (k *Known) look(p Part, f *finding, look func() (string, int64, error)) (string, error) {
	defer close(f.done)
	var bytes int64
	f.lack, bytes, f.err = look()
	f.at = time.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.bytes += bytes
	if f.err == nil {
		k.parts++
	}
	return f.lack, f.err
}

// forget forgets f, unless somebody looks again by now.
func (k *Known) forget(p Part, f *finding) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.found[p] == f {
		delete(k.found, p)
	}
}

// remember forgets all others if they are too many.
func (k *Known) remember(p Part, f *finding) {
	if k.found == nil || len(k.found) >= maxKnown {
		k.found = map[Part]*finding{}
	}
	k.found[p] = f
}

// Read is how many parts were looked at, and how many bytes were read for it.
func (k *Known) Read() (parts int, bytes int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.parts, k.bytes
}
