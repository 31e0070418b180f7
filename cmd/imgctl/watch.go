package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/internal/httpapi"
)

// A lookout is what the flags of watch say.
type lookout struct {
	since uint64
	image string
}

func (a *app) watchCommand() *cobra.Command {
	var o output
	var l lookout
	cmd := &cobra.Command{
		Use:   "watch",
		Short: "Show what happens to records, as it happens",
		Long: `Show each record that is set or removed, as it happens, from now or from behind an entry of the index.
With -o json each entry is a line: {seq, set, removed}. Each is shown once, also across lost connections
and restarts of the daemon. It goes on until it is interrupted.`,
		Example: `  imgctl watch
  imgctl watch --since 0 --image demo/hello
  imgctl watch --since 0 --jq '.set[]? | .tag + " " + .digest'`,
		Args: between(0, 0, "no arguments; --image NAME chooses"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.watch(cmd, l, cmd.Flags().Changed("since"), &o)
		},
	}
	cmd.Flags().Uint64Var(&l.since, "since", 0, "show what came after this entry of the index (default: from now)")
	cmd.Flags().StringVar(&l.image, "image", "", "only records of this image")
	completeFlag(cmd, "since", cobra.NoFileCompletions)
	completeFlag(cmd, "image", a.images)
	a.outputFlags(cmd, &o, "table", "json")
	return cmd
}

// command is the one that shows the rest.
func (l lookout) command() string {
	command := "imgctl watch --since " + strconv.FormatUint(l.since, 10)
	if l.image != "" {
		command += " --image " + l.image
	}
	return command
}

// watch shows each change once: after a lost connection it goes on behind the
// last one it has shown.
func (a *app) watch(cmd *cobra.Command, l lookout, given bool, o *output) error {
	ctx, cancel := a.within(cmd, 0)
	defer cancel()
	if !given {
		var page httpapi.RecordsAnswer
		if err := a.client().Get(ctx, "/v1/records", url.Values{"limit": {"1"}}, &page); err != nil {
			return err
		}
		l.since = page.Seq
	}
	return a.show(ctx, feed{
		path: "/v1/watch",
		query: func() url.Values {
			query := url.Values{"since": {strconv.FormatUint(l.since, 10)}}
			if l.image != "" {
				query.Set("image", l.image)
			}
			return query
		},
		head: func() error {
			if o.format != "table" {
				return nil
			}
			return a.changeRow("SEQ", "CHANGE", "IMAGE", "TAG", "PLATFORM", "DIGEST")
		},
		event: func(e event) error { return a.printChange(ctx, e, &l, o) },
		rest:  func() string { return l.command() },
	}, !given)
}

func (a *app) printChange(ctx context.Context, e event, l *lookout, o *output) error {
	var c imgd.Change
	if err := json.Unmarshal(e.data, &c); err != nil || c.Seq == 0 {
		return fmt.Errorf("read change %q: it is none", e.id)
	}
	l.since = c.Seq
	switch o.format {
	case "jq":
		return o.printQuery(ctx, a.stdout, json.RawMessage(e.data))
	case "json":
		_, err := fmt.Fprintf(a.stdout, "%s\n", e.data)
		return err
	}
	for _, side := range []struct {
		what    string
		records []imgd.Record
	}{{"set", c.Set}, {"removed", c.Removed}} {
		for _, r := range side.records {
			if err := a.changeRow(c.Seq, side.what, r.Image, r.Tag, r.Platform, r.Digest); err != nil {
				return err
			}
		}
	}
	return nil
}

// changeRow prints one line.
func (a *app) changeRow(cells ...any) error {
	return a.printLine("%-6v  %-7v  %-24s  %-16s  %-12s  %s", cells...)
}
