package index_test

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/version"
)

// A model is the index as the design tells it, in the plainest form: no log, no
// file, no lock, and one decision after the other. TestMachine holds the real one
// against it. Of reasons it knows only whether there is one.
type model struct {
	world     *world
	seq, told uint64
	releases  map[string]*imgd.Release
	admitted  []string          // release IDs in the order of admission
	published []string          // and of publication
	newest    map[string]string // request -> its newest release
	tags      map[string]*modelTag
}

type modelTag struct {
	kind          version.Kind
	ref           string // of a branch tag
	generation    uint64
	mark          stamp
	holder, claim string
}

// A stamp is what a moving tag named, and when that was asked for.
type stamp struct {
	version, commit string
	at              time.Time
}

func stampOf(rel imgd.Release) stamp {
	return stamp{rel.Request.Version, rel.Request.Commit, rel.Request.AskedAt}
}

// A verdict is the end of an ask to admit: an error that names things, an earlier
// release of the request, or the release as it is to be admitted.
type verdict struct {
	err    error
	names  []string
	answer string
	rel    imgd.Release
}

// left is the reason of every tag that is not taken.
const left = "left"

func newModel(w *world) *model {
	return &model{world: w, releases: map[string]*imgd.Release{}, newest: map[string]string{}, tags: map[string]*modelTag{}}
}

// tag is what is known of the tag, nothing if it was never taken.
func (m *model) tag(name string) modelTag {
	if h := m.tags[name]; h != nil {
		return *h
	}
	return modelTag{}
}

// owners are who claims the tag and who holds it: a claim counts like a hold.
func (m *model) owners(name string) []imgd.Release {
	var owners []imgd.Release
	for _, id := range []string{m.tag(name).claim, m.tag(name).holder} {
		if id != "" {
			owners = append(owners, *m.releases[id])
		}
	}
	return owners
}

func (m *model) lost(rel imgd.Release) bool {
	_, there := m.world.roots[rel.Root.Digest]
	return !there
}

// made reports whether imgd built the root, for whatever became of it.
func (m *model) made(root digest.Digest) bool {
	for _, rel := range m.releases {
		if rel.Root.Digest == root && !rel.Pushed {
			return true
		}
	}
	return false
}

func (m *model) contains(head, commit string) bool {
	in, _ := m.world.Contains(context.Background(), "", head, commit)
	return in
}

// judge is rules 1 to 6.
func (m *model) judge(rel imgd.Release, known string) verdict {
	newest := m.newest[rel.Request.ID]
	if newest != "" && newest != known && m.releases[newest].State != imgd.ReleaseAbandoned {
		return verdict{answer: newest}
	}
	rel.Tags = slices.Clone(rel.Tags)
	for i, t := range rel.Tags {
		taken, end := m.judgeTag(&rel, t)
		if end.err != nil {
			return end
		}
		if !taken {
			rel.Tags[i].Reason = left
		}
	}
	if len(rel.Taken()) == 0 {
		return m.nothing(rel)
	}
	rel.ID = fmt.Sprintf("%s-%d", rel.Request.ID, m.count(rel.Request.ID)+1)
	rel.State = imgd.ReleaseAdmitted
	for _, t := range rel.Taken() {
		if claim := m.tag(t.Name).claim; claim != "" && !slices.Contains(rel.Lapsed, claim) {
			rel.Lapsed = append(rel.Lapsed, claim)
		}
	}
	return verdict{rel: rel}
}

// count is how many releases the request has had.
func (m *model) count(request string) (n int) {
	for _, rel := range m.releases {
		if rel.Request.ID == request {
			n++
		}
	}
	return n
}

// nothing is rule 6.
func (m *model) nothing(rel imgd.Release) verdict {
	for _, t := range rel.Tags {
		if owners := m.owners(t.Name); len(owners) == 0 || owners[0].Root.Digest != rel.Root.Digest {
			return verdict{err: imgd.ErrSuperseded}
		}
	}
	return verdict{err: imgd.ErrUnchanged}
}

