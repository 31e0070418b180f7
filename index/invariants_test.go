package index_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"pgregory.net/rapid"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/version"
)

// A history is what was seen of an index since it was made: enough to tell
// whether the next moment breaks an invariant, whatever the model thinks of it.
type history struct {
	named map[string]map[uint64]digest.Digest // tag -> generation -> root
	last  map[string]uint64                   // tag -> generation
	may   map[string]digest.Digest            // release and immutable tag -> root that it may replace
	marks map[string]stamp                    // tag -> mark
	reset map[string]bool                     // tag and commit: a mark that was not in its branch's head once
}

func newHistory() *history {
	return &history{named: map[string]map[uint64]digest.Digest{}, last: map[string]uint64{}, may: map[string]digest.Digest{},
		marks: map[string]stamp{}, reset: map[string]bool{}}
}

// admits notes what the release may replace: anything if it is forced, else only
// what the registry has lost.
func (h *history) admits(m *model, rel imgd.Release) {
	for _, t := range rel.Taken() {
		if id := m.tag(t.Name).holder; id != "" && t.Kind.Immutable() && (rel.Request.Force || m.lost(*m.releases[id])) {
			h.may[rel.ID+" "+t.Name] = m.releases[id].Root.Digest
		}
	}
}

// moved notes which marks are not in the head of their branch any more.
func (h *history) moved(m *machine) {
	for name, mark := range h.marks {
		if has := m.model.tag(name); has.kind == version.KindBranch && !m.model.contains(m.heads[has.ref], mark.commit) {
			h.reset[name+" "+mark.commit] = true
		}
	}
}

// check holds that the index stands as the model, and then the invariants, from
// what the index answers.
func (m *machine) check(t *rapid.T) {
	if m.index.Seq() != m.model.seq || m.index.Told() != m.model.told {
		t.Fatalf("seq %d told %d, want %d and %d", m.index.Seq(), m.index.Told(), m.model.seq, m.model.told)
	}
	for id, want := range m.model.releases {
		got, _ := m.index.Release(id)
		m.same(t, got, *want)
	}
	for request, id := range m.model.newest {
		if got, _ := m.index.Newest(request); got.ID != id {
			t.Errorf("newest of %s: got %q, want %s", request, got.ID, id)
		}
	}
	for name, has := range m.model.tags {
		want := has.claim
		if want == "" {
			want = has.holder
		}
		if got, _ := m.index.Wanted(image, name); got.ID != want || m.index.Generation(image, name) != has.generation {
			t.Errorf("%s is of %q in generation %d, want %s in %d", name, got.ID, m.index.Generation(image, name), want, has.generation)
		}
	}
	m.checkOpen(t)
	m.checkRecords(t)
	m.checkMarks(t)
}

// checkOpen holds I7, and the order of what is open and what is published.
func (m *machine) checkOpen(t *rapid.T) {
	var open []string
	requests := map[string]string{}
	for _, rel := range m.index.Open() {
		if other := requests[rel.Request.ID]; other != "" {
			t.Errorf("%s and %s are open at once (I7)", other, rel.ID)
		}
		requests[rel.Request.ID] = rel.ID
		open = append(open, rel.ID)
	}
	want := slices.DeleteFunc(slices.Clone(m.model.admitted), func(id string) bool { return m.model.releases[id].State != imgd.ReleaseAdmitted })
	if !slices.Equal(open, want) {
		t.Errorf("open are %q, want %q", open, want)
	}
	var published []string
	for _, rel := range m.index.Published(0) {
		published = append(published, rel.ID)
	}
	if !slices.Equal(published, m.model.published) {
		t.Errorf("published are %q, want %q", published, m.model.published)
	}
}

// checkRecords holds that the records are the platforms of the holders, that each
// is of something published (I5), and I4 of the tags that they show.
func (m *machine) checkRecords(t *rapid.T) {
	records, seq := m.index.Records()
	got := []imgd.Record{}
	for _, r := range records {
		rel, _ := m.index.Release(r.Release)
		if rel.State != imgd.ReleasePublished || !rel.PublishedAt.Equal(r.PublishedAt) || r.PublishedAt.IsZero() {
			t.Errorf("%s is shown of release %s, which is %s since %s (I5)", r.Tag, r.Release, rel.State, rel.PublishedAt)
		}
		m.checkNamed(t, r, rel)
		r.PublishedAt = time.Time{}
		got = append(got, r)
	}
	if want := m.model.records(); seq != m.index.Seq() || !same(got, want) {
		t.Errorf("records of seq %d:\n%s\nwant\n%s", seq, text(got), text(want))
	}
}

