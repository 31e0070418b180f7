package index

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"strings"
	"sync"
	"unsafe"

	"github.com/tidwall/gjson"
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

// A documentWriter writes images.json and its checksum. An error stays with the
// writer until it is flushed.
type documentWriter struct {
	to  *bufio.Writer
	sum hash.Hash32
}

func (d documentWriter) say(s string) { _, _ = d.to.WriteString(s) }

// writeTo writes images.json as docs/formats.md describes it.
func (z frozen) writeTo(w io.Writer) error {
	sum := crc32.New(castagnoli)
	d := documentWriter{to: bufio.NewWriterSize(io.MultiWriter(w, sum), 1<<16), sum: sum}
	fmt.Fprintf(d.to, `{"schema":%d,"id":%q,"seq":%d,"hash":%q,"told":%d,%s`, format, z.id, z.seq, z.hash, z.told, beginRecords)
	next := d.list()
	z.tags.Scan(func(t *tag) bool {
		for _, line := range t.lines(z.releases) {
			next(line)
		}
		return true
	})
	d.say(beginTags)
	next = d.list()
	z.tags.Scan(func(t *tag) bool { next(t.text.json()); return true })
	d.say(beginReleases)
	next = d.list()
	z.releases.Scan(func(r *release) bool { next(r.text.json()); return true })
	d.say(endReleases + "\n")
	if err := d.to.Flush(); err != nil {
		return err
	}
	_, err := io.WriteString(w, lastLine(fmt.Sprintf("%08x", d.sum.Sum32())))
	return err
}

// list answers what writes the elements of one list.
func (d documentWriter) list() (next func(element string)) {
	separator := "\n"
	return func(element string) {
		d.say(separator)
		d.say(element)
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
	z.tags.Scan(func(t *tag) bool { t.text.rest(); return true })
	z.releases.Scan(func(r *release) bool {
		if !r.open {
			r.text.rest()
		}
		return true
	})
}

// decode reads images.json, which lies at path, and refuses what is not exactly
// as it was written, as a *damage, and what is of a newer format. The state keeps
// b.
func decode(path string, b []byte) (*state, error) {
	text := unsafe.String(unsafe.SliceData(b), len(b)) // b is nobody else's, and not changed
	schema := gjson.Get(text, "schema").Int()
	head, rest, _ := strings.Cut(text, beginRecords)
	var h struct {
		ID   string `json:"id"`
		Seq  uint64 `json:"seq"`
		Hash string `json:"hash"`
		Told uint64 `json:"told"`
	}
	headErr := json.Unmarshal([]byte(head+`"end":1}`), &h) // else it is damaged
	s := newState(h.ID)
	s.seq, s.hash, s.told = h.Seq, h.Hash, h.Told
	var what string // is wrong with the checksum
	var checking sync.WaitGroup
	checking.Go(func() { what = checkSum(b) })
	var bad *damage
	if schema <= format && headErr == nil {
		bad = s.read(rest)
	}
	checking.Wait()
	switch {
	case what != "" && schema > format:
		return nil, &damage{path, 1, fmt.Sprintf("it says format %d, of which imgd reads up to %d, and %s; if a newer imgd has written it, use that", schema, format, what)}
	case what != "":
		return nil, &damage{path, badLine(b), what}
	case schema > format:
		return nil, fmt.Errorf("%s: written in format %d; this imgd reads up to %d: use a newer imgd", path, schema, format)
	case headErr != nil:
		return nil, &damage{path, 1, headErr.Error()}
	case bad != nil:
		bad.file = path
		return nil, bad
	}
	return s, nil
}

// badLine is the 1-based line on which b stops being JSON, 0 if it does not.
func badLine(b []byte) int {
	var syntax *json.SyntaxError
	if err := json.Unmarshal(b, new(json.RawMessage)); !errors.As(err, &syntax) {
		return 0
	}
	return 1 + bytes.Count(b[:max(0, syntax.Offset-1)], []byte("\n")) // the offset is behind what is wrong
}

// checkSum checks the crc32c on the last line over every byte before it, and
// says what is wrong.
func checkSum(b []byte) (what string) {
	end := bytes.LastIndex(bytes.TrimSuffix(b, []byte("\n")), []byte("\n")) + 1
	sum := checksum(b[:end])
	switch last := string(b[end:]); {
	case last == lastLine(sum):
		return ""
	case len(last) != len(lastLine(sum)) || !strings.HasPrefix(last, `"crc32c":"`):
		return "the last line is not a crc32c: the file is cut short"
	default:
		return fmt.Sprintf("crc32c of what is above is %s where the last line says %s (after an edit by hand: imgd index check --fix-checksum)", sum, strings.TrimSpace(last))
	}
}

// lastLine is the last line of images.json.
func lastLine(sum string) string { return `"crc32c":"` + sum + "\"}\n" }

// consistent reports what in the state contradicts itself: all of images.json
// follows from its tags and releases.
func (s *state) consistent(path string) error {
	if err := s.readable(); err != nil {
		return &damage{path, 0, err.Error()}
	}
	again := newState(s.id)
	again.seq, again.hash, again.told = s.seq, s.hash, s.told
	s.releases.Scan(func(r *release) bool { again.setRelease(r.text.get()); return true })
	s.sorted.Scan(func(t *tag) bool { again.setTag(t.text.get()); return true })
	if !bytes.Equal(again.freeze().bytes(), s.freeze().bytes()) {
		return &damage{path, 0, "records, tags and releases contradict each other, or are not in the form that imgd writes"}
	}
	return nil
}

// readable reports the first line that is not what it stands for, as only a hand
// can have written it.
func (s *state) readable() (err error) {
	s.sorted.Scan(func(t *tag) bool {
		if err = t.text.check(); err != nil {
			err = fmt.Errorf("tag %s:%s: %w", t.image, t.name, err)
		}
		return err == nil
	})
	s.releases.Scan(func(r *release) bool {
		if bad := r.text.check(); bad != nil {
			err = fmt.Errorf("release %s: %w", r.id, bad)
		}
		return err == nil
	})
	return err
}
