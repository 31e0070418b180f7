package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/internal/httpapi"
)

func (a *app) expireCommand() *cobra.Command {
	var o output
	var ask httpapi.ExpireCommand
	cmd := &cobra.Command{
		Use:   "expire [IMAGE]",
		Short: "Remove the tags whose time is over, or show which they are",
		Long: `Remove the tags whose time is over, of one image or of all, or with --dry-run show which they are, why,
and how much the registry could free at most. imgd does the same by itself every hour (expire.every). The
project's retention in the config says what goes; a pull request's tags go after seven days. Only tags
are removed: an image stays under its other tags.

Of an image of which more than expire.maxShare percent of the tags would go at once nothing is removed,
and the exit code is 5, unless --yes is given. What the registry refuses stays, exit code 1.`,
		Example: `  imgctl expire --dry-run
  imgctl expire demo/hello --dry-run --stays
  imgctl expire demo/hello --yes
  imgctl expire --dry-run --jq '.items[] | .image + ":" + .tag'`,
		Args:              between(0, 1, "no arguments, or one IMAGE"),
		ValidArgsFunction: first(a.images),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				r, err := parseReference(args[0])
				if err == nil && r.tag != "" {
					err = usage("%s is a tag; to remove one: imgctl untag %s", args[0], args[0])
				}
				if err != nil {
					return err
				}
				ask.Image = r.image
			}
			return a.expire(cmd, ask, &o)
		},
	}
	cmd.Flags().BoolVar(&ask.DryRun, "dry-run", false, "remove nothing, only show what would go")
	cmd.Flags().BoolVar(&ask.Yes, "yes", false, "remove them whatever share of an image's tags that is")
	cmd.Flags().BoolVar(&ask.Stays, "stays", false, "show also the tags that stay, and why")
	a.outputFlags(cmd, &o, "table", "json", "yaml", "template")
	return cmd
}

func (a *app) expire(cmd *cobra.Command, ask httpapi.ExpireCommand, o *output) error {
	ctx, cancel := a.within(cmd, callTime)
	defer cancel()
	var done imgd.Expiry
	if err := a.client().Post(ctx, "/v1/expire", ask, &done); err != nil {
		return err
	}
	if len(done.Items) == 0 && o.format == "table" {
		a.say("no tag's time is over")
		return nil
	}
	if err := o.print(ctx, a.stdout, result{items: done, table: func(row func(...string)) {
		row("IMAGE", "TAG", "PUBLISHED", "STATE", "WHY")
		for _, item := range done.Items {
			row(item.Image, item.Tag, moment(item.PublishedAt), string(item.State), strings.TrimSuffix(item.Why+"; "+item.Error, "; "))
		}
	}}); err != nil {
		return err
	}
	a.say("%s; %s", done.Summary(), freed(done))
	return expireEnd(done)
}

// freed says what Expiry.Bytes is, and is not.
func freed(done imgd.Expiry) string {
	text := fmt.Sprintf("the registry can free at most %s of them", size(done.Bytes))
	if done.Unweighed > 0 {
		text += fmt.Sprintf(" and of %d images that were not looked at", done.Unweighed)
	}
	return text
}

// expireEnd is how the command ends for what was done.
func expireEnd(done imgd.Expiry) error {
	failed := done.Count(imgd.ExpireRefused) + done.Count(imgd.ExpireLeft)
	switch {
	case len(done.Held) > 0 && !done.DryRun:
		return &exitError{Code: httpapi.CodeConflict, Message: fmt.Sprintf("more tags than expire.maxShare allows would go at once of %s: none of these is removed; "+
			"look at them, and give --yes if they are to go", strings.Join(done.Held, ", "))}
	case failed > 0:
		return &exitError{Code: httpapi.CodeFailed, Message: fmt.Sprintf("%d tags are still there", failed)}
	case done.More:
		return &exitError{Code: httpapi.CodeTimeout, Message: "time was over before all tags were looked at: give the command again"}
	}
	return nil
}
