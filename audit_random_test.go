package imgd_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgd/imgd"
)

// meddled is a play in which other hands write tags of the registry too, and two
// daemons audit and repair beside everything else. It remembers all that each tag
// has ever named in the registry, and all that the index has ever wanted there.
type meddled struct {
	*play
	inspector *inspector
	auditors  []*imgd.Auditor

	seeing sync.Mutex
	shown  map[string]map[digest.Digest]bool // by registry tag, "" for nothing
	wanted map[string]map[digest.Digest]bool // by tag
	told   []imgd.Drift
}

func newMeddled(t *testing.T, seed uint64) *meddled {
	m := &meddled{play: newPlay(t, seed, 2), shown: map[string]map[digest.Digest]bool{}, wanted: map[string]map[digest.Digest]bool{}}
	m.inspector = m.world.inspector()
	for _, daemon := range m.daemons {
		a := m.auditor(m.inspector)
		a.Pipeline, a.Verifier.Drifts, a.Verifier.Projects, a.Now, a.Patience = daemon, m, daemon.Projects, time.Now, time.Nanosecond
		a.Verifier.Registry = behind{m.inspector, m}
		m.auditors = append(m.auditors, a)
	}
	return m
}

// behind looks after others had their turn.
type behind struct {
	*inspector
	m *meddled
}

func (l behind) Look(ctx context.Context, repository, tag string, want digest.Digest) (desc ocispec.Descriptor, err error) {
	err = l.m.maybe(func() error { desc, err = l.inspector.Look(ctx, repository, tag, want); return err })
	return desc, err
}

// ReportDrift holds that the drift was so at some moment: the registry has shown
// what was found, and the index wanted what was wanted.
func (m *meddled) ReportDrift(_ context.Context, d imgd.Drift) error {
	return m.maybe(func() error {
		m.see()
		m.seeing.Lock()
		defer m.seeing.Unlock()
		key := at(d.Repository, d.Tag)
		if d.Found != "" && !m.shown[key][d.Found] && !m.wanted[d.Tag][d.Found] && !m.index.Made(d.Image, d.Tag, d.Found) { // by other hands, and by imgd
			m.t.Errorf("%s has never named %q, and that was told", key, d.Found)
		}
		if d.Wanted != "" && !m.wanted[d.Tag][d.Wanted] && !m.index.Made(d.Image, d.Tag, d.Wanted) {
			m.t.Errorf("the index has never wanted %q under %s, and that was told", d.Wanted, d.Tag)
		}
		if d.Wanted == d.Found && d.Kind != imgd.DriftBlobMissing || d.Kind == imgd.DriftUnreachable {
			m.t.Errorf("that is no drift, and was told: %+v", d)
		}
		m.told = append(m.told, d)
		return nil
	})
}

// see notes what the index has wanted by now. What it misses, claims that came and
// went, imgd has made.
func (m *meddled) see() {
	m.seeing.Lock()
	defer m.seeing.Unlock()
	for _, rel := range m.index.Published(0) {
		for _, t := range rel.Taken() {
			note(m.wanted, t.Name, rel.Root.Digest)
		}
	}
	for _, rel := range m.index.Open() {
		for _, t := range rel.Tags {
			note(m.wanted, t.Name, rel.Root.Digest)
		}
	}
}

// meddle is another hand: it moves, removes or adds a tag.
func (m *meddled) meddle() {
	m.mu.Lock()
	defer m.mu.Unlock()
	keys := slices.Sorted(maps.Keys(m.tags))
	if len(keys) == 0 {
		return
	}
	key, d := keys[m.roll(len(keys))], digest.FromString(fmt.Sprint("strange ", m.roll(3)))
	switch m.roll(4) {
	case 0:
		delete(m.tags, key)
		return
	case 1:
		key = fmt.Sprint("stray-", m.roll(3))
	case 2:
		d = m.tags[keys[m.roll(len(keys))]]
	}
	m.seeing.Lock()
	defer m.seeing.Unlock()
	note(m.shown, key, d)
	m.tags[key] = d
}

func note(all map[string]map[digest.Digest]bool, key string, d digest.Digest) {
	if all[key] == nil {
		all[key] = map[digest.Digest]bool{}
	}
	all[key][d] = true
}

func (m *meddled) audit(a *imgd.Auditor) imgd.Audit {
	found, err := a.Audit(context.Background(), imgd.AuditAsk{Repair: m.roll(2) == 0})
	if err != nil {
		m.t.Error(err)
	}
	return found
}

// However requests, faults, other hands and the audits of two daemons interleave:
// what was told was so, and in the end one repair makes the registry what the index
// says, but for what nobody knows, which is left.
func TestAuditInterleavings(t *testing.T) {
	told, repaired := make([]int, 30), make([]int, 30)
	t.Run("runs", func(t *testing.T) {
		for seed := range told {
			t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) { told[seed], repaired[seed] = meddledRun(t, uint64(seed)) })
			})
		}
	})
	if all, right := sum(told), sum(repaired); all < 100 || right < 10 {
		t.Errorf("only %d drifts were told and %d repaired in the end, in %d runs", all, right, len(told))
	}
}

// meddledRun is one run. Its clock is the test's own: audits wait for releases that
// never end.
func meddledRun(t *testing.T, seed uint64) (told, repaired int) {
	m := newMeddled(t, seed)
	v := m.watch()
	for range 6 {
		m.push()
		var running sync.WaitGroup
		for _, a := range m.auditors {
			running.Go(func() { m.audit(a) })
		}
		running.Go(m.meddle)
		m.round()
		running.Wait()
		m.meddle()
		v.look()
	}
	m.settle()
	m.meddle()
	found, err := m.auditors[seed%2].Audit(t.Context(), imgd.AuditAsk{Repair: true})
	if err != nil || !found.Complete {
		t.Errorf("in the end: %s, %v", found.Summary(), err)
	}
	repaired = found.Count(imgd.Repaired)
	m.leftAlone(found)
	if again := m.audit(m.auditors[(seed+1)%2]); again.Differs() != again.Counts[imgd.DriftUnknownTag] {
		t.Errorf("once more: %q", findings(again))
	}
	m.check()
	return len(m.told), repaired
}

// leftAlone holds that all that nobody knows was found and is there still, and
// takes it away, as check wants to know of every tag.
func (m *meddled) leftAlone(found imgd.Audit) {
	listed := findings(found)
	for key := range m.tags {
		tag := key[strings.LastIndex(key, ":")+1:]
		if want, ok := m.index.Wanted(demoImage, tag); ok && want.Root.Digest != "" {
			continue
		}
		name := "hello:" + tag
		if key != tag {
			name = "copy:" + tag
		}
		if !slices.Contains(listed, name+" unknown-tag left") {
			m.t.Errorf("%s, which nobody knows, is not among %q", key, listed)
		}
		delete(m.tags, key)
	}
}

func sum(all []int) (n int) {
	for _, one := range all {
		n += one
	}
	return n
}
