package index

import (
	"github.com/opencontainers/go-digest"
	"github.com/tidwall/gjson"

	"github.com/imgd/imgd"
)

// Tag are the records of a tag, by platform, as Lines promises them.
func (x *Index) Tag(image, name string) []imgd.Record {
	var records []imgd.Record
	for _, line := range x.Lines(image, name) {
		records = append(records, unmarshal[imgd.Record](line))
	}
	return records
}

// Lines are the records of a tag, by platform, each as its line in images.json.
// Whoever sees one tag of a release finds its other tags as it left them, or as a
// later one did. The slice is shared: do not change it.
//
// As a rule no lock is taken: readers that all write to one lock wait for one
// another. A tag that was given to another release has no lines at first; they are
// made here, when what gave it is folded whole. So what is answered without the
// lock is of before a fold that is under way, and what it has changed of after it.
func (x *Index) Lines(image, name string) []string {
	if t := x.state.tags.get(tagKey{image, name}); t != nil {
		return x.lines(t)
	}
	return nil
}

func (x *Index) lines(t *tag) []string {
	if lines := t.records.Load(); lines != nil {
		return *lines
	}
	x.view.RLock()
	defer x.view.RUnlock()
	return t.lines(x.state.releases)
}

// Held is what a tag names: the root, the repositories of the release that holds
// it, and Lines, all three of one moment. There are no lines if it names nothing.
func (x *Index) Held(image, name string) (root digest.Digest, repositories, lines []string) {
	t := x.state.tags.get(tagKey{image, name})
	if t == nil {
		return "", nil, nil
	}
	if lines = x.lines(t); len(lines) == 0 {
		return "", nil, nil
	}
	x.view.RLock()
	holder := x.state.release(t.holder)
	x.view.RUnlock()
	return holder.root, holder.repositories(), lines
}

// repositories are those of the release, without reading all of it.
func (r *release) repositories() []string {
	if value := r.text.value.Load(); value != nil {
		return value.Repositories
	}
	return unmarshal[[]string](gjson.Get(*r.text.line.Load(), "repositories").Raw)
}
