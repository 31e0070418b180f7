package imgd

import (
	"context"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A Weigher says what an image is made of.
type Weigher interface {
	// Contents are root and all that it consists of, each with its size, as the
	// repository's manifests say it. It changes nothing.
	Contents(ctx context.Context, repository string, root digest.Digest) ([]ocispec.Descriptor, error)
}

// What is weighed of one image, each at the cost of a small request or two: so
// many of what goes, and so many of what stays and was published last, which is
// likely to be made of the same layers.
const (
	maxWeighed  = 200
	maxCompared = 20
)

// weigh adds how much the registry could free once the tags are gone. It is an
// upper bound, and so what stays and cannot be read does not matter.
func (e *Expirer) weigh(ctx context.Context, verdicts []Verdict, done *Expiry) {
	going, staying := orphans(verdicts)
	if len(going) == 0 {
		return
	}
	sizes := map[digest.Digest]int64{}
	for i, rel := range going {
		contents, err := e.contents(ctx, rel, i < maxWeighed)
		if err != nil {
			done.Unweighed++
		}
		for _, part := range contents {
			sizes[part.Digest] = max(part.Size, 0)
		}
	}
	for i, rel := range staying {
		contents, _ := e.contents(ctx, rel, i < maxCompared)
		for _, part := range contents {
			delete(sizes, part.Digest)
		}
	}
	for _, size := range sizes {
		done.Bytes += size
	}
}

// orphans are the releases, one for each root, of which no tag stays, and those of
// which one does; the last published first.
func orphans(verdicts []Verdict) (going, staying []Release) {
	stays := map[digest.Digest]bool{}
	for _, v := range verdicts {
		stays[v.Release.Root.Digest] = stays[v.Release.Root.Digest] || !v.Goes
	}
	newest := slices.Clone(verdicts)
	slices.SortStableFunc(newest, func(a, b Verdict) int { return b.Release.PublishedAt.Compare(a.Release.PublishedAt) })
	for _, v := range newest {
		root := v.Release.Root.Digest
		kept, first := stays[root]
		delete(stays, root)
		switch {
		case !first:
		case kept:
			staying = append(staying, v.Release)
		default:
			going = append(going, v.Release)
		}
	}
	return going, staying
}

// contents are those of the release's root, in the first of its repositories.
func (e *Expirer) contents(ctx context.Context, rel Release, asked bool) ([]ocispec.Descriptor, error) {
	homes := e.Pipeline.homes(rel)
	if !asked || len(homes) == 0 || e.Weigher == nil {
		return nil, fmt.Errorf("weigh %s: it is not looked at", rel.Root.Digest)
	}
	return e.Weigher.Contents(ctx, homes[0], rel.Root.Digest)
}
