package index

import (
	"context"
	"errors"
	"strings"

	"github.com/imgd/imgd"
)

// Preview is imgd.Previewer.Preview. Git and the registry are asked as by Admit;
// nothing is entered.
func (x *Index) Preview(ctx context.Context, rel imgd.Release) ([]imgd.Preview, error) {
	seen := x.look(rel)
	ask := &asker{history: x.config.History, registry: x.config.Registry}
	var previews []imgd.Preview
	for _, want := range rel.Tags {
		alone := rel
		alone.Tags = []imgd.ReleaseTag{want}
		c := claim{view: seen, tag: seen.tags[want.Name], rel: &alone, want: want, ask: ask}
		p, err := c.preview(ctx)
		if err != nil {
			return nil, err
		}
		previews = append(previews, p)
	}
	return previews, nil
}

// preview says what reason would, and who has the tag.
func (c claim) preview(ctx context.Context) (imgd.Preview, error) {
	p := imgd.Preview{Tag: c.want.Name, Kind: c.want.Kind}
	if owners := c.owners(); len(owners) > 0 {
		p.Release, p.Root = owners[0].ID, owners[0].Root.Digest
	}
	if p.Root != "" && p.Root == c.rel.Root.Digest {
		p.Reason = "names it already, " + c.owner()
		return p, nil
	}
	why, err := c.reason(ctx)
	for ends, end := range map[imgd.State]error{imgd.Conflicted: imgd.ErrConflict, imgd.Unchanged: imgd.ErrUnchanged} {
		if errors.Is(err, end) {
			p.Ends = ends
			why, err = strings.TrimSuffix(err.Error(), ": "+end.Error()), nil
		}
	}
	p.Reason, p.Taken = why, why == ""
	return p, err
}
