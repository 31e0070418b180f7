package index

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/imgd/imgd"
)

// A plain is one element of the plain form of an index: what a tag names, and
// where that came from. It is what most CI systems can say of their past.
type plain struct {
	ImageName   string
	Tag         string
	Digest      digest.Digest
	PublishedAt time.Time
	SourceRef   string            // <git URL>@<40 hex>
	Labels      map[string]string `json:",omitempty"`
	Platform    string            `json:",omitempty"` // of Digest; default linux/amd64
}

// maxTold bounds how many bad elements one error names.
const maxTold = 20

// readPlain reads a JSON array of elements, or one element a line. It answers all
// of them, checked, or an error that names each bad one by its number, from 1.
// None may have been published after now.
func readPlain(text []byte, registry string, now time.Time) ([]imported, error) {
	if len(bytes.TrimSpace(text)) == 0 {
		return nil, errors.New("it is empty")
	}
	elements, err := split(text)
	if err != nil {
		return nil, fmt.Errorf("element %d: %w", len(elements)+1, err)
	}
	var all []imported
	var wrong []error
	for i, element := range elements {
		im, err := readElement(element, registry, now)
		if err != nil {
			wrong = append(wrong, fmt.Errorf("element %d: %w", i+1, err))
		}
		im.number = i + 1
		all = append(all, im)
	}
	if n := len(wrong); n > maxTold {
		wrong = append(wrong[:maxTold], fmt.Errorf("and %d more", n-maxTold))
	}
	return all, errors.Join(wrong...)
}

// split answers the elements that it could tell apart, and what ended that.
func split(text []byte) (elements []json.RawMessage, err error) {
	decoder := json.NewDecoder(bytes.NewReader(text))
	isArray := bytes.HasPrefix(bytes.TrimLeft(text, " \t\r\n"), []byte("["))
	if isArray {
		_, _ = decoder.Token() // the [
	}
	for decoder.More() {
		var element json.RawMessage
		if err := decoder.Decode(&element); err != nil {
			return elements, err
		}
		elements = append(elements, element)
	}
	if isArray {
		if _, err := decoder.Token(); err != nil {
			return elements, fmt.Errorf("the array does not end: %w", err)
		}
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return elements, errors.New("something follows that is no element")
	}
	return elements, nil
}

// readElement reads and checks one element.
func readElement(text []byte, registry string, now time.Time) (im imported, err error) {
	var p plain
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&p); err != nil {
		return im, errors.New(strings.TrimPrefix(err.Error(), "json: "))
	}
	at := p.PublishedAt.UTC().Truncate(time.Millisecond)
	pushed := imgd.Pushed{Image: p.ImageName, Tag: p.Tag, Digest: p.Digest, Source: p.SourceRef, Platform: p.Platform,
		Labels: p.Labels, Registry: registry, NoVerify: true, By: importer}
	im.release, err = pushed.Unread("", at)
	switch {
	case err != nil:
	case p.PublishedAt.IsZero():
		err = errors.New("PublishedAt: want a time, as in 2026-11-21T10:00:00Z")
	case at.After(now):
		err = fmt.Errorf("PublishedAt: %s is yet to come", at.Format(time.RFC3339))
	}
	return im, err
}
