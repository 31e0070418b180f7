package imgd_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgd/imgd"
)

// An inspector is the world's registry as an audit looks into it.
type inspector struct {
	w     *world
	lacks map[string]digest.Digest // repository@root -> a layer that it has no more
	away  map[string]bool          // repositories that give no answer
	junk  map[string]bool          // tags, see at, that name no image
	looks func(repository, tag string)
}

func (w *world) inspector() *inspector {
	return &inspector{w: w, lacks: map[string]digest.Digest{}, away: map[string]bool{}, junk: map[string]bool{}, looks: func(string, string) {}}
}

func (i *inspector) Look(ctx context.Context, repository, tag string, _ digest.Digest) (ocispec.Descriptor, error) {
	i.looks(repository, tag)
	if err := ctx.Err(); err != nil {
		return ocispec.Descriptor{}, err
	}
	if i.away[repository] {
		return ocispec.Descriptor{}, errInjected
	}
	i.w.mu.Lock()
	defer i.w.mu.Unlock()
	if i.junk[at(repository, tag)] {
		return ocispec.Descriptor{}, imgd.ErrInvalid
	}
	root, ok := i.w.tags[at(repository, tag)]
	if !ok {
		return ocispec.Descriptor{}, imgd.ErrNotFound
	}
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: root}
	if i.w.lists[root] != nil {
		desc.MediaType = ocispec.MediaTypeImageIndex
	}
	return desc, nil
}

func (i *inspector) Lacks(ctx context.Context, repository string, root digest.Digest, _ imgd.VerifyDepth, _ *imgd.Known) ([]imgd.Lack, error) {
	if i.away[repository] {
		return nil, errInjected
	}
	i.w.mu.Lock()
	defer i.w.mu.Unlock()
	if !i.w.roots[root] {
		return []imgd.Lack{{Part: "manifest", Digest: root, Why: "it is not there"}}, ctx.Err()
	}
	if layer := i.lacks[repository+"@"+root.String()]; layer != "" {
		return []imgd.Lack{{Part: "layer", Digest: layer, Why: "it is not there"}}, ctx.Err()
	}
	return nil, ctx.Err()
}

func (i *inspector) Tags(_ context.Context, repository string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		if i.away[repository] {
			yield("", errInjected)
			return
		}
		i.w.mu.Lock()
		keys := slices.Sorted(maps.Keys(i.w.tags))
		i.w.mu.Unlock()
		for _, key := range keys {
			tag := strings.TrimPrefix(key, repository+":")
			if in := at(repository, tag); in == key && !strings.Contains(tag, ":") && !yield(tag, nil) {
				return
			}
		}
	}
}

func (w *world) auditor(i *inspector) *imgd.Auditor {
	p := w.pipeline()
	return &imgd.Auditor{Verifier: &imgd.Verifier{Index: w.index, Registry: i, Projects: p.Projects, Drifts: w}, Records: w.index, Lister: i, Pipeline: p,
		Ignore: func() []string { return []string{"buildcache*"} }, Patience: time.Millisecond, Now: func() time.Time { return epoch.Add(time.Duration(w.hours) * time.Hour) }}
}

func (w *world) audits(a *imgd.Auditor, ask imgd.AuditAsk) imgd.Audit {
	w.t.Helper()
	found, err := a.Audit(w.t.Context(), ask)
	if err != nil {
		w.t.Fatal(err)
	}
	return found
}

// findings are repository:tag kind state, in the order they came.
func findings(found imgd.Audit) (all []string) {
	for _, f := range found.Items {
		all = append(all, strings.TrimSpace(fmt.Sprintf("%s:%s %s %s", strings.TrimPrefix(f.Repository, "registry.test/demo/"), f.Tag, f.Kind, f.Repair)))
	}
	return all
}

// drifting is a world in which tags differ in each way, and what an audit finds.
func drifting(t *testing.T) (*world, *inspector, []string) {
	w, older, newer := twoVersions(t)
	i := w.inspector()
	list, _ := w.pushList(demoRepo, "1", "an index of another hand")
	delete(w.tags, at(copyRepo, "v1.2.2"))
	w.tags["1.2"] = older.Root.Digest
	w.lists[list] = nil
	w.lists = map[digest.Digest][]ocispec.Descriptor{list: {}}
	i.lacks[demoRepo+"@"+older.Root.Digest.String()] = digest.FromString("layer")
	i.junk["latest"] = true
	w.tags["stray"] = newer.Root.Digest
	w.tags["buildcache-main"], w.tags["sha256-"+strings.Repeat("a", 64)+".sig"] = newer.Root.Digest, newer.Root.Digest
	return w, i, []string{"copy:v1.2.2 missing", "hello:1 became-index", "hello:1.2 moved", "hello:latest moved", "hello:stray unknown-tag", "hello:v1.2.2 blob-missing"}
}

