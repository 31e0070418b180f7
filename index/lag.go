package index

import (
	"sync"
	"time"
)

// A Lag says how images.json follows the index.
type Lag struct {
	Entries uint64    // that it lacks; the journal has them
	Since   time.Time // when it was first tried in vain, zero if the last try went well
	Err     error     // of the last try
}

// Lag says how images.json follows. As a rule it does so within a second.
func (x *Index) Lag() Lag {
	lag, has := x.following.now()
	lag.Entries = x.Seq() - has
	return lag
}

// A following notes how images.json follows. It is safe for concurrent use.
type following struct {
	// mu guards what follows.
	mu  sync.Mutex
	has uint64 // the entry that images.json ends with
	lag Lag    // but for the entries
}

func (f *following) now() (Lag, uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.lag, f.has
}

// written notes that images.json ends with that entry.
func (f *following) written(seq uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.has = seq
}

// tried notes how a try to let it follow went.
func (f *following) tried(at time.Time, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case err == nil:
		f.lag = Lag{}
	case f.lag.Err == nil:
		f.lag = Lag{Since: at, Err: err}
	default:
		f.lag.Err = err
	}
}
