package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/internal/httpapi"
)

func (a *app) cancelCommand() *cobra.Command {
	return a.command(&cobra.Command{
		Use:   "cancel REQUEST",
		Short: "Cancel a request that is not publishing yet",
		Long: `Cancel a request that is queued or being built, and wait until its build has stopped. What is
publishing goes on: requests drop gives that up. Exits 5 if there is nothing to cancel.`,
		Example:           `  imgctl requests cancel 0f3c2b9d8a7e6f5041328374655647ab`,
		Args:              between(1, 1, "one REQUEST, "+requestForm),
		ValidArgsFunction: first(a.requests(imgd.Queued, imgd.Resolving, imgd.Building)),
	}, func(ctx context.Context, id string) (line, error) {
		var r httpapi.RequestAnswer
		if !isRequest(id) {
			return line{}, notRequest(id)
		}
		if err := a.client().Post(ctx, "/v1/requests/"+id+"/cancel", httpapi.Command{}, &r); err != nil {
			return line{}, err
		}
		a.say("%s %s", r.State, id)
		return lineOf(r.Status), nil
	})
}

func (a *app) dropCommand() *cobra.Command {
	var reason string
	cmd := a.command(&cobra.Command{
		Use:   "drop ID",
		Short: "Give up a request that is publishing or dead, or a dead letter",
		Long: `Give up a request that is publishing: it has failed then, its release is abandoned, and the tags go
back to what they named. Of one that is dead the letter is thrown away. What is queued or being built
is cancelled instead. Exits 5 if there is nothing to give up.`,
		Example: `  imgctl requests drop 0f3c2b9d8a7e6f5041328374655647ab --reason "the registry refuses it"
  imgctl requests drop dead-7`,
		Args:              between(1, 1, "one ID: "+anyForm),
		ValidArgsFunction: first(a.orLetters(a.requests(imgd.Publishing, imgd.Dead))),
	}, func(ctx context.Context, id string) (line, error) {
		if err := checkID(id); err != nil {
			return line{}, err
		}
		l, err := a.drop(ctx, id, reason)
		if err == nil {
			a.say("dropped %s", id)
		}
		return l, err
	})
	cmd.Flags().StringVar(&reason, "reason", "", "why; kept with the request")
	completeFlag(cmd, "reason", cobra.NoFileCompletions)
	return cmd
}

// drop answers the request as it stands now, or the letter as it was.
func (a *app) drop(ctx context.Context, id, reason string) (line, error) {
	path, body := "/v1/requests/"+id+"/drop", httpapi.Command{Reason: reason}
	if isLetter(id) {
		var l imgd.Letter
		err := a.client().Post(ctx, path, body, &l)
		return lineOfLetter(l), err
	}
	var r httpapi.RequestAnswer
	err := a.client().Post(ctx, path, body, &r)
	return lineOf(r.Status), err
}

// command completes one that does something to the thing with the ID that is
// its argument, and prints what it answers.
func (a *app) command(cmd *cobra.Command, do func(ctx context.Context, id string) (line, error)) *cobra.Command {
	var o output
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx, cancel := a.within(cmd, callTime)
		defer cancel()
		done, err := do(ctx, args[0])
		if err != nil {
			return err
		}
		return o.print(ctx, a.stdout, linesResult([]line{done}))
	}
	a.outputFlags(cmd, &o, "table", "json", "yaml", "template")
	return cmd
}

// A retry is what the flags of requests retry say.
type retry struct {
	waiting
	wait   bool
	output output
}

func (a *app) retryCommand() *cobra.Command {
	r := retry{waiting: waiting{app: a, display: a.stderr}}
	cmd := &cobra.Command{
		Use:   "retry ID",
		Short: "Put a request that has ended into the queue again",
		Long: `Put a request that has ended, or what a dead letter holds, into the queue again, as it was asked for
first. With --wait it shows the build and ends as build --wait does. Exits 5 if the request has not
ended, or is published.`,
		Example: `  imgctl requests retry 0f3c2b9d8a7e6f5041328374655647ab --wait
  imgctl requests retry dead-7`,
		Args:              between(1, 1, "one ID: "+anyForm),
		ValidArgsFunction: first(a.orLetters(a.requests(imgd.Failed, imgd.Dead, imgd.Conflicted, imgd.Cancelled, imgd.Superseded, imgd.Unchanged))),
		RunE:              func(cmd *cobra.Command, args []string) error { return r.run(cmd, args[0]) },
	}
	cmd.Flags().BoolVar(&r.wait, "wait", false, "wait until the request has ended")
	r.progressFlag(cmd)
	a.outputFlags(cmd, &r.output, "table", "json", "yaml", "digest", "template")
	return cmd
}

func (r *retry) run(cmd *cobra.Command, id string) error {
	err := checkID(id)
	if err == nil && r.output.format == "digest" && !r.wait {
		err = usage("-o digest needs --wait: there is no digest before the build has ended")
	}
	if err == nil {
		err = r.checkProgress()
	}
	if err != nil {
		return err
	}
	otherwise := callTime
	if r.wait {
		otherwise = buildTime
	}
	ctx, cancel := r.within(cmd, otherwise)
	defer cancel()
	var asked httpapi.Asked
	err = r.client().Post(ctx, "/v1/requests/"+id+"/retry", httpapi.Command{}, &asked)
	if end := stopped(ctx, "; the request may be in the queue or not"); err != nil && end != nil {
		return end
	}
	if err != nil {
		return err
	}
	if asked.Request == "" {
		return r.resent(ctx, id, asked)
	}
	r.say("asked again for %s at %.12s, request %s", asked.Ref, asked.Commit, asked.Request)
	if !r.wait {
		r.say("follow it with: imgctl logs -f %s", asked.Request)
		return r.output.print(ctx, r.stdout, askedResult(asked))
	}
	answer, err := r.finish(ctx, asked, true)
	if err != nil {
		return err
	}
	return r.output.print(ctx, r.stdout, recordsResult(answer.Records, answer.Repositories))
}

// resent is the end of a retry of a message that was no request.
func (r *retry) resent(ctx context.Context, id string, asked httpapi.Asked) error {
	const hint = "the message of %s is in the queue again; see what becomes of it with: imgctl requests list"
	if r.wait {
		return &exitError{Code: httpapi.CodeFailed, Message: fmt.Sprintf(hint+"; it is no request yet, so there is none to wait for", id)}
	}
	r.say(hint, id)
	return r.output.print(ctx, r.stdout, askedResult(asked))
}
