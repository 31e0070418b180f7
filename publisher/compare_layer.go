package publisher

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgd/imgd"
)

const (
	// maxUnpacked bounds what a layer unpacks to, in bytes: a few kilobytes can be
	// made to unpack for ever.
	maxUnpacked = 32 << 30
	// maxWindow bounds the memory that a zstd layer asks its reader for, in bytes.
	// What BuildKit and klauspost's library write needs less at every level, zstd's
	// own from --ultra -21 on more.
	maxWindow = 32 << 20
)

// differLayer finds the difference of two layers that are not the same blob.
func (r repository) differLayer(ctx context.Context, a, b ocispec.Descriptor) (*imgd.Difference, error) {
	if a.MediaType != b.MediaType {
		return &imgd.Difference{Field: "mediaType", A: printed(a.MediaType), B: printed(b.MediaType)}, nil
	}
	if _, err := images.DiffCompression(ctx, a.MediaType); err != nil {
		return &imgd.Difference{Field: imgd.FieldDigest, A: a.Digest.String(), B: b.Digest.String()}, nil // encrypted, or no tar
	}
	x, err := r.layer(ctx, a)
	if err != nil {
		return nil, err
	}
	defer x.close()
	y, err := r.layer(ctx, b)
	if err != nil {
		return nil, err
	}
	defer y.close()
	found, err := differTars(x, y, maxUnpacked)
	if err := errors.Join(x.verify(), y.verify()); err != nil { // first: what is wrong with the bytes explains the rest
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, imgd.ErrInvalid)
	}
	if found == nil {
		found = &imgd.Difference{Field: imgd.FieldBytes, A: a.Digest.String(), B: b.Digest.String()}
	}
	return found, nil
}

// A layer is the tar of one, unpacked while it is read.
type layer struct {
	io.Reader // unpacked
	desc      ocispec.Descriptor
	packed    io.Reader // counts and hashes what the registry serves
	hash      digest.Verifier
	left      *io.LimitedReader // what the registry may still serve; one byte more than it should
	closers   []func()
}

func (l *layer) close() {
	for _, c := range l.closers {
		c()
	}
}

// verify reads what is left of the blob, and checks all of it.
func (l *layer) verify() error {
	if _, err := io.Copy(io.Discard, l.packed); err != nil {
		return fmt.Errorf("read %s: %w", l.desc.Digest, err)
	}
	if l.left.N != 1 || !l.hash.Verified() {
		return fmt.Errorf("read %s: the registry served %d bytes of something else, or more", l.desc.Digest, l.desc.Size+1-l.left.N)
	}
	return nil
}

func (r repository) layer(ctx context.Context, desc ocispec.Descriptor) (*layer, error) {
	if err := desc.Digest.Validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", err, imgd.ErrInvalid)
	}
	compression, err := images.DiffCompression(ctx, desc.MediaType)
	if err != nil {
		return nil, err
	}
	body, _, err := r.open(ctx, "blobs", desc.Digest.String())
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", desc.Digest, err)
	}
	l := &layer{desc: desc, hash: desc.Digest.Verifier(), left: &io.LimitedReader{R: body, N: desc.Size + 1}}
	l.closers = append(l.closers, func() { body.Close() })
	l.packed = io.TeeReader(l.left, l.hash)
	if err := l.unpack(compression); err != nil {
		wrong := l.verify()
		l.close()
		if wrong != nil {
			return nil, wrong
		}
		return nil, fmt.Errorf("unpack %s: %w: %w", desc.Digest, err, imgd.ErrInvalid)
	}
	return l, nil
}

// unpack sets the reader of the tar.
func (l *layer) unpack(compression string) error {
	switch compression {
	case "gzip":
		unpacked, err := gzip.NewReader(l.packed)
		if err != nil {
			return err
		}
		l.Reader = unpacked
	case "zstd":
		unpacked, err := zstd.NewReader(l.packed, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return err
		}
		l.Reader, l.closers = unpacked, append(l.closers, unpacked.Close)
	default:
		l.Reader = l.packed
	}
	return nil
}
