package index

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"

	"golang.org/x/sys/unix"
)

// sector is the least that a disk writes or loses as a whole, in bytes. Pages
// and blocks of file systems are multiples of it.
const sector = 512

// A journal is a file of entries, appended in frames. A frame is what one fsync
// made durable: a header line, then one JSON line for each entry. The header
// has its own checksum, so that its length can be trusted:
//
//	{"entries":2,"bytes":1234,"crc32c":"9a3f01bc","header":"0d4e77a1"}
type journal struct {
	file *os.File
	size int64 // of what is durable
}

// A header is the first line of a frame.
type header struct {
	Entries int    `json:"entries"`
	Bytes   int    `json:"bytes"`  // of the lines after it
	CRC     string `json:"crc32c"` // of the same
	Header  string `json:"header"` // crc32c of the bytes of this line before this field
}

const headerField = `,"header":"`

// frame is the lines, each with its newline, as one write.
func frame(lines [][]byte) []byte {
	var body []byte
	for _, line := range lines {
		body = append(append(body, line...), '\n')
	}
	head := fmt.Appendf(nil, `{"entries":%d,"bytes":%d,"crc32c":"%s"`, len(lines), len(body), checksum(body))
	head = fmt.Appendf(head, "%s%s\"}\n", headerField, checksum(head))
	return append(head, body...)
}

func checksum(b []byte) string { return fmt.Sprintf("%08x", crc32.Checksum(b, castagnoli)) }

// openJournal opens the file, or makes one, whose first size bytes are good;
// what follows was never acknowledged and is cut off.
func openJournal(path string, size int64) (*journal, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	j := &journal{file: file, size: size}
	info, err := file.Stat()
	if err == nil && info.Size() != size {
		err = j.cut()
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return j, nil
}

// append makes the lines durable, all or none. An error that wraps errUnknown
// leaves that open; after any other, none is there.
func (j *journal) append(lines [][]byte) error {
	b := frame(lines)
	if _, err := j.file.WriteAt(b, j.size); err != nil {
		if cutErr := j.cut(); cutErr != nil {
			return errors.Join(err, cutErr)
		}
		return err // nothing has been acknowledged: a full disk refuses, and loses nothing
	}
	if err := j.sync(); err != nil {
		return err
	}
	j.size += int64(len(b))
	return nil
}

// cut removes what is beyond size.
func (j *journal) cut() error {
	if err := j.file.Truncate(j.size); err != nil {
		return fmt.Errorf("%w: cut %s: %w", errUnknown, j.file.Name(), err)
	}
	return j.sync()
}

// sync makes durable what was written. After a failed fsync the kernel may call
// lost pages clean, so a second try would prove nothing:
// https://wiki.postgresql.org/wiki/Fsync_Errors
func (j *journal) sync() error {
	for {
		err := unix.Fdatasync(int(j.file.Fd()))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("%w: sync %s: %w", errUnknown, j.file.Name(), err)
		}
		return nil
	}
}

// A damage is a place in a file that is not as it was written.
type damage struct {
	file string
	line int // 1-based, 0 if nobody can tell
	what string
}

func (d *damage) Error() string {
	place := d.file
	if d.line > 0 {
		place += fmt.Sprintf(":%d", d.line)
	}
	return fmt.Sprintf("%s: %s: the file is damaged or was edited; restore the whole directory from a backup", place, d.what)
}

// readJournal hands the entries of the file to each, in order, and answers the
// length of its good part. A last frame that is short, or in which a sector was
// never written, was never acknowledged: it is left out if last says that this
// file is written at last. Anything else that is bad is a *damage.
func readJournal(path string, last bool, each func(e entry, hash string) error) (size int64, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	line := 1
	for offset := 0; offset < len(b); {
		lines, length, err := readFrame(b[offset:])
		if err != nil {
			if last && torn(b, offset) {
				return int64(offset), nil
			}
			return 0, &damage{path, line, err.Error()}
		}
		for i, text := range lines {
			e, err := decodeEntry(text)
			if err == nil {
				err = each(e, hashOf(text))
			}
			if bad := new(damage); err != nil && !errors.As(err, &bad) {
				return 0, fmt.Errorf("%s:%d: %w", path, line+1+i, err)
			} else if err != nil {
				return 0, &damage{path, line + 1 + i, bad.what}
			}
		}
		line += 1 + len(lines)
		offset += length
	}
	return int64(len(b)), nil
}

