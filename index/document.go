package index

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"
	"strings"

	"github.com/imgd/imgd"
)

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
	b.WriteString(lastLine(checksum(b.Bytes())))
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

// decode reads images.json, which lies at path, and refuses what is not exactly
// as it was written, as a *damage, and what is of a newer format.
func decode(path string, b []byte) (*state, error) {
	var schema int
	_, _ = fmt.Sscanf(string(b[:min(len(b), sector)]), `{"schema":%d,`, &schema) // else it is damaged
	switch what := checkSum(b); {
	case what != "" && schema > format:
		return nil, &damage{path, 1, fmt.Sprintf("it says format %d, of which imgd reads up to %d, and %s; if a newer imgd has written it, use that", schema, format, what)}
	case what != "":
		return nil, &damage{path, badLine(b), what}
	case schema > format:
		return nil, fmt.Errorf("%s: written in format %d; this imgd reads up to %d: use a newer imgd", path, schema, format)
	}
	var doc document
	decoder := json.NewDecoder(bytes.NewReader(b))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&doc); err != nil {
		return nil, &damage{path, badLine(b), err.Error()}
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
		return nil, &damage{path, 0, "records, tags and releases contradict each other, or are not in the form that imgd writes"}
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