func TestAudit(t *testing.T) {
	w, i, want := drifting(t)
	a := w.auditor(i)
	if _, ok := a.Last(); ok {
		t.Error("there is a report before there was an audit")
	}
	before := len(w.effects)
	found := w.audits(a, imgd.AuditAsk{})
	if got := findings(found); !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
	if found.Tags == 0 || !found.Complete || found.Differs() != 6 || found.Counts[imgd.DriftMoved] != 2 || found.Depth != imgd.DepthParts {
		t.Errorf("got %+v", found)
	}
	for n, effect := range w.effects[before:] {
		if effect != "drift" {
			t.Errorf("effect %d of an audit that is to change nothing: %s", n, effect)
		}
	}
	if len(w.drifts) != 6 || w.drifts[0].Kind == "" {
		t.Errorf("told %+v", w.drifts)
	}
	i.lacks = map[string]digest.Digest{}
	w.hours++
	next := w.audits(a, imgd.AuditAsk{})
	if got := findings(next); !slices.Equal(got, want[:5]) || len(w.drifts) != 6 {
		t.Errorf("the next: got %q, %d told", got, len(w.drifts))
	}
	last, ok := a.Last()
	if !ok || len(last.Items) != 5 || !last.Items[0].Since.Equal(epoch) || last.EndedAt.Equal(epoch) {
		t.Errorf("since when the next has found it: %+v", last)
	}
	w.tags["1.2"] = digest.FromString("yet another")
	w.hours++
	if now := w.audits(a, imgd.AuditAsk{}); !now.Items[2].Since.After(epoch.Add(time.Hour)) {
		t.Errorf("another drift of the tag is as old as the first: %+v", now.Items[2])
	}
	if other := last.Of("tools/lint"); len(other.Items) != 0 || other.Differs() != 0 || last.Of(demoImage).Differs() != 5 {
		t.Errorf("of other images: %+v", other)
	}
}

// A registry that does not answer is no drift: nothing is told, and it is said.
func TestAuditUnreachable(t *testing.T) {
	w, _, _ := twoVersions(t)
	i := w.inspector()
	i.away[copyRepo] = true
	a := w.auditor(i)
	found := w.audits(a, imgd.AuditAsk{Repair: true})
	if found.Complete || found.Differs() != 0 || found.Counts[imgd.DriftUnreachable] != found.Tags+1 || len(w.drifts) > 0 {
		t.Errorf("got %+v, told %v", found, w.drifts)
	}
	if f := found.Items[0]; f.Tag != "" || f.Repository != copyRepo || f.Error == "" || f.Repair != "" {
		t.Errorf("of the repository: %+v", f)
	}
	if f := found.Items[1]; f.Tag == "" || f.Error == "" || f.Repair != imgd.RepairLeft {
		t.Errorf("of a tag: %+v", f)
	}
	if last, ok := a.Last(); !ok || last.Complete {
		t.Errorf("kept %+v", last)
	}
}

// While a registry gives no answer nothing is known of what differed there before,
// and that has not ended.
func TestAuditSinceOverAnOutage(t *testing.T) {
	w, i, _ := drifting(t)
	a := w.auditor(i)
	clock := time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)
	a.Now = func() time.Time { return clock }
	since := map[string]time.Time{}
	for _, f := range w.audits(a, imgd.AuditAsk{}).Items {
		since[at(f.Repository, f.Tag)] = f.Since
	}
	for range 2 {
		clock = clock.Add(time.Hour)
		i.away[demoRepo] = true
		w.audits(a, imgd.AuditAsk{})
	}
	i.away[demoRepo] = false
	clock = clock.Add(time.Hour)
	found := w.audits(a, imgd.AuditAsk{}).Items
	for _, f := range found {
		if f.Tag != "stray" && !f.Since.Equal(since[at(f.Repository, f.Tag)]) {
			t.Errorf("%s:%s %s since %s, was %s", f.Repository, f.Tag, f.Kind, f.Since, since[at(f.Repository, f.Tag)])
		}
	}
	if len(found) != len(since) {
		t.Errorf("got %d findings, want %d", len(found), len(since))
	}
}

// A twiceListed lists each tag twice, as registries may that page by tokens.
type twiceListed struct{ imgd.Lister }

func (l twiceListed) Tags(ctx context.Context, repository string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for range 2 {
			for tag, err := range l.Lister.Tags(ctx, repository) {
				if !yield(tag, err) {
					return
				}
			}
		}
	}
}

