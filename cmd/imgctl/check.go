package main

import (
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/imgd/imgd/internal/httpapi"
)

func (a *app) checkCommand() *cobra.Command {
	var o output
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check what builds need: NATS, disk, BuildKit, the registry and each project's git",
		Long: `Check what builds need, as the daemon sees it: that NATS answers with JetStream, the disk has room,
buildkitd works, the registry answers and takes pushes to each repository (an upload is begun and
cancelled), and that each project's git can be read. A line each, and what to do about those that
failed. Exits 1 if any has.`,
		Example: `  imgctl check
  imgctl check --jq '.[] | select(.ok | not) | .name'`,
		Args: between(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.check(cmd, &o) },
	}
	a.outputFlags(cmd, &o, "table", "json", "yaml", "template")
	return cmd
}

// check prints what was found also where something failed, which is then the
// error.
func (a *app) check(cmd *cobra.Command, o *output) error {
	ctx, cancel := a.within(cmd, callTime)
	defer cancel()
	var all httpapi.Checkup
	if err := a.client().Post(ctx, "/v1/check", struct{}{}, &all); err != nil {
		return err
	}
	err := o.print(ctx, a.stdout, result{items: all.Items, table: func(row func(...string)) {
		row("CHECK", "RESULT", "TOOK", "FOUND")
		for _, c := range all.Items {
			row(c.Name, okFailed(c.OK), strconv.FormatInt(c.TookMS, 10)+"ms", orDash(c.Found+c.Error))
		}
	}})
	if err != nil || all.OK {
		return err
	}
	failed := 0
	for _, c := range all.Items {
		if !c.OK {
			failed++
			a.say("%s: %s", c.Name, c.Todo)
		}
	}
	return &exitError{Code: httpapi.CodeFailed, Message: fmt.Sprintf("%d of %d checks failed", failed, len(all.Items))}
}

func okFailed(ok bool) string {
	if ok {
		return "ok"
	}
	return "failed"
}
