package index

import (
	"context"
	"errors"
	"strconv"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgd/imgd"
)

// History is what only git knows.
type History interface {
	// Head is the commit that ref names at this moment, asked of the remote.
	// imgd.ErrNotFound if there is no such ref.
	Head(ctx context.Context, project, ref string) (string, error)
	// Contains reports whether commit is head or an ancestor of it. A commit
	// that git does not know is in no head.
	Contains(ctx context.Context, project, head, commit string) (bool, error)
}

// Registry is what only the registry knows. imgd.ErrNotFound if it does not
// have what was asked for, imgd.ErrInvalid if what it has is no image.
type Registry interface {
	// Resolve answers what a tag names at this moment.
	Resolve(ctx context.Context, repository, tag string) (ocispec.Descriptor, error)
	// Capture answers root and its platforms' manifests, as imgd.Capturer does.
	Capture(ctx context.Context, repositories []string, root digest.Digest) (ocispec.Descriptor, []ocispec.Descriptor, error)
}

// An asker asks git and the registry on behalf of one decision, and notes what
// they answered. It asks only when a rule needs to know, and for a ref's head
// only once, so that one decision rests on one head.
type asker struct {
	history  History
	registry Registry
	head     string
	facts    []fact
}

func (a *asker) note(asked, answer string) {
	a.facts = append(a.facts, fact{Asked: asked, Answer: answer})
}

// inHead reports whether the head of req's ref contains commit.
func (a *asker) inHead(ctx context.Context, req imgd.Request, commit string) (bool, error) {
	if a.head == "" {
		head, err := a.history.Head(ctx, req.Project, req.Ref)
		if errors.Is(err, imgd.ErrNotFound) {
			a.note("head of "+req.Ref, "none")
			return false, nil
		}
		if err != nil {
			return false, err
		}
		a.head = head
		a.note("head of "+req.Ref, head)
	}
	return a.ancestor(ctx, req.Project, commit, a.head)
}

// ancestor reports whether commit is of, or an ancestor of it.
func (a *asker) ancestor(ctx context.Context, project, commit, of string) (bool, error) {
	in, err := a.history.Contains(ctx, project, of, commit)
	if err == nil {
		a.note(of+" contains "+commit, strconv.FormatBool(in))
	}
	return in, err
}

// tagged is the digest that the tag names in the repository.
func (a *asker) tagged(ctx context.Context, repository, tag string) (digest.Digest, error) {
	there, err := a.registry.Resolve(ctx, repository, tag)
	if errors.Is(err, imgd.ErrNotFound) {
		a.note(repository+":"+tag, "none")
	}
	if err != nil {
		return "", err
	}
	a.note(repository+":"+tag, there.Digest.String())
	return there.Digest, nil
}

// same reports whether the root there holds exactly these platform manifests.
// What is no image holds others.
func (a *asker) same(ctx context.Context, repository string, there digest.Digest, platforms []ocispec.Descriptor) (bool, error) {
	_, found, err := a.registry.Capture(ctx, []string{repository}, there)
	if err != nil && !errors.Is(err, imgd.ErrInvalid) {
		return false, err
	}
	return err == nil && imgd.SameDigests(found, platforms), nil
}

// lost reports whether no repository has rel's root any more. One that has not
// got it yet is no reason to let its tag change in the others.
func (a *asker) lost(ctx context.Context, repositories []string, rel imgd.Release) (bool, error) {
	for _, repository := range repositories {
		_, _, err := a.registry.Capture(ctx, []string{repository}, rel.Root.Digest)
		if errors.Is(err, imgd.ErrNotFound) {
			continue
		}
		if err == nil {
			a.note("root "+rel.Root.Digest.String()+" is lost", "false")
		}
		return false, err
	}
	a.note("root "+rel.Root.Digest.String()+" is lost", "true")
	return true, nil
}
