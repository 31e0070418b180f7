package index_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"pgregory.net/rapid"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/index"
	"github.com/imgd/imgd/version"
)

// families are refs that want the same tags: versions of one series and a branch
// that is called as it; one branch; two branches that give one tag, and a git tag
// that does; a branch of a pull request beside main. A run has one of them, so
// that what it does meets.
var families = [][]string{
	{"refs/tags/v1.0.0", "refs/tags/v1.0.1", "refs/tags/v1.1.0", "refs/tags/v1.1.0-rc.1", "refs/heads/latest"},
	{"refs/tags/v1.0.0"},
	{"refs/heads/main"},
	{"refs/heads/f/x", "refs/heads/f-x", "refs/tags/f-x"},
	{"refs/heads/main", "refs/heads/pr-7", "refs/tags/v1.0.0"},
}

// histories are the commits that a run has: a to d in a row, e beside c, f beside b.
var histories = []string{"ab", "abc", "abe", "abcdef"}

// A machine is a real index and the model that it is held against, with the
// world that both ask.
type machine struct {
	*world
	model         *model
	index         *index.Index
	dir           string
	refs, commits []string
	clock         int            // seconds since epoch: each ask and each entry has its own
	asks          []imgd.Release // candidates, to be admitted in any order and again
	seen          *history
}

func newMachine(t *rapid.T, dir string) *machine {
	w := newWorld()
	for child, parent := range map[string]string{"b": "a", "c": "b", "d": "c", "e": "b", "f": "a"} {
		w.parents[commit(child)] = commit(parent)
	}
	m := &machine{world: w, model: newModel(w), dir: dir, seen: newHistory()}
	m.refs = rapid.SampledFrom(families).Draw(t, "refs")
	m.commits = strings.Split(rapid.SampledFrom(histories).Draw(t, "commits"), "")
	m.open(t)
	return m
}

func (m *machine) open(t *rapid.T) {
	x, err := index.Open(index.Config{Dir: m.dir, History: m.world, Registry: m.world, Writer: "test", Now: func() time.Time {
		m.clock++
		return epoch.Add(time.Duration(m.clock) * time.Second)
	}})
	if err != nil {
		t.Fatal(err)
	}
	m.index = x
}

// commands are all that may befall an index, by name. What else becomes one (a
// rollback, an untag) has its place here, and its decision and its entry in the
// model.
func (m *machine) commands() map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"push":         m.push,
		"ask":          m.ask,
		"ask again":    m.askAgain,
		"record":       m.record,
		"admit late":   func(t *rapid.T) { m.admit(t, rapid.SampledFrom(m.some(t, m.asks)).Draw(t, "ask")) },
		"publish":      m.publish,
		"publish open": m.publishOpen,
		"forgo":        m.forgo,
		"abandon":      m.abandon,
		"lose a root":  m.lose,
		"another hand": m.anotherHand,
		"tell":         m.tell,
		"reopen":       m.reopen,
	}
}

// some is of, unless it is empty: then the command is none at this moment.
func (m *machine) some(t *rapid.T, of []imgd.Release) []imgd.Release {
	if len(of) == 0 {
		t.Skip("nothing is there yet")
	}
	return of
}

// push moves a ref forward, back or aside, or removes it.
func (m *machine) push(t *rapid.T) {
	ref := rapid.SampledFrom(m.refs).Draw(t, "ref")
	letter := rapid.SampledFrom(append([]string{"-"}, m.commits...)).Draw(t, "commit")
	if delete(m.heads, ref); letter != "-" {
		m.heads[ref] = commit(letter)
	}
	m.seen.moved(m)
}

// ask builds what a ref may have named, mostly what it names.
func (m *machine) ask(t *rapid.T) {
	ref := rapid.SampledFrom(m.refs).Draw(t, "ref")
	letter := rapid.SampledFrom(m.commits).Draw(t, "commit")
	if rapid.IntRange(0, 3).Draw(t, "moves the ref") > 0 {
		m.heads[ref] = commit(letter)
		m.seen.moved(m)
	}
	m.clock++
	rel := m.candidate(ref, letter, "build of "+letter, m.clock)
	req := &rel.Request
	switch rapid.IntRange(0, 5).Draw(t, "how") {
	case 0:
		req.Force, req.Rebuild, req.Reason, req.Nonce = true, true, "bad release", fmt.Sprint(m.clock)
	case 1:
		req.Rebuild, req.Nonce = true, fmt.Sprint(m.clock)
	case 2:
		req.Args = map[string]string{"X": rapid.SampledFrom([]string{"1", "2"}).Draw(t, "arg")}
	}
	req.ID = req.Hash()
	m.build(t, &rel)
	m.arrives(t, rel)
}

