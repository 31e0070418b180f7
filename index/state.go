package index

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/version"
)

// A tagKey names one tag of one image.
type tagKey struct{ image, tag string }

// A mark is the newest version or commit a moving tag ever named, and when
// that was asked for. It rises at publish and survives rollback and removal.
type mark struct {
	Version string    `json:"version,omitempty"`
	Commit  string    `json:"commit,omitempty"`
	AskedAt time.Time `json:"askedAt,omitzero"`
}

// A tagState is all the index knows of one tag. A tag keeps the kind, and a
// branch tag the ref, that took it first.
type tagState struct {
	Image      string       `json:"image"`
	Tag        string       `json:"tag"`
	Kind       version.Kind `json:"kind"`
	Ref        string       `json:"ref,omitempty"`        // of a branch tag
	Generation uint64       `json:"generation,omitempty"` // 0: never held
	Mark       mark         `json:"mark,omitzero"`
	Holder     string       `json:"holder,omitempty"` // published release
	Claim      string       `json:"claim,omitempty"`  // admitted release
}

// owner is the release that has the tag: a claim counts like a hold.
func (t tagState) owner() string { return cmp.Or(t.Claim, t.Holder) }

// A state is the fold of the log up to seq. It is immutable once it is stored:
// fold answers a new one.
type state struct {
	id       string
	seq      uint64
	hash     string // of the last entry
	told     uint64
	releases map[string]imgd.Release
	tags     map[tagKey]tagState
	newest   map[string]string // request -> its newest release
	touched  map[string]uint64 // image -> last entry about it since the index was opened
	made     map[madeKey]bool  // by imgd, not by another CI

	records func() []imgd.Record // sorted bytewise by image, tag, platform; made once
}

// A madeKey is a root that imgd has made: under any tag of the image, or under
// the one where a command has put it.
type madeKey struct {
	tagKey
	root digest.Digest
}

func newState(id string) *state {
	s := &state{
		id: id, releases: map[string]imgd.Release{}, tags: map[tagKey]tagState{}, newest: map[string]string{},
		touched: map[string]uint64{}, made: map[madeKey]bool{},
	}
	s.records = sync.OnceValue(s.collect)
	return s
}

func (s *state) clone() *state {
	next := &state{
		id: s.id, seq: s.seq, hash: s.hash, told: s.told,
		releases: maps.Clone(s.releases), tags: maps.Clone(s.tags), newest: maps.Clone(s.newest),
		touched: maps.Clone(s.touched), made: maps.Clone(s.made),
	}
	next.records = sync.OnceValue(next.collect)
	return next
}

// fold is the state after e. It decides nothing: all that e rests on is in e.
func (s *state) fold(e entry) *state {
	next := s.clone()
	next.seq, next.hash = e.Seq, e.hash()
	switch {
	case e.Admitted != nil:
		next.admit(e.Admitted.Release, e.Seq)
	case e.Published != nil:
		next.publish(*e.Published, e)
	case e.Forgone != nil:
		next.forgo(*e.Forgone, e.Seq)
	case e.Abandoned != nil:
		next.abandon(*e.Abandoned, e.Seq)
	case e.Told != nil:
		next.told = *e.Told
	}
	return next
}

func (s *state) admit(rel imgd.Release, seq uint64) {
	s.add(rel)
	s.touched[rel.Image] = seq
	for _, t := range rel.Taken() {
		key := tagKey{rel.Image, t.Name}
		tag, known := s.tags[key]
		if !known {
			tag = tagState{Image: rel.Image, Tag: t.Name, Kind: t.Kind}
			if t.Kind == version.KindBranch {
				tag.Ref = rel.Request.Ref
			}
		}
		s.lapse(tag.Claim, t.Name, rel.ID)
		tag.Claim = rel.ID
		s.tags[key] = tag
	}
}

// add enters a release into the maps that are derived from releases.
func (s *state) add(rel imgd.Release) {
	s.releases[rel.ID] = rel
	switch {
	case rel.Command != "":
		for _, t := range rel.Tags {
			s.made[madeKey{tagKey{rel.Image, t.Name}, rel.Root.Digest}] = true
		}
	case !rel.Pushed: // else it would be imgd's to remove, and to write over
		s.made[madeKey{tagKey{rel.Image, ""}, rel.Root.Digest}] = true
	}
	if last, ok := s.releases[s.newest[rel.Request.ID]]; !ok || number(last.ID) <= number(rel.ID) {
		s.newest[rel.Request.ID] = rel.ID
	}
}

// lapse takes the claim on tag away from the release loser.
func (s *state) lapse(loser, tag, winner string) {
	if rel, ok := s.releases[loser]; ok && loser != winner {
		s.releases[loser] = without(rel, tag, "lost to release "+winner)
	}
}

// without is rel with the reason why it does not take tag any more.
func without(rel imgd.Release, tag, reason string) imgd.Release {
	rel.Tags = slices.Clone(rel.Tags)
	for i := range rel.Tags {
		if rel.Tags[i].Name == tag && rel.Tags[i].Reason == "" {
			rel.Tags[i].Reason = reason
		}
	}
	return rel
}

func (s *state) publish(p published, e entry) {
	rel := s.releases[p.Release]
	rel.State, rel.PublishedAt, rel.Seq = imgd.ReleasePublished, e.At, e.Seq
	rel.Tags = slices.Clone(rel.Tags)
	for _, pt := range p.Tags {
		for i := range rel.Tags {
			if rel.Tags[i].Name == pt.Tag {
				rel.Tags[i].Generation, rel.Tags[i].Previous = pt.Generation, pt.Previous
			}
		}
		key := tagKey{rel.Image, pt.Tag}
		tag := s.tags[key]
		tag.Holder, tag.Claim, tag.Generation, tag.Mark = rel.ID, "", pt.Generation, pt.Mark
		s.tags[key] = tag
	}
	s.releases[rel.ID] = rel
	s.touched[rel.Image] = e.Seq
}

// forgo leaves the tag to its holder, with generation and mark as they are.
func (s *state) forgo(f forgone, seq uint64) {
	rel := without(s.releases[f.Release], f.Tag, f.Reason)
	s.releases[rel.ID] = rel
	s.touched[rel.Image] = seq
	s.unclaim(rel, f.Tag)
}

func (s *state) abandon(a abandoned, seq uint64) {
	rel := s.releases[a.Release]
	rel.State, rel.Why = imgd.ReleaseAbandoned, a.Why
	s.releases[rel.ID] = rel
	s.touched[rel.Image] = seq
	for _, t := range rel.Tags {
		s.unclaim(rel, t.Name)
	}
}

// unclaim ends rel's claim on the tag, if it has one.
func (s *state) unclaim(rel imgd.Release, name string) {
	key := tagKey{rel.Image, name}
	tag, ok := s.tags[key]
	if !ok || tag.Claim != rel.ID {
		return
	}
	if tag.Claim = ""; tag.Generation == 0 {
		delete(s.tags, key) // never held: the name is free again
		return
	}
	s.tags[key] = tag
}

// collect derives the records from the tags' holders.
func (s *state) collect() []imgd.Record {
	records := []imgd.Record{}
	for _, tag := range s.tags {
		holder := s.releases[tag.Holder]
		for _, t := range holder.Taken() {
			if t.Name == tag.Tag {
				records = append(records, holder.RecordsOf(t)...)
			}
		}
	}
	slices.SortFunc(records, func(a, b imgd.Record) int {
		return cmp.Or(cmp.Compare(a.Image, b.Image), cmp.Compare(a.Tag, b.Tag), cmp.Compare(a.Platform, b.Platform))
	})
	return records
}
