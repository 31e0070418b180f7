package index

import "errors"

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
		f.journal.size += rotateSize
		err := f.rotate()
		return err
	})
}
