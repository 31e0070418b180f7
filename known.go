package imgd

import (
	"context"
	"sync"

	"github.com/opencontainers/go-digest"
)

// maxKnown bounds the parts that are remembered: some 200 bytes each.
const maxKnown = 100_000

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
}

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
// nothing of the part, does the next one look.
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
		if f.err == nil {
			return f.lack, nil
		}
	}
}

func (k *Known) look(p Part, f *finding, look func() (string, int64, error)) (string, error) {
	defer close(f.done)
	var bytes int64
	f.lack, bytes, f.err = look()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.bytes += bytes
	if f.err != nil && k.found[p] == f {
		delete(k.found, p)
	}
	if f.err == nil {
		k.parts++
	}
	return f.lack, f.err
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
