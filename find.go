package imgd

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/imgd/imgd/version"
)

// An Order is how found records are sorted.
type Order string

// The orders. What is equal by the others is sorted by name.
const (
	ByName      Order = "name"      // image, tag and platform, bytewise; the default
	ByPublished Order = "published" // the last published first
	ByVersion   Order = "version"   // the highest first, and those without one last
)

// Orders are all of them.
func Orders() []Order { return []Order{ByName, ByPublished, ByVersion} }

// A Find chooses records. What is zero may be anything.
type Find struct {
	Image     string
	Project   string            // whose request made it
	Digest    digest.Digest     // that of the record, or its root
	Commit    string            // 40 hex digits, or the first of them
	Labels    map[string]string // all of them
	Version   version.Range
	Since     time.Time // published then or later
	Until     time.Time // published before
	ExpiresBy time.Time // expires, and then or before

	Sort  Order
	After *Record // only those behind it, whether it is there still or not
	Limit int     // how many at most; 0: all
}

// ParseLabels reads labels, each as NAME=VALUE. ErrInvalid if one is not, or if two
// give a name other values.
func ParseLabels(said []string) (map[string]string, error) {
	if len(said) == 0 {
		return nil, nil //nolint:nilnil // no labels are an answer
	}
	labels := map[string]string{}
	for _, label := range said {
		name, value, ok := strings.Cut(label, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("label %.*q is not NAME=VALUE: %w", shownInput, label, ErrInvalid)
		}
		if was, twice := labels[name]; twice && was != value {
			return nil, fmt.Errorf("label %.*q cannot be both %.*q and %.*q: %w", shownInput, name, shownInput, was, shownInput, value, ErrInvalid)
		}
		labels[name] = value
	}
	return labels, nil
}

// ByName reports whether what is found is in the order of the index itself.
func (f Find) ByName() bool { return f.Sort == ByName || f.Sort == "" }

// minCommit is how many digits of a commit tell it from most others.
const minCommit = 7

// Check says what can never be found: ErrInvalid.
func (f Find) Check() error {
	switch {
	case f.Digest != "" && f.Digest.Validate() != nil:
		return fmt.Errorf("digest %.*q: want sha256: and 64 hex digits: %w", shownInput, f.Digest, ErrInvalid)
	case f.Commit != "" && (len(f.Commit) < minCommit || len(f.Commit) > 40 || strings.Trim(f.Commit, "0123456789abcdef") != ""):
		return fmt.Errorf("commit %.*q: want %d to 40 hex digits: %w", shownInput, f.Commit, minCommit, ErrInvalid)
	}
	for _, order := range Orders() {
		if f.Sort == order || f.Sort == "" {
			return nil
		}
	}
	return fmt.Errorf("sort %.*q: want one of %q: %w", shownInput, f.Sort, Orders(), ErrInvalid)
}

// Has reports whether the record, of a release of that project, is among what f
// chooses. It does not look at After.
func (f Find) Has(r Record, project string) bool {
	_, commit, _ := cutLast(r.SourceRef, "@")
	switch {
	case f.Image != "" && r.Image != f.Image,
		f.Project != "" && project != f.Project,
		f.Digest != "" && r.Digest != f.Digest && r.Root() != f.Digest,
		!strings.HasPrefix(commit, f.Commit),
		!f.Version.Has(r.Version),
		r.PublishedAt.Before(f.Since),
		!f.Until.IsZero() && !r.PublishedAt.Before(f.Until),
		!f.ExpiresBy.IsZero() && (r.ExpiresAt.IsZero() || r.ExpiresAt.After(f.ExpiresBy)):
		return false
	}
	for name, value := range f.Labels {
		if has, ok := r.Labels[name]; !ok || has != value {
			return false
		}
	}
	return true
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// Compare orders records; no two of one index are equal.
func (o Order) Compare(a, b Record) int {
	order := 0
	switch o {
	case ByPublished:
		order = b.PublishedAt.Compare(a.PublishedAt)
	case ByVersion:
		order = version.Compare(b.Version, a.Version)
	}
	return cmp.Or(order, cmp.Compare(a.Image, b.Image), cmp.Compare(a.Tag, b.Tag), cmp.Compare(a.Platform, b.Platform))
}
