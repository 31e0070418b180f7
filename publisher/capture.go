package publisher

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgd/imgd"
)

// attestation is the annotation by which BuildKit marks the manifests of an
// index that are about an image and none themselves.
const attestation = "vnd.docker.reference.type"

// Capture reads root back by digest from every repository, checks the bytes
// against their digests, and answers root and its platforms' manifests
// (Platform set, sorted by it). They are root itself, its platform taken from
// the image's config, or those of the index root; each is read back too.
// Attestations are left out, an index in an index is refused, and so is one
// with no platform or with two manifests for the same. imgd.ErrNotFound if a
// repository does not have one of them. Layers are not looked at: a registry
// takes no manifest without them.
func (p *Publisher) Capture(ctx context.Context, repositories []string, root digest.Digest) (ocispec.Descriptor, []ocispec.Descriptor, error) {
	if len(repositories) == 0 {
		return ocispec.Descriptor{}, nil, errors.New("capture: no repository")
	}
	if err := root.Validate(); err != nil {
		return ocispec.Descriptor{}, nil, fmt.Errorf("capture %q: %w", root, err)
	}
	var desc ocispec.Descriptor
	var manifests []ocispec.Descriptor // the same everywhere, as the bytes of root are
	for _, name := range repositories {
		var err error
		if desc, manifests, err = p.captureFrom(ctx, name, root); err != nil {
			return ocispec.Descriptor{}, nil, fmt.Errorf("capture: %w", err)
		}
	}
	return desc, manifests, nil
}

func (p *Publisher) captureFrom(ctx context.Context, name string, root digest.Digest) (ocispec.Descriptor, []ocispec.Descriptor, error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	r, err := p.repository(name)
	if err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	desc, body, err := r.manifest(ctx, root.String())
	if err != nil {
		return desc, nil, err
	}
	manifests, err := r.images(ctx, desc, body)
	if err != nil {
		return desc, nil, err
	}
	if err := sortPlatforms(manifests); err != nil {
		return desc, nil, fmt.Errorf("%s: %w", r.at(root.String()), err)
	}
	p.recent.keep(r.at(root.String()), desc, body)
	return desc, manifests, nil
}

// images are the platform manifests of root.
func (r repository) images(ctx context.Context, root ocispec.Descriptor, body []byte) ([]ocispec.Descriptor, error) {
	if !images.IsIndexType(root.MediaType) {
		image, err := r.withPlatform(ctx, root, body)
		return []ocispec.Descriptor{image}, err
	}
	children, err := children(body)
	if err != nil {
		return nil, fmt.Errorf("index %s: %w", r.at(root.Digest.String()), err)
	}
	for i, child := range children {
		if children[i], err = r.readBack(ctx, child); err != nil {
			return nil, err
		}
	}
	return children, nil
}

// children are the manifests that the index lists, without those that are no
// images.
func children(index []byte) ([]ocispec.Descriptor, error) {
	var list ocispec.Index
	if err := json.Unmarshal(index, &list); err != nil {
		return nil, fmt.Errorf("decode: %w", err)
	}
	var found []ocispec.Descriptor
	for _, m := range list.Manifests {
		if images.IsIndexType(m.MediaType) {
			return nil, fmt.Errorf("it lists another index, %s: %w", m.Digest, errNotImage)
		}
		if err := m.Digest.Validate(); err != nil {
			return nil, fmt.Errorf("it lists %q: %w", m.Digest, err)
		}
		if isImage(m) {
			found = append(found, m)
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("it lists no image: %w", errNotImage)
	}
	return found, nil
}

// isImage reports whether the index lists m as an image. An artifact type is that
// of its config where it has none of its own: ko and crane write it for images
// too.
func isImage(m ocispec.Descriptor) bool {
	unknown := m.Platform != nil && (m.Platform.OS == "unknown" || m.Platform.Architecture == "unknown")
	config := m.ArtifactType == "" || images.IsConfigType(m.ArtifactType)
	return images.IsManifestType(m.MediaType) && config && m.Annotations[attestation] == "" && !unknown
}

// readBack reads what an index lists, and answers its descriptor with platform.
func (r repository) readBack(ctx context.Context, listed ocispec.Descriptor) (ocispec.Descriptor, error) {
	desc, body, err := r.manifest(ctx, listed.Digest.String())
	if err != nil {
		return desc, err
	}
	if desc.MediaType != listed.MediaType || desc.Size != listed.Size {
		return desc, fmt.Errorf("%s is %s of %d bytes, its index says %s of %d", r.at(desc.Digest.String()),
			desc.MediaType, desc.Size, listed.MediaType, listed.Size)
	}
	if listed.Platform == nil {
		return r.withPlatform(ctx, desc, body)
	}
	desc.Platform = listed.Platform
	return normal(desc), nil
}

// withPlatform sets the platform that the config of the image names.
func (r repository) withPlatform(ctx context.Context, desc ocispec.Descriptor, manifest []byte) (ocispec.Descriptor, error) {
	var m ocispec.Manifest
	if err := json.Unmarshal(manifest, &m); err != nil {
		return desc, fmt.Errorf("decode %s: %w", r.at(desc.Digest.String()), err)
	}
	var config ocispec.Image
	if err := r.config(ctx, m.Config, &config); err != nil {
		return desc, fmt.Errorf("read config %s of %s: %w", m.Config.Digest, r.at(desc.Digest.String()), err)
	}
	desc.Platform = &config.Platform
	return normal(desc), nil
}

// config reads an image's config.
func (r repository) config(ctx context.Context, desc ocispec.Descriptor, config *ocispec.Image) error {
	body, err := r.blob(ctx, desc)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, config); err != nil {
		return fmt.Errorf("decode: %w", err)
	}
	return nil
}

// blob reads a small blob whole, and checks its bytes.
func (r repository) blob(ctx context.Context, desc ocispec.Descriptor) ([]byte, error) {
	if err := desc.Digest.Validate(); err != nil {
		return nil, err
	}
	body, _, err := r.get(ctx, "blobs", desc.Digest.String())
	if err != nil {
		return nil, err
	}
	if got := desc.Digest.Algorithm().FromBytes(body); got != desc.Digest || int64(len(body)) != desc.Size {
		return nil, fmt.Errorf("the registry served %d bytes of %s", len(body), got)
	}
	return body, nil
}

func normal(desc ocispec.Descriptor) ocispec.Descriptor {
	p := platforms.Normalize(*desc.Platform)
	desc.Platform = &p
	return desc
}

// sortPlatforms sorts the manifests by platform, of which each has another.
func sortPlatforms(manifests []ocispec.Descriptor) error {
	slices.SortFunc(manifests, func(a, b ocispec.Descriptor) int {
		return strings.Compare(imgd.PlatformName(a.Platform), imgd.PlatformName(b.Platform))
	})
	for i, m := range manifests {
		if m.Platform.OS == "" || m.Platform.Architecture == "" {
			return fmt.Errorf("manifest %s names no platform: %w", m.Digest, errNotImage)
		}
		if i > 0 && imgd.PlatformName(m.Platform) == imgd.PlatformName(manifests[i-1].Platform) {
			return fmt.Errorf("two manifests for %s: %s and %s", imgd.PlatformName(m.Platform), manifests[i-1].Digest, m.Digest)
		}
	}
	return nil
}
