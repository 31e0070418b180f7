package main

import (
	"context"
	"errors"
	"net/url"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/internal/httpapi"
)

// An inspection is all that the daemon knows of a tag.
type inspection struct {
	Image        string             `json:"image"`
	Tag          string             `json:"tag"`
	Root         digest.Digest      `json:"root"`
	Repositories []string           `json:"repositories"`
	Records      []imgd.Record      `json:"records"`
	Release      string             `json:"release"`
	Tags         []httpapi.Outcome  `json:"tags"`                   // of that release
	Request      *imgd.Status       `json:"request,omitempty"`      // left out once it is forgotten, after 30 days
	Step         *imgd.Step         `json:"step,omitempty"`         // instead of the request, if a command has made the release
	Verification *imgd.Verification `json:"verification,omitempty"` // left out if the registry could not be asked:
	Unverified   string             `json:"unverified,omitempty"`   // why
}

func (a *app) inspectCommand() *cobra.Command {
	var o output
	cmd := &cobra.Command{
		Use:   "inspect IMAGE:TAG",
		Short: "Show everything about a tag: digests, source, request, and what the registry has",
		Long: `Show everything about a tag: its digests, the commit it was made from, the release that holds it and
that one's other tags, who asked for it, what it named before, and what each repository has under
it at this moment. A registry that differs is shown and is no error here: verify exits 3 for it.`,
		Example: `  imgctl inspect demo/hello:v1.2.3
  imgctl inspect demo/hello:latest --jq '.[].records[].sourceRef'`,
		Args:              between(1, 1, "one IMAGE:TAG"),
		ValidArgsFunction: first(a.tags),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := parseReference(args[0])
			if err == nil && r.tag == "" {
				err = usage("inspect wants a tag, as in: imgctl inspect %s:latest; imgctl list %s shows those there are", args[0], args[0])
			}
			if err != nil {
				return err
			}
			ctx, cancel := a.within(cmd, callTime)
			defer cancel()
			found, err := a.inspect(ctx, r)
			if err != nil {
				return err
			}
			return o.print(ctx, a.stdout, result{items: []inspection{found}, table: func(row func(...string)) { sheet(row).inspection(found) }})
		},
	}
	a.outputFlags(cmd, &o, "table", "json", "yaml", "template")
	return cmd
}

func (a *app) inspect(ctx context.Context, r reference) (inspection, error) {
	var tag httpapi.TagAnswer
	c := a.client()
	if err := c.Get(ctx, r.path(), nil, &tag); err != nil {
		return inspection{}, err
	}
	release := tag.Items[0].Release // a tag in the index has records
	found := inspection{Image: tag.Image, Tag: tag.Tag, Root: tag.Root, Repositories: tag.Repositories, Records: tag.Items, Release: release}
	if err := found.askRequest(ctx, c); err != nil {
		return found, err
	}
	if found.Request == nil {
		if err := found.askHistory(ctx, c, r); err != nil {
			return found, err
		}
	}
	found.verify(ctx, c, r)
	return found, nil
}

// askRequest asks for the request, which tells the tags of its release too. Of
// one that is forgotten the tag itself is all there is.
func (i *inspection) askRequest(ctx context.Context, c *client) error {
	request, _, _ := strings.Cut(i.Release, "-")
	var answer httpapi.RequestAnswer
	err := c.Get(ctx, "/v1/requests/"+request, nil, &answer)
	var p *httpapi.Problem
	if errors.As(err, &p) && p.Code == httpapi.CodeNotFound {
		i.Tags = []httpapi.Outcome{{Tag: i.Tag}}
		return nil
	}
	i.Request, i.Tags = &answer.Status, answer.Tags
	return err
}

// askHistory asks who made the release, where the queue knows nothing of it: an
// operator or another CI, by a command.
func (i *inspection) askHistory(ctx context.Context, c *client, r reference) error {
	var page httpapi.HistoryAnswer
	if err := c.Get(ctx, r.path()+"/history", url.Values{"limit": {"1"}}, &page); err != nil {
		return err
	}
	if step := page.Items[0]; step.Release == i.Release && (step.Command != "" || step.Pushed) {
		i.Step = &step
	}
	return nil
}

// verify compares the registry with the index. That it differs, or does not
// answer, is a part of what is shown.
func (i *inspection) verify(ctx context.Context, c *client, r reference) {
	var v imgd.Verification
	err := c.Post(ctx, r.path()+"/verify", httpapi.Verify{}, &v)
	var differs *httpapi.Problem
	switch {
	case err == nil:
		i.Verification = &v
	case errors.As(err, &differs) && differs.Verification != nil:
		i.Verification = differs.Verification
	default:
		i.Unverified = err.Error()
	}
}

func (s sheet) inspection(i inspection) {
	first := i.Records[0]
	s.put("Image", i.Image+":"+i.Tag)
	s.put("Root", i.Root.String())
	var platforms, pulls []string
	for _, r := range i.Records {
		platforms = append(platforms, r.Platform+" "+r.Digest.String()+" "+strconv.FormatInt(r.Size, 10)+" bytes")
	}
	for _, repository := range i.Repositories {
		pulls = append(pulls, "docker pull "+repository+"@"+i.Root.String())
	}
	s.put("Manifests", strings.Join(platforms, "\n"))
	s.put("Pull", strings.Join(pulls, "\n"))
	s.put("Registry", strings.Join(i.registry(), "\n"))
	s.put("Version", first.Version)
	s.put("Source", first.SourceRef)
	s.put("Published", moment(first.PublishedAt))
	s.time("Expires", first.ExpiresAt)
	s.put("Generation", strconv.FormatUint(first.Generation, 10))
	s.put("Previous", first.Previous.String())
	s.put("Labels", pairs(first.Labels))
	s.put("Release", i.Release)
	s.put("Its tags", taken(i.Tags))
	if i.Step != nil {
		s.put("Made by", byWhom(how(*i.Step), i.Step.By))
		s.put("Reason", i.Step.Reason)
		return
	}
	s.origin(i.Request)
}

// origin is who asked for the release.
func (s sheet) origin(r *imgd.Status) {
	if r == nil {
		s.put("Request", "not known any more")
		return
	}
	s.put("Request", r.Request)
	s.put("Ref", r.Ref)
	s.put("Asked", byWhom(moment(r.AskedAt), r.By))
	s.put("Reason", r.Reason)
	s.put("Force", ifSet(r.Force))
	s.put("Log", "imgctl logs "+r.Request)
}

// registry says of each repository what it has.
func (i inspection) registry() []string {
	if i.Verification == nil {
		return []string{"not known: " + i.Unverified}
	}
	var lines []string
	for _, at := range i.Verification.Repositories {
		line := at.Repository + " has the same"
		switch {
		case at.Found == "":
			line = at.Repository + " does not have it"
		case !at.Same:
			line = at.Repository + " has " + at.Found.String()
		}
		lines = append(lines, line)
	}
	if i.Verification.Pending != "" {
		lines = append(lines, "release "+i.Verification.Pending+" is to take the tag")
	}
	return lines
}

// taken are the tags of a release, each on a line, with the reason if it was not
// taken.
func taken(tags []httpapi.Outcome) string {
	var lines []string
	for _, t := range tags {
		if t.Reason != "" {
			t.Tag += ": not taken, " + t.Reason
		}
		lines = append(lines, t.Tag)
	}
	return strings.Join(lines, "\n")
}
