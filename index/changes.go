package index

import "github.com/imgd/imgd"

// Changes are what the entries after seq did to records, of one image if it is
// not empty, in their order, and the entry up to which these are all. There are
// at most limit of them: more follow behind that entry.
func (x *Index) Changes(seq uint64, image string, limit int) (changes []imgd.Change, upTo uint64) {
	z := x.freeze()
	for _, rel := range z.published(seq) {
		if image != "" && rel.Image != image {
			continue
		}
		if len(changes) == limit {
			return changes, changes[limit-1].Seq
		}
		changes = append(changes, imgd.ChangeOf(rel, func(tag string) (last imgd.Release) {
			for _, before := range z.history(rel.Image, tag) {
				if before.Seq < rel.Seq {
					last = before
				}
			}
			return last
		}))
	}
	return changes, z.seq
}
