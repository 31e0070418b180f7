package index

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/tidwall/gjson"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/version"
)

// importer stands where a release says who asked for it.
const importer = "import"

// An Import says what is to be imported, and how.
type Import struct {
	Name     string // of the text, for errors
	Text     []byte // an images.json, or the plain form: an array of elements, or one a line
	Moving   bool   // the tags of the plain form may move: they are of kind other, whatever their names
	Registry string // host[:port] that has the images of the plain form; "": nobody knows
	Announce bool   // what is imported is told as published; else only what was before
	DryRun   bool   // nothing is written
	Now      time.Time
}

// An Imported is what has come of an import, or would.
type Imported struct {
	ID       string // of the index, empty if one is yet to be made
	Whole    bool   // an images.json, else the plain form
	Changed  bool
	Tags     []ImportedTag // of the plain form, in its order
	Releases int           // that are new
}

// An ImportedTag is what has come of one element of the plain form.
type ImportedTag struct {
	Image, Tag string
	Digest     digest.Digest
	Outcome    ImportOutcome
	Why        string // of a conflict
}

// ImportOutcome is what an element of the plain form is to the index.
type ImportOutcome string

// The outcomes: one conflict, and nothing is written.
const (
	ImportNew      ImportOutcome = "new"
	ImportSame     ImportOutcome = "same"     // the tag names it already
	ImportConflict ImportOutcome = "conflict" // the tag names something else, or was removed
)

// Count is how many elements have that outcome.
func (d Imported) Count(outcome ImportOutcome) (n int) {
	for _, t := range d.Tags {
		if t.Outcome == outcome {
			n++
		}
	}
	return n
}

// ImportInto brings a whole index, or a past in the plain form, into the index in
// dir, which no other process may have open. The whole one becomes the index that
// is there, if that is empty; what is of the plain form becomes published
// releases. imgd.ErrConflict if the index says something else, with the outcomes;
// nothing is written then, nor after any other error before the commit point,
// which is the rename of images.json. Safe to repeat at any time: what is there
// already stays as it is.
func ImportInto(dir string, in Import) (done Imported, err error) {
	in.Text = bytes.TrimPrefix(in.Text, []byte("\xef\xbb\xbf")) // as some systems begin a text
	whole := isWhole(in.Text)
	err = rewrite(dir, in.DryRun, func(was *state, here string) (next *state, err error) {
		if whole {
			done, next, err = in.whole(was, here)
		} else {
			done, next, err = in.plain(was, here)
		}
		done.Changed = next != nil
		return next, err
	})
	if err != nil {
		return done, fmt.Errorf("import %s: %w", in.Name, err)
	}
	return done, nil
}

// isWhole reports whether the text is an images.json, be it a damaged one.
func isWhole(text []byte) bool {
	text = bytes.TrimLeft(text, " \t\r\n")
	return bytes.HasPrefix(text, []byte("{")) && gjson.GetBytes(text, "schema").Exists()
}

// whole is the import of an images.json.
func (in Import) whole(was *state, here string) (Imported, *state, error) {
	s, err := decode(in.Name, slices.Clone(in.Text))
	if err == nil {
		err = s.consistent(in.Name)
	}
	if err != nil {
		return Imported{}, nil, err
	}
	done := Imported{ID: s.id, Whole: true, Releases: s.releases.Len()}
	switch {
	case was != nil && was.id == s.id && was.seq == s.seq && was.hash == s.hash:
		return done, nil, nil
	case was != nil && was.seq > 0:
		return done, nil, fmt.Errorf("index %s is there, at entry %d: a whole index takes the place of an empty one only; move that one away: %w", was.id, was.seq, imgd.ErrConflict)
	case was == nil && here != "" && here != s.id:
		return done, nil, fmt.Errorf("index %s was here, and this is %s: remove the file lock if it is to take its place: %w", here, s.id, imgd.ErrConflict)
	}
	return done, s, nil
}

// An imported is an element of the plain form.
type imported struct {
	number  int
	release imgd.Release // with its one tag
}

func (i imported) key() tagKey { return tagKey{i.release.Image, i.release.Tags[0].Name} }

// plain is the import of the plain form.
func (in Import) plain(s *state, here string) (done Imported, next *state, err error) {
	now := in.Now.UTC().Truncate(time.Millisecond)
	all, err := readPlain(in.Text, in.Registry, now)
	if err != nil {
		return done, nil, err
	}
	if s != nil {
		done.ID = s.id
	} else if s, err = beginPlain(here); err != nil {
		return done, nil, err
	}
	fresh, conflicts := done.compare(s, all)
	switch untold := len(s.untold); {
	case conflicts != nil:
		return done, nil, conflicts
	case len(fresh) == 0:
		return done, nil, nil
	case untold > 0 && !in.Announce:
		return done, nil, fmt.Errorf("%d releases are published and not announced yet, and what is imported would silence them: let imgd serve announce them first, or have what is imported announced too (--announce)", untold)
	}
	rels := in.releases(fresh)
	for _, rel := range rels {
		s.enterImported(rel, now)
	}
	if !in.Announce {
		told := s.seq
		s.enter(entry{Writer: importer, At: now, Told: &told})
	}
	if done.Releases = len(rels); !in.DryRun { // else a new one's is yet to be drawn
		done.ID = s.id
	}
	return done, s, nil
}

