package main

import (
	"cmp"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/imgd/imgd/internal/httpapi"
)

func (a *app) releasesCommand() *cobra.Command {
	var o output
	var image string
	var open bool
	cmd := &cobra.Command{
		Use:   "releases --open",
		Short: "List the releases that are admitted and not published, and why",
		Long: `List the releases that are admitted and not published, the oldest first, with where their requests
stand. imgd drives them on by itself; one that never will get through is given up by requests drop.`,
		Example: `  imgctl releases --open
  imgctl releases --open --image demo/hello -o json`,
		Args: between(0, 0, "no arguments; --image NAME chooses"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !open {
				return usage("only the open releases are listed: add --open; imgctl list and imgctl requests list show the others")
			}
			return a.releases(cmd, image, &o)
		},
	}
	cmd.Flags().BoolVar(&open, "open", false, "those that are admitted and not published (required)")
	cmd.Flags().StringVar(&image, "image", "", "only those of this image")
	completeFlag(cmd, "image", a.images)
	a.outputFlags(cmd, &o, "table", "json", "yaml", "template")
	return cmd
}

func (a *app) releases(cmd *cobra.Command, image string, o *output) error {
	ctx, cancel := a.within(cmd, callTime)
	defer cancel()
	c := a.client()
	all, _, err := take(0, func(query url.Values) ([]httpapi.OpenRelease, string, error) {
		query.Set("open", "1")
		query.Set("image", image)
		var page httpapi.List[httpapi.OpenRelease]
		err := c.Get(ctx, "/v1/releases", query, &page)
		return page.Items, page.Next, err
	})
	if err != nil {
		return err
	}
	return o.print(ctx, a.stdout, result{items: all, table: func(row func(...string)) {
		row("RELEASE", "IMAGE", "TAGS", "ADMITTED", "STATE", "WHY")
		for _, rel := range all {
			state, reason := standing(rel)
			var tags []string
			for _, t := range rel.Taken() {
				tags = append(tags, t.Name)
			}
			row(rel.ID, rel.Image, strings.Join(tags, ","), moment(rel.AdmittedAt), state, reason)
		}
	}})
}

// standing is where a release's request stands, and why.
func standing(rel httpapi.OpenRelease) (state, reason string) {
	switch {
	case rel.Unknown != "":
		return "-", cell("its state could not be read: "+rel.Unknown, whyLength)
	case rel.Pushed:
		return "pushed", "by another CI; imgd reads its tag and publishes it by itself"
	case rel.Command != "":
		return string(rel.Command), "by " + cmp.Or(rel.Request.By, "an operator") + "; imgd goes on with it by itself"
	case rel.Status == nil:
		return "-", "-"
	}
	return string(rel.Status.State), why(rel.Status.Error)
}
