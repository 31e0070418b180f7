package embedded

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A layout is the directory in which the registry keeps everything, as
// registry/storage/paths.go of distribution says:
//
//	blobs/<algorithm>/<first two digits>/<hex>/data
//	repositories/<name>/_manifests/revisions/<algorithm>/<hex>/link
//	repositories/<name>/_manifests/tags/<tag>/{current/link,index/<algorithm>/<hex>/link}
//	repositories/<name>/_layers/<algorithm>/<hex>/link
//	repositories/<name>/_uploads/<id>/…
//
// A link has a digest in it.
type layout string

func (l layout) blob(d digest.Digest) string {
	return filepath.Join(string(l), "blobs", string(d.Algorithm()), d.Encoded()[:2], d.Encoded())
}

func (l layout) data(d digest.Digest) string { return filepath.Join(l.blob(d), "data") }

func (l layout) repositories() string { return filepath.Join(string(l), "repositories") }

// tag is the directory of what the tag names.
func (l layout) tag(repository, tag string) string {
	return filepath.Join(l.repositories(), repository, "_manifests", "tags", tag, "current")
}

// A linked is a directory that stands for a digest.
type linked struct {
	dir    string
	digest digest.Digest
}

// isYoung reports whether the link, or the blob that it stands for, was written
// or used since then.
func (l layout) isYoung(at linked, since time.Time) bool {
	return youngFile(filepath.Join(at.dir, "link"), since) || youngFile(l.data(at.digest), since)
}

// youngFile reports whether the file is there and was written since then.
func youngFile(path string, since time.Time) bool {
	info, err := os.Stat(path)
	return err == nil && !info.ModTime().Before(since)
}

// readLink is the digest that the link in dir has in it.
func readLink(dir string) (digest.Digest, error) {
	text, err := os.ReadFile(filepath.Join(dir, "link"))
	if err != nil {
		return "", err
	}
	d, err := digest.Parse(string(text))
	if err != nil {
		return "", fmt.Errorf("read %s: %w", filepath.Join(dir, "link"), err)
	}
	return d, nil
}

// eachRepository calls f with the directory of each repository. Names nest.
func (l layout) eachRepository(f func(dir string) error) error {
	return filepath.WalkDir(l.repositories(), func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || !d.IsDir() {
			return err
		}
		if strings.HasPrefix(d.Name(), "_") {
			return fs.SkipDir
		}
		return f(path)
	})
}

// eachBlob calls f with the directory of each blob.
func (l layout) eachBlob(f func(linked) error) error {
	blobs := filepath.Join(string(l), "blobs")
	algorithms, err := list(blobs)
	if err != nil {
		return err
	}
	for _, algorithm := range algorithms {
		prefixes, err := list(filepath.Join(blobs, algorithm))
		if err != nil {
			return err
		}
		for _, prefix := range prefixes {
			if err := eachEncoded(filepath.Join(blobs, algorithm, prefix), algorithm, f); err != nil {
				return err
			}
		}
	}
	return nil
}

// eachLink calls f with each <algorithm>/<hex> in dir, which may be missing.
func eachLink(dir string, f func(linked) error) error {
	algorithms, err := list(dir)
	if err != nil {
		return err
	}
	for _, algorithm := range algorithms {
		if err := eachEncoded(filepath.Join(dir, algorithm), algorithm, f); err != nil {
			return err
		}
	}
	return nil
}

func eachEncoded(dir, algorithm string, f func(linked) error) error {
	names, err := list(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		d := digest.NewDigestFromEncoded(digest.Algorithm(algorithm), name)
		if d.Validate() != nil {
			continue // not the registry's
		}
		if err := f(linked{dir: filepath.Join(dir, name), digest: d}); err != nil {
			return err
		}
	}
	return nil
}

// list is the names in dir, none if it is not there.
func list(dir string) ([]string, error) {
	file, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return file.Readdirnames(-1)
}

// references are what the manifest names, the manifests of an image index among
// them. One that is not there names nothing.
func (l layout) references(manifest digest.Digest) ([]digest.Digest, error) {
	text, err := os.ReadFile(l.data(manifest))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var read struct {
		Config                   ocispec.Descriptor
		Layers, Manifests, Blobs []ocispec.Descriptor
	}
	if err := json.Unmarshal(text, &read); err != nil {
		return nil, fmt.Errorf("read manifest %s: %w", manifest, err)
	}
	var named []digest.Digest
	for _, list := range [][]ocispec.Descriptor{{read.Config}, read.Layers, read.Manifests, read.Blobs} {
		for _, desc := range list {
			if desc.Digest != "" {
				named = append(named, desc.Digest)
			}
		}
	}
	return named, nil
}
