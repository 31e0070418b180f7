package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/imgd/imgd/internal/httpapi"
)

// collectTime is how long the daemon may collect while somebody waits, and then
// measure.
const collectTime = 12 * time.Minute

func (a *app) usageCommand() *cobra.Command {
	var o output
	var collect bool
	cmd := &cobra.Command{
		Use:   "usage",
		Short: "Show the space that the daemon's data takes",
		Long: `Show the space that each part of the daemon's data takes, and what is free on its disk. Parts that are
others', as an external registry, are not shown.

--collect first has the daemon remove what nothing needs any more, as it does by itself every
registry.collectEvery: images that no tag and not the index names, blobs that no image needs, and old
build logs. What was used within registry.keepUntagged stays. Builds go on meanwhile.`,
		Example: `  imgctl usage
  imgctl usage --collect
  imgctl usage --jq '.[] | select(.part == "registry") | .bytes'`,
		Args: between(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.usage(cmd, &o, collect) },
	}
	cmd.Flags().BoolVar(&collect, "collect", false, "first remove what nothing needs any more")
	a.outputFlags(cmd, &o, "table", "json", "yaml", "template")
	return cmd
}

func (a *app) usage(cmd *cobra.Command, o *output, collect bool) error {
	ctx, cancel := a.within(cmd, collectTime)
	defer cancel()
	if collect {
		var done httpapi.Collected
		if err := a.client().Post(ctx, "/v1/collect", struct{}{}, &done); err != nil {
			return err
		}
		a.say("removed %s: %d manifests, %d blobs, %d uploads, %d build logs; pushes waited for %d ms at most",
			size(done.Bytes), done.Manifests, done.Blobs, done.Uploads, done.Logs, done.PauseMS)
	}
	var used httpapi.Usage
	if err := a.client().Get(ctx, "/v1/usage", nil, &used); err != nil {
		return err
	}
	return o.print(ctx, a.stdout, result{items: used.Items, table: func(row func(...string)) {
		row("PART", "SIZE", "FREE", "PATH")
		for _, u := range used.Items {
			bytes := size(u.Bytes)
			if u.Error != "" {
				bytes = "?"
				a.say("%s: %s", u.Part, u.Error)
			}
			row(u.Part, bytes, size(u.Free), u.Path)
		}
	}})
}

// size is a number of bytes as people read it.
func size(bytes int64) string {
	if bytes < 1<<10 {
		return fmt.Sprintf("%d B", bytes)
	}
	n, unit := float64(bytes), 0
	for n >= 1<<10 && unit < len("KMGT") {
		n, unit = n/(1<<10), unit+1
	}
	return fmt.Sprintf("%.1f %ciB", n, "KMGT"[unit-1])
}
