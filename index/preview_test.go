package index_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgd/imgd"
)

// unbuilt is what is known of a release before its build.
func unbuilt(rel imgd.Release) imgd.Release {
	rel.Root, rel.Platforms = ocispec.Descriptor{}, nil
	return rel
}

// A preview says what admission does then, and does nothing.
func TestPreview(t *testing.T) {
	const main = "refs/heads/main"
	w, _, x, a, b := series(t)
	w.parents[commit("d")], w.parents[commit("e")], w.heads[main] = commit("c"), commit("d"), commit("e")
	onMain := publish(t, x, w.candidate(main, "d", "D", 3))
	publish(t, x, forced(command(1, nil, 4, "v1.1.0")))
	w.tags["v3.0.0"] = digest.FromString("theirs")
	w.roots[w.tags["v3.0.0"]] = []string{"theirs"}

	for name, tt := range map[string]struct {
		rel  imgd.Release
		want []string // each begins the line of a tag
	}{
		"a newer version":              {unbuilt(w.candidate("refs/tags/v1.3.0", "f", "F", 10)), []string{"v1.3.0 taken", "1.3 taken", "latest taken, has " + b.ID}},
		"a backport":                   {unbuilt(w.candidate("refs/tags/v1.1.5", "f", "F", 10)), []string{"v1.1.5 taken", "1.1 taken, has " + a.ID, "latest not: has named v1.2.0"}},
		"another commit":               {unbuilt(w.candidate("refs/tags/v1.2.0", "f", "F", 10)), []string{"v1.2.0 conflict: demo/hello:v1.2.0 names " + b.Root.Digest.String(), "1.2 not: has named", "latest not:"}},
		"another commit, forced":       {forced(unbuilt(w.candidate("refs/tags/v1.2.0", "f", "F", 10))), []string{"v1.2.0 taken, has " + b.ID, "1.2 not: has named", "latest not:"}},
		"the same commit":              {unbuilt(w.candidate("refs/tags/v1.2.0", "b", "B", 10)), []string{"v1.2.0 unchanged: demo/hello:v1.2.0 names " + b.Root.Digest.String() + " of the same commit", "1.2 not:", "latest not:"}},
		"what stands":                  {w.candidate("refs/tags/v1.2.0", "b", "B", 10), []string{"v1.2.0 not: names it already, held by release " + b.ID, "1.2 not: names it already", "latest not: names it already"}},
		"removed, the same":            {w.candidate("refs/tags/v1.1.0", "a", "A", 10), []string{"v1.1.0 taken", "1.1 not: names it already", "latest not:"}},
		"removed, another":             {unbuilt(w.candidate("refs/tags/v1.1.0", "f", "F", 10)), []string{"v1.1.0 conflict: ", "1.1 not: ", "latest not:"}},
		"put there by another hand":    {unbuilt(w.candidate("refs/tags/v3.0.0", "f", "F", 10)), []string{"v3.0.0 conflict: demo/hello:v3.0.0 names " + w.tags["v3.0.0"].String() + ", put into " + repo, "3.0 taken", "latest taken"}},
		"the head of a branch":         {unbuilt(w.candidate(main, "e", "E", 10)), []string{strings.Repeat("e", 12) + " taken", "main taken, has " + onMain.ID}},
		"an older commit of a branch":  {unbuilt(w.candidate(main, "c", "C", 10)), []string{strings.Repeat("c", 12) + " taken", "main not: has named dddddddddddd"}},
		"the commit of another branch": {unbuilt(w.candidate("refs/heads/x", "d", "D", 10)), []string{strings.Repeat("d", 12) + " not: held by release " + onMain.ID, "x not: "}},
		"a branch like a series":       {unbuilt(w.candidate("refs/heads/latest", "f", "F", 10)), []string{strings.Repeat("f", 12) + " taken", "latest not: is a series tag"}},
		"a branch like a version":      {unbuilt(w.candidate("refs/heads/v1.2.0", "f", "F", 10)), []string{strings.Repeat("f", 12) + " taken", "v1.2.0 not: is a version tag"}},
	} {
		t.Run(name, func(t *testing.T) {
			before := x.Seq()
			got, err := x.Preview(t.Context(), tt.rel)
			if err != nil || len(got) != len(tt.want) || x.Seq() != before {
				t.Fatalf("got %+v, %v, entries %d, want %d and %d entries", got, err, x.Seq(), len(tt.want), before)
			}
			for i, p := range got {
				if line := preview(p); !strings.HasPrefix(line, tt.want[i]) {
					t.Errorf("got %q, want %q", line, tt.want[i])
				}
			}
		})
	}
	w.broken = errors.New("git is away")
	if _, err := x.Preview(t.Context(), unbuilt(w.candidate(main, "e", "E", 10))); !errors.Is(err, w.broken) {
		t.Errorf("got %v, want what git said", err)
	}
}

func preview(p imgd.Preview) string {
	switch {
	case p.Taken && p.Release != "":
		return fmt.Sprintf("%s taken, has %s", p.Tag, p.Release)
	case p.Taken:
		return p.Tag + " taken"
	case p.Ends != "":
		return fmt.Sprintf("%s %s: %s", p.Tag, p.Ends, p.Reason)
	}
	return p.Tag + " not: " + p.Reason
}
