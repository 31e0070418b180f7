package main

import (
	"context"
	"fmt"
	"net/url"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/internal/httpapi"
)

// checkCompare says what cannot be meant with --compare.
func (b *build) checkCompare() error {
	switch {
	case b.compare == "":
		return nil
	case !b.ask.Rebuild:
		return usage("--compare needs --rebuild: what is taken from the cache proves nothing")
	case b.ask.Force:
		return usage("--compare releases nothing, so there is nothing to --force")
	case b.output.format == "digest":
		return usage("-o digest is of what is released, and --compare releases nothing; -o json has both digests")
	case b.results != results{}:
		return usage("--metadata-file, --dotenv and --github-output are of what is released, and --compare releases nothing")
	}
	r, err := parseReference(b.compare)
	if err == nil && r.tag == "" {
		err = usage("--compare wants a tag, as in: --compare %s:v1.2.3", b.compare)
	}
	b.with = r
	return err
}

// runCompare has the commit of the tag built from nothing, and compares.
func (b *build) runCompare(ctx context.Context) error {
	released, err := b.released(ctx)
	if err != nil {
		return err
	}
	b.ask.Compare = true
	var asked httpapi.Asked
	if err := b.post(ctx, &asked); err != nil {
		return err
	}
	answer, err := b.finish(ctx, asked, false)
	if err != nil {
		return err
	}
	if answer.Error == nil || answer.Error.Built == "" {
		return &exitError{Code: httpapi.CodeFailed, Message: fmt.Sprintf("request %s ended as %s and built nothing to compare", asked.Request, answer.State)}
	}
	c, err := b.comparison(ctx, released, answer.Error.Built)
	if err != nil {
		return err
	}
	if err := b.output.print(ctx, b.stdout, b.comparisonResult(c)); err != nil {
		return err
	}
	if !c.Same {
		return &exitError{Code: httpapi.CodeDiffers, Message: fmt.Sprintf("%s was not made again: %s differs", b.compare, c.Difference.Where())}
	}
	return nil
}

// released is what the tag names at this moment. Its commit is what is built, with
// what was asked for beside it.
func (b *build) released(ctx context.Context) (digest.Digest, error) {
	var projects httpapi.List[httpapi.Project]
	if err := b.client().Get(ctx, "/v1/projects", url.Values{"limit": {"1000"}}, &projects); err != nil {
		return "", err
	}
	for _, p := range projects.Items {
		if p.Name == b.project && p.Image != b.with.image {
			return "", usage("--compare %s: project %s makes the image %s", b.compare, b.project, p.Image)
		}
	}
	var tag httpapi.TagAnswer
	if err := b.client().Get(ctx, b.with.path(), nil, &tag); err != nil {
		return "", err
	}
	var why httpapi.Why
	if err := b.client().Get(ctx, b.with.path()+"/why", nil, &why); err != nil {
		return "", err
	}
	b.ask.Args, b.ask.Target, b.ask.Platforms = why.Args, why.Target, why.Platforms
	source := tag.Items[0].SourceRef
	commit := source[strings.LastIndex(source, "@")+1:]
	if b.ask.Commit != "" && b.ask.Commit != commit {
		return "", usage("%s was made of commit %s, not of %s: leave out --commit", b.compare, commit, b.ask.Commit)
	}
	b.ask.Commit = commit
	return tag.Root, nil
}

func (b *build) comparison(ctx context.Context, released, built digest.Digest) (c imgd.Comparison, err error) {
	query := url.Values{"image": {b.with.image}, "a": {released.String()}, "b": {built.String()}}
	err = b.insist(ctx, func() error { return b.client().Get(ctx, "/v1/compare", query, &c) })
	if err == nil && !c.Same && c.Difference == nil {
		err = fmt.Errorf("the daemon says that %s and %s differ, and not in what", released, built)
	}
	return c, err
}

func (b *build) comparisonResult(c imgd.Comparison) result {
	return result{items: []imgd.Comparison{c}, table: func(row func(...string)) {
		switch {
		case !c.Same:
			row("DIFFERS", b.compare, "MADE AGAIN")
			row(c.Difference.Where(), orDash(c.Difference.A), orDash(c.Difference.B))
		case c.A == c.B:
			row(fmt.Sprintf("reproducible: %s was made again", c.A))
		default:
			row(fmt.Sprintf("reproducible: the same image was made again for each platform, and only what %s and %s say about it differs", c.A, c.B))
		}
	}}
}
