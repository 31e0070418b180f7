package index

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"slices"
	"strings"
	"unsafe"

	"github.com/imgd/imgd"
)

// images.json has its head on the first line, and then one element a line:
//
//	{"schema":1,…,"records":[
//	{…},
//	{…}],"tags":[
//	{…}],"releases":[
//	{…}],
//	"crc32c":"9a3f01bc"}
const (
	beginRecords  = `"records":[`
	beginTags     = `],"tags":[`
	beginReleases = `],"releases":[`
	endReleases   = `],`
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// A documentWriter writes images.json and its checksum.
type documentWriter struct {
	to  *bufio.Writer
	sum hash.Hash32
}

// writeTo writes images.json as docs/formats.md describes it.
func (z frozen) writeTo(w io.Writer) error {
	sum := crc32.New(castagnoli)
	d := documentWriter{to: bufio.NewWriterSize(io.MultiWriter(w, sum), 1<<16), sum: sum}
	fmt.Fprintf(d.to, `{"schema":%d,"id":%q,"seq":%d,"hash":%q,"told":%d,%s`, format, z.id, z.seq, z.hash, z.told, beginRecords)
	next := d.list()
	z.tags.Scan(func(t *tag) bool {
		for _, line := range t.lines(z.releases) {
			next(line.JSON)
		}
		return true
	})
	d.to.WriteString(beginTags)
	next = d.list()
	z.tags.Scan(func(t *tag) bool { next(t.state.json()); return true })
	d.to.WriteString(beginReleases)
	next = d.list()
	z.releases.Scan(func(r *release) bool { next(r.text.json()); return true })
	d.to.WriteString(endReleases + "\n")
	if err := d.to.Flush(); err != nil {
		return err
	}
	_, err := io.WriteString(w, lastLine(d.sum.Sum32()))
	return err
}

// list answers what writes the elements of one list. Errors stay with the
// writer until it is flushed.
func (d documentWriter) list() (next func(element string)) {
	separator := "\n"
	return func(element string) {
		d.to.WriteString(separator)
		d.to.WriteString(element)
		separator = ",\n"
	}
}

// bytes is images.json.
func (z frozen) bytes() []byte {
	var b bytes.Buffer
	if err := z.writeTo(&b); err != nil {
		panic("unreachable: a buffer takes everything: " + err.Error())
	}
	return b.Bytes()
}

// rest lets go of what the lines say as well. Open releases are looked at more
// often than they are written.
func (z frozen) rest() {
	z.tags.Scan(func(t *tag) bool { t.state.rest(); return true })
	z.releases.Scan(func(r *release) bool {
		if r.state != imgd.ReleaseAdmitted {
			r.text.rest()
		}
		return true
	})
}

// decode reads images.json and refuses what is not exactly as it was written.
// The state keeps b.
func decode(b []byte) (*state, error) {
	head, rest, _ := strings.Cut(unsafe.String(unsafe.SliceData(b), len(b)), beginRecords) // b is nobody else's, and not changed
	var h struct {
		Schema int    `json:"schema"`
		ID     string `json:"id"`
		Seq    uint64 `json:"seq"`
		Hash   string `json:"hash"`
		Told   uint64 `json:"told"`
	}
	headErr := json.Unmarshal([]byte(head+`"end":1}`), &h)
	if headErr == nil && h.Schema > format {
		return nil, fmt.Errorf("written in format %d; this imgd reads up to %d: use a newer imgd", h.Schema, format)
	}
	if err := checkSum(b); err != nil {
		return nil, err
	}
	if headErr != nil {
		return nil, fmt.Errorf("line 1: %w", headErr)
	}
	s := newState(h.ID)
	s.seq, s.hash, s.told = h.Seq, h.Hash, h.Told
	d := documentReader{rest: rest, line: 1}
	return s, d.read(s)
}

// A documentReader goes through the lines of images.json.
type documentReader struct {
	rest string
	line int // the one before rest, 1-based
}

func (d *documentReader) read(s *state) error {
	var records []Line
	var of []tagKey
	err := d.list(beginTags, func(line string) error {
		var r struct {
			Image, Tag string
			Line
		}
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			return err
		}
		r.JSON = line
		records, of = append(records, r.Line), append(of, tagKey{r.Image, r.Tag})
		return nil
	})
	if err != nil {
		return err
	}
	err = d.list(beginReleases, func(line string) error {
		var now tagState
		if err := json.Unmarshal([]byte(line), &now); err != nil {
			return err
		}
		t := &tag{image: now.Image, name: now.Tag, holder: now.Holder, claim: now.Claim, state: lined[tagState](line)}
		n := 0
		for n < len(of) && of[n] == (tagKey{t.image, t.name}) {
			n++
		}
		lines := slices.Clone(records[:n])
		t.records.Store(&lines)
		records, of = records[n:], of[n:]
		s.addTag(t)
		return nil
	})
	if err != nil {
		return err
	}
	if len(of) > 0 {
		return fmt.Errorf("there is no tag %s:%s for its record; restore the file from a backup", of[0].image, of[0].tag)
	}
	err = d.list(endReleases, func(line string) error {
		var rel imgd.Release
		if err := json.Unmarshal([]byte(line), &rel); err != nil {
			return err
		}
		r := newRelease(rel)
		r.text.line.Store(&line)
		if r.state != imgd.ReleaseAdmitted {
			r.text.rest()
		}
		s.addRelease(r)
		return nil
	})
	slices.SortFunc(s.untold, func(a, b *release) int { return cmp.Compare(a.seq, b.seq) })
	return err
}