// judgeTag says whether the tag is taken, or that all ends with an error. It may
// give rel the root that its version tag has.
func (m *model) judgeTag(rel *imgd.Release, t imgd.ReleaseTag) (taken bool, end verdict) {
	has := m.tag(t.Name)
	otherKind := has.kind != "" && has.kind != t.Kind
	switch {
	case otherKind && (rel.Pushed || t.Kind == version.KindVersion):
		return false, m.conflict(m.owners(t.Name)...)
	case otherKind:
		return false, verdict{}
	case rel.Pushed:
		return m.judgePushed(*rel, t)
	case t.Kind == version.KindVersion:
		return true, m.judgeVersion(rel, t.Name)
	case t.Kind == version.KindCommit:
		stays := slices.ContainsFunc(m.owners(t.Name), func(o imgd.Release) bool { return !m.lost(o) })
		return rel.Request.Force || !stays, verdict{}
	case has.kind == version.KindBranch && has.ref != rel.Request.Ref:
		return false, verdict{}
	}
	return m.moves(*rel, t), verdict{}
}

// conflict names the first of the owners.
func (m *model) conflict(owners ...imgd.Release) verdict {
	v := verdict{err: imgd.ErrConflict}
	if len(owners) > 0 {
		v.names = []string{owners[0].ID}
	}
	return v
}

// judgeVersion is rule 3. Both who claims it and who holds it have a say.
func (m *model) judgeVersion(rel *imgd.Release, name string) verdict {
	owners := m.owners(name)
	for _, o := range owners {
		switch {
		case imgd.SameDigests(o.Platforms, rel.Platforms):
			if !m.lost(o) {
				rel.Root = o.Root
			}
		case rel.Request.Force:
		case o.Request.Commit != rel.Request.Commit:
			v := m.conflict(o)
			v.names = append(v.names, o.Root.Digest.String(), rel.Root.Digest.String())
			return v
		case !m.lost(o):
			return verdict{err: imgd.ErrUnchanged, names: []string{"not reproducible", o.ID}}
		}
	}
	there, foreign := m.world.tags[name]
	foreign = foreign && len(owners) == 0 && !m.made(there)
	if foreign && !rel.Request.Force && !imgd.SameDigests(platforms(m.world.roots[there]...), rel.Platforms) {
		return verdict{err: imgd.ErrConflict, names: []string{"another hand", there.String()}}
	}
	return verdict{}
}

// judgePushed is what another CI's push gets: what is free, forced or moves.
func (m *model) judgePushed(rel imgd.Release, t imgd.ReleaseTag) (bool, verdict) {
	owners := m.owners(t.Name)
	if len(owners) == 0 {
		return true, verdict{}
	}
	same := owners[0].Root.Digest == rel.Root.Digest
	if t.Kind == version.KindVersion {
		same = imgd.SameDigests(owners[0].Platforms, rel.Platforms)
	}
	if same {
		return false, verdict{err: imgd.ErrUnchanged, names: []string{owners[0].ID}}
	}
	if t.Kind == version.KindVersion && !rel.Request.Force {
		return false, m.conflict(owners[0])
	}
	return true, verdict{}
}

// moves is rule 5: whether rel beats the claim, which has beaten the mark, or
// else the mark.
func (m *model) moves(rel imgd.Release, t imgd.ReleaseTag) bool {
	asks, has, owners := stampOf(rel), m.tag(t.Name), m.owners(t.Name)
	was := has.mark
	if has.claim != "" {
		was = stampOf(owners[0])
	}
	again := asks.at.After(was.at) && (rel.Request.Rebuild || len(owners) == 0 || m.lost(owners[0]))
	if t.Kind == version.KindSeries {
		order := version.Compare(asks.version, was.version)
		return was == stamp{} || order > 0 || order == 0 && again
	}
	head, ok := m.world.heads[rel.Request.Ref]
	switch {
	case !ok || !m.contains(head, asks.commit):
		return false
	case was == stamp{}:
		return true
	case was.commit == asks.commit:
		return again
	}
	return !m.contains(head, was.commit) || m.contains(asks.commit, was.commit)
}