// beginPlain is a new index for a past in the plain form.
func beginPlain(here string) (*state, error) {
	if here != "" {
		return nil, fmt.Errorf("index %s was here and is gone: restore it from a backup or by imgd index recover, or remove the file lock to begin another", here)
	}
	id, err := newID(rand.Reader)
	if err != nil {
		return nil, err
	}
	return newState(id), nil
}

// compare notes the outcome of each element, and answers those that are new. The
// error names every conflict.
func (d *Imported) compare(s *state, all []imported) (fresh []imported, conflicts error) {
	seen := map[tagKey]imported{}
	var wrong []error
	for _, im := range all {
		t := ImportedTag{Image: im.release.Image, Tag: im.key().tag, Digest: im.release.Root.Digest}
		before, twice := seen[im.key()]
		switch {
		case !twice:
			t.Outcome, t.Why = s.outcome(im)
			seen[im.key()] = im
		case before.release.Root.Digest == t.Digest:
			t.Outcome = ImportSame
		default:
			t.Outcome, t.Why = ImportConflict, fmt.Sprintf("element %d says that it names %s", before.number, before.release.Root.Digest)
		}
		switch t.Outcome {
		case ImportNew:
			fresh = append(fresh, im)
		case ImportConflict:
			wrong = append(wrong, fmt.Errorf("element %d: %s:%s is to name %s: %s: %w", im.number, t.Image, t.Tag, t.Digest, t.Why, imgd.ErrConflict))
		}
		d.Tags = append(d.Tags, t)
	}
	if n := len(wrong); n > maxTold {
		wrong = append(wrong[:maxTold], fmt.Errorf("and %d more", n-maxTold))
	}
	return fresh, errors.Join(wrong...)
}

// outcome compares an element with what s says of its tag. Nothing moves, as
// what is imported is the past: what came after it may be in s.
func (s *state) outcome(im imported) (ImportOutcome, string) {
	tag := s.tag(im.key())
	owner, known := valueOf(s.release(tag.Holder))
	switch {
	case tag.Claim != "":
		return ImportConflict, fmt.Sprintf("release %s is about to take it: let imgd serve end that first", tag.Claim)
	case !known:
		return ImportNew, ""
	case owner.Root.Digest == "":
		return ImportConflict, had(owner)
	case owner.Has(im.release.Root.Digest):
		return ImportSame, ""
	}
	return ImportConflict, fmt.Sprintf("it names %s, %s", owner.Root.Digest, had(owner))
}

// releases are what the elements become, in the order of their times. Those that
// differ by their tag only are one release. The version tags of an image say
// also which version its other tags name, so that no older one takes those.
func (in Import) releases(all []imported) []imgd.Release {
	versions := map[tagKey]string{} // by image and digest
	for _, im := range all {
		key := tagKey{im.release.Image, im.release.Root.Digest.String()}
		if v := im.release.Request.Version; v != "" && (versions[key] == "" || version.Compare(v, versions[key]) > 0) {
			versions[key] = v
		}
	}
	at := map[string]int{}
	var rels []imgd.Release
	for _, im := range all {
		rel := im.release
		rel.Request.Version = versions[tagKey{rel.Image, rel.Root.Digest.String()}]
		if rel.Tags[0].Kind = version.KindOf(rel.Tags[0].Name); in.Moving {
			rel.Tags[0].Kind = version.KindOther
		}
		tags := rel.Tags
		rel.Tags = nil
		key := marshal(rel)
		i, known := at[key]
		if !known {
			i = len(rels)
			at[key] = i
			rels = append(rels, rel)
		}
		rels[i].Tags = append(rels[i].Tags, tags...)
	}
	slices.SortStableFunc(rels, func(a, b imgd.Release) int { return a.Request.AskedAt.Compare(b.Request.AskedAt) })
	return rels
}

// enterImported publishes the release, none of whose tags anybody has, as it was
// when it was asked for. Its request's ID is drawn from what it says, so that the
// same file makes the same releases.
func (s *state) enterImported(rel imgd.Release, now time.Time) {
	sum := sha256.Sum256([]byte(marshal(rel)))
	rel.Request.ID = hex.EncodeToString(sum[:16])
	n := 1
	if newest := s.newest(rel.Request.ID); newest != nil {
		n = number(newest.id) + 1
	}
	rel.ID, rel.State, rel.AdmittedAt = rel.Request.ID+"-"+strconv.Itoa(n), imgd.ReleaseAdmitted, now
	rel = asWritten(rel)
	s.enter(entry{Writer: importer, At: now, Admitted: &admitted{Release: rel}})
	s.enter(entry{Writer: importer, At: rel.Request.AskedAt, Published: &published{Release: rel.ID, Tags: publication(s, rel)}})
}
