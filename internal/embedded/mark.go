package embedded

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"regexp"
	"time"

	"github.com/opencontainers/go-digest"
)

// referrersTag is a tag that stands for what refers to a digest, of the OCI
// distribution spec for registries without a referrers API, and of cosign.
var referrersTag = regexp.MustCompile(`^sha256-([0-9a-f]{64})(\.[a-z]+)?$`)

// A marking is what one collection knows of the registry: what is there, and
// what of it must stay.
type marking struct {
	layout layout
	since  time.Time // what was written or used since then stays

	live      map[digest.Digest]bool // with all that it names
	young     map[digest.Digest]bool // itself
	manifests map[digest.Digest]bool // that are there

	revisions, layers, blobs []linked
	tags                     []tagLink
	halves                   []string                   // directories of tags that name nothing
	history                  map[digest.Digest][]string // directories in which tags remember a manifest
	uploads                  []string
}

// A tagLink is a tag that says what refers to subject.
type tagLink struct {
	dir            string
	names, subject digest.Digest
}

func newMarking(l layout, since time.Time) *marking {
	return &marking{layout: l, since: since, live: map[digest.Digest]bool{}, young: map[digest.Digest]bool{},
		manifests: map[digest.Digest]bool{}, history: map[digest.Digest][]string{}}
}

// mark finds all that is there and marks what must stay: what a tag names, what
// named says, and what is young. It only reads, while others write: what they
// write is young.
func (m *marking) mark(ctx context.Context, named []digest.Digest) error {
	var roots []digest.Digest
	err := m.layout.eachRepository(func(dir string) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		tagged, err := m.readTags(dir)
		roots = append(roots, tagged...)
		return errors.Join(err, m.readLinks(dir))
	})
	if err == nil {
		err = m.layout.eachBlob(func(at linked) error {
			m.blobs = append(m.blobs, at)
			return context.Cause(ctx)
		})
	}
	if err != nil {
		return err
	}
	for _, at := range m.revisions {
		if m.layout.isYoung(at, m.since) {
			roots = append(roots, at.digest)
		}
	}
	for _, root := range append(roots, named...) {
		if err := m.keep(root); err != nil {
			return err
		}
	}
	return m.keepReferrers()
}

// readTags answers what the tags of the repository in dir name, and keeps those
// for later that only say what refers to something.
func (m *marking) readTags(dir string) (roots []digest.Digest, err error) {
	tags := filepath.Join(dir, "_manifests", "tags")
	names, err := list(tags)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		at := filepath.Join(tags, name)
		root, err := readLink(filepath.Join(at, "current"))
		if errors.Is(err, fs.ErrNotExist) { // removed meanwhile; or a kill has cut its removal or its first push
			m.halves = append(m.halves, at)
		} else if err != nil {
			return nil, err
		}
		if subject := referrersTag.FindStringSubmatch(name); err == nil && subject != nil && !youngFile(filepath.Join(at, "current", "link"), m.since) {
			m.tags = append(m.tags, tagLink{dir: at, names: root, subject: digest.NewDigestFromEncoded(digest.SHA256, subject[1])})
		} else if err == nil {
			roots = append(roots, root)
		}
		err = eachLink(filepath.Join(at, "index"), func(at linked) error {
			m.history[at.digest] = append(m.history[at.digest], at.dir)
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return roots, nil
}

// readLinks finds the manifests, layers and uploads of the repository in dir.
func (m *marking) readLinks(dir string) error {
	err := eachLink(filepath.Join(dir, "_manifests", "revisions"), func(at linked) error {
		m.revisions = append(m.revisions, at)
		m.manifests[at.digest] = true
		return nil
	})
	if err != nil {
		return err
	}
	err = eachLink(filepath.Join(dir, "_layers"), func(at linked) error {
		if at.digest.Algorithm() != digest.SHA256 {
			return m.keepOther(at)
		}
		m.layers = append(m.layers, at)
		if youngFile(filepath.Join(at.dir, "link"), m.since) {
			m.young[at.digest] = true
		}
		return nil
	})
	if err != nil {
		return err
	}
	ids, err := list(filepath.Join(dir, "_uploads"))
	for _, id := range ids {
		m.uploads = append(m.uploads, filepath.Join(dir, "_uploads", id))
	}
	return err
}

// keepOther keeps what was pushed under another algorithm than the registry's
// own, with the blob of that.
func (m *marking) keepOther(at linked) error {
	target, err := readLink(at.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	m.young[at.digest], m.young[target] = true, true
	return err
}

// keep marks d, and all that it names if it is a manifest.
func (m *marking) keep(d digest.Digest) error {
	if m.live[d] {
		return nil
	}
	m.live[d] = true
	if !m.manifests[d] {
		return nil
	}
	named, err := m.layout.references(d)
	for _, n := range named {
		if err == nil {
			err = m.keep(n)
		}
	}
	return err
}

// keepWritten marks a manifest that was written after its repository was looked
// at.
func (m *marking) keepWritten(d digest.Digest) error {
	m.manifests[d] = true
	delete(m.live, d) // an index may have named it before it was there
	return m.keep(d)
}

// keepReferrers marks what refers to something that stays, and what refers to
// that.
func (m *marking) keepReferrers() error {
	for grown := true; grown; {
		grown = false
		for _, t := range m.tags {
			if m.live[t.subject] && !m.live[t.names] {
				grown = true
				if err := m.keep(t.names); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// goes reports whether nothing keeps d, as far as was seen.
func (m *marking) goes(d digest.Digest) bool { return !m.live[d] && !m.young[d] }