// readFrame reads the frame that b begins with: its lines, and how long it is.
func readFrame(b []byte) (lines [][]byte, length int, err error) {
	h, n, err := readHeader(b)
	if err != nil {
		return nil, 0, err
	}
	if h.Bytes > len(b)-n {
		return nil, 0, fmt.Errorf("the frame has %d bytes, the file only %d of them", h.Bytes, len(b)-n)
	}
	body := b[n : n+h.Bytes]
	if got := checksum(body); got != h.CRC {
		return nil, 0, fmt.Errorf("crc32c of the frame is %s where its header says %s", got, h.CRC)
	}
	lines = bytes.Split(bytes.TrimSuffix(body, []byte("\n")), []byte("\n"))
	if len(lines) != h.Entries {
		return nil, 0, fmt.Errorf("the frame has %d entries where its header says %d", len(lines), h.Entries)
	}
	return lines, n + h.Bytes, nil
}

// readHeader reads the line that b begins with.
func readHeader(b []byte) (h header, length int, err error) {
	end := bytes.IndexByte(b, '\n')
	if end < 0 {
		return h, 0, errors.New("the header of a frame is cut short")
	}
	text, _, ok := bytes.Cut(b[:end], []byte(headerField))
	if !ok || json.Unmarshal(b[:end], &h) != nil {
		return h, 0, errors.New("not the header of a frame")
	}
	if got := checksum(text); got != h.Header {
		return h, 0, fmt.Errorf("crc32c of the header is %s where it says %s", got, h.Header)
	}
	return h, end + 1, nil
}

// torn reports whether the frame at offset, which is bad, may never have been
// acknowledged: it is the last one, as each is begun when those before it are
// durable, and it is cut short or lacks a sector.
func torn(b []byte, offset int) bool {
	rest := b[offset:]
	for line := range bytes.Lines(rest[1:]) {
		if _, _, err := readHeader(bytes.TrimLeft(line, "\x00")); err == nil {
			return false
		}
	}
	if h, n, err := readHeader(rest); err == nil && h.Bytes > len(rest)-n || err != nil && headerBegins(rest) {
		return true
	}
	return lacksSector(b, offset)
}

// headerBegins reports whether b is a header that is cut short.
func headerBegins(b []byte) bool {
	const begin = `{"entries":`
	n := min(len(b), len(begin))
	return !bytes.Contains(b, []byte("\n")) && string(b[:n]) == begin[:n]
}

// lacksSector reports whether a sector from offset on was never written: it is
// all zeros then, of which JSON has none.
func lacksSector(b []byte, offset int) bool {
	for offset < len(b) {
		end := min((offset/sector+1)*sector, len(b))
		if len(bytes.Trim(b[offset:end], "\x00")) == 0 {
			return true
		}
		offset = end
	}
	return bytes.HasSuffix(b, []byte{0, 0}) // a single one may be a bit that has turned
}

// decodeEntry reads one line. An entry of a newer format is no *damage.
func decodeEntry(text []byte) (entry, error) {
	var head struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(text, &head); err != nil {
		return entry{}, &damage{what: err.Error()}
	}
	if head.Format > format {
		return entry{}, fmt.Errorf("written in format %d; this imgd reads up to %d: use a newer imgd", head.Format, format)
	}
	var e entry
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&e); err != nil {
		return entry{}, &damage{what: err.Error()}
	}
	return e, nil
}