// list hands the elements of a list to each, and goes on after its end. Only a
// release has lists in it, and so may have in it what ends one.
func (d *documentReader) list(end string, each func(element string) error) error {
	if rest, empty := strings.CutPrefix(d.rest, end); empty {
		d.rest = rest
		return nil
	}
	d.rest = strings.TrimPrefix(d.rest, "\n")
	for {
		d.line++
		line, rest, ok := strings.Cut(d.rest, "\n")
		element, _, last := strings.Cut(line, end)
		if end == endReleases {
			element, last = strings.CutSuffix(line, end)
		}
		if !last {
			element, ok = strings.CutSuffix(line, ",")
		}
		if !ok {
			return fmt.Errorf("line %d does not end as it should; restore the file from a backup", d.line)
		}
		if err := each(element); err != nil {
			return fmt.Errorf("line %d: %w; restore the file from a backup", d.line, err)
		}
		if last {
			d.rest = d.rest[len(element)+len(end):]
			return nil
		}
		d.rest = rest
	}
}

// checkSum checks the crc32c on the last line over every byte before it.
func checkSum(b []byte) error {
	end := bytes.LastIndex(bytes.TrimSuffix(b, []byte("\n")), []byte("\n")) + 1
	want := lastLine(crc32.Checksum(b[:end], castagnoli))
	switch {
	case string(b[end:]) == want:
		return nil
	case len(b)-end == len(want) && bytes.HasPrefix(b[end:], []byte(want[:len(`"crc32c":`)])):
		return fmt.Errorf("crc32c is %.*s where the file says %.*s: it is damaged or was edited; restore it from a backup", 8, want[10:], 8, b[end+10:])
	}
	return errors.New("the last line is not a crc32c: the file is cut short or was edited; restore it from a backup")
}

func lastLine(sum uint32) string { return fmt.Sprintf("\"crc32c\":\"%08x\"}\n", sum) }

// consistent reports what in the state contradicts itself: all of images.json
// follows from its tags and releases.
func (s *state) consistent() error {
	again := newState(s.id)
	again.seq, again.hash, again.told = s.seq, s.hash, s.told
	s.releases.Scan(func(r *release) bool { again.setRelease(r.text.get()); return true })
	s.sorted.Scan(func(t *tag) bool { again.setTag(t.state.get()); return true })
	if !bytes.Equal(again.freeze().bytes(), s.freeze().bytes()) {
		return errors.New("records, tags and releases contradict each other; restore the file from a backup")
	}
	return nil
}
