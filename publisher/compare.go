package publisher

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgd/imgd"
)

// compareTime bounds one comparison. It may have to read two layers whole: at
// 30 MB a second some 8 GB of each.
const compareTime = 10 * time.Minute

// Compare says whether the images a and b of the repository are the same, and if
// not the first thing in which they differ: the root's kind, the platforms, then
// of the first platform with two manifests the manifest, the config, the layers,
// and in the first two layers that differ their files. What only follows from a
// difference, as a layer's digest in the manifest, is not one. In a layer, times
// come last: they are told of if nothing else differs there.
//
// Layers are read as streams and nothing of them is kept. All that an answer
// rests on was read to its end and checked against its digest. imgd.ErrNotFound
// if the repository lacks one of the images or a part of it, imgd.ErrInvalid for
// what is no image, or no tar, or unpacks to more than 32 GiB.
func (p *Publisher) Compare(ctx context.Context, repository string, a, b digest.Digest) (imgd.Comparison, error) {
	ctx, cancel := context.WithTimeout(ctx, compareTime)
	defer cancel()
	r, err := p.repository(repository)
	if err != nil {
		return imgd.Comparison{}, fmt.Errorf("compare in %s: %w", repository, err)
	}
	found, err := r.differ(ctx, a, b)
	if err != nil {
		return imgd.Comparison{}, fmt.Errorf("compare %s with %s: %w", r.at(a.String()), b, err)
	}
	return imgd.Comparison{Repository: r.named.Name(), A: a, B: b, Same: found == nil, Difference: found}, nil
}

// differ is the first difference of two images, nil if there is none.
func (r repository) differ(ctx context.Context, a, b digest.Digest) (*imgd.Difference, error) {
	rootA, ofA, err := r.captureFrom(ctx, r.named.Name(), a)
	if err != nil {
		return nil, err
	}
	rootB, ofB, err := r.captureFrom(ctx, r.named.Name(), b)
	if err != nil {
		return nil, err
	}
	if imgd.SameDigests(ofA, ofB) {
		return nil, nil
	}
	if rootA.MediaType != rootB.MediaType {
		return &imgd.Difference{Part: imgd.PartRoot, Field: "mediaType", A: rootA.MediaType, B: rootB.MediaType}, nil
	}
	if namesA, namesB := platformNames(ofA), platformNames(ofB); namesA != namesB {
		return &imgd.Difference{Part: imgd.PartPlatforms, A: namesA, B: namesB}, nil
	}
	for i := range ofA {
		if ofA[i].Digest == ofB[i].Digest {
			continue
		}
		found, err := r.differImages(ctx, ofA[i].Digest, ofB[i].Digest)
		if found != nil {
			found.Platform = imgd.PlatformName(ofA[i].Platform)
		}
		return found, err
	}
	panic("unreachable: the same platforms with the same digests are SameDigests")
}

func platformNames(manifests []ocispec.Descriptor) string {
	var names []string
	for _, m := range manifests {
		names = append(names, imgd.PlatformName(m.Platform))
	}
	return strings.Join(names, ", ")
}

// An image is one platform's, as far as it is JSON.
type image struct {
	ocispec.Manifest
	manifest, config any // decoded
}

// differImages finds the difference of two manifests that are not the same.
func (r repository) differImages(ctx context.Context, a, b digest.Digest) (*imgd.Difference, error) {
	x, err := r.image(ctx, a)
	if err != nil {
		return nil, err
	}
	y, err := r.image(ctx, b)
	if err != nil {
		return nil, err
	}
	// What follows from config and layers: compared at the end, it says what they did not.
	follows := []string{"config.digest", "config.size", "layers", "rootfs.diff_ids"}
	if found := differJSON(imgd.PartManifest, x.manifest, y.manifest, follows...); found != nil {
		return found, nil
	}
	if found := differJSON(imgd.PartConfig, x.config, y.config, follows...); found != nil {
		return found, nil
	}
	if found, err := r.differLayers(ctx, x.Layers, y.Layers); found != nil || err != nil {
		return found, err
	}
	if found := differJSON(imgd.PartConfig, x.config, y.config); found != nil {
		return found, nil
	}
	if x.Config.Digest != y.Config.Digest {
		return &imgd.Difference{Part: imgd.PartConfig, Field: imgd.FieldBytes, A: x.Config.Digest.String(), B: y.Config.Digest.String()}, nil
	}
	if found := differJSON(imgd.PartManifest, x.manifest, y.manifest); found != nil {
		return found, nil
	}
	return &imgd.Difference{Part: imgd.PartManifest, Field: imgd.FieldBytes, A: a.String(), B: b.String()}, nil
}

func (r repository) image(ctx context.Context, d digest.Digest) (image, error) {
	_, body, err := r.manifest(ctx, d.String())
	if err != nil {
		return image{}, err
	}
	var found image
	if err := json.Unmarshal(body, &found.Manifest); err != nil {
		return found, fmt.Errorf("decode %s: %w: %w", r.at(d.String()), err, imgd.ErrInvalid)
	}
	if found.manifest, err = decode(body); err != nil {
		return found, fmt.Errorf("decode %s: %w: %w", r.at(d.String()), err, imgd.ErrInvalid)
	}
	config, err := r.blob(ctx, found.Config)
	if err != nil {
		return found, fmt.Errorf("read config %s of %s: %w", found.Config.Digest, r.at(d.String()), err)
	}
	if found.config, err = decode(config); err != nil {
		return found, fmt.Errorf("decode config %s of %s: %w: %w", found.Config.Digest, r.at(d.String()), err, imgd.ErrInvalid)
	}
	return found, nil
}

// differLayers finds the first two layers that are not the same.
func (r repository) differLayers(ctx context.Context, a, b []ocispec.Descriptor) (*imgd.Difference, error) {
	for i := range min(len(a), len(b)) {
		if a[i].Digest == b[i].Digest {
			continue
		}
		found, err := r.differLayer(ctx, a[i], b[i])
		if err != nil {
			return nil, fmt.Errorf("layer %d: %w", i+1, err)
		}
		found.Part, found.Layer = imgd.PartLayer, i+1
		return found, nil
	}
	if len(a) != len(b) {
		return &imgd.Difference{Part: imgd.PartLayer, Field: imgd.FieldCount, A: fmt.Sprint(len(a)), B: fmt.Sprint(len(b))}, nil
	}
	return nil, nil
}
