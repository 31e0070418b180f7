package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

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
	cmd := &cobra.Command{
		Use:   "get IMAGE[:TAG]",
		Short: "Show the records of a tag, or of all tags of an image",
		Long: `Show the records of a tag, or of all tags of an image. -o digest is registry/image@sha256:…, which names
these bytes for ever; pull, compose, k8s and env show it as people paste it: a docker pull, the
image line of a compose file or of a Kubernetes manifest, IMAGE=… for a shell.`,
		Example: `  imgctl get demo/hello:v1.2.3
  imgctl get demo/hello:latest -o digest
  imgctl get demo/hello:v1.2.3 -o k8s
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
			if r.tag == "" {
				return a.printImage(cmd, r.image, nil, &o)
			}
			return a.get(cmd, r, &o)
		},
	}
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
