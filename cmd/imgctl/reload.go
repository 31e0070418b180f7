package main

import (
	"github.com/spf13/cobra"

	"github.com/imgd/imgd/internal/httpapi"
)

func (a *app) reloadCommand() *cobra.Command {
	var o output
	cmd := &cobra.Command{
		Use:   "reload",
		Short: "Have the daemon read its config anew",
		Long: `Have the daemon read its config anew, as SIGHUP does, and show the keys that differ from before: those
that hold from now on, and those that wait for a restart. A config with a fault changes nothing: all
that is wrong with it is shown, and the exit code is 2.`,
		Example: `  imgctl reload
  imgctl reload --jq '.restart[]'`,
		Args: between(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.reload(cmd, &o) },
	}
	a.outputFlags(cmd, &o, "table", "json", "yaml", "template")
	return cmd
}

func (a *app) reload(cmd *cobra.Command, o *output) error {
	ctx, cancel := a.within(cmd, callTime)
	defer cancel()
	done := httpapi.Reloaded{Changed: []string{}, Restart: []string{}}
	if err := a.client().Post(ctx, "/v1/reload", struct{}{}, &done); err != nil {
		return err
	}
	if len(done.Changed)+len(done.Restart) == 0 && o.format == "table" {
		a.say("nothing has changed")
		return nil
	}
	return o.print(ctx, a.stdout, result{items: done, table: func(row func(...string)) {
		row("KEY", "HOLDS")
		for _, key := range done.Changed {
			row(key, "now")
		}
		for _, key := range done.Restart {
			row(key, "after a restart")
		}
	}})
}
