package main

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/internal/httpapi"
)

// A waiting shows a request's build until the request has ended, and how.
type waiting struct {
	*app
	progress string    // --progress
	display  io.Writer // where the build is shown
}

func (w *waiting) progressFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&w.progress, "progress", "auto", "how to show the build: "+strings.Join(modes[:], ", "))
	completeFlag(cmd, "progress", anyOf(modes[:]...))
}

// finish waits for the end of what was asked, and answers what it came to.
func (w *waiting) finish(ctx context.Context, asked httpapi.Asked, again bool) (httpapi.RequestAnswer, error) {
	answer, err := w.await(ctx, asked.Request, asked.AskedAt, again)
	if end := stopped(ctx, "; the build goes on, see it with: imgctl logs -f "+asked.Request); end != nil && !answer.State.Final() {
		return answer, end
	}
	if err == nil {
		err = w.end(answer)
	}
	return answer, err
}

// pollTime is how long the daemon holds one look at the state open.
const pollTime = 30 * time.Second

// await shows the build until the request has ended for who asked at askedAt,
// the zero time if it does not matter. again says that the log there may be is
// of an earlier ask.
func (w *waiting) await(ctx context.Context, request string, askedAt time.Time, again bool) (httpapi.RequestAnswer, error) {
	var answer httpapi.RequestAnswer
	since := url.Values{"askedAt": {askedAt.Format(time.RFC3339Nano)}}
	if w.progress != "quiet" {
		query := url.Values{"follow": {"1"}}
		if again {
			query["askedAt"] = since["askedAt"]
		}
		if err := w.followLog(ctx, request, query); err != nil {
			return answer, err
		}
	}
	since.Set("wait", pollTime.String())
	for !answer.EndedFor(askedAt) {
		err := w.insist(ctx, func() error { return w.client().Get(ctx, "/v1/requests/"+request, since, &answer) })
		if err != nil {
			return httpapi.RequestAnswer{}, err
		}
	}
	return answer, nil
}

// end says how the request has ended. An end that brought nothing is an error.
func (w *waiting) end(r httpapi.RequestAnswer) error {
	message := ""
	if r.Error != nil {
		message = ": " + r.Error.Message
	}
	switch r.State {
	case imgd.Published:
		w.say("published %s: %s", r.Image, outcomes(r.Tags))
	case imgd.Unchanged, imgd.Superseded:
		w.say("%s%s", r.State, message)
	default:
		return &exitError{Code: endCode(r.Status), Message: fmt.Sprintf("request %s ended as %s%s", r.Request, r.State, message)}
	}
	return nil
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
func endCode(s imgd.Status) httpapi.Code {
	switch {
	case s.State == imgd.Conflicted:
		return httpapi.CodeConflict
	case s.State == imgd.Cancelled:
		return httpapi.CodeCancelled
	case s.State == imgd.Failed && s.Error != nil && s.Error.Kind == "build":
		return httpapi.CodeBuildFailed
	}
	return httpapi.CodeFailed
}
