package publisher

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/tidwall/gjson"

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
	if err == nil && said.Digest == want && imageType(said.MediaType) {
		return said, nil
	}
	if err != nil && !answers(err) {
		return ocispec.Descriptor{}, fmt.Errorf("look at %s: %w", r.at(tag), err)
	}
	desc, _, err := r.manifest(ctx, tag)
	return desc, err
}

func imageType(mediaType string) bool {
	return images.IsIndexType(mediaType) || images.IsManifestType(mediaType)
}

// answers reports whether err is a registry's word about a HEAD alone, which has no
// body that says why: some do not have them everywhere, and storage behind a registry
// takes a GET where it refuses a HEAD. Of who asks too much no more is asked.
func answers(err error) bool {
	var e *statusError
	return errors.As(err, &e) && (e.code/100 == 4 || e.code == http.StatusNotImplemented) && !answerOf("", e.code, nil).again
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
// attestations too, their configs and their layers, each once. Layers that the
// registry need not have, as their media type says, are left out. What known has is
// not asked for again, and what is found is added. After an error, as when the
// registry does not answer, nobody knows of the parts behind it.
func (p *Publisher) Lacks(ctx context.Context, repository string, root digest.Digest, depth imgd.VerifyDepth, known *imgd.Known) ([]imgd.Lack, error) {
	r, err := p.repository(repository)
	if err == nil {
		err = root.Validate()
	}
	if err != nil {
		return nil, fmt.Errorf("look into %q in %s: %w", root, repository, err)
	}
	look := inspection{repository: r, bytes: depth == imgd.DepthBytes, known: known, seen: map[imgd.Part]bool{}}
	_, err = look.manifest(ctx, ocispec.Descriptor{Digest: root, Size: -1})
	return look.lacks, err
}

// An inspection is one look into an image.
type inspection struct {
	repository
	bytes bool // of blobs are read
	known *imgd.Known
	seen  map[imgd.Part]bool // whether it is whole: what platforms share is listed by each
	lacks []imgd.Lack
	deep  int // in how many indexes it is
}

// Bounds of what an image is taken for. A manifest of the largest size could list a
// million parts, and an index could list others for ever.
const (
	maxParts  = 10_000
	maxNested = 4
)

// lack says why a part is not there as it should be, by the error of looking at it.
// Any other error is answered.
func lack(err error) (why string, _ error) {
	switch {
	case errors.Is(err, imgd.ErrNotFound):
		return "it is not there", nil
	case errors.Is(err, errOtherBytes), errors.Is(err, errNotImage):
		return err.Error(), nil
	}
	return "", err
}

// A listing is what a manifest or an index lists.
type listing struct {
	Manifests []ocispec.Descriptor `json:"manifests"`
	Config    *ocispec.Descriptor  `json:"config"`
	Layers    []ocispec.Descriptor `json:"layers"`
}

// part is what is listed so.
func (i *inspection) part(of ocispec.Descriptor) imgd.Part {
	return imgd.Part{Repository: i.named.Name(), Digest: of.Digest, Size: max(of.Size, -1)}
}

// manifest reports whether a manifest, or an index, and all that it lists are whole.
// Then it is known. What an index lists as something else than an image is whole by
// its own bytes.
func (i *inspection) manifest(ctx context.Context, want ocispec.Descriptor) (whole bool, _ error) {
	part := i.part(want)
	if whole, seen := i.seen[part]; seen || i.known.Whole(part) {
		return whole || !seen, nil
	}
	desc, body, err := i.read(ctx, want)
	if errors.Is(err, errNotImage) && want.MediaType != "" && !imageType(want.MediaType) {
		return i.note("manifest", want, ""), nil
	}
	why, err := lack(err)
	if err != nil {
		return false, err
	}
	if why != "" {
		return i.note("manifest", want, why), nil
	}
	if n := gjson.GetBytes(body, "manifests.#").Int() + gjson.GetBytes(body, "layers.#").Int(); n > maxParts || i.deep > maxNested {
		return i.note("manifest", want, fmt.Sprintf("it is no image that anybody runs: it lists %d parts, %d indexes deep", n, i.deep)), nil
	}
	var all listing
	if err := json.Unmarshal(body, &all); err != nil {
		return false, fmt.Errorf("decode %s: %w", i.at(want.Digest.String()), err)
	}
	i.deep++
	whole, err = i.listed(ctx, all)
	i.deep--
	if i.seen[part] = whole; whole && err == nil {
		i.known.Add(i.part(desc))
	}
	return whole, err
}

// listed reports whether all of them are whole.
func (i *inspection) listed(ctx context.Context, all listing) (bool, error) {
	whole := true
	for _, m := range all.Manifests {
		ok, err := i.manifest(ctx, m)
		if whole = whole && ok; err != nil {
			return false, err
		}
	}
	if all.Config != nil {
		ok, err := i.blob(ctx, "config", *all.Config)
		if whole = whole && ok; err != nil {
			return false, err
		}
	}
	for _, layer := range all.Layers {
		ok, err := i.blob(ctx, "layer", layer)
		if whole = whole && ok; err != nil {
			return false, err
		}
	}
	return whole, nil
}

// note notes why a part is not whole, if it is not.
func (i *inspection) note(part string, of ocispec.Descriptor, why string) (whole bool) {
	i.seen[i.part(of)] = why == ""
	if why != "" {
		i.lacks = append(i.lacks, imgd.Lack{Part: part, Digest: of.Digest, Why: why})
	}
	return why == ""
}

// read reads the manifest, which has the size that what lists it says.
func (i *inspection) read(ctx context.Context, want ocispec.Descriptor) (ocispec.Descriptor, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	if err := want.Digest.Validate(); err != nil {
		return want, nil, fmt.Errorf("what lists it says %w: %w", err, errOtherBytes)
	}
	desc, body, err := i.repository.manifest(ctx, want.Digest.String())
	if err == nil && (want.Size >= 0 || i.deep > 0) && desc.Size != want.Size {
		err = fmt.Errorf("it has %d bytes, and %d by what lists it: %w", desc.Size, want.Size, errOtherBytes)
	}
	return desc, body, err
}

// blob reports whether a config or a layer is whole.
func (i *inspection) blob(ctx context.Context, part string, want ocispec.Descriptor) (whole bool, _ error) {
	if images.IsNonDistributable(want.MediaType) {
		return true, nil
	}
	if whole, seen := i.seen[i.part(want)]; seen {
		return whole, nil
	}
	why, err := i.known.Once(ctx, i.part(want), func() (string, int64, error) {
		ctx, cancel := context.WithTimeout(ctx, blobTime)
		defer cancel()
		read, err := i.look(ctx, want)
		why, err := lack(err)
		return why, read, err
	})
	if err != nil {
		return false, err
	}
	return i.note(part, want, why), nil
}

// look answers how many bytes it has read.
func (i *inspection) look(ctx context.Context, want ocispec.Descriptor) (int64, error) {
	if err := want.Digest.Validate(); err != nil {
		return 0, fmt.Errorf("its manifest says %w: %w", err, errOtherBytes)
	}
	if i.bytes {
		return i.readAll(ctx, want)
	}
	return 0, i.present(ctx, want)
}

// present asks whether the blob is there, in its size.
func (i *inspection) present(ctx context.Context, want ocispec.Descriptor) error {
	said, err := i.head(ctx, "blobs", want.Digest.String())
	if err != nil && answers(err) && !errors.Is(err, imgd.ErrNotFound) {
		said, err = i.opened(ctx, want)
	}
	if err == nil && said.Size >= 0 && said.Size != want.Size {
		err = fmt.Errorf("it has %d bytes there, and %d by its manifest: %w", said.Size, want.Size, errOtherBytes)
	}
	return err
}

// opened is head by a GET, whose body is not read.
func (i *inspection) opened(ctx context.Context, want ocispec.Descriptor) (ocispec.Descriptor, error) {
	body, header, err := i.open(ctx, "blobs", want.Digest.String())
	if err != nil {
		return want, err
	}
	size, err := strconv.ParseInt(header.Get("Content-Length"), 10, 64)
	if err != nil {
		size = -1 // it does not say
	}
	return ocispec.Descriptor{Digest: want.Digest, Size: size}, body.Close()
}

// readAll reads the blob to its end and compares its bytes with its digest.
func (i *inspection) readAll(ctx context.Context, want ocispec.Descriptor) (int64, error) {
	body, _, err := i.open(ctx, "blobs", want.Digest.String())
	if err != nil {
		return 0, err
	}
	defer body.Close()
	sum := want.Digest.Algorithm().Hash()
	n, err := io.Copy(sum, io.LimitReader(body, max(want.Size, want.Size+1)))
	if err != nil {
		return n, fmt.Errorf("read %s: %w", i.at(want.Digest.String()), err)
	}
	if n != want.Size {
		return n, fmt.Errorf("it has %s there, and %d by its manifest: %w", bytesOf(n, want.Size), want.Size, errOtherBytes)
	}
	if got := digest.NewDigest(want.Digest.Algorithm(), sum); got != want.Digest {
		return n, fmt.Errorf("the registry served %d bytes of %s: %w", n, got, errOtherBytes)
	}
	return n, nil
}

// bytesOf says how many bytes were read where no more than one beyond size are.
func bytesOf(n, size int64) string {
	if n > size {
		return "more bytes"
	}
	return fmt.Sprintf("%d bytes", n)
}
