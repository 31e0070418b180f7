package main

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/internal/httpapi"
)

// A build is what the flags of build say.
type build struct {
	*app
	project  string
	ask      httpapi.Build
	wait     bool
	progress string
	output   output
}

func (a *app) buildCommand() *cobra.Command {
	formats := []string{"table", "json", "yaml", "digest", "template"}
	b := build{app: a}
	var format string
	cmd := &cobra.Command{
		Use:   "build PROJECT --ref REF",
		Short: "Ask for a build of what a branch or tag names",
		Long: `Ask for a build of what a branch or tag names. The request is in the queue when the command
ends; with --wait it shows the build on stderr, and the published records on stdout.

Interrupted, it stops waiting; the build goes on.`,
		Example: `  imgctl build hello --ref v1.2.3 --wait
  imgctl build hello --ref main --wait -o digest
  imgctl build hello --ref v1.2.3 --force --reason "the base image was wrong" --wait`,
		Args: between(1, 1, "one PROJECT"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			b.project = args[0]
			if b.output, err = parseOutput(format, formats...); err != nil {
				return err
			}
			if err := b.check(); err != nil {
				return err
			}
			ctx, cancel := a.within(cmd, buildTime)
			defer cancel()
			return b.run(ctx)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&b.ask.Ref, "ref", "", "branch or tag, short or full (required)")
	flags.StringVar(&b.ask.Commit, "commit", "", "full commit that the ref contains (default: what it names now)")
	flags.BoolVar(&b.wait, "wait", false, "wait until the request has ended")
	flags.BoolVar(&b.ask.Rebuild, "rebuild", false, "build again what is published")
	flags.BoolVar(&b.ask.Force, "force", false, "replace what an immutable tag names; needs --reason")
	flags.StringVar(&b.ask.Reason, "reason", "", "why; kept in the history")
	flags.StringVar(&b.progress, "progress", "auto", progressHelp())
	flags.StringVarP(&format, "output", "o", "table", outputHelp(formats...))
	return cmd
}

// check says what the daemon would refuse, or could not have meant.
func (b *build) check() error {
	switch {
	case b.ask.Ref == "":
		return usage("--ref is missing: which branch or tag? As in: imgctl build %s --ref main", b.project)
	case b.ask.Force && strings.TrimSpace(b.ask.Reason) == "":
		return usage("--force needs a --reason, which the history keeps")
	case b.output.format == "digest" && !b.wait:
		return usage("-o digest needs --wait: there is no digest before the build has ended")
	case strings.ContainsAny(b.project, "/?#%"):
		return usage("%q is not a project; config names them, and an image is not one", b.project)
	}
	return checkProgress(b.progress, b.stderr)
}

func (b *build) run(ctx context.Context) error {
	var asked httpapi.Asked
	err := b.client().post(ctx, "/v1/projects/"+b.project+"/builds", b.ask, &asked)
	if end := stopped(ctx, "; the request may be in the queue or not"); err != nil && end != nil {
		return end
	}
	if err != nil {
		return err
	}
	b.say("asked for %s at %.12s, request %s", asked.Ref, asked.Commit, asked.Request)
	if !b.wait {
		b.say("follow it with: imgctl logs -f %s", asked.Request)
		return b.output.print(b.stdout, askedResult(asked))
	}
	answer, err := b.await(ctx, asked)
	if end := stopped(ctx, "; the build goes on, see it with: imgctl logs -f "+asked.Request); end != nil && !answer.State.Final() {
		return end
	}
	if err != nil {
		return err
	}
	return b.end(answer)
}

func askedResult(asked httpapi.Asked) result {
	return result{items: []httpapi.Asked{asked}, table: func(row func(...string)) {
		row("REQUEST", "PROJECT", "REF", "COMMIT")
		row(asked.Request, asked.Project, asked.Ref, asked.Commit)
	}}
}

// pollTime is how long the daemon holds one look at the state open.
const pollTime = 30 * time.Second

// await shows the build until the request has ended, for this ask.
func (b *build) await(ctx context.Context, asked httpapi.Asked) (httpapi.RequestAnswer, error) {
	var answer httpapi.RequestAnswer
	since := url.Values{"askedAt": {asked.AskedAt.Format(time.RFC3339Nano)}}
	if b.progress != "quiet" {
		query := url.Values{"follow": {"1"}}
		if asked.Before.Final() { // the log there is is of an earlier build
			query["askedAt"] = since["askedAt"]
		}
		if err := b.followLog(ctx, asked.Request, query, show(b.stderr, b.progress)); err != nil {
			return answer, err
		}
	}
	since.Set("wait", pollTime.String())
	for !answer.EndedFor(asked.AskedAt) {
		err := b.insist(ctx, func() error { return b.client().get(ctx, "/v1/requests/"+asked.Request, since, &answer) })
		if err != nil {
			return httpapi.RequestAnswer{}, err
		}
	}
	return answer, nil
}

// end prints what the request came to, or is the error that it ended with.
func (b *build) end(r httpapi.RequestAnswer) error {
	message := ""
	if r.Error != nil {
		message = ": " + r.Error.Message
	}
	switch r.State {
	case imgd.Published:
		b.say("published %s: %s", r.Image, outcomes(r.Tags))
	case imgd.Unchanged, imgd.Superseded:
		b.say("%s%s", r.State, message)
	default:
		return &exitError{endCode(r), fmt.Sprintf("request %s ended as %s%s", r.Request, r.State, message)}
	}
	return b.output.print(b.stdout, recordsResult(r.Records, r.Repositories))
}

// outcomes are the tags that were taken, and why others were not.
func outcomes(tags []httpapi.Outcome) string {
	var taken, not []string
	for _, t := range tags {
		if t.Reason == "" {
			taken = append(taken, t.Tag)
		} else {
			not = append(not, "; not "+t.Tag+", which "+t.Reason)
		}
	}
	return strings.Join(taken, ", ") + strings.Join(not, "")
}

// endCode is the exit code of a request that brought nothing.
func endCode(r httpapi.RequestAnswer) httpapi.Code {
	switch {
	case r.State == imgd.Conflicted:
		return httpapi.CodeConflict
	case r.State == imgd.Cancelled:
		return httpapi.CodeCancelled
	case r.State == imgd.Failed && r.Error != nil && r.Error.Kind == "build":
		return httpapi.CodeBuildFailed
	}
	return httpapi.CodeFailed
}
