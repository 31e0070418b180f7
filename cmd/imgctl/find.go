package main

import (
	"maps"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/internal/httpapi"
)

// A finding is what the flags of list choose.
type finding struct {
	image  string
	values map[string]*string // by the flag, which is called as the parameter
	labels []string
}

func (f *finding) flags(a *app, cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.image, "image", "", "the same as IMAGE")
	f.values = map[string]*string{}
	for _, flag := range []struct{ name, usage string }{
		{"digest", "of this digest, or whose tag points at it"},
		{"commit", "of this commit, 7 hex digits of it at least"},
		{"version", "of a version in this range, as ^1.2, ~1.2.3 or '>=1.2 <2'"},
		{"since", "published since then, as 7d"},
		{"until", "published before then"},
		{"project", "made by this project"},
		{"expires-within", "that expire within this time, as 7d"},
		{"sort", "by name, published (the last first) or version (the highest first)"},
	} {
		f.values[flag.name] = flags.String(flag.name, "", flag.usage)
		completeFlag(cmd, flag.name, cobra.NoFileCompletions)
	}
	flags.StringArrayVar(&f.labels, "label", nil, "with this label, as env=prod; given again, with all of them")
	completeFlag(cmd, "label", cobra.NoFileCompletions)
	completeFlag(cmd, "image", a.images)
}

// query asks for what is chosen; it is empty if nothing is.
func (f *finding) query() url.Values {
	query := url.Values{}
	for name, value := range f.values {
		if *value != "" {
			query.Set(name, *value)
		}
	}
	if len(f.labels) > 0 {
		query["label"] = f.labels
	}
	return query
}

// listRecords shows records of all images.
func (a *app) listRecords(cmd *cobra.Command, chosen url.Values, o *output) error {
	ctx, cancel := a.within(cmd, callTime)
	defer cancel()
	c := a.client()
	var records []imgd.Record
	repositories := map[string][]string{}
	err := pages(func(query url.Values) (string, error) {
		var page httpapi.RecordsAnswer
		maps.Copy(query, chosen)
		err := c.Get(ctx, "/v1/records", query, &page)
		records = append(records, page.Items...)
		maps.Copy(repositories, page.Repositories)
		return page.Next, err
	})
	if err != nil {
		return err
	}
	found := recordsResult(records, nil)
	found.digests = nil
	seen := map[string]bool{}
	for _, r := range records {
		if ref := referenceOf(r, repositories[r.Image]); !seen[ref] {
			found.digests, seen[ref] = append(found.digests, ref), true
		}
	}
	return o.print(ctx, a.stdout, found)
}
