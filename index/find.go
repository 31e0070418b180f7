package index

import (
	"slices"

	"github.com/imgd/imgd"
)

// Find answers the records that f chooses, in its order, whether there are more
// of them behind its limit, and the sequence they stand for.
func (x *Index) Find(f imgd.Find) (found []imgd.Record, more bool, seq uint64) {
	z := x.freeze()
	look := func(t *tag) bool {
		for _, line := range t.lines(z.releases) {
			r := unmarshal[imgd.Record](line)
			if f.After != nil && f.Sort.Compare(*f.After, r) >= 0 {
				continue
			}
			if project := f.Project; f.Has(r, project) && (project == "" || z.project(r.Release) == project) {
				found = append(found, r)
			}
		}
		return !f.ByName() || f.Limit == 0 || len(found) <= f.Limit // the next ones are behind all that were found
	}
	from := &tag{image: f.Image}
	if f.After != nil && f.ByName() && f.After.Image >= f.Image {
		from = &tag{image: f.After.Image, name: f.After.Tag}
	}
	z.tags.Ascend(from, func(t *tag) bool { return (f.Image == "" || t.image == f.Image) && look(t) })
	slices.SortFunc(found, f.Sort.Compare)
	if f.Limit > 0 && len(found) > f.Limit {
		return found[:f.Limit], true, z.seq
	}
	return found, false, z.seq
}

// project is that of the release's request.
func (z frozen) project(id string) string {
	r, _ := z.releases.Get(&release{id: id})
	rel, _ := valueOf(r)
	return rel.Request.Project
}
