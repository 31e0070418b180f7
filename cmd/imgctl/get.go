package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/internal/httpapi"
)

// A reference is an image as people write it.
type reference struct{ image, tag string }

// parseReference reads IMAGE or IMAGE:TAG. What it lets through may stand in a
// path as it is.
func parseReference(s string) (reference, error) {
	if strings.Contains(s, "@") {
		return reference{}, usage("%s has a digest: write IMAGE or IMAGE:TAG, and the digest of a verify as --digest", s)
	}
	r := reference{image: s}
	if i := strings.LastIndex(s, ":"); i > strings.LastIndex(s, "/") {
		r.image, r.tag = s[:i], s[i+1:]
		if r.tag == "" {
			return r, usage("%s ends without a tag", s)
		}
	}
	for part := range strings.SplitSeq(r.image+"/"+r.tag, "/") {
		if part == "." || part == ".." || strings.ContainsAny(part, "%?#: \\") {
			return r, usage("%s is not IMAGE or IMAGE:TAG, as demo/hello:v1.2.3, without a registry", s)
		}
	}
	if r.image == "" || strings.Contains("/"+r.image+"/", "//") {
		return r, usage("%s is not IMAGE or IMAGE:TAG, as demo/hello:v1.2.3, without a registry", s)
	}
	return r, nil
}

// path is the tag's in the API.
func (r reference) path() string { return "/v1/images/" + r.image + "/tags/" + r.tag }

func (a *app) getCommand() *cobra.Command {
	var o output
	var why bool
	cmd := &cobra.Command{
		Use:   "get IMAGE[:TAG]",
		Short: "Show the records of a tag, or of all tags of an image",
		Long: `Show the records of a tag, or of all tags of an image. -o digest is registry/image@sha256:…, which names
these bytes for ever; pull, compose, k8s and env show it as people paste it: a docker pull, the
image line of a compose file or of a Kubernetes manifest, IMAGE=… for a shell.

--why shows instead which release holds the tag, what each tag rule gave when that was named, or why
it gave nothing, and what became of each of its tags.`,
		Example: `  imgctl get demo/hello:v1.2.3
  imgctl get demo/hello:latest -o digest
  imgctl get demo/hello:v1.2.3 -o k8s
  imgctl get demo/hello:v1.2.3 --why
  imgctl get demo/hello:latest --jq '.[] | select(.platform == "linux/arm64") | .digest'
  imgctl get demo/hello -o template='{{range .}}{{.tag}} {{.digest}}{{"\n"}}{{end}}'`,
		Args:              between(1, 1, "one IMAGE[:TAG]"),
		ValidArgsFunction: first(a.imagesOrTags),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := parseReference(args[0])
			if err != nil {
				return err
			}
			if r.tag == "" && slices.Contains(pastes(), o.format) {
				return usage("-o %s wants a tag, as in: imgctl get %s:latest -o %s", o.format, r.image, o.format)
			}
			if why {
				return a.why(cmd, args[0], &o)
			}
			if r.tag == "" {
				return a.printImage(cmd, r.image, nil, &o)
			}
			return a.get(cmd, r, &o)
		},
	}
	cmd.Flags().BoolVar(&why, "why", false, "show why the tag names what it names")
	a.outputFlags(cmd, &o, append([]string{"table", "json", "yaml", "digest", "template"}, pastes()...)...)
	return cmd
}

func (a *app) get(cmd *cobra.Command, r reference, o *output) error {
	ctx, cancel := a.within(cmd, callTime)
	defer cancel()
	var tag httpapi.TagAnswer
	if err := a.client().Get(ctx, r.path(), nil, &tag); err != nil {
		return err
	}
	found := recordsResult(tag.Items, tag.Repositories)
	found.tag = tag.Tag
	return o.print(ctx, a.stdout, found)
}

func (a *app) why(cmd *cobra.Command, tag string, o *output) error {
	if !slices.Contains([]string{"table", "json", "yaml", "template", "jq"}, o.format) {
		return usage("--why has no -o %s: it shows reasons, and no digest", o.format)
	}
	r, err := parseTag(cmd, tag)
	if err != nil {
		return err
	}
	ctx, cancel := a.within(cmd, callTime)
	defer cancel()
	var w httpapi.Why
	if err := a.client().Get(ctx, r.path()+"/why", nil, &w); err != nil {
		return err
	}
	return o.print(ctx, a.stdout, result{items: []httpapi.Why{w}, table: func(row func(...string)) { sheet(row).why(w) }})
}

func (s sheet) why(w httpapi.Why) {
	s.put("Tag", w.Image+":"+w.Tag)
	s.put("Release", w.Release)
	s.put("Ref", w.Ref)
	s.put("Commit", w.Commit)
	if w.Command != "" || w.Pushed {
		s.put("Made by", how(imgd.Step{Command: w.Command, Pushed: w.Pushed}))
	}
	s.put("Asked by", w.By)
	s.put("Reason", w.Reason)
	s.put("Rules", steps(w.Rules))
	s.put("Its tags", taken(w.Tags))
}
