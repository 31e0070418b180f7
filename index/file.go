package index

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gofrs/flock"
	"golang.org/x/sys/unix"
)

const (
	fileName    = "images.json"
	tmpName     = "images.json.tmp"
	prevName    = "images.json.prev"
	journalName = "journal"
	olderName   = "journal.older"
	lockName    = "lock"
)

// How images.json follows the journal: so long after an entry, so that those
// that come together are written together, but at most a tenth of the time, and
// after a full disk so long after the last try.
const (
	snapshotDelay = 100 * time.Millisecond
	snapshotShare = 10
	snapshotRetry = 10 * time.Second
	// rotateSize is the length of a journal, in bytes, from which on a snapshot
	// begins a new one. A shorter one is emptied when nothing comes meanwhile.
	rotateSize = 1 << 20
)

// ErrInUse says that another process has the index open.
var ErrInUse = errors.New("in use")

// A fileEngine keeps the log in a journal, and the whole state in images.json,
// which follows it. When the journal has grown, a snapshot begins a new one; the
// one before stays, as journal.older, until images.json has what is in it.
type fileEngine struct {
	dir  string
	lock *flock.Flock
	log  *slog.Logger

	// hold calls do with what is durable, while nothing is appended; failed is
	// told of a snapshot after which nobody knows what is durable.
	hold   func(do func(now frozen) error) error
	failed func(err error)

	// Whoever appends, or holds, has these to himself.
	journal    *journal
	older      bool // journal.older is there
	rotateSize int64
	unknown    error // after it nobody knows what is durable: nothing more is written

	following following

	entered  chan struct{} // has room for one sign that there is something to write
	stop     chan struct{} // closed when no snapshot is to begin any more
	snapshot sync.WaitGroup
	lost     error // of the snapshot after which nobody knows what is durable; read when there is none
}

// openFile locks dir and loads what is there, or makes an empty index.
func openFile(dir string, random io.Reader, log *slog.Logger) (*fileEngine, *state, error) {
	if err := makeDir(dir); err != nil {
		return nil, nil, err
	}
	f := &fileEngine{dir: dir, lock: flock.New(filepath.Join(dir, lockName)), log: log, entered: make(chan struct{}, 1), stop: make(chan struct{}), rotateSize: rotateSize}
	if err := f.acquire(); err != nil {
		return nil, nil, err
	}
	_, was, err := f.signed()
	if err == nil {
		err = f.sign(was)
	}
	var s *state
	if err == nil {
		s, err = f.load(random, was)
	}
	if err == nil && s.id != was {
		err = f.sign(s.id)
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.lock.Unlock())
	}
	return f, s, nil
}

