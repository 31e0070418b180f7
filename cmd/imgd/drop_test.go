package main

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/index"
	names "github.com/imgd/imgd/version"
)

// bare is a registry that has nothing.
type bare struct{}

func (bare) Resolve(context.Context, string, string) (d ocispec.Descriptor, err error) {
	return d, imgd.ErrNotFound
}

func (bare) Capture(context.Context, []string, digest.Digest) (d ocispec.Descriptor, p []ocispec.Descriptor, err error) {
	return d, nil, imgd.ErrNotFound
}

// What another CI has pushed has no state in the queue's stream, and is given up
// all the same.
func TestDropPushed(t *testing.T) {
	x, err := index.Open(index.Config{Dir: t.TempDir(), Registry: bare{}})
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	id := strings.Repeat("0f", 16)
	c := commands{nil, &imgd.Pipeline{Capturer: bare{}, Index: x, Lookup: x}}
	rel := imgd.Release{Image: "tools/lint", Pushed: true, Root: ocispec.Descriptor{Digest: digest.FromString("x")}, Request: imgd.Request{ID: id},
		Tags: []imgd.ReleaseTag{{Name: "v1.0.0", Kind: names.KindVersion}}}
	if rel, err = x.Admit(t.Context(), rel, ""); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		st, err := c.Drop(t.Context(), id, "ann", "it\nhangs")
		if err != nil || st.State != imgd.Failed || st.Release != rel.ID || st.Error.Message != "dropped by ann: it hangs" {
			t.Errorf("got %+v, %v", st, err)
		}
	}
	again, err := x.Admit(t.Context(), rel, rel.ID)
	if err == nil {
		again, err = x.Publish(t.Context(), again.ID)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Drop(t.Context(), id, "ann", ""); !errors.Is(err, imgd.ErrConflict) || !strings.Contains(err.Error(), again.ID) {
		t.Errorf("of a published one: got %v, want a conflict", err)
	}
}