// checkNamed holds I4 of the tag that the record shows: no generation is used for
// two roots, none comes back, and an immutable tag gets another root only by
// force or in place of a lost one.
func (m *machine) checkNamed(t *rapid.T, r imgd.Record, rel imgd.Release) {
	h, root := m.seen, r.Root()
	if h.named[r.Tag] == nil {
		h.named[r.Tag] = map[uint64]digest.Digest{}
	}
	named, last := h.named[r.Tag], h.last[r.Tag]
	was, used := named[r.Generation]
	if r.Generation < max(1, last) || used && was != root {
		t.Errorf("%s names %s in generation %d; it was in %d, and that named %s (I4)", r.Tag, root, r.Generation, last, was)
	}
	if before := named[last]; r.Generation != last && before == root {
		t.Errorf("%s got generation %d after %d for the same root", r.Tag, r.Generation, last)
	}
	kind := m.model.tag(r.Tag).kind
	if before := named[last]; kind.Immutable() && last > 0 && before != root && h.may[rel.ID+" "+r.Tag] != before {
		t.Errorf("%s named %s and names %s, of %s, which had no right to it (I4)", r.Tag, before, root, rel.ID)
	}
	named[r.Generation], h.last[r.Tag] = root, r.Generation
}

// checkMarks holds that no mark goes down, but where its branch was rewritten
// (I5). The marks are the model's: reopen holds them against the file's.
func (m *machine) checkMarks(t *rapid.T) {
	for name, has := range m.model.tags {
		was, is := m.seen.marks[name], has.mark
		m.seen.marks[name] = is
		down := is.at.Before(was.at)
		switch has.kind {
		case version.KindSeries:
			order := version.Compare(is.version, was.version)
			down = was.version != "" && (order < 0 || order == 0 && down)
		case version.KindBranch:
			down = was.commit != "" && (!m.model.contains(is.commit, was.commit) || is.commit == was.commit && down)
			down = down && !m.seen.reset[name+" "+was.commit]
		}
		if down {
			t.Errorf("the mark of %s went from %v to %v (I5)", name, was, is)
		}
	}
	m.seen.moved(m)
}

// same holds a release against the model's, but for its times and for what the
// reasons say.
func (m *machine) same(t *rapid.T, got, want imgd.Release) {
	t.Helper()
	if got.AdmittedAt.IsZero() || got.PublishedAt.IsZero() == (got.State == imgd.ReleasePublished) {
		t.Errorf("%s %s was admitted at %s, published at %s", got.ID, got.State, got.AdmittedAt, got.PublishedAt)
	}
	got.AdmittedAt, got.PublishedAt = time.Time{}, time.Time{}
	got.Tags = slices.Clone(got.Tags)
	for i := range got.Tags {
		if got.Tags[i].Reason != "" {
			got.Tags[i].Reason = left
		}
	}
	if !same(got, want) {
		t.Errorf("release\n%s\nwant\n%s", text(got), text(want))
	}
}

// sameTags holds the tags of the closed index's file against the model's.
func (m *machine) sameTags(t *rapid.T) {
	b, err := os.ReadFile(filepath.Join(m.dir, "images.json"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Tags []struct {
			Tag, Ref, Holder, Claim string
			Kind                    version.Kind
			Generation              uint64
			Mark                    struct {
				Version, Commit string
				AskedAt         time.Time
			}
		}
	}
	if err := json.Unmarshal(b, &file); err != nil {
		t.Fatal(err)
	}
	got, want := map[string]string{}, map[string]string{}
	for _, has := range file.Tags {
		mark := stamp{has.Mark.Version, has.Mark.Commit, has.Mark.AskedAt}
		got[has.Tag] = fmt.Sprint(modelTag{has.Kind, has.Ref, has.Generation, mark, has.Holder, has.Claim})
	}
	for name, has := range m.model.tags {
		want[name] = fmt.Sprint(*has)
	}
	if !same(got, want) {
		t.Errorf("the file has the tags\n%s\nwant\n%s", text(got), text(want))
	}
}

// view is all that the index answers.
func (m *machine) view() string {
	x := m.index
	records, seq := x.Records()
	out := []any{x.ID(), x.Seq(), x.Told(), x.Open(), x.Published(0), records, seq, x.Repositories(image)}
	for _, id := range m.model.admitted {
		rel, _ := x.Release(id)
		newest, _ := x.Newest(rel.Request.ID)
		out = append(out, rel, newest.ID, x.Made(image, "", rel.Root.Digest), x.Published(rel.Seq))
	}
	for _, name := range sorted(m.model.tags) {
		wanted, _ := x.Wanted(image, name)
		out = append(out, wanted.ID, x.Generation(image, name))
	}
	return text(out)
}

// same reports whether both say the same. JSON knows no empty list beside none,
// but it is slow.
func same(a, b any) bool { return reflect.DeepEqual(a, b) || text(a) == text(b) }

// text is JSON of v, to be compared and read.
func text(v any) string {
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		panic("unreachable: it marshals: " + err.Error())
	}
	return string(b)
}
