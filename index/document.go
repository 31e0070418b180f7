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
	"sync"
	"unsafe"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/tidwall/gjson"

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
	switch what := checkSum(b); {
	case what != "" && schema > format:
		return nil, &damage{path, 1, fmt.Sprintf("it says format %d, of which imgd reads up to %d, and %s; if a newer imgd has written it, use that", schema, format, what)}
	case what != "":
		return nil, &damage{path, badLine(b), what}
	case schema > format:
		return nil, fmt.Errorf("%s: written in format %d; this imgd reads up to %d: use a newer imgd", path, schema, format)
	case headErr != nil:
		return nil, &damage{path, 1, headErr.Error()}
	}
	s := newState(h.ID)
	s.seq, s.hash, s.told = h.Seq, h.Hash, h.Told
	if err := s.read(rest); err != nil {
		err.file = path
		return nil, err
	}
	return s, nil
}

// A section is one list of images.json, from behind its [ to before its end.
type section struct {
	text string
	line int // that text begins on, 1-based
}

// sections are the lists of records, tags and releases. Only a release has lists
// in it, and so may have in it what ends one.
func sections(rest string) (records, tags, releases section, err *damage) {
	line := 1
	next := func(end int, mark string) section {
		s := section{rest[:max(end, 0)], line}
		line += strings.Count(s.text, "\n")
		rest = rest[min(len(s.text)+len(mark), len(rest)):]
		return s
	}
	records = next(strings.Index(rest, beginTags), beginTags)
	tags = next(strings.Index(rest, beginReleases), beginReleases)
	end := strings.LastIndex(rest, endReleases+"\n")
	if end < 0 {
		return records, tags, releases, &damage{what: "it lacks a list"}
	}
	return records, tags, next(end, endReleases), nil
}

// each hands the elements of the list, which stand a line each, to do.
func (s section) each(do func(element string) error) *damage {
	at := s.line
	for rest := strings.TrimPrefix(s.text, "\n"); rest != ""; {
		at++
		line, after, more := strings.Cut(rest, "\n")
		element, ok := strings.CutSuffix(line, ",")
		if ok != more {
			return &damage{line: at, what: "it does not end as it should"}
		}
		if err := do(element); err != nil {
			return &damage{line: at, what: err.Error()}
		}
		rest = after
	}
	return nil
}

// len is how many elements there are at most.
func (s section) len() int { return strings.Count(s.text, "\n") }

// read fills s, of which the tags and the releases are not the same memory.
func (s *state) read(rest string) *damage {
	records, tags, releases, bad := sections(rest)
	if bad != nil {
		return bad
	}
	var badRelease *damage
	var reading sync.WaitGroup
	reading.Go(func() { badRelease = s.readReleases(releases) })
	bad = s.readTags(records, tags)
	reading.Wait()
	return cmp.Or(bad, badRelease)
}

func (s *state) readTags(records, tags section) *damage {
	s.tags = make(map[tagKey]*tag, tags.len())
	if err := tags.each(func(line string) error {
		t := readTag(line)
		s.tags[tagKey{t.image, t.name}] = t
		s.sorted.Load(t)
		return nil
	}); err != nil {
		return err
	}
	var last *tag // whose records are being read
	var lines []string
	end := func() {
		if last != nil {
			own := slices.Clone(lines)
			last.records.Store(&own)
		}
		lines = lines[:0]
	}
	err := records.each(func(line string) error {
		key := readKey(line)
		if last == nil || last.image != key.image || last.name != key.tag {
			end()
			if last = s.tags[key]; last == nil {
				return fmt.Errorf("there is no tag %s:%s for this record", key.image, key.tag)
			}
		}
		lines = append(lines, line)
		return nil
	})
	end()
	return err
}

func (s *state) readReleases(releases section) *damage {
	s.digests = make(map[digest.Digest]*link, releases.len())
	err := releases.each(func(line string) error {
		r, digests := readRelease(line)
		s.releases.Load(r)
		s.link(r, digests)
		s.list(r)
		return nil
	})
	slices.SortFunc(s.untold, func(a, b *release) int { return cmp.Compare(a.seq, b.seq) })
	return err
}

// readKey reads whose record the line is; the strings are parts of the line, as
// those of readTag and readRelease are.
func readKey(line string) (key tagKey) {
	gjson.Parse(line).ForEach(func(name, value gjson.Result) bool {
		switch name.Str {
		case "image":
			key.image = value.Str
		case "tag":
			key.tag = value.Str
		}
		return key.tag == ""
	})
	return key
}

func readTag(line string) *tag {
	t := new(tag)
	t.text.line.Store(&line)
	gjson.Parse(line).ForEach(func(name, value gjson.Result) bool {
		switch name.Str {
		case "image":
			t.image = value.Str
		case "tag":
			t.name = value.Str
		case "holder":
			t.holder = value.Str
		case "claim":
			t.claim = value.Str
		}
		return true
	})
	return t
}

func readRelease(line string) (r *release, digests []digest.Digest) {
	r = new(release)
	var found imgd.Release // of which only the digests are read
	r.text.line.Store(&line)
	gjson.Parse(line).ForEach(func(name, value gjson.Result) bool {
		switch name.Str {
		case "id":
			r.id = value.Str
		case "image":
			r.image = value.Str
		case "state":
			r.stand(imgd.ReleaseState(value.Str))
		case "root":
			r.root = digest.Digest(value.Get("digest").Str)
			found.Root.Digest = r.root
		case "platforms":
			value.ForEach(func(_, platform gjson.Result) bool {
				found.Platforms = append(found.Platforms, ocispec.Descriptor{Digest: digest.Digest(platform.Get("digest").Str)})
				return true
			})
		case "pushed":
			r.pushed = value.Bool()
		case "command":
			r.commanded = value.Str != ""
		case "seq":
			r.seq = value.Uint()
		}
		return true
	})
	return r, digestsOf(found)
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
