package index

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/tidwall/btree"

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

// A tag is a tagState and the records of its holder. It does not change: fold
// puts another in its place.
type tag struct {
	image, name   string
	records       atomic.Pointer[[]string] // lines of images.json, by platform
	read          []string                 // the same, of one that was read: there records points to
	holder, claim string
	touched       uint64 // last entry about it, 0: before the index was opened
	text          stored[tagState]
}

// A release is one as the last entry about it left it. It does not change
// either.
type release struct {
	id, image string
	root      digest.Digest
	seq       uint64 // that published it
	open      bool
	published bool
	pushed    bool
	commanded bool // by an operator
	text      stored[imgd.Release]
}

func newRelease(rel imgd.Release) *release {
	r := &release{id: rel.ID, image: rel.Image, root: rel.Root.Digest, seq: rel.Seq, pushed: rel.Pushed, commanded: rel.Command != ""}
	r.stand(rel.State)
	r.text.value.Store(&rel)
	return r
}

func (r *release) stand(state imgd.ReleaseState) {
	r.open, r.published = state == imgd.ReleaseAdmitted, state == imgd.ReleasePublished
}

// before orders releases by request and number.
func (r *release) before(other *release) bool {
	a, _, _ := strings.Cut(r.id, "-")
	b, _, _ := strings.Cut(other.id, "-")
	if a != b {
		return a < b
	}
	return number(r.id) < number(other.id)
}

// before orders tags by image and name.
func (t *tag) before(other *tag) bool {
	if t.image != other.image {
		return t.image < other.image
	}
	return t.name < other.name
}

// A state is the fold of the log up to seq. Folding changes it in place; but for
// tags.get it is not safe for concurrent use.
type state struct {
	id   string
	seq  uint64
	hash string // of the last entry; before the first one the ID, so that no other index's follows
	told uint64

	tags     *table
	sorted   *btree.BTreeG[*tag] // the same, by image and name
	releases *btree.BTreeG[*release]
	open     map[string]*release
	untold   []*release              // published after told, by seq
	digests  map[digest.Digest]*link // of roots and platforms
}

// A link is one of the releases that have a digest.
type link struct {
	release *release
	next    *link
}

func newState(id string) *state {
	return &state{
		id: id, hash: id, tags: newTable(0), open: map[string]*release{}, digests: map[digest.Digest]*link{},
		sorted:   btree.NewBTreeGOptions((*tag).before, btree.Options{NoLocks: true}),
		releases: btree.NewBTreeGOptions((*release).before, btree.Options{NoLocks: true}),
	}
}

// A frozen is what images.json says of one state. It does not change.
type frozen struct {
	id, hash  string
	seq, told uint64
	tags      *btree.BTreeG[*tag]
	releases  *btree.BTreeG[*release]
}

// freeze takes no longer for a large state.
func (s *state) freeze() frozen {
	return frozen{id: s.id, hash: s.hash, seq: s.seq, told: s.told, tags: s.sorted.Copy(), releases: s.releases.Copy()}
}

// follow folds e, which was read from a log and has this hash. What s has
// already is passed over.
func (s *state) follow(e entry, hash string) error {
	switch {
	case e.Seq < s.seq, e.Seq == s.seq && hash == s.hash:
		return nil
	case e.Seq == s.seq:
		return &damage{what: fmt.Sprintf("entry %d is not the one that was there before", e.Seq)}
	case e.Seq > s.seq+1:
		return &damage{what: fmt.Sprintf("entry %d comes after entry %d: what was between them is gone", e.Seq, s.seq)}
	case e.Prev != s.hash:
		return &damage{what: fmt.Sprintf("entry %d does not follow from entry %d", e.Seq, s.seq)}
	}
	s.fold(e, hash)
	return nil
}

// fold makes s the state after e, which has this hash. It decides nothing: all
// that e rests on is in e.
func (s *state) fold(e entry, hash string) {
	s.seq, s.hash = e.Seq, hash
	switch {
	case e.Admitted != nil:
		s.admit(e.Admitted.Release)
	case e.Published != nil:
		s.publish(*e.Published, e)
	case e.Forgone != nil:
		s.forgo(*e.Forgone)
	case e.Abandoned != nil:
		s.abandon(*e.Abandoned)
	case e.Told != nil:
		s.told = *e.Told
		s.untold = slices.DeleteFunc(s.untold, func(r *release) bool { return r.seq <= s.told })
	}
}

// release is the one with this ID, nil if there is none.
func (s *state) release(id string) *release {
	rel, _ := s.releases.Get(&release{id: id})
	return rel
}

// newest is the newest release of the request, nil if it has none.
func (s *state) newest(request string) (newest *release) {
	s.releases.Descend(&release{id: fmt.Sprintf("%s-%d", request, math.MaxInt)}, func(r *release) bool {
		if of, _, _ := strings.Cut(r.id, "-"); of == request {
			newest = r
		}
		return false
	})
	return newest
}

// tag is what is known of the tag, zero if it was never heard of.
func (s *state) tag(key tagKey) tagState {
	if t := s.tags.get(key); t != nil {
		return t.text.get()
	}
	return tagState{}
}

func (s *state) setTag(now tagState) {
	t := &tag{image: now.Image, name: now.Tag, holder: now.Holder, claim: now.Claim, touched: s.seq}
	t.text.value.Store(&now)
	if was := s.tags.get(tagKey{now.Image, now.Tag}); was != nil && was.holder == now.Holder {
		t.records.Store(was.records.Load())
	}
	s.addTag(t)
}

