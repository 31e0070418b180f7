package index

import (
	"slices"

	"github.com/imgd/imgd"
)

// Find answers the records that f chooses, in its order, whether there are more
// of them behind its limit, and the sequence they stand for.
func (x *Index) Find(f imgd.Find) (found []imgd.Record, more bool, seq uint64) {
	s := x.state.Load()
	for _, r := range s.records() {
		if f.Has(r, s.releases[r.Release].Request.Project) && (f.After == nil || f.Sort.Compare(*f.After, r) < 0) {
			found = append(found, r)
		}
	}
	slices.SortFunc(found, f.Sort.Compare)
	if f.Limit > 0 && len(found) > f.Limit {
		return found[:f.Limit], true, s.seq
	}
	return found, false, s.seq
}
