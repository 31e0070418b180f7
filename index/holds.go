package index

import "github.com/imgd/imgd"

// Images are the images of which a tag names something, sorted.
func (x *Index) Images() []string {
	z := x.freeze()
	images := []string{}
	z.tags.Scan(func(t *tag) bool {
		if known := len(images); (known == 0 || images[known-1] != t.image) && z.root(t) {
			images = append(images, t.image)
		}
		return true
	})
	return images
}

// Holds are the tags of the image that name something, by name.
func (x *Index) Holds(image string) []imgd.Hold {
	z := x.freeze()
	holds := []imgd.Hold{}
	z.tags.Ascend(&tag{image: image}, func(t *tag) bool {
		if t.image != image {
			return false
		}
		if !z.root(t) {
			return true
		}
		r, _ := z.releases.Get(&release{id: t.holder})
		rel := r.text.get()
		for _, taken := range rel.Taken() {
			if taken.Name == t.name {
				holds = append(holds, imgd.Hold{Tag: taken, Release: rel, Claim: t.claim})
			}
		}
		return true
	})
	return holds
}

// root reports whether the tag's holder has one: an untag holds it without.
func (z frozen) root(t *tag) bool {
	r, ok := z.releases.Get(&release{id: t.holder})
	return ok && r.root != ""
}

// Missed are the tags that published releases of the image which do not expire
// asked for and did not get, each with one of those.
func (x *Index) Missed(image string) map[string]string {
	missed := map[string]string{}
	x.freeze().releases.Scan(func(r *release) bool {
		if r.image != image || !r.published {
			return true
		}
		rel := r.text.get()
		for _, t := range rel.Tags {
			if t.Reason != "" && rel.ExpiresAt.IsZero() {
				missed[t.Name] = rel.ID
			}
		}
		return true
	})
	return missed
}
