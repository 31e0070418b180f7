package index

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/gofrs/flock"

	"github.com/imgd/imgd"
)

const (
	fileName = "images.json"
	tmpName  = "images.json.tmp"
	lockName = "lock"
)

// ErrInUse says that another process has the index open.
var ErrInUse = errors.New("in use")

// A fileEngine keeps the whole state in images.json, rewritten atomically with
// every entry.
type fileEngine struct {
	dir  string
	lock *flock.Flock
}

// openFile locks dir and loads its images.json, or makes an empty one.
func openFile(dir string, random io.Reader) (*fileEngine, *state, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, nil, err
	}
	f := &fileEngine{dir: dir, lock: flock.New(filepath.Join(dir, lockName))}
	if err := f.acquire(); err != nil {
		return nil, nil, err
	}
	s, err := f.load(random)
	if err == nil {
		err = f.sign(s.id)
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.close())
	}
	return f, s, nil
}

// sign notes in the lock file who holds it, and that this index was here.
func (f *fileEngine) sign(id string) error {
	return os.WriteFile(f.lock.Path(), []byte(strconv.Itoa(os.Getpid())+"\n"+id+"\n"), 0o644)
}

// signed is what the lock file says: the process that held it last, and the ID
// of the index that was here.
func (f *fileEngine) signed() (process, id string) {
	b, _ := os.ReadFile(f.lock.Path()) // a new one is empty
	process, id, _ = strings.Cut(strings.TrimSpace(string(b)), "\n")
	return process, id
}

// acquire takes the lock file, which is never images.json itself: a rename
// swaps that one's inode.
func (f *fileEngine) acquire() error {
	ok, err := f.lock.TryLock()
	if err != nil {
		return fmt.Errorf("lock %s: %w", f.lock.Path(), err)
	}
	if !ok {
		process, _ := f.signed()
		return fmt.Errorf("%s is %w by process %s: one process at a time can have a file index open", f.dir, ErrInUse, cmp.Or(process, "unknown"))
	}
	return nil
}

func (f *fileEngine) close() error { return f.lock.Unlock() }

func (f *fileEngine) load(random io.Reader) (*state, error) {
	// What a crash left of an unfinished write was never acknowledged.
	if err := os.Remove(f.path(tmpName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	b, err := os.ReadFile(f.path(fileName))
	if errors.Is(err, fs.ErrNotExist) {
		if _, was := f.signed(); was != "" {
			return nil, fmt.Errorf("%s is gone, and index %s was here: restore it from a backup, or remove %s to begin an empty one", f.path(fileName), was, f.lock.Path())
		}
		id, err := newID(random)
		if err != nil {
			return nil, err
		}
		s := newState(id)
		return s, f.save(s)
	}
	if err != nil {
		return nil, err
	}
	s, err := decode(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.path(fileName), err)
	}
	return s, nil
}

func (f *fileEngine) path(name string) string { return filepath.Join(f.dir, name) }

// append implements engine: next contains e, so saving it makes e durable.
func (f *fileEngine) append(_ context.Context, _ entry, next *state) error { return f.save(next) }

// save replaces images.json by s: a crash before the rename leaves the old
// file, one after it the new one.
func (f *fileEngine) save(s *state) error {
	if err := f.writeTmp(encode(s)); err != nil {
		return err
	}
	if err := os.Rename(f.path(tmpName), f.path(fileName)); err != nil {
		return fmt.Errorf("%w: %w", errUnknown, err)
	}
	return syncDir(f.dir)
}

func (f *fileEngine) writeTmp(b []byte) error {
	file, err := os.OpenFile(f.path(tmpName), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := file.Write(b); err != nil {
		return err // nothing has been replaced: a full disk refuses, and loses nothing
	}
	// After a failed fsync the kernel may call lost pages clean, so a second
	// try would prove nothing: https://wiki.postgresql.org/wiki/Fsync_Errors
	if err := file.Sync(); err != nil {
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

// A document is images.json but for its last line, the checksum.
type document struct {
	Schema   int             `json:"schema"`
	ID       string          `json:"id"`
	Seq      uint64          `json:"seq"`
	Hash     string          `json:"hash"`
	Told     uint64          `json:"told"`
	Records  []imgd.Record   `json:"records"`
	Tags     []tagState      `json:"tags"`
	Releases []imgd.Release  `json:"releases"`
	CRC      json.RawMessage `json:"crc32c"`
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// encode is images.json as docs/formats.md describes it: one element a line,
// sorted, and the checksum of every byte before its line on the last.
func encode(s *state) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, `{"schema":%d,"id":%q,"seq":%d,"hash":%q,"told":%d,`, format, s.id, s.seq, s.hash, s.told)
	list(&b, "records", s.records())
	list(&b, "tags", slices.SortedFunc(maps.Values(s.tags), func(x, y tagState) int {
		return cmp.Or(cmp.Compare(x.Image, y.Image), cmp.Compare(x.Tag, y.Tag))
	}))
	list(&b, "releases", slices.SortedFunc(maps.Values(s.releases), func(x, y imgd.Release) int {
		return cmp.Or(cmp.Compare(x.Request.ID, y.Request.ID), cmp.Compare(number(x.ID), number(y.ID)))
	}))
	b.WriteByte('\n')
	fmt.Fprintf(&b, "\"crc32c\":\"%08x\"}\n", crc32.Checksum(b.Bytes(), castagnoli))
	return b.Bytes()
}

// list writes one member whose elements stand on lines of their own.
func list[T any](b *bytes.Buffer, name string, elements []T) {
	fmt.Fprintf(b, "%q:[", name)
	for i, e := range elements {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteByte('\n')
		line, err := json.Marshal(e)
		if err != nil {
			panic("unreachable: index elements always marshal: " + err.Error())
		}
		b.Write(line)
	}
	b.WriteString("],")
}

// decode reads images.json and refuses what is not exactly as it was written.
func decode(b []byte) (*state, error) {
	var head struct {
		Schema int `json:"schema"`
	}
	if err := json.Unmarshal(b, &head); err == nil && head.Schema > format {
		return nil, fmt.Errorf("written in format %d; this imgd reads up to %d: use a newer imgd", head.Schema, format)
	}
	if err := checkSum(b); err != nil {
		return nil, err
	}
	var doc document
	decoder := json.NewDecoder(bytes.NewReader(b))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&doc); err != nil {
		return nil, err
	}
	s := newState(doc.ID)
	s.seq, s.hash, s.told = doc.Seq, doc.Hash, doc.Told
	for _, rel := range doc.Releases {
		s.add(rel)
	}
	for _, tag := range doc.Tags {
		s.tags[tagKey{tag.Image, tag.Tag}] = tag
	}
	if !bytes.Equal(encode(s), b) {
		return nil, errors.New("records, tags and releases contradict each other; restore the file from a backup")
	}
	return s, nil
}

// checkSum checks the crc32c on the last line over every byte before it.
func checkSum(b []byte) error {
	end := bytes.LastIndex(bytes.TrimSuffix(b, []byte("\n")), []byte("\n")) + 1
	var last string
	if _, err := fmt.Sscanf(string(b[end:]), "\"crc32c\":%q}\n", &last); err != nil {
		return errors.New("the last line is not a crc32c: the file is cut short or was edited; restore it from a backup")
	}
	if sum := fmt.Sprintf("%08x", crc32.Checksum(b[:end], castagnoli)); sum != last {
		return fmt.Errorf("crc32c is %s where the file says %s: it is damaged or was edited; restore it from a backup", sum, last)
	}
	return nil
}
