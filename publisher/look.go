package publisher

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgd/imgd"
)

// blobTime bounds the reading of one blob: 18 GB at 30 MB a second.
const blobTime = 10 * time.Minute

// errOtherBytes says that what the registry serves by a digest is not that.
var errOtherBytes = errors.New("they are not those of the digest")

// Look answers what tag names in the repository at this moment. A registry that
// says by a HEAD that it is want is believed; anything else is read and hashed.
// imgd.ErrNotFound if there is none, imgd.ErrInvalid if it is no image.
func (p *Publisher) Look(ctx context.Context, repository, tag string, want digest.Digest) (ocispec.Descriptor, error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	r, err := p.tagged(repository, tag)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("look at %s:%s: %w", repository, tag, err)
	}
	said, err := r.head(ctx, "manifests", tag)
	if err == nil && said.Digest == want && (images.IsIndexType(said.MediaType) || images.IsManifestType(said.MediaType)) {
		return said, nil
	}
	if err != nil && !answers(err) {
		return ocispec.Descriptor{}, fmt.Errorf("look at %s: %w", r.at(tag), err)
	}
	desc, _, err := r.manifest(ctx, tag)
	return desc, err
}

// answers reports whether err is a registry's word about a HEAD alone: some do not
// have them everywhere, and none has a body that says why.
func answers(err error) bool {
	var e *statusError
	return errors.As(err, &e) && slices.Contains([]int{
		http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotAcceptable, http.StatusNotImplemented,
	}, e.code)
}

// head is what the registry says of kind (manifests or blobs); a size that it does
// not say is -1.
func (r repository) head(ctx context.Context, kind, ref string) (ocispec.Descriptor, error) {
	ctx = docker.WithScope(ctx, "repository:"+reference.Path(r.named)+":pull")
	accept := "*/*"
	if kind == "manifests" {
		accept = strings.Join(manifestTypes(), ", ")
	}
	resp, err := r.send(ctx, call{host: r.host, method: http.MethodHead, path: "/" + reference.Path(r.named) + "/" + kind + "/" + ref, accept: accept})
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return ocispec.Descriptor{MediaType: resp.Header.Get("Content-Type"), Digest: digest.Digest(resp.Header.Get("Docker-Content-Digest")),
		Size: resp.ContentLength}, resp.Body.Close()
}

// Lacks are the parts of root that the repository does not have in their size and,
// at imgd.DepthBytes, with their bytes: root itself, what it lists as an index,
// attestations too, their configs and their layers. Layers that the registry need
// not have, as their media type says, are left out. What known has is not asked
// for again, and what is found whole is added. After an error, as when the
// registry does not answer, nobody knows of the parts behind it.
func (p *Publisher) Lacks(ctx context.Context, repository string, root digest.Digest, depth imgd.VerifyDepth, known *imgd.Known) ([]imgd.Lack, error) {
	r, err := p.repository(repository)
	if err == nil {
		err = root.Validate()
	}
	if err != nil {
		return nil, fmt.Errorf("look into %q in %s: %w", root, repository, err)
	}
	look := inspection{repository: r, bytes: depth == imgd.DepthBytes, known: known}
	err = look.manifest(ctx, ocispec.Descriptor{Digest: root, Size: -1})
	return look.lacks, err
}

// An inspection is one look into an image.
type inspection struct {
	repository
	bytes bool // of blobs are read
	known *imgd.Known
	lacks []imgd.Lack
}

// lacking notes that the part is not there as it should be. Any other error is
// answered.
func (i *inspection) lacking(part string, d digest.Digest, err error) error {
	why := ""
	switch {
	case errors.Is(err, imgd.ErrNotFound):
		why = "it is not there"
	case errors.Is(err, errOtherBytes), errors.Is(err, errNotImage):
		why = err.Error()
	default:
		return err
	}
	i.lacks = append(i.lacks, imgd.Lack{Part: part, Digest: d, Why: why})
	return nil
}

// manifest looks at a manifest, or an index, and all that it lists. It is known
// once all of that is whole.
func (i *inspection) manifest(ctx context.Context, want ocispec.Descriptor) error {
	where := i.named.Name()
	if i.known.Has(where, want.Digest) {
		return nil
	}
	bound, cancel := context.WithTimeout(ctx, callTime)
	desc, body, err := i.repository.manifest(bound, want.Digest.String())
	cancel()
	if err == nil && want.Size >= 0 && desc.Size != want.Size {
		err = fmt.Errorf("it has %d bytes, and %d by what lists it: %w", desc.Size, want.Size, errOtherBytes)
	}
	if err != nil {
		return i.lacking("manifest", want.Digest, err)
	}
	listed, err := parts(body)
	if err != nil {
		return err
	}
	before := len(i.lacks)
	for _, part := range listed {
		switch {
		case images.IsIndexType(part.MediaType), images.IsManifestType(part.MediaType):
			err = i.manifest(ctx, part)
		case images.IsConfigType(part.MediaType):
			err = i.blob(ctx, "config", part)
		default:
			err = i.blob(ctx, "layer", part)
		}
		if err != nil {
			return err
		}
	}
	if len(i.lacks) == before {
		i.known.Add(where, want.Digest, desc.Size)
	}
	return nil
}

// blob looks at a config or a layer.
func (i *inspection) blob(ctx context.Context, part string, want ocispec.Descriptor) error {
	where := i.named.Name()
	if images.IsNonDistributable(want.MediaType) || i.known.Has(where, want.Digest) {
		return nil
	}
	if err := want.Digest.Validate(); err != nil {
		return i.lacking(part, want.Digest, fmt.Errorf("its manifest says %w: %w", err, errOtherBytes))
	}
	ctx, cancel := context.WithTimeout(ctx, blobTime)
	defer cancel()
	var read int64
	var err error
	if i.bytes {
		read, err = i.readAll(ctx, want)
	} else {
		err = i.present(ctx, want)
	}
	if err != nil {
		return i.lacking(part, want.Digest, err)
	}
	i.known.Add(where, want.Digest, read)
	return nil
}

// present asks whether the blob is there, in its size.
func (i *inspection) present(ctx context.Context, want ocispec.Descriptor) error {
	said, err := i.head(ctx, "blobs", want.Digest.String())
	if err != nil && answers(err) && !errors.Is(err, imgd.ErrNotFound) {
		var body io.ReadCloser // its bytes are not read, only that there are some
		if body, _, err = i.open(ctx, "blobs", want.Digest.String()); err == nil {
			return body.Close()
		}
	}
	if err == nil && said.Size >= 0 && said.Size != want.Size {
		err = fmt.Errorf("it has %d bytes there, and %d by its manifest: %w", said.Size, want.Size, errOtherBytes)
	}
	return err
}

// readAll reads the blob to its end and compares its bytes with its digest.
func (i *inspection) readAll(ctx context.Context, want ocispec.Descriptor) (int64, error) {
	body, _, err := i.open(ctx, "blobs", want.Digest.String())
	if err != nil {
		return 0, err
	}
	defer body.Close()
	sum := want.Digest.Algorithm().Hash()
	n, err := io.Copy(sum, io.LimitReader(body, want.Size+1))
	if err != nil {
		return n, fmt.Errorf("read %s: %w", i.at(want.Digest.String()), err)
	}
	if got := digest.NewDigest(want.Digest.Algorithm(), sum); got != want.Digest {
		return n, fmt.Errorf("the registry served %d bytes of %s: %w", n, got, errOtherBytes)
	}
	return n, nil
}
