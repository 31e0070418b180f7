package publisher

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxListed bounds the manifests of one index that Contents reads.
const maxListed = 100

// Contents are root and all that it consists of: of an index the manifests that
// it lists, attestations too, and of each manifest its config and its layers, with
// the sizes that these say. Blobs are not asked for. imgd.ErrNotFound if a
// manifest is not there.
func (p *Publisher) Contents(ctx context.Context, repository string, root digest.Digest) ([]ocispec.Descriptor, error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	r, err := p.repository(repository)
	if err == nil {
		err = root.Validate()
	}
	if err != nil {
		return nil, fmt.Errorf("read contents of %q in %s: %w", root, repository, err)
	}
	desc, body, err := r.manifest(ctx, root.String())
	if err != nil {
		return nil, err
	}
	all := []ocispec.Descriptor{desc}
	listed, err := parts(body)
	if err != nil || !images.IsIndexType(desc.MediaType) {
		return append(all, listed...), err
	}
	if len(listed) > maxListed {
		return nil, fmt.Errorf("read contents of %s: it lists %d manifests, more than %d", r.at(root.String()), len(listed), maxListed)
	}
	for _, m := range listed {
		desc, body, err := r.manifest(ctx, m.Digest.String())
		if err != nil {
			return nil, err
		}
		parts, err := parts(body)
		if err != nil {
			return nil, err
		}
		all = append(append(all, desc), parts...)
	}
	return all, nil
}

// parts are what an index or a manifest lists.
func parts(body []byte) ([]ocispec.Descriptor, error) {
	var m struct {
		Manifests []ocispec.Descriptor `json:"manifests"`
		Config    *ocispec.Descriptor  `json:"config"`
		Layers    []ocispec.Descriptor `json:"layers"`
	}
	if err := json.Unmarshal(body, &m); err != nil {
		return nil, fmt.Errorf("decode manifest: %w", err)
	}
	if m.Config != nil {
		m.Layers = append(m.Layers, *m.Config)
	}
	return append(m.Manifests, m.Layers...), nil
}