// askAgain is an earlier request, asked later or not, of another build or not,
// for all of its tags or some.
func (m *machine) askAgain(t *rapid.T) {
	rel := rapid.SampledFrom(m.some(t, m.asks)).Draw(t, "ask")
	if rel.Pushed {
		t.Skip("a command is asked once")
	}
	if rapid.Bool().Draw(t, "later") {
		m.clock++
		rel.Request.AskedAt = epoch.Add(time.Duration(m.clock) * time.Second)
	}
	if rapid.Bool().Draw(t, "built again") {
		m.build(t, &rel)
	}
	rel.Tags = slices.Clone(rel.Tags)[rapid.IntRange(0, len(rel.Tags)-1).Draw(t, "without tags"):]
	m.arrives(t, rel)
}

// build gives rel an image: of one platform or two, reproducible or not, under a
// root of its own or not.
func (m *machine) build(t *rapid.T, rel *imgd.Release) {
	m.clock++
	names := []string{"build of " + rel.Request.Commit}
	if rapid.IntRange(0, 2).Draw(t, "reproducible") == 0 {
		names[0] = fmt.Sprint("build ", m.clock)
	}
	if rapid.IntRange(0, 3).Draw(t, "two platforms") == 0 {
		names = append(names, names[0]+" for arm64")
	}
	rel.Platforms = platforms(names...)
	rel.Root = ocispec.Descriptor{Digest: rel.Platforms[0].Digest, MediaType: ocispec.MediaTypeImageManifest, Size: 479}
	if len(names) > 1 || rapid.Bool().Draw(t, "with provenance") {
		rel.Root = ocispec.Descriptor{Digest: digest.FromString(fmt.Sprint("root ", m.clock)), MediaType: ocispec.MediaTypeImageIndex, Size: 900}
	}
	m.roots[rel.Root.Digest] = names
}

// record asks for what another CI has pushed under a tag, with an expiry mark or
// without.
func (m *machine) record(t *rapid.T) {
	tag := rapid.SampledFrom([]string{"v1.0.0", "v1.0.0", "latest", "stable", "f-x"}).Draw(t, "tag")
	kind := rapid.SampledFrom([]version.Kind{version.KindVersion, version.KindOther}).Draw(t, "kind")
	m.clock++
	at := m.clock - rapid.SampledFrom([]int{0, 0, 20}).Draw(t, "clock goes back")
	rel := pushed(tag, kind, rapid.SampledFrom([]string{"a", "b"}).Draw(t, "commit"), at, "A")
	rel.Request.ID = digest.FromString(fmt.Sprint("command ", m.clock)).Encoded()[:32]
	rel.Request.Force = rapid.IntRange(0, 4).Draw(t, "force") == 0
	m.build(t, &rel)
	if rapid.Bool().Draw(t, "expires") {
		rel.ExpiresAt = epoch.Add(time.Duration(m.clock) * time.Hour)
	}
	m.arrives(t, rel)
}

// arrives has the candidate admitted at once, or late, or both.
func (m *machine) arrives(t *rapid.T, rel imgd.Release) {
	m.asks = append(m.asks, rel)
	if rapid.IntRange(0, 3).Draw(t, "at once") > 0 {
		m.admit(t, rel)
	}
}

// admit holds the index's decision against the model's: the first time, when it
// is delivered again, and when git and the registry do not answer.
func (m *machine) admit(t *rapid.T, rel imgd.Release) {
	known := m.known(t, rel.Request.ID)
	want := m.model.judge(rel, known)
	if rapid.IntRange(0, 9).Draw(t, "outage") == 0 {
		m.broken = errors.New("connection refused")
		defer func() { m.broken = nil }()
	}
	got, err := m.index.Admit(t.Context(), rel, known)
	switch {
	case m.broken != nil && errors.Is(err, m.broken):
		return // whether a rule has to ask is its own business; nothing is entered, as check sees
	case !errors.Is(err, want.err):
		t.Fatalf("admit %s: got %v, want %v (release %q)", told(rel), err, want.err, want.rel.ID)
	case want.err != nil:
		for _, name := range want.names {
			if !strings.Contains(err.Error(), name) {
				t.Errorf("admit %s: %q does not name %s", told(rel), err, name)
			}
		}
		return
	case want.answer != "":
		if got.ID != want.answer {
			t.Fatalf("admit %s: got release %s, want %s", told(rel), got.ID, want.answer)
		}
		return
	}
	m.seen.admits(m.model, want.rel)
	m.model.admit(want.rel)
	m.same(t, got, want.rel)
}

func told(rel imgd.Release) string {
	return fmt.Sprintf("%s of %s at %.4s, root %s", rel.Request.ID, rel.Request.Ref, rel.Request.Commit, rel.Root.Digest)
}