// admit enters a release: it claims its tags, and other claims on them lapse.
func (m *model) admit(rel imgd.Release) {
	m.seq++
	m.releases[rel.ID], m.newest[rel.Request.ID] = &rel, rel.ID
	m.admitted = append(m.admitted, rel.ID)
	for _, t := range rel.Taken() {
		if m.tags[t.Name] == nil {
			m.tags[t.Name] = &modelTag{kind: t.Kind}
			if t.Kind == version.KindBranch {
				m.tags[t.Name].ref = rel.Request.Ref
			}
		}
		has := m.tags[t.Name]
		if has.claim != "" {
			m.leave(has.claim, t.Name)
		}
		has.claim = rel.ID
	}
}

// leave notes that the release does not take the tag any more.
func (m *model) leave(id, name string) {
	for i, t := range m.releases[id].Tags {
		if t.Name == name && t.Reason == "" {
			m.releases[id].Tags[i].Reason = left
		}
	}
}

// claims are the tags that the release claims at this moment.
func (m *model) claims(id string) []string {
	var names []string
	for name, has := range m.tags {
		if has.claim == id {
			names = append(names, name)
		}
	}
	return names
}

// publish makes what the release claims its own, and answers the end.
func (m *model) publish(id string) error {
	rel, claims := m.releases[id], m.claims(id)
	switch {
	case rel == nil:
		return imgd.ErrNotFound
	case rel.State == imgd.ReleasePublished:
		return nil
	case len(claims) == 0:
		return imgd.ErrSuperseded
	}
	m.seq++
	m.published = append(m.published, id)
	rel.State, rel.Seq = imgd.ReleasePublished, m.seq
	for _, name := range claims {
		has := m.tags[name]
		var before digest.Digest
		if has.holder != "" {
			before = m.releases[has.holder].Root.Digest
		}
		if before != rel.Root.Digest { // also where nothing was
			has.generation++
		}
		if at := stampOf(*rel); !has.kind.Immutable() && !(rel.Pushed && has.mark.at.After(at.at)) {
			has.mark = at
		}
		has.holder, has.claim = id, ""
		for i, t := range rel.Tags {
			if t.Name == name {
				rel.Tags[i].Generation, rel.Tags[i].Previous = has.generation, before
			}
		}
	}
	return nil
}

// unclaim gives one claim back. A tag that was never held is as if it had not
// been.
func (m *model) unclaim(name string) {
	if m.tags[name].claim = ""; m.tags[name].generation == 0 {
		delete(m.tags, name)
	}
}

func (m *model) forgo(id, name string) error {
	if m.releases[id] == nil {
		return imgd.ErrNotFound
	}
	if m.tag(name).claim == id {
		m.seq++
		m.leave(id, name)
		m.unclaim(name)
	}
	return nil
}

func (m *model) abandon(id, why string) error {
	rel := m.releases[id]
	if rel == nil {
		return imgd.ErrNotFound
	}
	if rel.State == imgd.ReleaseAdmitted {
		m.seq++
		rel.State, rel.Why = imgd.ReleaseAbandoned, why
		for _, name := range m.claims(id) {
			m.unclaim(name)
		}
	}
	return nil
}

// tell notes how far the world was told. It never goes back.
func (m *model) tell(seq uint64) {
	if seq > m.told {
		m.seq, m.told = m.seq+1, seq
	}
}

// records are what the holders hold, in the order of the index.
func (m *model) records() []imgd.Record {
	records := []imgd.Record{}
	for _, name := range sorted(m.tags) {
		has := m.tags[name]
		if has.holder == "" {
			continue
		}
		rel := *m.releases[has.holder]
		var lines []imgd.Record
		for _, p := range rel.Platforms {
			r := imgd.Record{Image: image, Tag: name, Digest: p.Digest, Platform: p.Platform.OS + "/" + p.Platform.Architecture,
				MediaType: p.MediaType, Size: p.Size, SourceRef: rel.Source + "@" + rel.Request.Commit, Version: rel.Request.Version,
				Labels: rel.Labels, Generation: has.generation, Release: rel.ID, ExpiresAt: rel.ExpiresAt}
			if p.Digest != rel.Root.Digest {
				r.IndexDigest = rel.Root.Digest
			}
			for _, t := range rel.Tags {
				if t.Name == name {
					r.Previous = t.Previous
				}
			}
			lines = append(lines, r)
		}
		records = append(records, lines...)
	}
	return records
}
