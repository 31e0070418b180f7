package index_test

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
	"pgregory.net/rapid"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/index"
	"github.com/imgd/imgd/version"
)

// A medley does whatever may be done to one image, in any order, and knows what
// may never happen to its tags.
type medley struct {
	*world
	*index.Index
	dir    string
	clock  int
	drawn  int // IDs of commands
	mirror *mirror
	roots  map[string]string // tag and generation -> root
	last   map[string]uint64 // tag -> generation
}

func (m *medley) admit(t *rapid.T, rel imgd.Release) {
	_, err := m.Admit(t.Context(), rel, "")
	for _, want := range []error{nil, imgd.ErrConflict, imgd.ErrSuperseded, imgd.ErrUnchanged, imgd.ErrNotFound} {
		if errors.Is(err, want) {
			return
		}
	}
	t.Fatalf("admit: %v", err)
}

// ago is a moment that is over, or now: asks come late and out of order.
func (m *medley) ago(t *rapid.T) int {
	m.clock++
	return m.clock - rapid.SampledFrom([]int{0, 0, 1, 5}).Draw(t, "ago")
}

func (m *medley) build(t *rapid.T) {
	ref := fmt.Sprintf("refs/tags/v1.0.%d", rapid.IntRange(0, 3).Draw(t, "version"))
	letter := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "commit")
	if rapid.Bool().Draw(t, "branch") {
		ref = "refs/heads/main"
		m.heads[ref] = commit(letter)
	}
	rel := m.candidate(ref, letter, rapid.SampledFrom([]string{"A", "B", "C", "D"}).Draw(t, "root"), m.ago(t))
	rel.Request.Force = rapid.IntRange(0, 4).Draw(t, "force") == 0
	rel.Request.ID = digest.FromString(fmt.Sprint(rel.Request, rel.Root.Digest)).Encoded()[:32]
	m.admit(t, rel)
}

func (m *medley) push(t *rapid.T) {
	kind := rapid.SampledFrom([]version.Kind{version.KindVersion, version.KindOther}).Draw(t, "kind")
	tag := map[version.Kind]string{version.KindVersion: "v1.0.0", version.KindOther: "stable"}[kind]
	name := rapid.SampledFrom([]string{"A", "E"}).Draw(t, "pushed")
	m.world.roots[digest.FromString(name)] = []string{name}
	m.admit(t, pushed(tag, kind, "a", m.ago(t), name))
}

func (m *medley) command(t *rapid.T) {
	tag := rapid.SampledFrom([]string{"latest", "1.0", "main", "v1.0.0", "v1.0.1", "stable", "v9.0.0"}).Draw(t, "tag")
	m.drawn++
	var of *imgd.Release
	if past := m.History(image, ""); len(past) > 0 && rapid.Bool().Draw(t, "names") {
		if rel := rapid.SampledFrom(past).Draw(t, "of"); rel.Root.Digest != "" {
			of = &rel
		}
	}
	rel := command(m.drawn, of, m.ago(t), tag)
	rel.Request.Force = rapid.Bool().Draw(t, "force")
	m.admit(t, rel)
}

// end publishes or abandons one that is open.
func (m *medley) end(t *rapid.T) {
	open := m.Open()
	if len(open) == 0 {
		t.Skip("nothing is open")
	}
	rel, err := rapid.SampledFrom(open).Draw(t, "open"), error(nil)
	if rapid.IntRange(0, 4).Draw(t, "abandon") == 0 {
		_, err = m.Abandon(t.Context(), rel.ID, "dropped by ada")
	} else {
		_, err = m.Publish(t.Context(), rel.ID)
	}
	if err != nil && !errors.Is(err, imgd.ErrSuperseded) {
		t.Fatal(err)
	}
}

// reopen reads the index back from the disk.
func (m *medley) reopen(t *rapid.T) {
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	m.open(t)
}

func (m *medley) open(t *rapid.T) {
	x, err := index.Open(index.Config{Dir: m.dir, History: m.world, Registry: m.world, Writer: "test"})
	if err != nil {
		t.Fatal(err)
	}
	m.Index = x
}

// check holds that no generation goes down or is used for two roots, that an
// immutable tag changes by force only,
// and that the changes make the records.
func (m *medley) check(t *rapid.T) {
	for _, tag := range []string{"latest", "1.0", "main", "v1.0.0", "v1.0.1", "v1.0.2", "v1.0.3", "stable", "v9.0.0"} {
		past := m.History(image, tag)
		steps := imgd.Steps(tag, past)
		slices.Reverse(steps)
		named := digest.Digest("") // last
		for i, step := range steps {
			key := fmt.Sprint(tag, step.Generation)
			if root := string(step.Root); root != "" {
				if was, ok := m.roots[key]; ok && was != root {
					t.Fatalf("generation %d of %s is %s and %s", step.Generation, tag, was, root)
				}
				m.roots[key] = root
			}
			if i > 0 && (step.Generation < steps[i-1].Generation || step.Kind != steps[i-1].Kind) {
				t.Fatalf("%s went from generation %d to %d, %s to %s", tag, steps[i-1].Generation, step.Generation, steps[i-1].Kind, step.Kind)
			}
			if step.Kind == version.KindVersion && step.Root != "" && named != "" && step.Root != named && !step.Forced {
				t.Fatalf("%s named %s and names %s by %s, which forces nothing", tag, named, step.Root, step.Release)
			}
			named = cmp.Or(step.Root, named)
			if i > 0 && step.Kind.Immutable() && step.Root != steps[i-1].Root && steps[i-1].Root != "" && !step.Forced {
				t.Fatalf("%s went from %s to %s by %s, which forces nothing", tag, steps[i-1].Root, step.Root, step.Release)
			}
		}
		if m.Generation(image, tag) < m.last[tag] {
			t.Fatalf("%s is at generation %d, was at %d", tag, m.Generation(image, tag), m.last[tag])
		}
		m.last[tag] = m.Generation(image, tag)
	}
	changes, upTo := m.Changes(m.mirror.seq, "", 1<<20)
	for _, c := range changes {
		for _, r := range c.Removed {
			delete(m.mirror.records, keyOf(r))
		}
		for _, r := range c.Set {
			m.mirror.records[keyOf(r)] = r
		}
	}
	m.mirror.seq = upTo
	records, _ := m.Records()
	for _, r := range records {
		if got := m.mirror.records[keyOf(r)]; got.Digest != r.Digest || got.Generation != r.Generation {
			t.Fatalf("by the changes %s is %s, the index says %s", keyOf(r), got.Digest, r.Digest)
		}
	}
	if len(records) != len(m.mirror.records) {
		t.Fatalf("by the changes there are %d records, in the index %d", len(m.mirror.records), len(records))
	}
}

func TestRulesInAnyOrder(t *testing.T) {
	tempDir := t.TempDir
	rapid.Check(t, func(t *rapid.T) {
		m := &medley{world: newWorld(), dir: tempDir(), mirror: &mirror{records: map[string]imgd.Record{}}, roots: map[string]string{}, last: map[string]uint64{}}
		m.parents[commit("b")], m.parents[commit("c")] = commit("a"), commit("b")
		m.open(t)
		defer func() { m.Close() }()
		t.Repeat(map[string]func(*rapid.T){"build": m.build, "push": m.push, "command": m.command, "end": m.end, "end too": m.end, "reopen": m.reopen, "": m.check})
	})
}