// makeDir makes dir, and what is missing above it, durable.
func makeDir(dir string) error {
	if info, err := os.Stat(dir); err == nil && info.IsDir() {
		return nil
	}
	above := filepath.Dir(dir)
	if above != dir {
		if err := makeDir(above); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(above)
}

// start begins to write snapshots.
func (f *fileEngine) start(hold func(func(frozen) error) error, failed func(error)) {
	f.hold, f.failed = hold, failed
	f.snapshot.Go(f.follow)
	if f.older || f.journal.size > 0 {
		f.sayEntered()
	}
}

func (f *fileEngine) sayEntered() {
	select {
	case f.entered <- struct{}{}:
	default: // it has been said
	}
}

// sign notes in the lock file who holds it, and that this index was here. It
// writes over what is there, for which a full disk has room, and which others
// may be reading.
func (f *fileEngine) sign(id string) error {
	file, err := os.OpenFile(f.lock.Path(), os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer file.Close()
	b := []byte(strconv.Itoa(os.Getpid()) + "\n" + id + "\n")
	if _, err := file.WriteAt(b, 0); err != nil {
		return err
	}
	return file.Truncate(int64(len(b)))
}

// signed is what the lock file says: the process that held it last, and the ID
// of the index that was here. A new one is empty.
func (f *fileEngine) signed() (process, id string, err error) {
	b, err := os.ReadFile(f.lock.Path())
	process, id, _ = strings.Cut(strings.TrimSpace(string(b)), "\n")
	return process, id, err
}

// acquire takes the lock file, which is never images.json itself: a rename
// swaps that one's inode.
func (f *fileEngine) acquire() error {
	ok, err := f.lock.TryLock()
	if err != nil {
		return fmt.Errorf("lock %s: %w", f.lock.Path(), err)
	}
	if !ok {
		process, _, _ := f.signed() // in use it is all the same
		return fmt.Errorf("%s is %w by process %s: one process at a time can have a file index open", f.dir, ErrInUse, cmp.Or(process, "unknown"))
	}
	return nil
}

func (f *fileEngine) path(name string) string { return filepath.Join(f.dir, name) }

// load reads what the last process left, and cuts off what it had not
// acknowledged. The index was was here before.
func (f *fileEngine) load(random io.Reader, was string) (*state, error) {
	if err := os.Remove(f.path(tmpName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	s, found, err := read(f.dir)
	if errors.Is(err, fs.ErrNotExist) {
		if s, err = f.begin(random, was); err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, err
	}
	if f.journal, err = openJournal(f.path(journalName), found.size); err != nil {
		return nil, err
	}
	f.older = found.older
	f.following.written(found.snapshot)
	return s, syncDir(f.dir)
}

// begin makes a new index.
func (f *fileEngine) begin(random io.Reader, was string) (*state, error) {
	if was != "" {
		return nil, fmt.Errorf("%s is gone, and index %s was here: restore it from a backup, or remove %s to begin an empty one", f.path(fileName), was, f.lock.Path())
	}
	if name, err := f.journaled(); err != nil {
		return nil, err
	} else if name != "" {
		return nil, fmt.Errorf("%s is gone, and %s is there: restore the directory from a backup, or move %s away to begin an empty index", f.path(fileName), name, name)
	}
	id, err := newID(random)
	if err != nil {
		return nil, err
	}
	if err := syncDir(filepath.Dir(f.dir)); err != nil { // made, but not synced, by a process that was killed
		return nil, err
	}
	s := newState(id)
	return s, f.replace(s.freeze().writeTo)
}

// journaled is the first journal that has something in it, empty if none has.
func (f *fileEngine) journaled() (string, error) {
	for _, name := range []string{olderName, journalName} {
		info, err := os.Stat(f.path(name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		if err == nil && info.Size() > 0 {
			return f.path(name), nil
		}
	}
	return "", nil
}

// What read has found beside the state.
type found struct {
	snapshot uint64 // the entry that images.json ends with
	older    bool   // journal.older is there
	size     int64  // of the journal's good part, bytes
}

// read folds what is in dir: images.json, and of the journals what it has not.
// It changes nothing, and needs no lock where nobody writes.
func read(dir string) (s *state, f found, err error) {
	b, err := readFile(filepath.Join(dir, fileName))
	if err != nil {
		return nil, f, err
	}
	if s, err = decode(filepath.Join(dir, fileName), b); err != nil {
		return nil, f, err
	}
	f.snapshot = s.seq
	_, err = readJournal(filepath.Join(dir, olderName), false, s.follow)
	f.older = err == nil
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, f, err
	}
	f.size, err = readJournal(filepath.Join(dir, journalName), true, s.follow)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil // nothing has followed images.json, or the process was killed while it began a new one
	}
	return s, f, err
}

// append implements engine.
func (f *fileEngine) append(lines [][]byte) error {
	err := f.once(func() error { return f.journal.append(lines) })
	if err == nil {
		f.sayEntered()
	}
	return err
}

// once does what writes, if all that was written before has a known outcome.
func (f *fileEngine) once(do func() error) error {
	if f.unknown != nil {
		return f.unknown
	}
	err := do()
	if errors.Is(err, errUnknown) {
		f.unknown = err
	}
	return err
}

// close implements engine: images.json alone is complete then, if it may be.
func (f *fileEngine) close(sound bool) error {
	close(f.stop)
	f.snapshot.Wait()
	if !sound {
		return errors.Join(f.journal.file.Close(), f.lock.Unlock())
	}
	err := f.lost
	if err == nil && (f.older || f.journal.size > 0) {
		err = f.write()
	}
	return errors.Join(err, f.journal.file.Close(), f.lock.Unlock())
}

// follow writes images.json when there is something to write.
func (f *fileEngine) follow() {
	for wait := snapshotDelay; ; {
		select {
		case <-f.entered:
		case <-f.stop:
			return
		}
		select {
		case <-time.After(wait):
		case <-f.stop:
			return
		}
		began := time.Now()
		err := f.write()
		f.following.tried(began, err)
		wait = max(snapshotDelay, (snapshotShare-1)*time.Since(began))
		if errors.Is(err, errUnknown) {
			f.lost = err
			f.failed(err)
			return
		}
		if err != nil {
			f.log.Warn("images.json cannot be written, trying again; the journal has what is missing in it", "in", snapshotRetry, "error", err)
			wait = snapshotRetry
			f.sayEntered()
		}
	}
}

// write makes images.json what the state is now, and lets go of what the
// journals have of it. A crash leaves the old file or the new one, and journals
// that lack nothing: what is in images.json already is passed over.
func (f *fileEngine) write() error {
	var z frozen
	err := f.hold(func(now frozen) error {
		z = now
		return f.once(f.rotate)
	})
	if err != nil {
		return err
	}
	if err := f.replace(z.writeTo); err != nil {
		return err
	}
	f.following.written(z.seq)
	z.rest()
	return f.hold(func(now frozen) error {
		return f.once(func() error { return f.release(now.seq == z.seq) })
	})
}

// rotate begins a new journal where the one that is there has grown, unless the
// one before it is still needed.
func (f *fileEngine) rotate() error {
	if f.older || f.journal.size < f.rotateSize {
		return nil
	}
	err := os.Rename(f.path(journalName), f.path(olderName))
	if errors.Is(err, unix.ENOSPC) {
		return err // it goes on as it is
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errUnknown, err)
	}
	next, err := openJournal(f.path(journalName), 0)
	if err != nil {
		return f.rotateBack(err)
	}
	if err := syncDir(f.dir); err != nil {
		return errors.Join(err, next.file.Close())
	}
	was := f.journal
	f.journal, f.older = next, true
	return was.file.Close()
}

// rotateBack goes on with the journal that was renamed: there is no room for a
// new one. Under its new name it must not be found when it has grown.
func (f *fileEngine) rotateBack(why error) error {
	if err := os.Rename(f.path(olderName), f.path(journalName)); err != nil {
		return errors.Join(why, fmt.Errorf("%w: %w", errUnknown, err))
	}
	return errors.Join(why, syncDir(f.dir))
}

// release lets go of journal.older, and of the journal if nothing was appended
// since images.json was begun.
func (f *fileEngine) release(all bool) error {
	if f.older {
		if err := os.Remove(f.path(olderName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		f.older = false
	}
	if !all || f.journal.size == 0 {
		return nil
	}
	f.journal.size = 0
	return f.journal.cut()
}

// replace puts what write writes in the place of images.json, and keeps the one
// before: a crash before the rename leaves that, one after it the new one.
func (f *fileEngine) replace(write func(io.Writer) error) error {
	err := f.writeTmp(write)
	if err == nil {
		err = f.keep()
	}
	if err == nil {
		err = os.Rename(f.path(tmpName), f.path(fileName))
	}
	if err != nil {
		_ = os.Remove(f.path(tmpName)) // a full disk has use for its room
		return err
	}
	return syncDir(f.dir)
}

// keep makes images.json.prev of images.json, if there is one.
func (f *fileEngine) keep() error {
	if err := os.Remove(f.path(prevName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	err := os.Link(f.path(fileName), f.path(prevName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (f *fileEngine) writeTmp(write func(io.Writer) error) error {
	file, err := os.OpenFile(f.path(tmpName), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := write(file); err != nil {
		return err // nothing has been replaced: a full disk refuses, and loses nothing
	}
	if err := file.Sync(); err != nil { // see journal.sync
		return fmt.Errorf("%w: %w", errUnknown, err)
	}
	return nil
}

// syncDir makes a rename in dir durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("%w: %w", errUnknown, err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("%w: %w", errUnknown, err)
	}
	return nil
}
