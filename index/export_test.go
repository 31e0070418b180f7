package index

import (
	"errors"
	"runtime"
)

// OpenStill is Open, but images.json does not follow. What it answers must be
// killed, not closed.
func OpenStill(config Config) (*Index, error) {
	x, _, err := load(config)
	return x, err
}

// Kill leaves the directory as a killed process does.
func (x *Index) Kill() error {
	f := x.log.engine.(*fileEngine)
	return errors.Join(f.journal.file.Close(), f.lock.Unlock())
}

// Snapshot writes images.json now.
func (x *Index) Snapshot() error {
	f := x.log.engine.(*fileEngine)
	f.hold = x.log.hold
	return f.write()
}

// Rotate begins a new journal, however short this one is, as a snapshot does
// before it is written.
func (x *Index) Rotate() error {
	return x.log.hold(func(frozen) error {
		f := x.log.engine.(*fileEngine)
		f.rotateSize = 0
		return f.once(f.rotate)
	})
}

// Break makes what is written to the journal fail, with an outcome that nobody knows.
func (x *Index) Break() error { return x.log.engine.(*fileEngine).journal.file.Close() }

// OpenRotating is Open with journals of about that many bytes.
func OpenRotating(config Config, size int64) (*Index, error) {
	x, engine, err := load(config)
	if err != nil {
		return nil, err
	}
	engine.rotateSize = size
	engine.start(x.log.hold, x.log.fail)
	return x, nil
}

// A closing is an engine whose append fails while the index is being closed.
type closing struct {
	engine
	index  *Index
	closed chan error
	sound  bool
}

func (c *closing) append([][]byte) error {
	go func() { c.closed <- c.index.Close() }()
	for {
		c.index.log.mu.Lock()
		begun := c.index.log.closed
		c.index.log.mu.Unlock()
		if begun {
			return errUnknown
		}
		runtime.Gosched()
	}
}

func (c *closing) close(sound bool) error {
	c.sound = sound
	return c.engine.close(sound)
}

// CloseBroken closes the index while it appends what enter gives it, of which
// nobody knows then whether it is durable. It answers what Close says, and
// whether the engine was told that it has all.
func (x *Index) CloseBroken(enter func()) (err error, sound bool) {
	c := &closing{engine: x.log.engine, index: x, closed: make(chan error)}
	x.log.engine = c
	enter()
	return <-c.closed, c.sound
}
