package httpapi_test

import (
	"context"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgd/imgd"
)

// registry is both the index's and the API's.
type registry struct{ *world }

func (r registry) Resolve(_ context.Context, repository, tag string) (ocispec.Descriptor, error) {
	r.resolved(repository + ":" + tag)
	r.mu.Lock()
	defer r.mu.Unlock()
	if d, ok := r.served[repository+":"+tag]; ok || r.broken != nil {
		return ocispec.Descriptor{Digest: d}, r.broken
	}
	return ocispec.Descriptor{}, imgd.ErrNotFound
}

func (r registry) Look(ctx context.Context, repository, tag string, _ digest.Digest) (ocispec.Descriptor, error) {
	if r.looking != nil {
		r.looking(ctx)
	}
	return r.Resolve(ctx, repository, tag)
}

func (r registry) Lacks(ctx context.Context, repository string, root digest.Digest, _ imgd.VerifyDepth, known *imgd.Known) ([]imgd.Lack, error) {
	r.resolved(repository + "@" + root.String())
	r.mu.Lock()
	defer r.mu.Unlock()
	if lack, ok := r.lacks[root]; ok {
		return []imgd.Lack{lack}, ctx.Err()
	}
	known.Add(imgd.Part{Repository: repository, Digest: root, Size: 479})
	return nil, ctx.Err()
}

func (r registry) Compare(_ context.Context, repository string, a, b digest.Digest) (imgd.Comparison, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := imgd.Comparison{Repository: repository, A: a, B: b, Same: a == b}
	if !c.Same {
		c.Difference = r.difference
	}
	return c, r.broken
}

func (r registry) Capture(_ context.Context, _ []string, root digest.Digest) (ocispec.Descriptor, []ocispec.Descriptor, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	platforms, ok := r.pushed[root]
	switch {
	case !ok:
		return ocispec.Descriptor{}, nil, imgd.ErrNotFound
	case len(platforms) == 1:
		return platforms[0], platforms, nil
	}
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: root, Size: 900}, platforms, nil
}

func (r registry) Tag(_ context.Context, repository, tag string, root ocispec.Descriptor) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.broken == nil {
		r.served[repository+":"+tag] = root.Digest
	}
	return r.broken
}

func (r registry) Untag(_ context.Context, repository, tag string, ours func(digest.Digest) bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.broken == nil && ours(r.served[repository+":"+tag]) {
		delete(r.served, repository+":"+tag)
	}
	return r.broken
}
