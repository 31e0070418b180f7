package main

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/imgd/imgd/internal/httpapi"
)

func (a *app) logsCommand() *cobra.Command {
	var follow bool
	var progress string
	cmd := &cobra.Command{
		Use:   "logs REQUEST",
		Short: "Show the build log of a request",
		Example: `  imgctl logs 0f3c2b9d8a7e6f5041328374655647ab
  imgctl logs -f 0f3c2b9d8a7e6f5041328374655647ab
  imgctl logs 0f3c2b9d8a7e6f5041328374655647ab --progress rawjson`,
		Args: between(1, 1, "one REQUEST, 32 hex digits as build and events show them"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkProgress(progress, a.stdout); err != nil {
				return err
			}
			if len(args[0]) != 32 || strings.Trim(args[0], "0123456789abcdef") != "" {
				return usage("%q is not a request: that is 32 hex digits, as build shows it; a release has them before its -", args[0])
			}
			if follow {
				return a.follow(cmd, args[0], progress)
			}
			return a.logs(cmd, args[0], progress)
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "wait for more until the request has ended")
	cmd.Flags().StringVar(&progress, "progress", "auto", progressHelp())
	return cmd
}

// logs shows what is there.
func (a *app) logs(cmd *cobra.Command, request, mode string) error {
	ctx, cancel := a.within(cmd, callTime)
	defer cancel()
	resp, err := a.client().send(ctx, http.MethodGet, "/v1/requests/"+request+"/log", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return show(a.stdout, mode)(ctx, resp.Body)
}

func (a *app) follow(cmd *cobra.Command, request, mode string) error {
	ctx, cancel := a.within(cmd, 0)
	defer cancel()
	// A daemon that cannot be reached is waited for only after it could.
	var known httpapi.RequestAnswer
	err := a.client().get(ctx, "/v1/requests/"+request, nil, &known)
	if err != nil {
		return err
	}
	err = a.followLog(ctx, request, url.Values{"follow": {"1"}}, show(a.stdout, mode))
	if end := stopped(ctx, "; the request goes on"); end != nil {
		return end
	}
	return err
}
