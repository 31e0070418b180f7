package index

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/gofrs/flock"
)

// readTries is how often a reading begins anew when what it reads is replaced
// meanwhile, which a daemon does a few times a second at most.
const readTries = 20

// Export answers what the index in dir holds, in the form of images.json, and
// complete: that file may lag behind the journal beside it. It takes no lock and
// changes nothing; a daemon may go on writing, and the answer is then as of some
// moment during the call. Damage is refused as Open does.
func Export(dir string) ([]byte, error) {
	s, _, err := readBeside(dir)
	if err != nil {
		return nil, fmt.Errorf("export index: %w", err)
	}
	return s.freeze().bytes(), nil
}

// A Finding is what Check has found: how much there is, and how many entries
// images.json lacks, which the journal has.
type Finding struct {
	ID                      string
	Records, Tags, Releases int
	Seq, Ahead              uint64
}

// Check reads the whole index in dir as Export does.
func Check(dir string) (Finding, error) {
	s, snapshot, err := readBeside(dir)
	if err != nil {
		return Finding{}, fmt.Errorf("check index: %w", err)
	}
	if err := s.consistent(filepath.Join(dir, fileName)); err != nil {
		return Finding{}, fmt.Errorf("check index: %w", err)
	}
	found := Finding{ID: s.id, Tags: s.sorted.Len(), Releases: s.releases.Len(), Seq: s.seq, Ahead: s.seq - snapshot}
	s.sorted.Scan(func(t *tag) bool { found.Records += len(t.lines(s.releases)); return true })
	return found, nil
}

// readBeside reads what is in dir, where a daemon may write, and answers the
// entry that images.json ends with.
func readBeside(dir string) (s *state, snapshot uint64, err error) {
	for range readTries {
		before, lookErr := look(dir)
		if lookErr != nil {
			return nil, 0, lookErr
		}
		var found found
		s, found, err = read(dir)
		after, lookErr := look(dir)
		if lookErr == nil && (!before.same(after) || err != nil && !before.still(after)) {
			continue
		}
		return s, found.snapshot, errors.Join(err, lookErr)
	}
	return nil, 0, errors.Join(err, fmt.Errorf("what is in %s was replaced each of %d times that it was read", dir, readTries))
}

// A glance at what is in an index's directory tells whether it was replaced
// while it was read. The journal may be missing.
type glance struct{ images, journal fs.FileInfo }

func look(dir string) (g glance, err error) {
	if g.images, err = os.Stat(filepath.Join(dir, fileName)); err != nil {
		return g, err
	}
	g.journal, err = os.Stat(filepath.Join(dir, journalName))
	if errors.Is(err, fs.ErrNotExist) {
		g.journal, err = nil, nil
	}
	return g, err
}

// same reports whether images.json and the journal are the files that they were.
// An older one's number may be given to another file, at another time.
func (g glance) same(other glance) bool {
	if g.journal == nil || other.journal == nil {
		return g.journal == other.journal && sameTime(g.images, other.images)
	}
	return sameTime(g.images, other.images) && os.SameFile(g.journal, other.journal)
}

func sameTime(a, b fs.FileInfo) bool { return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) }

// still reports whether nothing was written meanwhile.
func (g glance) still(other glance) bool {
	return g.journal == nil || sameTime(g.journal, other.journal) && g.journal.Size() == other.journal.Size()
}

// FixChecksum writes the last line of images.json in dir anew, for those who
// have edited it by hand. A process that has the index open keeps it from that,
// and so does a journal that follows the file as it was.
func FixChecksum(dir string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("fix checksum: %w", err)
		}
	}()
	f := &fileEngine{dir: dir, lock: flock.New(filepath.Join(dir, lockName))}
	if err := f.acquire(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.lock.Unlock()) }()
	if name, err := f.journaled(); err != nil {
		return err
	} else if name != "" {
		return fmt.Errorf("%s has entries that follow images.json as it was: start imgd and stop it, and edit images.json then", name)
	}
	b, err := os.ReadFile(f.path(fileName))
	if err != nil {
		return err
	}
	end := bytes.LastIndex(bytes.TrimRight(b, "\n"), []byte("\n")) + 1
	if !bytes.HasPrefix(b[end:], []byte(`"crc32c":`)) {
		return fmt.Errorf("%s does not end with a line of crc32c", f.path(fileName))
	}
	b = append(b[:end], lastLine(checksum(b[:end]))...)
	s, err := decode(f.path(fileName), b)
	if err == nil {
		err = s.consistent(f.path(fileName))
	}
	if err != nil {
		return err
	}
	return f.replace(func(w io.Writer) error { _, err := w.Write(b); return err })
}
