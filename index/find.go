package index

import (
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/imgd/imgd"
)

// Find answers the records that f chooses, in its order, whether there are more
// of them behind its limit, and the sequence they stand for.
func (x *Index) Find(f imgd.Find) (found []imgd.Record, more bool, seq uint64) {
	z, named := x.freezeWith(f.Digest)
	look := func(t *tag) bool {
		for _, line := range t.lines(z.releases) {
			r := unmarshal[imgd.Record](line)
			if f.After != nil && f.Sort.Compare(*f.After, r) >= 0 {
				continue
			}
			project := ""
			if f.Project != "" {
				project = z.project(r.Release)
			}
			if f.Has(r, project) {
				found = append(found, r)
			}
		}
		return !f.ByName() || f.Limit == 0 || len(found) <= f.Limit // the next ones are behind all that were found
	}
	if f.Digest != "" {
		for _, t := range z.tagsOf(named) {
			look(t)
		}
		return cut(found, f, z.seq)
	}
	from := &tag{image: f.Image}
	if f.After != nil && f.ByName() && f.After.Image >= f.Image {
		from = &tag{image: f.After.Image, name: f.After.Tag}
	}
	z.tags.Ascend(from, func(t *tag) bool { return (f.Image == "" || t.image == f.Image) && look(t) })
	return cut(found, f, z.seq)
}

// cut answers the first of those that were found.
func cut(found []imgd.Record, f imgd.Find, seq uint64) ([]imgd.Record, bool, uint64) {
	slices.SortFunc(found, f.Sort.Compare)
	if f.Limit > 0 && len(found) > f.Limit {
		return found[:f.Limit], true, seq
	}
	return found, false, seq
}

// freezeWith also answers the releases that have the digest.
func (x *Index) freezeWith(d digest.Digest) (z frozen, named []*release) {
	x.view.Lock()
	defer x.view.Unlock()
	for l := x.state.digests[d]; l != nil; l = l.next {
		named = append(named, l.release)
	}
	return x.state.freeze(), named
}

// tagsOf are the tags that these releases hold.
func (z frozen) tagsOf(releases []*release) (held []*tag) {
	for _, r := range releases {
		for _, rt := range r.text.get().Taken() {
			if t, ok := z.tags.Get(&tag{image: r.image, name: rt.Name}); ok && t.holder == r.id {
				held = append(held, t)
			}
		}
	}
	return held
}

// project is that of the release's request.
func (z frozen) project(id string) string {
	r, _ := z.releases.Get(&release{id: id})
	rel, _ := valueOf(r)
	return rel.Request.Project
}