func (s *state) addTag(t *tag) {
	s.tags.set(t)
	s.sorted.Set(t)
}

// setRelease enters a release, or what has become of it, into all that is
// derived from releases.
func (s *state) setRelease(rel imgd.Release) { s.addRelease(newRelease(rel)) }

func (s *state) addRelease(r *release) {
	digests := digestsOf(r.text.get())
	if _, known := s.releases.Set(r); known {
		s.relink(r, digests)
	} else {
		s.link(r, digests)
	}
	delete(s.open, r.id)
	s.list(r)
}

// list enters r where the open and the untold ones stand.
func (s *state) list(r *release) {
	if r.open {
		s.open[r.id] = r
	}
	if r.published && r.seq > s.told {
		s.untold = append(s.untold, r)
	}
}

// digestsOf are those by which a release is found. An untag has none.
func digestsOf(rel imgd.Release) []digest.Digest {
	var all []digest.Digest
	if rel.Root.Digest != "" {
		all = append(all, rel.Root.Digest)
	}
	for _, p := range rel.Platforms {
		if !slices.Contains(all, p.Digest) {
			all = append(all, p.Digest)
		}
	}
	return all
}

func (s *state) link(r *release, digests []digest.Digest) {
	for _, d := range digests {
		s.digests[d] = &link{release: r, next: s.digests[d]}
	}
}

func (s *state) relink(r *release, digests []digest.Digest) {
	for _, d := range digests {
		for l := s.digests[d]; l != nil; l = l.next {
			if l.release.id == r.id {
				l.release = r
			}
		}
	}
}

// made reports whether the root is imgd's under the tag: one that it has made for
// the image, or has put there by a command. What another CI has pushed would else
// be imgd's to remove, and to write over.
func (s *state) made(image, tag string, root digest.Digest) bool {
	for l := s.digests[root]; l != nil; l = l.next {
		r := l.release
		if r.image != image || r.root != root || r.pushed {
			continue
		}
		if !r.commanded || slices.ContainsFunc(r.text.get().Tags, func(t imgd.ReleaseTag) bool { return t.Name == tag }) {
			return true
		}
	}
	return false
}

func (s *state) admit(rel imgd.Release) {
	s.setRelease(rel)
	for _, t := range rel.Taken() {
		now := s.tag(tagKey{rel.Image, t.Name})
		if now.Tag == "" {
			now = tagState{Image: rel.Image, Tag: t.Name, Kind: t.Kind}
			if t.Kind == version.KindBranch {
				now.Ref = cmp.Or(t.Ref, rel.Request.Ref)
			}
		}
		s.lapse(now.Claim, t.Name, rel.ID)
		now.Claim = rel.ID
		s.setTag(now)
	}
}

// lapse takes the claim on tag away from the release loser.
func (s *state) lapse(loser, tag, winner string) {
	if rel := s.release(loser); rel != nil && loser != winner {
		s.setRelease(without(rel.text.get(), tag, "lost to release "+winner))
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
	rel := s.release(p.Release).text.get()
	rel.State, rel.PublishedAt, rel.Seq = imgd.ReleasePublished, e.At, e.Seq
	rel.Tags = slices.Clone(rel.Tags)
	for _, pt := range p.Tags {
		for i := range rel.Tags {
			if rel.Tags[i].Name == pt.Tag {
				rel.Tags[i].Generation, rel.Tags[i].Previous = pt.Generation, pt.Previous
			}
		}
		now := s.tag(tagKey{rel.Image, pt.Tag})
		now.Holder, now.Claim, now.Generation, now.Mark = rel.ID, "", pt.Generation, pt.Mark
		s.setTag(now)
	}
	s.setRelease(rel)
}

// forgo leaves the tag to its holder, with generation and mark as they are.
func (s *state) forgo(f forgone) {
	rel := without(s.release(f.Release).text.get(), f.Tag, f.Reason)
	s.setRelease(rel)
	s.unclaim(rel, f.Tag)
}

func (s *state) abandon(a abandoned) {
	rel := s.release(a.Release).text.get()
	rel.State, rel.Why = imgd.ReleaseAbandoned, a.Why
	s.setRelease(rel)
	for _, t := range rel.Tags {
		s.unclaim(rel, t.Name)
	}
}

// unclaim ends rel's claim on the tag, if it has one.
func (s *state) unclaim(rel imgd.Release, name string) {
	key := tagKey{rel.Image, name}
	now := s.tag(key)
	if now.Claim == "" || now.Claim != rel.ID {
		return
	}
	if now.Claim = ""; now.Generation == 0 { // never held: the name is free again
		s.sorted.Delete(s.tags.get(key))
		s.tags.delete(key)
		return
	}
	s.setTag(now)
}

// lines are the records of t, whose holder is found in releases.
func (t *tag) lines(releases *btree.BTreeG[*release]) []string {
	if lines := t.records.Load(); lines != nil {
		return *lines
	}
	var lines []string
	if holder, ok := releases.Get(&release{id: t.holder}); ok {
		rel := holder.text.get()
		for _, rt := range rel.Taken() {
			if rt.Name == t.name {
				for _, rec := range rel.RecordsOf(rt) {
					lines = append(lines, marshal(rec))
				}
			}
		}
	}
	t.records.Store(&lines)
	return lines
}
