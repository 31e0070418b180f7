package imgd_test

import (
	"encoding/json"

	"github.com/opencontainers/go-digest"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/index"
	"github.com/imgd/imgd/version"
)

// A watch holds what may never happen from one moment to the next, whoever
// works on what: looked at often, it sees it when it happens.
type watch struct {
	*world
	seq   uint64
	tags  map[string]tagLine
	roots map[string]digest.Digest // of immutable tags
}

// A tagLine is what images.json says of a tag.
type tagLine struct {
	Image, Tag, Holder, Claim string
	Kind                      version.Kind
	Generation                uint64
	Mark                      struct{ Version string }
}

func (w *world) watch() *watch { return &watch{world: w, roots: map[string]digest.Digest{}} }

// look holds I4 (an immutable tag changes by force or in place of a lost root,
// no generation is used twice), I5 (a mark never goes down), I7 (a request has
// one open release), and that claims and holds are of releases that can have
// them. What no entry has changed since it has seen already.
func (v *watch) look() {
	v.t.Helper()
	if v.tags != nil && v.index.Seq() == v.seq {
		return
	}
	v.seq = v.index.Seq()
	b, err := index.Export(v.dir)
	var doc struct{ Tags []tagLine }
	if err == nil {
		err = json.Unmarshal(b, &doc)
	}
	if err != nil {
		v.t.Fatal(err)
	}
	now := map[string]tagLine{}
	for _, line := range doc.Tags {
		now[line.Image+":"+line.Tag] = line
	}
	for name, was := range v.tags {
		is := now[name]
		if is.Generation < was.Generation {
			v.t.Errorf("%s went from generation %d to %d (I4)", name, was.Generation, is.Generation)
		}
		if is.Kind == version.KindSeries && was.Mark.Version != "" && version.Compare(is.Mark.Version, was.Mark.Version) < 0 {
			v.t.Errorf("the mark of %s went from %s to %s (I5)", name, was.Mark.Version, is.Mark.Version)
		}
	}
	for name, is := range now {
		v.owners(name, is)
	}
	v.tags = now
	open := map[string]string{}
	for _, rel := range v.index.Open() {
		if other, ok := open[rel.Request.ID]; ok {
			v.t.Errorf("%s and %s are open at once (I7)", other, rel.ID)
		}
		open[rel.Request.ID] = rel.ID
	}
}

// owners looks at who has one tag.
func (v *watch) owners(name string, is tagLine) {
	v.t.Helper()
	if claim, ok := v.index.Release(is.Claim); is.Claim != "" && (!ok || claim.State != imgd.ReleaseAdmitted) {
		v.t.Errorf("%s is claimed by %s, which is %s", name, is.Claim, claim.State)
	}
	holder, ok := v.index.Release(is.Holder)
	if is.Holder == "" {
		return
	}
	if !ok || holder.State != imgd.ReleasePublished {
		v.t.Errorf("%s is held by %s, which is %s", name, is.Holder, holder.State)
	}
	root := holder.Root.Digest
	if was := v.roots[name]; is.Kind.Immutable() && was != "" && was != root && !holder.Request.Force && holder.Command != imgd.CommandExpire && v.roots[name] != "" && v.has(was) {
		v.t.Errorf("%s went from %s to %s, of %s, which forces nothing (I4)", name, was, root, holder.ID)
	}
	v.roots[name] = root
}

// has reports whether the registry has the root.
func (w *world) has(root digest.Digest) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.roots[root]
}