// A tag that is listed twice is one, when it is new and when it is known.
func TestAuditOfTagsListedTwice(t *testing.T) {
	w, i, want := drifting(t)
	a := w.auditor(i)
	a.Lister = twiceListed{i}
	for range 2 {
		if found := w.audits(a, imgd.AuditAsk{}); !slices.Equal(findings(found), want) || found.Counts[imgd.DriftUnknownTag] != 1 {
			t.Errorf("got %q, %s", findings(found), found.Summary())
		}
	}
}

// Nobody has read it, so nothing is known to be wrong.
func TestAuditUnread(t *testing.T) {
	w := newWorld(t)
	in := pushed("v1.0.0", digest.FromString("unseen"))
	in.NoVerify = true
	w.record(in, true)
	found := w.audits(w.auditor(w.inspector()), imgd.AuditAsk{})
	if len(found.Items) != 0 || found.Unread != 1 || found.Tags != 0 || len(w.drifts) > 0 {
		t.Errorf("got %+v", found)
	}
}

// One image at a time: the rest of what is known stays as it was.
func TestAuditOfOne(t *testing.T) {
	w, i, want := drifting(t)
	w.record(pushed("v1.0.0", w.push(otherRepo, "v1.0.0", "one")), true)
	delete(w.tags, at(otherRepo, "v1.0.0"))
	a := w.auditor(i)
	if found := w.audits(a, imgd.AuditAsk{Image: otherImage}); len(found.Items) != 1 || found.Tags != 1 {
		t.Errorf("got %+v", found)
	}
	if _, ok := a.Last(); ok {
		t.Error("what one image has is kept as if all were known")
	}
	w.audits(a, imgd.AuditAsk{})
	w.push(otherRepo, "v1.0.0", "one")
	w.audits(a, imgd.AuditAsk{Image: otherImage})
	last, _ := a.Last()
	if got := findings(last); !slices.Equal(got, want) || last.Differs() != 6 || last.Image != "" {
		t.Errorf("kept %q, %s", got, last.Summary())
	}
	delete(w.tags, at(otherRepo, "v1.0.0"))
	w.audits(a, imgd.AuditAsk{Image: otherImage})
	if last, _ := a.Last(); len(last.Items) != 7 || last.Differs() != 7 {
		t.Errorf("kept %s", last.Summary())
	}
	if _, err := a.Audit(t.Context(), imgd.AuditAsk{Image: "demo/none"}); !errors.Is(err, imgd.ErrNotFound) {
		t.Errorf("an image that nobody knows: %v", err)
	}
	a.Ready = func(context.Context) error { return errInjected }
	if _, err := a.Audit(t.Context(), imgd.AuditAsk{}); !errors.Is(err, errInjected) {
		t.Errorf("an index that cannot be relied on: %v", err)
	}
}

// What changes while it is looked at is no drift.
func TestAuditOfWhatChanges(t *testing.T) {
	for name, row := range map[string]struct {
		tag     string                // that is looked at
		happens func(w *world, n int) // at its n-th look
		given   func(w *world, newer imgd.Release)
	}{
		"published anew": {tag: "latest", happens: func(w *world, n int) {
			w.refs["refs/tags/v1.2.9"] = commit("c")
			w.deliver(request("refs/tags/v1.2.9", 5))
		}},
		"removed": {tag: "v1.2.2", happens: func(w *world, n int) {
			w.pipeline().Command(w.t.Context(), order(imgd.CommandUntag, 1, "v1.2.2"))
		}},
		"recorded by another CI": {tag: "v9.0.0", given: func(w *world, newer imgd.Release) {
			w.push(demoRepo, "v9.0.0", "another")
			w.push(copyRepo, "v9.0.0", "another")
		},
			happens: func(w *world, n int) {
				in := pushed("v9.0.0", digest.FromString("another"))
				in.Image, in.Registry = demoImage, ""
				w.record(in, n == 1)
			}},
		"recorded late": {tag: "v9.0.0", given: func(w *world, newer imgd.Release) { w.push(demoRepo, "v9.0.0", "another") },
			happens: func(w *world, n int) {
				if n == 2 {
					in := pushed("v9.0.0", digest.FromString("another"))
					in.Image, in.Registry = demoImage, ""
					w.repos = []string{demoRepo}
					w.record(in, true)
				}
			}},
		"removed by another hand": {tag: "v9.0.0", given: func(w *world, newer imgd.Release) { w.push(demoRepo, "v9.0.0", "another") },
			happens: func(w *world, n int) {
				if n == 2 {
					delete(w.tags, "v9.0.0")
				}
			}},
		"moved by another hand": {tag: "v9.0.0", given: func(w *world, newer imgd.Release) { w.push(demoRepo, "v9.0.0", "another") },
			happens: func(w *world, n int) { w.push(demoRepo, "v9.0.0", fmt.Sprint("another ", n)) }},
	} {
		t.Run(name, func(t *testing.T) {
			w, _, newer := twoVersions(t)
			if row.given != nil {
				row.given(w, newer)
			}
			i := w.inspector()
			var looking sync.Mutex
			n, busy := 0, false
			i.looks = func(repository, tag string) {
				looking.Lock()
				if tag != row.tag || busy || repository != demoRepo || row.given == nil && n > 0 {
					looking.Unlock()
					return
				}
				n++
				at := n
				busy = true
				row.happens(w, at)
				busy = false
				looking.Unlock()
			}
			found := w.audits(w.auditor(i), imgd.AuditAsk{})
			if len(found.Items) != 0 || len(w.drifts) != 0 || n == 0 {
				t.Errorf("got %q, told %+v; looked %d times", findings(found), w.drifts, n)
			}
		})
	}
}

