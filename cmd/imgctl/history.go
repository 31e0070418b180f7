package main

import (
	"cmp"
	"net/url"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/internal/httpapi"
)

func (a *app) historyCommand() *cobra.Command {
	var o output
	cmd := &cobra.Command{
		Use:   "history IMAGE:TAG",
		Short: "Show every digest that a tag ever named, and who made it so",
		Long: `Show every digest that a tag ever named, the newest first: since when, made by whom and how (a build,
pushed by another CI, or an operator's rollback, tag or untag), forced or not, why, and what ended it.`,
		Example: `  imgctl history demo/hello:latest
  imgctl history demo/hello:v1.2.3 -o json`,
		Args:              between(1, 1, "one IMAGE:TAG"),
		ValidArgsFunction: first(a.tags),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := parseTag(cmd, args[0])
			if err != nil {
				return err
			}
			return a.history(cmd, r, &o)
		},
	}
	a.outputFlags(cmd, &o, "table", "json", "yaml", "template")
	return cmd
}

// parseTag reads IMAGE:TAG.
func parseTag(cmd *cobra.Command, s string) (reference, error) {
	r, err := parseReference(s)
	if err == nil && r.tag == "" {
		err = usage("%s is no tag: write IMAGE:TAG, as in: %s %s:latest", s, cmd.CommandPath(), s)
	}
	return r, err
}

func (a *app) history(cmd *cobra.Command, r reference, o *output) error {
	ctx, cancel := a.within(cmd, callTime)
	defer cancel()
	c, steps := a.client(), []imgd.Step{}
	err := pages(func(query url.Values) (string, error) {
		var page httpapi.HistoryAnswer
		err := c.Get(ctx, r.path()+"/history", query, &page)
		steps = append(steps, page.Items...)
		return page.Next, err
	})
	if err != nil {
		return err
	}
	return o.print(ctx, a.stdout, result{items: steps, table: func(row func(...string)) {
		row("GENERATION", "DIGEST", "SINCE", "BY", "HOW", "ENDED", "REASON")
		for _, s := range steps {
			row(strconv.FormatUint(s.Generation, 10), orNothing(s.Root), moment(s.PublishedAt), cmp.Or(s.By, "-"), how(s), ended(s), cmp.Or(cell(s.Reason, whyLength), "-"))
		}
	}})
}

// how says what made the step.
func how(s imgd.Step) string {
	how := cmp.Or(string(s.Command), "build")
	if s.Pushed {
		how = "pushed"
	}
	if s.Forced {
		how += ", forced"
	}
	return how
}

func ended(s imgd.Step) string {
	if s.Ended == nil {
		return "-"
	}
	return s.Ended.How + " " + moment(s.Ended.At)
}
