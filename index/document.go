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
