package index

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/gofrs/flock"
)

// A rewriting makes of what an index is, nil where there is none, what it is to
// be, nil if it stays. What it is given is its own. here is the ID of the index
// that was in the directory last, empty if none was.
type rewriting func(was *state, here string) (*state, error)

// rewrite changes the index in dir as a whole, while no other process has it
// open. The commit point is the rename of images.json: a crash before it leaves
// the index as it was, one after it the index as it is to be, and journals of
// which every entry is older than that and is passed over. With dry nothing is
// written, and a daemon may be running.
func rewrite(dir string, dry bool, do rewriting) (err error) {
	f := &fileEngine{dir: dir, lock: flock.New(filepath.Join(dir, lockName))}
	if dry {
		_, here, _ := f.signed() // none: nothing was here
		was, _, err := readBeside(dir)
		if err := f.thereOrNot(err); err != nil {
			return err
		}
		_, err = do(was, here)
		return err
	}
	if err := makeDir(dir); err != nil {
		return err
	}
	if err := f.acquire(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.lock.Unlock()) }()
	_, here, err := f.signed()
	if err == nil {
		err = f.sign(here) // so that others are told who has it
	}
	if err != nil {
		return err
	}
	was, _, err := read(dir)
	if err := f.thereOrNot(err); err != nil {
		return err
	}
	next, err := do(was, here)
	if err != nil || next == nil {
		return err
	}
	return f.become(next)
}

// thereOrNot is the error of reading an index, but nil if there is none.
func (f *fileEngine) thereOrNot(err error) error {
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	name, err := f.journaled()
	if err == nil && name != "" {
		err = fmt.Errorf("%s is gone, and %s is there: restore the directory from a backup, or move %s away", f.path(fileName), name, name)
	}
	return err
}

// become makes s the index. The lock file says afterwards that it was here.
func (f *fileEngine) become(s *state) error {
	if err := f.replace(s.freeze().writeTo); err != nil {
		return err
	}
	for _, name := range []string{olderName, journalName} {
		if err := os.Remove(f.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := syncDir(f.dir); err != nil {
		return err
	}
	return f.sign(s.id)
}

// enter folds an entry that no journal has: images.json is written of what comes
// of it.
func (s *state) enter(e entry) {
	e.Format, e.Seq, e.Prev = format, s.seq+1, s.hash
	s.fold(e, hashOf(e.line()))
}
