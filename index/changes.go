package index

import (
	"cmp"
	"slices"

	"github.com/imgd/imgd"
)

// Changes are what the entries after seq did to records, of one image if it is
// not empty, in their order, and the entry up to which these are all. There are
// at most limit of them: more follow behind that entry.
func (x *Index) Changes(seq uint64, image string, limit int) (changes []imgd.Change, upTo uint64) {
	z := x.freeze()
	var all []*release
	fresh := 0
	z.releases.Scan(func(r *release) bool {
		if r.published && (image == "" || r.image == image) {
			all = append(all, r)
			if r.seq > seq {
				fresh++
			}
		}
		return true
	})
	if fresh == 0 {
		return nil, z.seq
	}
	slices.SortFunc(all, func(a, b *release) int { return cmp.Compare(a.seq, b.seq) })
	for i := len(all) - fresh; i < len(all); i++ {
		if len(changes) == limit {
			return changes, changes[limit-1].Seq
		}
		changes = append(changes, imgd.ChangeOf(all[i].text.get(), func(tag string) imgd.Release { return lastOf(all[:i], all[i].image, tag) }))
	}
	return changes, z.seq
}

// lastOf is the last of the releases that took the tag. As a rule it is one of
// the last there are: to read each of them would take seconds.
func lastOf(past []*release, image, tag string) imgd.Release {
	for _, r := range slices.Backward(past) {
		if r.image != image {
			continue
		}
		if rel := r.text.get(); takes(rel, tag) {
			return rel
		}
	}
	return imgd.Release{}
}