// known is a release of the request that was there when the work on it began:
// none, or one that is over. (One that is admitted is driven on, and never known.)
func (m *machine) known(t *rapid.T, request string) string {
	over := []string{""}
	for _, id := range m.model.admitted {
		if rel := m.model.releases[id]; rel.Request.ID == request && rel.State != imgd.ReleaseAdmitted {
			over = append(over, id, id) // the newest is the likeliest
		}
	}
	return rapid.SampledFrom(over).Draw(t, "known")
}

// release is the ID of any release, now and then of none.
func (m *machine) release(t *rapid.T) string {
	return rapid.SampledFrom(append([]string{"none-1"}, m.model.admitted...)).Draw(t, "release")
}

func (m *machine) publish(t *rapid.T) { m.publishOne(t, m.release(t)) }

func (m *machine) publishOpen(t *rapid.T) {
	var open []string
	for _, rel := range m.some(t, m.index.Open()) {
		open = append(open, rel.ID)
	}
	m.publishOne(t, rapid.SampledFrom(open).Draw(t, "release"))
}

func (m *machine) publishOne(t *rapid.T, id string) {
	want := m.model.publish(id)
	got, err := m.index.Publish(t.Context(), id)
	m.answered(t, "publish "+id, got, err, want)
}

func (m *machine) forgo(t *rapid.T) {
	id := m.release(t)
	tag := rapid.SampledFrom(append(sorted(m.model.tags), "nobody's")).Draw(t, "tag")
	want := m.model.forgo(id, tag)
	got, err := m.index.Forgo(t.Context(), id, tag, "refused")
	m.answered(t, "forgo "+tag+" of "+id, got, err, want)
}

func (m *machine) abandon(t *rapid.T) {
	id := m.release(t)
	why := rapid.SampledFrom([]string{imgd.RootLost, imgd.LostClaims, "dropped by ada"}).Draw(t, "why")
	want := m.model.abandon(id, why)
	got, err := m.index.Abandon(t.Context(), id, why)
	m.answered(t, "abandon "+id, got, err, want)
}

// answered holds that a command ended as the model says, and answered the release
// as it stands then.
func (m *machine) answered(t *rapid.T, what string, got imgd.Release, err, want error) {
	if !errors.Is(err, want) {
		t.Fatalf("%s: got %v, want %v", what, err, want)
	}
	if want == nil {
		m.same(t, got, *m.model.releases[got.ID])
	}
}

// lose takes a root out of the registry.
func (m *machine) lose(t *rapid.T) {
	if rel := m.model.releases[m.release(t)]; rel != nil {
		delete(m.roots, rel.Root.Digest)
	}
}

// anotherHand puts something under a version tag of the registry, or nothing.
func (m *machine) anotherHand(t *rapid.T) {
	tag := rapid.SampledFrom([]string{"v1.0.0", "v1.0.1", "v1.1.0"}).Draw(t, "tag")
	if m.clock++; rapid.Bool().Draw(t, "removes") {
		delete(m.world.tags, tag)
		return
	}
	m.world.tags[tag] = digest.FromString(fmt.Sprint("another hand ", m.clock))
	m.roots[m.world.tags[tag]] = []string{"build of " + commit("a")}
}

func (m *machine) tell(t *rapid.T) {
	seq := rapid.Uint64Range(0, m.model.seq).Draw(t, "seq")
	m.model.tell(seq)
	if err := m.index.SetTold(t.Context(), seq); err != nil {
		t.Fatal(err)
	}
}

// reopen closes the index and opens it again: every query answers as before, and
// the file between has the tags as the model has them.
func (m *machine) reopen(t *rapid.T) {
	before := m.view()
	if err := m.index.Close(); err != nil {
		t.Fatal(err)
	}
	m.sameTags(t)
	m.open(t)
	if after := m.view(); after != before {
		t.Fatalf("opened again it answers\n%s\nand did\n%s", after, before)
	}
}

func sorted[V any](of map[string]V) []string { return slices.Sorted(maps.Keys(of)) }

// The index decides as the design says, whatever is asked in whatever order, and
// what may never happen does not. More of it: -rapid.checks=10000.
func TestMachine(t *testing.T) {
	base, runs := t.TempDir(), 0
	rapid.Check(t, func(t *rapid.T) {
		runs++
		m := newMachine(t, filepath.Join(base, fmt.Sprint(runs)))
		defer func() {
			m.index.Close()
			os.RemoveAll(m.dir)
		}()
		commands := m.commands()
		commands[""] = m.check
		for range 2 { // what is rare needs about 60 commands in a row
			t.Repeat(commands)
			m.reopen(t)
		}
	})
}
