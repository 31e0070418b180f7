package main

import (
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"

	"github.com/imgd/imgd/internal/httpapi"
)

// versionTime bounds the question for the daemon's version, without which there
// is an answer too.
const versionTime = 5 * time.Second

// Versions are those of imgctl and of the daemon it finds.
type versions struct {
	Client httpapi.Version  `json:"client"`
	Server *httpapi.Version `json:"server,omitempty"`
}

func (a *app) versionCommand() *cobra.Command {
	var o output
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Show the versions of imgctl and of the daemon",
		Example: `  imgctl version
  imgctl version --jq .server.version`,
		Args: between(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.version(cmd, &o) },
	}
	a.outputFlags(cmd, &o, "table", "json", "yaml", "template")
	return cmd
}

func (a *app) version(cmd *cobra.Command, o *output) error {
	ctx, cancel := a.within(cmd, versionTime)
	defer cancel()
	v := versions{Client: ownVersion()}
	var server httpapi.Version
	if err := a.client().Get(ctx, "/v1/version", nil, &server); err != nil {
		a.say("the daemon's version is not known: %v", err)
	} else {
		v.Server = &server
	}
	return o.print(ctx, a.stdout, result{items: v, table: func(row func(...string)) {
		row("", "VERSION", "COMMIT", "GO")
		row("imgctl", v.Client.Version, orDash(v.Client.Commit), v.Client.Go)
		if v.Server != nil {
			row("imgd", v.Server.Version, orDash(v.Server.Commit), orDash(v.Server.Go))
		}
	}})
}

// ownVersion is what the linker and the go command have left in the binary.
func ownVersion() httpapi.Version {
	v := httpapi.Version{Version: version}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	v.Go = info.GoVersion
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Commit = s.Value
		case "vcs.time":
			v.Date = s.Value
		}
	}
	return v
}