// What a release is about to take is no stranger; what was removed and is back is one.
func TestAuditOfClaimsAndRemoved(t *testing.T) {
	w := newWorld(t)
	w.refs[tagRef] = commit("a")
	w.fault = fault{"publish", "fails", 1}
	req := request(tagRef, 1)
	w.stage = imgd.Queued
	_, _ = w.pipeline().Handle(t.Context(), &req, w.reached)
	w.stage = ""
	if found := w.audits(w.auditor(w.inspector()), imgd.AuditAsk{}); len(found.Items) != 0 || len(w.tags) == 0 || len(w.index.Open()) != 1 {
		t.Errorf("got %q; the registry has %v", findings(found), w.tags)
	}
	w.sweep()
	root := w.tags["latest"]
	if _, _, err := w.pipeline().Command(t.Context(), order(imgd.CommandUntag, 1, "latest")); err != nil {
		t.Fatal(err)
	}
	w.tags["latest"] = root
	found := w.audits(w.auditor(w.inspector()), imgd.AuditAsk{Repair: true})
	if got := findings(found); !slices.Equal(got, []string{"hello:latest unknown-tag left"}) || found.Items[0].Generation == 0 || w.tags["latest"] != root {
		t.Errorf("got %q: %+v", got, found.Items)
	}
}

// A repository that hangs does not hold up the audit for each of its tags.
func TestAuditOfASilentRegistry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		index := &manyTags{of: 500, images: 1}
		looks := map[string]int{}
		var mu sync.Mutex
		hangs := mute{index, func(repository string) {
			mu.Lock()
			looks[repository]++
			mu.Unlock()
		}}
		a := &imgd.Auditor{Verifier: &imgd.Verifier{Index: index, Registry: hangs, Projects: configured(nil)}, Records: index, Lister: hangs}
		began := time.Now()
		found, err := a.Audit(t.Context(), imgd.AuditAsk{})
		if err != nil || found.Counts[imgd.DriftUnreachable] != 500 || found.Complete {
			t.Errorf("got %s, %v", found.Summary(), err)
		}
		if took := time.Since(began); took > 5*time.Minute || looks["registry.test/many/0"] > 10 {
			t.Errorf("it took %s and %v looks", took, looks)
		}
	})
}

// An audit that is interrupted tells of nothing that it did not see, and keeps
// nothing.
func TestAuditInterrupted(t *testing.T) {
	w, i, _ := drifting(t)
	ctx, cancel := context.WithCancel(t.Context())
	i.looks = func(_, tag string) {
		if tag == "latest" {
			cancel()
		}
	}
	a := w.auditor(i)
	if _, err := a.Audit(ctx, imgd.AuditAsk{Repair: true}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if _, ok := a.Last(); ok {
		t.Error("half an audit is kept")
	}
	for _, d := range w.drifts {
		if d.Tag == "latest" || d.Kind == imgd.DriftUnreachable {
			t.Errorf("told %+v", d)
		}
	}
}

// Whoever asks for an audit that is under way waits, and may leave.
func TestAuditWaitsForTheSame(t *testing.T) {
	w, i, _ := drifting(t)
	a := w.auditor(i)
	const atOnce = 4 // tags that an audit looks at
	stand, goOn := make(chan struct{}), make(chan struct{})
	var looks atomic.Int64
	i.looks = func(string, string) {
		n := looks.Add(1)
		if n == atOnce {
			close(stand)
		}
		if n <= atOnce {
			<-goOn
		}
	}
	first := make(chan error)
	go func() {
		_, err := a.Audit(t.Context(), imgd.AuditAsk{})
		first <- err
	}()
	<-stand
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := a.Audit(ctx, imgd.AuditAsk{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if n := looks.Load(); n > atOnce {
		t.Errorf("%d tags were looked at, by more than one audit", n)
	}
	close(goOn)
	if err := <-first; err != nil {
		t.Error(err)
	}
}
