package imgd_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/imgd/imgd"
)

func TestAuditRepairs(t *testing.T) {
	w, i, _ := drifting(t)
	w.refuses["1.2"] = -1
	a := w.auditor(i)
	w.audits(a, imgd.AuditAsk{})
	delete(i.junk, "latest") // which a write ends
	w.tags["latest"] = digest.FromString("no image")
	found := w.audits(a, imgd.AuditAsk{Repair: true})
	want := []string{"copy:v1.2.2 missing repaired", "hello:1 became-index repaired", "hello:1.2 moved refused", "hello:latest moved repaired",
		"hello:stray unknown-tag left", "hello:v1.2.2 blob-missing left"}
	if got := findings(found); !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
	if found.Differs() != 3 || found.Count(imgd.Repaired) != 3 || w.tags["stray"] == "" {
		t.Errorf("got %s", found.Summary())
	}
	if why := found.Items[5].Why; why != "build it anew: imgctl build hello --ref refs/tags/v1.2.2 --commit "+commit("a")+" --rebuild" {
		t.Errorf("of what is lost it says %q", why)
	}
	if last, _ := a.Last(); len(last.Items) != 3 || last.Differs() != 3 {
		t.Errorf("kept %+v", last)
	}
	clear(w.refuses)
	if got := findings(w.audits(a, imgd.AuditAsk{Repair: true})); got[0] != "hello:1.2 moved repaired" || len(got) != 3 {
		t.Errorf("again: got %q", got)
	}
	for tag := range w.tags { // those that the index does not know
		if rel, _ := w.index.Wanted(demoImage, tag[strings.LastIndex(tag, ":")+1:]); rel.ID == "" {
			delete(w.tags, tag)
		}
	}
	i.lacks = map[string]digest.Digest{}
	w.check()
}

// Where one repository has lost the image, the other is put right.
func TestAuditRepairsWhatIsThere(t *testing.T) {
	w, _, newer := twoVersions(t)
	i := w.inspector()
	i.lacks[copyRepo+"@"+newer.Root.Digest.String()] = digest.FromString("layer")
	for _, repository := range w.repos {
		delete(w.tags, at(repository, "v1.2.3"))
	}
	found := w.audits(w.auditor(i), imgd.AuditAsk{Repair: true, Depth: imgd.DepthTag})
	if got := findings(found); !slices.Equal(got, []string{"copy:v1.2.3 missing left", "hello:v1.2.3 missing repaired"}) {
		t.Fatalf("got %q", got)
	}
	if why := found.Items[0].Why; !strings.Contains(why, "layer "+digest.FromString("layer").String()+" is lost there") || !strings.Contains(why, "--rebuild") {
		t.Errorf("it says %q", why)
	}
	if w.tags[at(copyRepo, "v1.2.3")] != "" || w.tags["v1.2.3"] != newer.Root.Digest {
		t.Errorf("the registry has %v", w.tags)
	}
}

// That a tag is right is said of one that was seen to be.
func TestAuditRepairIsUndone(t *testing.T) {
	w, _, _ := twoVersions(t)
	w.tags["latest"] = digest.FromString("strange")
	i, n := w.inspector(), 0
	i.looks = func(repository, tag string) {
		if repository != demoRepo || tag != "latest" {
			return
		}
		if n++; n > 1 { // it is repaired by now
			w.mu.Lock()
			defer w.mu.Unlock()
			w.tags["latest"] = digest.FromString("stranger")
		}
	}
	found := w.audits(w.auditor(i), imgd.AuditAsk{Repair: true})
	if got := findings(found); !slices.Equal(got, []string{"hello:latest moved left"}) || !strings.Contains(found.Items[0].Why, "look again") {
		t.Errorf("got %q: %+v", got, found.Items)
	}
}

// A repair that has failed is tried again, and only where it was asked for: what differs
// elsewhere was not told.
func TestAuditRepairGoesOn(t *testing.T) {
	w, _, newer := twoVersions(t)
	strange := digest.FromString("strange")
	w.tags["latest"] = strange
	w.fault = fault{"tag", "fails", 1}
	a := w.auditor(w.inspector())
	if found := w.audits(a, imgd.AuditAsk{Repair: true}); found.Count(imgd.RepairLeft) != 1 || w.tags["latest"] != strange {
		t.Fatalf("got %q, latest names %s", findings(found), w.tags["latest"])
	}
	w.tags[at(copyRepo, "latest")] = strange
	for n := range 2 {
		if err := a.Pipeline.DriveOpen(t.Context(), epoch.Add(time.Duration(n)*time.Hour), time.Minute); err != nil {
			t.Error(err)
		}
		if w.tags["latest"] != newer.Root.Digest || w.tags[at(copyRepo, "latest")] != strange {
			t.Errorf("the registry has %v", w.tags)
		}
		w.tags[at(demoRepo, "latest")] = newer.Root.Digest
	}
	w.tags["latest"] = strange
	if err := a.Pipeline.DriveOpen(t.Context(), epoch.Add(9*time.Hour), time.Minute); err != nil || w.tags["latest"] != strange {
		t.Errorf("what was repaired is written again: %v, latest names %s", err, w.tags["latest"])
	}
}

// What is left alone, and why.
func TestAuditLeaves(t *testing.T) {
	moved := func(w *world) { w.tags["latest"] = digest.FromString("strange") }
	for name, row := range map[string]struct {
		given func(w *world, a *imgd.Auditor, i *inspector)
		want  string // in why
	}{
		"what another CI pushed": {func(w *world, _ *imgd.Auditor, _ *inspector) {
			in := pushed("stable", w.push(demoRepo, "stable", "another"))
			in.Image, in.Registry = demoImage, ""
			w.repos = []string{demoRepo}
			w.record(in, true)
			w.push(demoRepo, "stable", "strange")
		}, "only reads it"},
		"what is not told": {func(w *world, a *imgd.Auditor, _ *inspector) {
			moved(w)
			w.fault = fault{"drift", "fails", 9}
		}, "could not be told"},
		"an index that is behind": {func(w *world, a *imgd.Auditor, _ *inspector) {
			moved(w)
			n := 0
			a.Ready = func(context.Context) error {
				if n++; n > 1 {
					return errors.New("the index is behind its events")
				}
				return nil
			}
		}, "behind its events"},
		"what is claimed": {func(w *world, _ *imgd.Auditor, i *inspector) {
			moved(w)
			w.refs["refs/tags/v1.2.9"] = commit("c")
			w.fault = fault{"tag", "fails", 99}
			req := request("refs/tags/v1.2.9", 5)
			w.stage = imgd.Queued
			_, _ = w.pipeline().Handle(w.t.Context(), &req, w.reached)
			moved(w)
		}, "is about to take the tag"},
	} {
		t.Run(name, func(t *testing.T) {
			w, _, _ := twoVersions(t)
			i := w.inspector()
			a := w.auditor(i)
			row.given(w, a, i)
			tags := maps.Clone(w.tags)
			found, err := a.Audit(t.Context(), imgd.AuditAsk{Repair: true})
			if err != nil || len(found.Items) == 0 || found.Count(imgd.RepairLeft) != len(found.Items) || !strings.Contains(found.Items[0].Why, row.want) {
				t.Errorf("got %+v, %v; want why: %s", found.Items, err, row.want)
			}
			if !maps.Equal(w.tags, tags) {
				t.Errorf("the registry has %v, had %v", w.tags, tags)
			}
		})
	}
}
