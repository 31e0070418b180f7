package imgd

import "slices"

// A Change is what one entry of the index did to records: a release was
// published, and the records of its tags are its own from then on. All of it came
// at once.
type Change struct {
	Seq     uint64   `json:"seq"`
	Set     []Record `json:"set,omitempty"`     // new, or in place of that of the same image, tag and platform
	Removed []Record `json:"removed,omitempty"` // as they were
}

// ChangeOf is what the publication of rel changed; before is the release that had
// the tag until then, and is asked only where that named something.
func ChangeOf(rel Release, before func(tag string) Release) Change {
	change := Change{Seq: rel.Seq}
	for _, t := range rel.Taken() {
		set := rel.RecordsOf(t)
		change.Set = append(change.Set, set...)
		if t.Previous == "" {
			continue
		}
		last := before(t.Name)
		took, _ := last.took(t.Name)
		for _, was := range last.RecordsOf(took) {
			if !slices.ContainsFunc(set, func(r Record) bool { return r.Platform == was.Platform }) {
				change.Removed = append(change.Removed, was)
			}
		}
	}
	return change
}
