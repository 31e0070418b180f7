package main

import (
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/internal/httpapi"
)

func (a *app) logsCommand() *cobra.Command {
	var follow bool
	w := &waiting{app: a, display: a.stdout}
	cmd := &cobra.Command{
		Use:   "logs REQUEST",
		Short: "Show the build log of a request",
		Long: `Show the build log of a request. With -f it waits for the request, also while it is queued, until
it has ended, and exits as build --wait does: 5 conflict, 7 the build failed, 8 cancelled, 1 failed
otherwise. It goes on where it was when the daemon was away.`,
		Example: `  imgctl logs 0f3c2b9d8a7e6f5041328374655647ab
  imgctl logs -f 0f3c2b9d8a7e6f5041328374655647ab
  imgctl logs 0f3c2b9d8a7e6f5041328374655647ab --progress rawjson`,
		Args:              between(1, 1, "one REQUEST, "+requestForm),
		ValidArgsFunction: first(a.requests()),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := w.checkProgress(); err != nil {
				return err
			}
			if !isRequest(args[0]) {
				return notRequest(args[0])
			}
			if follow {
				return w.follow(cmd, args[0])
			}
			return w.logs(cmd, args[0])
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "wait for more until the request has ended")
	w.progressFlag(cmd)
	return cmd
}

// logs shows what is there.
func (w *waiting) logs(cmd *cobra.Command, request string) error {
	ctx, cancel := w.within(cmd, callTime)
	defer cancel()
	resp, err := w.client().Send(ctx, http.MethodGet, "/v1/requests/"+request+"/log", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return w.show(ctx, resp.Body)
}

func (w *waiting) follow(cmd *cobra.Command, request string) error {
	ctx, cancel := w.within(cmd, 0)
	defer cancel()
	// A daemon that cannot be reached is waited for only after it could.
	var known httpapi.RequestAnswer
	err := w.client().Get(ctx, "/v1/requests/"+request, nil, &known)
	if err == nil && known.State == imgd.Queued {
		w.say("request %s is queued", request)
	}
	if err == nil {
		known, err = w.await(ctx, request, time.Time{}, false)
	}
	if end := stopped(ctx, "; the request goes on"); end != nil && !known.State.Final() {
		return end
	}
	if err != nil {
		return err
	}
	return w.end(known)
}
