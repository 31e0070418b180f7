package publisher

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/imgd/imgd"
)

// tars are two that are read side by side.
type tars struct {
	a, b           *tar.Reader
	blockA, blockB []byte
	left           int64 // that may still be read of each
}

// differTars is the first difference of two tars, nil if they hold the same.
// Files that differ in their times alone count if nothing else does. Names and
// links are compared and never followed. At most limit bytes are read of either.
func differTars(a, b io.Reader, limit int64) (*imgd.Difference, error) {
	t := &tars{a: tar.NewReader(&bounded{a, limit}), b: tar.NewReader(&bounded{b, limit}),
		blockA: make([]byte, blockSize), blockB: make([]byte, blockSize), left: limit}
	var times *imgd.Difference
	for {
		x, err := next(t.a)
		if err != nil {
			return nil, err
		}
		y, err := next(t.b)
		if err != nil {
			return nil, err
		}
		if x == nil && y == nil {
			return times, nil
		}
		if found, err := t.differFiles(x, y); found != nil || err != nil {
			return found, err
		}
		if times == nil {
			times = differTimes(x, y)
		}
	}
}

// differFiles compares all but times.
func (t *tars) differFiles(x, y *tar.Header) (*imgd.Difference, error) {
	if found := differHeaders(x, y); found != nil {
		return found, nil
	}
	// Of a sparse file little may be in the tar.
	size := contentOf(x)
	if t.left -= size; t.left < 0 {
		return nil, errTooLarge
	}
	found, err := t.differContents(size)
	if err != nil {
		return nil, fmt.Errorf("file %s: %w", printed(x.Name), err)
	}
	if found != nil {
		found.File = printed(x.Name)
	}
	return found, nil
}

// next is nil at the end.
func next(t *tar.Reader) (*tar.Header, error) {
	header, err := t.Next()
	switch {
	case errors.Is(err, io.EOF):
		return nil, nil
	case errors.Is(err, tar.ErrInsecurePath): // only where GODEBUG asks for it; nothing is written by that name
		return header, nil
	}
	return header, err
}

// differHeaders is the first field that differs, but for times.
func differHeaders(a, b *tar.Header) *imgd.Difference {
	if nameA, nameB := nameOf(a), nameOf(b); a == nil || b == nil || nameA != nameB {
		return &imgd.Difference{Field: imgd.FieldName, A: printed(nameA), B: printed(nameB)}
	}
	for _, field := range []struct{ name, a, b string }{
		{"type", typeOf(a), typeOf(b)},
		{"mode", fmt.Sprintf("%#o", a.Mode), fmt.Sprintf("%#o", b.Mode)},
		{"uid", strconv.Itoa(a.Uid), strconv.Itoa(b.Uid)},
		{"gid", strconv.Itoa(a.Gid), strconv.Itoa(b.Gid)},
		{"uname", a.Uname, b.Uname},
		{"gname", a.Gname, b.Gname},
		{"linkname", a.Linkname, b.Linkname},
		{"device", fmt.Sprint(a.Devmajor, " ", a.Devminor), fmt.Sprint(b.Devmajor, " ", b.Devminor)},
	} {
		if field.a != field.b {
			return &imgd.Difference{File: printed(a.Name), Field: field.name, A: printed(field.a), B: printed(field.b)}
		}
	}
	if found := differRecords(a, b); found != nil {
		return found
	}
	if contentOf(a) != contentOf(b) {
		return &imgd.Difference{File: printed(a.Name), Field: "size", A: strconv.FormatInt(a.Size, 10), B: strconv.FormatInt(b.Size, 10)}
	}
	return nil
}

func nameOf(header *tar.Header) string {
	if header == nil {
		return ""
	}
	return header.Name
}

// typeOf is the type as a word; both forms of a plain file are the same.
func typeOf(header *tar.Header) string {
	words := map[byte]string{tar.TypeReg: "file", tar.TypeLink: "hard link", tar.TypeSymlink: "symbolic link", tar.TypeChar: "character device",
		tar.TypeBlock: "block device", tar.TypeDir: "directory", tar.TypeFifo: "fifo"}
	if word, ok := words[header.Typeflag]; ok {
		return word
	}
	return fmt.Sprintf("%q", header.Typeflag)
}

// differRecords compares what else a header says, xattrs above all.
func differRecords(a, b *tar.Header) *imgd.Difference {
	keys := slices.AppendSeq(slices.Collect(maps.Keys(a.PAXRecords)), maps.Keys(b.PAXRecords))
	slices.Sort(keys)
	for _, key := range slices.Compact(keys) {
		switch key {
		case "path", "linkpath", "size", "uid", "gid", "uname", "gname", "mtime", "atime", "ctime": // fields, wherever they are written
			continue
		}
		if x, y := a.PAXRecords[key], b.PAXRecords[key]; x != y {
			return &imgd.Difference{File: printed(a.Name), Field: printed(key), A: printed(x), B: printed(y)}
		}
	}
	return nil
}

func differTimes(a, b *tar.Header) *imgd.Difference {
	for _, field := range []struct {
		name string
		a, b time.Time
	}{{imgd.FieldModTime, a.ModTime, b.ModTime}, {"atime", a.AccessTime, b.AccessTime}, {"ctime", a.ChangeTime, b.ChangeTime}} {
		if !field.a.Equal(field.b) {
			return &imgd.Difference{File: printed(a.Name), Field: field.name, A: moment(field.a), B: moment(field.b)}
		}
	}
	return nil
}

func moment(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// contentOf is how many bytes of content follow the header. In the headers of
// those that have none the size says nothing.
func contentOf(header *tar.Header) int64 {
	switch header.Typeflag {
	case tar.TypeLink, tar.TypeSymlink, tar.TypeChar, tar.TypeBlock, tar.TypeDir, tar.TypeFifo:
		return 0
	}
	return header.Size
}

const (
	blockSize = 32 << 10
	// excerpt is how much is shown of two files from where they begin to differ,
	// in bytes.
	excerpt = 40
)

// differContents compares the two files, which have that size both.
func (t *tars) differContents(size int64) (*imgd.Difference, error) {
	for at := int64(0); at < size; at += blockSize {
		n := min(size-at, blockSize)
		x, y := t.blockA[:n], t.blockB[:n]
		if _, err := io.ReadFull(t.a, x); err != nil {
			return nil, err
		}
		if _, err := io.ReadFull(t.b, y); err != nil {
			return nil, err
		}
		if !bytes.Equal(x, y) {
			return differBlocks(x, y, at), nil
		}
	}
	return nil, nil
}

// differBlocks shows where two blocks, which begin at that place of their files,
// begin to differ.
func differBlocks(x, y []byte, at int64) *imgd.Difference {
	i := 0
	for x[i] == y[i] {
		i++
	}
	shown := func(block []byte) string {
		return fmt.Sprintf("%q from byte %d on", block[i:min(i+excerpt, len(block))], at+int64(i))
	}
	return &imgd.Difference{Field: imgd.FieldContent, A: shown(x), B: shown(y)}
}

// bounded is an error where there is more than was expected.
type bounded struct {
	io.Reader
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, errTooLarge
	}
	return n, err
}

var errTooLarge = fmt.Errorf("it unpacks to more than %d GiB", maxUnpacked>>30)
