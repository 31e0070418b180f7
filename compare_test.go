package imgd_test

import (
	"errors"
	"reflect"
	"testing"

	"github.com/imgd/imgd"
)

// What is built to be compared is built, read back and told of, and takes no tag,
// not even one that is free.
func TestCompareReleasesNothing(t *testing.T) {
	for _, ref := range []string{mainRef, tagRef} {
		w := newWorld(t)
		w.refs[ref] = commit("a")
		published, err := w.deliver(request(ref, 1))
		if err != nil {
			t.Fatal(err)
		}
		w.refs["refs/tags/v9.0.0"] = commit("b")
		for at, ref := range []string{ref, ref, "refs/tags/v9.0.0"} {
			req := request(ref, 2+at)
			req.Rebuild, req.Compare, req.Nonce = true, true, ref
			rel, err := w.deliver(req)
			var built *imgd.BuiltError
			if !errors.Is(err, imgd.ErrUnchanged) || !errors.As(err, &built) || rel.ID != "" {
				t.Fatalf("%s: got release %q, %v", ref, rel.ID, err)
			}
			if built.Root == published.Root.Digest || !w.roots[built.Root] {
				t.Errorf("%s: it says that %s was built, published is %s", ref, built.Root, published.Root.Digest)
			}
		}
		if _, there := w.tags["v9.0.0"]; there {
			t.Error("a tag was taken")
		}
		w.check()
	}
}

// What failed may be asked for anew by its state alone: nothing of the ask may
// be lost, or what was only to be compared would be released.
func TestAskedAgainWhole(t *testing.T) {
	asked := imgd.Request{ID: "i", Project: "p", Ref: "r", Commit: "c", By: "b", Reason: "why", Force: true, Rebuild: true, Compare: true, Nonce: "n",
		Args: map[string]string{"A": "1"}, Target: "t", Platforms: []string{"linux/amd64"}}
	if got := imgd.StatusOf(asked, imgd.Failed).Again(); !reflect.DeepEqual(got, asked) {
		t.Errorf("got  %+v\nwant %+v", got, asked)
	}
}
