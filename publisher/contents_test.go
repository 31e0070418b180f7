package publisher_test

import (
	"errors"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/imgd/imgd"
)

var _ imgd.Weigher = newPublisher()

func TestContents(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	p := newPublisher()
	index, amd, arm := indexOf(reg, "demo/hello")
	whole, err := p.Contents(t.Context(), reg.addr+"/demo/hello", index.Digest)
	if err != nil {
		t.Fatal(err)
	}
	has := map[digest.Digest]int64{}
	for _, part := range whole {
		has[part.Digest] = part.Size
	}
	if has[index.Digest] != index.Size || has[amd.Digest] != amd.Size || has[arm.Digest] != arm.Size {
		t.Errorf("got %v, which lacks the index or a manifest", has)
	}
	one, err := p.Contents(t.Context(), reg.addr+"/demo/hello", amd.Digest)
	if err != nil {
		t.Fatal(err)
	}
	if len(one) < 3 || one[0].Digest != amd.Digest {
		t.Errorf("got %v, want manifest, config and layer", one)
	}
	for _, part := range one {
		if size, ok := has[part.Digest]; !ok || size != part.Size || size <= 0 {
			t.Errorf("%s of %d bytes is not in the index, which has %d of it", part.Digest, part.Size, size)
		}
	}
	if _, err := p.Contents(t.Context(), reg.addr+"/demo/hello", digest.FromString("none")); !errors.Is(err, imgd.ErrNotFound) {
		t.Errorf("nothing there: %v", err)
	}
	if _, err := p.Contents(t.Context(), reg.addr+"/demo/hello", "latest"); err == nil {
		t.Error("a tag is no digest")
	}
}
