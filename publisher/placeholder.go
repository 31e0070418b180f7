package publisher

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgd/imgd"
)

// The annotations of a placeholder: the tag that it stands under, and what that
// named before.
const (
	placeholderFor = "dev.imgd.placeholder.for"
	placeholderOf  = "dev.imgd.placeholder.of"
)

// errAnotherHand says that a tag changed while it was removed.
var errAnotherHand = errors.New("another hand moves it")

// placeholder is an index that lists nothing, so that the registry has to have
// nothing for it and nobody can run it. It stands under a tag for the moment in
// which imgd removes that by deleting the placeholder. Each tag of a repository
// has its own, so that deleting it takes no other tag along. What another
// version of imgd left has to be recognised: its bytes stay as they are.
func (r repository) placeholder(tag string, root digest.Digest) (ocispec.Descriptor, []byte) {
	body, err := json.Marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{},
		Annotations: map[string]string{
			placeholderFor: reference.Path(r.named) + ":" + tag, placeholderOf: root.String(),
			ocispec.AnnotationDescription: "imgd is removing this tag. It names no image any more.",
		},
	})
	if err != nil {
		panic("unreachable: an index of texts is JSON: " + err.Error())
	}
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromBytes(body), Size: int64(len(body))}, body
}

// replaced is the root that the bytes under the tag stand for, "" if they are no
// placeholder of imgd's for this tag.
func (r repository) replaced(tag string, body []byte) digest.Digest {
	var said struct{ Annotations map[string]string }
	if json.Unmarshal(body, &said) != nil {
		return ""
	}
	root := digest.Digest(said.Annotations[placeholderOf])
	if root.Validate() != nil {
		return ""
	}
	if _, own := r.placeholder(tag, root); !bytes.Equal(body, own) {
		return ""
	}
	return root
}

// replace removes a tag where the registry deletes manifests and no tags: it
// puts a placeholder under the tag and deletes that by its digest. No other
// digest is ever deleted. A crash leaves the tag as it was, naming the
// placeholder, or gone; whoever comes next goes on from there. A refusal is the
// registry's to take or to delete the placeholder, and leaves the tag as it was.
func (r repository) replace(ctx context.Context, tag string, there holding, ours func(digest.Digest) bool) error {
	desc, body := r.placeholder(tag, there.root)
	if there.names != desc.Digest {
		if err := r.mayReplace(ctx, tag, there, ours); err != nil {
			return err
		}
		if err := explain(r.put(ctx, tag, desc, body)); refuses(err) {
			return r.putBack(ctx, tag, there.root, fmt.Errorf("put a placeholder: %w", err))
		} else if err != nil {
			return fmt.Errorf("put a placeholder: %w", err)
		}
	}
	now, err := r.names(ctx, tag, ours)
	switch {
	case err != nil:
		return fmt.Errorf("read the placeholder back: %w", err)
	case now.names != desc.Digest: // what another hand has put there stays
		return errAnotherHand
	}
	err = r.remove(ctx, desc.Digest.String())
	if refuses(err) {
		return r.putBack(ctx, tag, there.root, err)
	}
	return err
}

// mayReplace looks whether the placeholder may take the tag's place. A registry
// that deletes no manifests says so here, before the tag is touched: it is asked
// to delete what is not there. The tag is looked at as late as can be, as the
// protocol has no compare-and-put.
func (r repository) mayReplace(ctx context.Context, tag string, there holding, ours func(digest.Digest) bool) error {
	desc, _ := r.placeholder(tag, there.root)
	if err := r.remove(ctx, desc.Digest.String()); err != nil && !errors.Is(err, imgd.ErrNotFound) {
		return err
	}
	now, err := r.names(ctx, tag, ours)
	if err == nil && now.names != there.names {
		err = errAnotherHand
	}
	return err
}

// putBack makes the tag name root again where the registry has refused, if a
// placeholder stands there. It answers the refusal; if it could not put root
// back its error is none, so that the tag is tried again.
func (r repository) putBack(ctx context.Context, tag string, root digest.Digest, refused error) error {
	_, body, err := r.served(ctx, tag)
	if err == nil && r.replaced(tag, body) == root {
		var was ocispec.Descriptor
		if was, body, err = r.manifest(ctx, root.String()); err == nil {
			err = explain(r.put(ctx, tag, was, body))
		}
	}
	if err != nil && !errors.Is(err, imgd.ErrNotFound) { // a root that is lost cannot be put back
		return fmt.Errorf("%s; put back %s: %s", refused.Error(), root, err.Error()) // neither is the last word
	}
	return refused
}
