package kit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"os/exec"
	"time"
)

// Record is one line of the index, as images.json, the HTTP API, imgctl and the events all show it.
type Record struct {
	Image       string            `json:"image"`
	Tag         string            `json:"tag"`
	Digest      string            `json:"digest"`
	Platform    string            `json:"platform"`
	MediaType   string            `json:"mediaType"`
	Size        int64             `json:"size"`
	PublishedAt time.Time         `json:"publishedAt"`
	SourceRef   string            `json:"sourceRef"`
	Version     string            `json:"version"`
	Labels      map[string]string `json:"labels"`
	Generation  int               `json:"generation"`
	Release     string            `json:"release"`
	IndexDigest string            `json:"indexDigest"`
	Previous    string            `json:"previous"`
	ExpiresAt   time.Time         `json:"expiresAt"`
}

// Images is what images.json holds. Tags and releases are left as they stand in the file.
type Images struct {
	Schema   int               `json:"schema"`
	ID       string            `json:"id"`
	Seq      uint64            `json:"seq"`
	Told     uint64            `json:"told"`
	Records  []Record          `json:"records"`
	Tags     []json.RawMessage `json:"tags"`
	Releases []json.RawMessage `json:"releases"`
}

// ReadImages reads the index of a data directory, as `imgd index export` prints it: images.json may lag behind the journal.
// An imgd may be running there, or stand still.
func ReadImages(data string) (*Images, error) {
	bin, err := Bin("imgd")
	if err != nil {
		return nil, err
	}
	text, err := output(exec.Command(bin, "index", "export", "--data", data))
	if err != nil {
		return nil, err
	}
	return ParseImages([]byte(text))
}

// ParseImages reads what images.json has, and checks its checksum.
func ParseImages(text []byte) (*Images, error) {
	last := bytes.LastIndexByte(bytes.TrimRight(text, "\n"), '\n') + 1
	var sum struct {
		CRC string `json:"crc32c"`
	}
	if err := json.Unmarshal(append([]byte("{"), text[last:]...), &sum); err != nil {
		return nil, fmt.Errorf("last line of images.json: %w", err)
	}
	if got := fmt.Sprintf("%08x", crc32.Checksum(text[:last], crc32.MakeTable(crc32.Castagnoli))); got != sum.CRC {
		return nil, fmt.Errorf("images.json: crc32c is %s, its last line says %q", got, sum.CRC)
	}
	var images Images
	if err := json.Unmarshal(text, &images); err != nil {
		return nil, fmt.Errorf("images.json: %w", err)
	}
	return &images, nil
}
