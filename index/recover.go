package index

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/imgd/imgd"
)

// recoverGap is how far the sequence of a recovered index is beyond the last
// event's. The index that the events were written from may have had entries after
// that one, which somebody was answered with: none of them is given twice.
const recoverGap = 1000

// Events are what an index has told of its releases, by which it is recovered.
type Events struct {
	ID string // of the index that told them; empty: there are none
	// Read hands over each release that the index with that ID has announced, in
	// the order of the log.
	Read func(each func(imgd.Release) error) error
}

// A Recovery is what has come of recovering an index, or would.
type Recovery struct {
	ID       string
	Made     bool           // there was no index, or an empty one
	Read     int            // releases that were announced
	Releases []imgd.Release // that the index lacked, in the order of the log
	Open     []imgd.Release // that stand admitted: imgd drives them on
	Seq      uint64         // of the index now
}

// RecoverFrom gives the index in dir, which no other process may have open, every
// release that it has announced and does not know: it is an old copy of itself, or
// was lost. Each is entered as it was, with its sequence, its time, its tags'
// generations and marks, and is not told again. imgd.ErrConflict if the index has
// gone another way since; imgd.ErrNotFound if there is nothing to make one of. The
// commit point is the rename of images.json: after any error before it nothing
// has changed. Safe to repeat. What was never announced cannot come back: claims
// of releases that were open, and what became of those that were abandoned.
func RecoverFrom(dir string, told Events, dryRun bool) (done Recovery, err error) {
	err = rewrite(dir, dryRun, func(was *state, here string) (*state, error) {
		s, err := done.begin(was, here, told.ID)
		if err != nil {
			return nil, err
		}
		untold := map[string]bool{}
		for _, r := range s.untold {
			untold[r.id] = true
		}
		err = told.Read(func(rel imgd.Release) error {
			delete(untold, rel.ID)
			return done.take(s, rel)
		})
		if err != nil {
			return nil, err
		}
		return done.end(s, untold)
	})
	if err != nil {
		return done, fmt.Errorf("recover index: %w", err)
	}
	return done, nil
}

// begin is the index that is to be recovered: the one that is there, or a new one
// with the events' ID.
func (d *Recovery) begin(was *state, here, id string) (*state, error) {
	switch {
	case id == "" && was == nil:
		return nil, fmt.Errorf("there is no index, and no event that tells of one: %w", imgd.ErrNotFound)
	case was == nil && here != "" && here != id:
		return nil, fmt.Errorf("index %s was here, and the events are those of index %s; to have that one here, remove the file lock: %w", here, id, imgd.ErrConflict)
	case was != nil && (id == "" || was.id == id):
		d.ID = was.id
		return was, nil
	case was != nil && was.seq > 0:
		return nil, fmt.Errorf("index %s is there, at entry %d, and the events are those of index %s; to have that one, move this one away: %w", was.id, was.seq, id, imgd.ErrConflict)
	}
	d.ID, d.Made = id, true
	return newState(id), nil
}

// take looks at one release that was announced, and enters it if it is not known.
func (d *Recovery) take(s *state, rel imgd.Release) error {
	d.Read++
	known, there := valueOf(s.release(rel.ID))
	switch {
	case rel.State != imgd.ReleasePublished || rel.Seq == 0:
		return fmt.Errorf("the event of release %s does not say how it was published: %w", rel.ID, imgd.ErrInvalid)
	case there && known.State == imgd.ReleasePublished && known.Seq == rel.Seq:
		return nil
	case there && known.State != imgd.ReleaseAdmitted || rel.Seq <= s.seq:
		return fmt.Errorf("release %s was published in entry %d, and the index has another entry there: it was written to after it had been put back; put back the copy as it was, and recover before anything else: %w",
			rel.ID, rel.Seq, imgd.ErrConflict)
	}
	s.recover(rel)
	d.Releases = append(d.Releases, rel)
	return nil
}

// end completes the index, if anything was entered. What is untold and has no
// event either is left to the relay.
func (d *Recovery) end(s *state, untold map[string]bool) (*state, error) {
	d.Open = nil
	for _, r := range s.open {
		d.Open = append(d.Open, r.text.get())
	}
	slices.SortFunc(d.Open, func(a, b imgd.Release) int { return cmp.Compare(a.ID, b.ID) })
	d.Seq = s.seq
	if len(d.Releases) == 0 {
		if d.Made {
			return s, nil
		}
		return nil, nil
	}
	told := s.seq
	for _, r := range s.untold {
		if untold[r.id] {
			told = min(told, r.seq-1)
		}
	}
	s.fold(entry{Seq: s.seq, Told: &told}, s.hash)
	s.seq += recoverGap
	d.Seq = s.seq
	return s, nil
}

// recover makes s the state after rel was published as it says, whatever was of
// it before: the claims that it made lapse do, and it holds its tags.
func (s *state) recover(rel imgd.Release) {
	if was, open := valueOf(s.release(rel.ID)); open {
		for _, t := range was.Tags {
			s.unclaim(was, t.Name) // it may have lost some since
		}
	}
	for _, t := range rel.Taken() {
		s.forget(tagKey{rel.Image, t.Name}, rel.ID)
	}
	claiming := rel
	claiming.State, claiming.Seq = imgd.ReleaseAdmitted, 0
	s.admit(claiming)
	p := published{Release: rel.ID}
	for _, t := range rel.Taken() {
		tag := s.tag(tagKey{rel.Image, t.Name})
		if !t.Kind.Immutable() {
			tag.Mark = stamped(tag, rel)
		}
		p.Tags = append(p.Tags, publishedTag{Tag: t.Name, Generation: t.Generation, Previous: t.Previous, Mark: tag.Mark})
	}
	// No entry is left of which the next could follow: its hash is made of the one
	// before and of what was recovered.
	s.fold(entry{Seq: rel.Seq, At: rel.PublishedAt, Published: &p}, hashOf([]byte(s.hash+"\n"+marshal(rel))))
}

// forget makes a tag that was never held unknown, for a release that is to take
// it: who claims it may have been abandoned since, and its kind and its branch
// were his.
func (s *state) forget(key tagKey, winner string) {
	t := s.tags.get(key)
	if t == nil || t.text.get().Generation > 0 {
		return
	}
	s.lapse(t.claim, key.tag, winner)
	s.sorted.Delete(t)
	s.tags.delete(key)
}

// Has reports whether the release is in the index, published by entry seq.
func (x *Index) Has(release string, seq uint64) bool {
	x.view.RLock()
	defer x.view.RUnlock()
	r := x.state.release(release)
	return r != nil && r.published && r.seq == seq
}
