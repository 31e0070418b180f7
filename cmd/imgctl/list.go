package main

import (
	"maps"
	"net/url"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/internal/httpapi"
)

func (a *app) listCommand() *cobra.Command {
	var o output
	var f finding
	cmd := &cobra.Command{
		Use:   "list [IMAGE]",
		Short: "List the images, or the records of one image's tags, or find records",
		Long: `List the images, or the records of one image's tags. With flags that choose or sort: the records of all
images, or of the one, that are all of this. Times are so long ago, as 7d or 12h, or as 2026-11-21T10:00:00Z.`,
		Example: `  imgctl list
  imgctl list demo/hello
  imgctl list demo/hello -o digest
  imgctl list --label env=prod --since 7d --version '^1.2' --sort published
  imgctl list --jq '.[].image'`,
		Args:              between(0, 1, "at most one IMAGE"),
		ValidArgsFunction: first(a.images),
		RunE: func(cmd *cobra.Command, args []string) error {
			query := f.query()
			if len(args) == 1 && f.image != "" {
				return usage("%s and --image %s: say one", args[0], f.image)
			}
			if f.image != "" {
				args = []string{f.image}
			}
			switch {
			case len(args) == 1:
				return a.getImage(cmd, args[0], query, &o)
			case len(query) > 0:
				return a.listRecords(cmd, query, &o)
			}
			return a.list(cmd, &o)
		},
	}
	f.flags(a, cmd)
	a.outputFlags(cmd, &o, "table", "json", "yaml", "digest", "template")
	return cmd
}

func (a *app) list(cmd *cobra.Command, o *output) error {
	if o.format == "digest" {
		return usage("list -o digest wants an IMAGE, as in: imgctl list demo/hello -o digest")
	}
	ctx, cancel := a.within(cmd, callTime)
	defer cancel()
	c, images := a.client(), []httpapi.Image{}
	err := pages(func(query url.Values) (string, error) {
		var page httpapi.List[httpapi.Image]
		err := c.Get(ctx, "/v1/images", query, &page)
		images = append(images, page.Items...)
		return page.Next, err
	})
	if err != nil {
		return err
	}
	return o.print(ctx, a.stdout, result{items: images, table: func(row func(...string)) {
		row("IMAGE", "TAGS", "PUBLISHED")
		for _, i := range images {
			row(i.Image, strconv.Itoa(i.Tags), moment(i.PublishedAt))
		}
	}})
}

func (a *app) getImage(cmd *cobra.Command, name string, chosen url.Values, o *output) error {
	r, err := parseReference(name)
	if err != nil {
		return err
	}
	if r.tag != "" {
		return usage("%s is a tag: use imgctl get %s", name, name)
	}
	return a.printImage(cmd, r.image, chosen, o)
}

func (a *app) printImage(cmd *cobra.Command, image string, chosen url.Values, o *output) error {
	ctx, cancel := a.within(cmd, callTime)
	defer cancel()
	c := a.client()
	var records []imgd.Record
	var repositories []string
	err := pages(func(query url.Values) (string, error) {
		var page httpapi.ImageAnswer
		maps.Copy(query, chosen)
		err := c.Get(ctx, "/v1/images/"+image, query, &page)
		records, repositories = append(records, page.Items...), page.Repositories
		return page.Next, err
	})
	if err != nil {
		return err
	}
	return o.print(ctx, a.stdout, recordsResult(records, repositories))
}
