package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/index"
	"github.com/imgd/imgd/internal/httpapi"
	"github.com/imgd/imgd/publisher"
)

// readings bounds how often the index is read for what differs: a daemon that runs
// beside may have published meanwhile.
const readings = 4

// A Verify is a verification without a daemon: this process reads the index, if
// there is one, and asks the registries itself, with docker's credentials. It tells
// of no drift.
type Verify struct {
	Index     string        // directory of images.json, which is only read; "": the digest says what is right
	Registry  string        // host that has the images; default: the repositories that the index knows
	PlainHTTP bool          // registries have no TLS
	Digest    digest.Digest // without an index: what the tag must name

	Find     imgd.Find // chooses records of the index
	Tag      string    // of Find.Image; "" is all
	Depth    imgd.VerifyDepth
	Parallel int

	// Each and Progress are those of imgd.VerifyAll.
	Each     func(imgd.Verification) error
	Progress func(imgd.VerifyProgress) error
}

// Run verifies. The error of a tag or an image that the index does not have is
// httpapi.CodeNotFound.
func (v Verify) Run(ctx context.Context) error {
	if v.Index == "" {
		return v.said(ctx)
	}
	view, err := index.Read(v.Index)
	if err != nil {
		return err
	}
	tags, err := v.tags(view)
	if err != nil {
		return err
	}
	registry := v.registry(v.hosts(view, tags))
	for try := 1; ; try++ {
		var differ []imgd.Verification // but for the last reading
		err := v.verify(ctx, view, registry, tags, func(found imgd.Verification) error {
			if found.OK || found.Unknown() || try == readings {
				return v.Each(found)
			}
			differ = append(differ, found)
			return nil
		})
		newer := view
		if err == nil && len(differ) > 0 {
			newer, err = index.Read(v.Index)
		}
		if err != nil || newer.Seq() == view.Seq() {
			return cmp.Or(each(differ, v.Each), err)
		}
		view, tags = newer, nil
		for _, found := range differ {
			tags = append(tags, imgd.TagName{Image: found.Image, Tag: found.Tag})
		}
	}
}

func each(all []imgd.Verification, do func(imgd.Verification) error) error {
	for _, found := range all {
		if err := do(found); err != nil {
			return err
		}
	}
	return nil
}

func (v Verify) verify(ctx context.Context, truth imgd.Truth, registry *publisher.Publisher, tags []imgd.TagName, each func(imgd.Verification) error) error {
	if v.Registry != "" {
		truth = elsewhere{truth, v.Registry}
	}
	verifier := &imgd.Verifier{Index: truth, Registry: registry}
	return verifier.VerifyAll(ctx, imgd.VerifyAll{Tags: tags, Depth: v.Depth, Parallel: v.Parallel, Each: each, Progress: v.Progress})
}

// tags are those that are chosen.
func (v Verify) tags(view *index.View) ([]imgd.TagName, error) {
	if v.Tag != "" {
		if len(view.Tag(v.Find.Image, v.Tag)) == 0 {
			return nil, notFound("nothing is published as %s:%s in the index in %s", v.Find.Image, v.Tag, v.Index)
		}
		return []imgd.TagName{{Image: v.Find.Image, Tag: v.Tag}}, nil
	}
	tags := imgd.TagsOf(view, v.Find)
	if len(tags) == 0 && (v.Find.Image != "" || len(v.Find.Labels) > 0) {
		return nil, notFound("no tag in the index in %s is what was asked for, so there is nothing to verify", v.Index)
	}
	return tags, nil
}

func notFound(format string, args ...any) error {
	return &ExitError{httpapi.CodeNotFound, fmt.Sprintf(format, args...)}
}

// hosts are the registries that may be asked.
func (v Verify) hosts(view *index.View, tags []imgd.TagName) (hosts []string) {
	if v.Registry != "" {
		return []string{v.Registry}
	}
	for _, tag := range tags {
		rel, _ := view.Wanted(tag.Image, tag.Tag)
		for _, repository := range rel.Repositories {
			if host := imgd.Host(repository); !slices.Contains(hosts, host) {
				hosts = append(hosts, host)
			}
		}
	}
	return hosts
}

func (v Verify) registry(hosts []string) *publisher.Publisher {
	config := publisher.Config{Credentials: publisher.DockerCredentials("")} // who can docker pull can verify
	if v.PlainHTTP {
		config.PlainHTTP = hosts
	}
	return publisher.New(config)
}

// said verifies what was said and stands in no index. As of a record the digest may
// be that of the root or of a platform.
func (v Verify) said(ctx context.Context) error {
	registry := v.registry([]string{v.Registry})
	repository, tags := v.Registry+"/"+v.Find.Image, []imgd.TagName{{Image: v.Find.Image, Tag: v.Tag}}
	truth := said{imgd.Record{Image: v.Find.Image, Tag: v.Tag, Digest: v.Digest, MediaType: "said"}, repository}
	var found imgd.Verification
	keep := func(one imgd.Verification) error {
		found, found.Records = one, []imgd.Record{}
		return nil
	}
	if err := v.verify(ctx, truth, registry, tags, keep); err != nil {
		return err
	}
	if there := found.Repositories[0]; there.Found != "" && there.Found != v.Digest {
		holds, err := v.holds(ctx, registry, repository, there.Found)
		if err != nil {
			return err
		}
		if holds {
			truth.record.IndexDigest = there.Found
			err = v.verify(ctx, truth, registry, tags, keep)
		}
		if err != nil {
			return err
		}
	}
	return v.Each(found)
}

// holds reports whether the digest is that of a platform of root.
func (v Verify) holds(ctx context.Context, registry *publisher.Publisher, repository string, root digest.Digest) (bool, error) {
	_, platforms, err := registry.Capture(ctx, []string{repository}, root)
	if errors.Is(err, imgd.ErrInvalid) || errors.Is(err, imgd.ErrNotFound) {
		return false, nil // it is no image, or not whole
	}
	return slices.ContainsFunc(platforms, func(p ocispec.Descriptor) bool { return p.Digest == v.Digest }), err
}

// said is the truth of one tag, as somebody has said it.
type said struct {
	record     imgd.Record
	repository string
}

func (s said) Tag(string, string) []imgd.Record { return []imgd.Record{s.record} }

func (s said) Wanted(string, string) (imgd.Release, bool) { return s.Release("") }

func (s said) Release(string) (rel imgd.Release, _ bool) {
	rel.Image, rel.Root.Digest, rel.Repositories = s.record.Image, s.record.Root(), []string{s.repository}
	return rel, true
}

func (said) Seq() uint64 { return 0 }

func (said) Wait(context.Context, uint64) error {
	return errors.New("nothing comes after what was said")
}

// elsewhere is a truth whose images are all in one registry.
type elsewhere struct {
	imgd.Truth
	host string
}

// Release has the image in that registry.
func (e elsewhere) Release(id string) (imgd.Release, bool) {
	rel, ok := e.Truth.Release(id)
	rel.Repositories = []string{e.host + "/" + rel.Image}
	return rel, ok
}
