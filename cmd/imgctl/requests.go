package main

import (
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/internal/httpapi"
)

// What an ID looks like, to people.
const (
	requestForm = "32 hex digits as build and events show them"
	anyForm     = "a request's, " + requestForm + ", or a dead letter's, as dead-7"
)

func isRequest(id string) bool { return len(id) == 32 && strings.Trim(id, "0123456789abcdef") == "" }

func isLetter(id string) bool {
	n, ok := strings.CutPrefix(id, "dead-")
	return ok && n != "" && strings.Trim(n, "0123456789") == ""
}

func notRequest(id string) error {
	if request, _, ok := strings.Cut(id, "-"); ok && isRequest(request) {
		return usage("%s is a release; its request is %s", id, request)
	}
	return usage("%q is not the ID of a request: %s", id, requestForm)
}

// checkID wants what requests show takes.
func checkID(id string) error {
	if isRequest(id) || isLetter(id) {
		return nil
	}
	return notRequest(id)
}

func (a *app) requestsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "requests",
		Short: "List requests, show one, retry, drop or cancel it",
		Long: `List requests, show one, retry, drop or cancel it. A dead letter is a message of the queue that
could not be handled; one that is no request at all has an ID of its own, as dead-7.`,
		Example: `  imgctl requests list --state dead
  imgctl requests show 0f3c2b9d8a7e6f5041328374655647ab
  imgctl requests retry 0f3c2b9d8a7e6f5041328374655647ab --wait`,
		SuggestionsMinimumDistance: 2,
		Args:                       unknownCommand,
		RunE:                       func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.requestsListCommand(), a.showCommand(), a.retryCommand(), a.dropCommand(), a.cancelCommand())
	return cmd
}

// A listing is what the flags of requests list say.
type listing struct {
	state, project string
	limit          int
}

func (a *app) requestsListCommand() *cobra.Command {
	var o output
	var l listing
	var limit uint16
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List requests, the last that changed first",
		Long: `List the requests of the last 30 days, the last that changed first. With --state dead the dead
letters that are no requests are listed too, with their own IDs.`,
		Example: `  imgctl requests list
  imgctl requests list --state failed --project hello
  imgctl requests list --state dead -o template='{{range .}}{{.request}}{{"\n"}}{{end}}'`,
		Args: between(0, 0, "no arguments; imgctl requests show REQUEST shows one"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			l.limit = int(limit)
			return a.listRequests(cmd, l, &o)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&l.state, "state", "", "only those that are queued, resolving, building, publishing, published, unchanged,\nsuperseded, cancelled, conflict, failed or dead")
	flags.StringVar(&l.project, "project", "", "only those of this project")
	flags.Uint16Var(&limit, "limit", 100, "at most so many, 0 for all")
	completeFlag(cmd, "state", anyOf("queued", "resolving", "building", "publishing", "published", "unchanged", "superseded", "cancelled", "conflict", "failed", "dead"))
	completeFlag(cmd, "project", a.projects)
	completeFlag(cmd, "limit", cobra.NoFileCompletions)
	a.outputFlags(cmd, &o, "table", "json", "yaml", "template")
	return cmd
}

// A line is a request in a list.
type line struct {
	imgd.Status
	AskedAt time.Time `json:"askedAt,omitzero"` // a letter that is no request has none
}

func lineOf(s imgd.Status) line { return line{Status: s, AskedAt: s.AskedAt} }

// lineOfLetter shows a letter as a request of its own, so that there is one
// list of all that is dead.
func lineOfLetter(l imgd.Letter) line {
	kind := "dead"
	if l.Request == "" {
		kind = "unreadable"
	}
	return line{Status: imgd.Status{Request: l.ID, Project: l.Project, State: imgd.Dead, Tries: l.Tries,
		Error: &imgd.StatusError{Kind: kind, Message: l.Reason}, EndedAt: l.At}}
}

func (a *app) listRequests(cmd *cobra.Command, l listing, o *output) error {
	ctx, cancel := a.within(cmd, callTime)
	defer cancel()
	c := a.client()
	lines, more, err := take(l.limit, func(query url.Values) ([]line, string, error) {
		query.Set("state", l.state)
		query.Set("project", l.project)
		var page httpapi.List[imgd.Status]
		err := c.Get(ctx, "/v1/requests", query, &page)
		return mapped(page.Items, lineOf), page.Next, err
	})
	if err == nil && !more && l.state == string(imgd.Dead) {
		var letters []line
		letters, more, err = take(l.rest(len(lines)), func(query url.Values) ([]line, string, error) {
			var page httpapi.List[imgd.Letter]
			err := c.Get(ctx, "/v1/letters", query, &page)
			return mapped(slices.DeleteFunc(page.Items, l.omits(lines)), lineOfLetter), page.Next, err
		})
		lines = append(lines, letters...)
	}
	if err != nil {
		return err
	}
	if l.limit > 0 && len(lines) > l.limit {
		lines, more = lines[:l.limit], true
	}
	if more {
		a.say("there are more: --limit 0 shows all, --state and --project choose")
	}
	return o.print(ctx, a.stdout, linesResult(lines))
}

// rest is how many letters are wanted beside so many requests: at least one,
// which tells that there are more.
func (l listing) rest(shown int) int {
	if l.limit == 0 {
		return 0
	}
	return max(1, l.limit-shown)
}

// omits says which letters are not to be shown beside lines.
func (l listing) omits(lines []line) func(imgd.Letter) bool {
	return func(letter imgd.Letter) bool {
		return l.project != "" && letter.Project != l.project ||
			slices.ContainsFunc(lines, func(shown line) bool { return shown.Request == letter.Request })
	}
}

// take reads the pages of a list until it has limit items, all if limit is not
// positive, and says whether there are more.
func take[T any](limit int, read func(url.Values) (items []T, next string, err error)) (all []T, more bool, err error) {
	all = []T{}
	err = pages(func(query url.Values) (string, error) {
		if limit > 0 {
			query.Set("limit", strconv.Itoa(min(limit-len(all), pageSize)))
		}
		items, next, err := read(query)
		all, more = append(all, items...), next != ""
		if limit > 0 && len(all) >= limit {
			return "", err
		}
		return next, err
	})
	return all, more, err
}

// pageSize is how much the daemon answers at once, unless it is asked for less.
const pageSize = 100

func mapped[A, B any](all []A, f func(A) B) []B {
	out := make([]B, len(all))
	for i, a := range all {
		out[i] = f(a)
	}
	return out
}

func linesResult(lines []line) result {
	return result{items: lines, table: func(row func(...string)) {
		row("REQUEST", "PROJECT", "REF", "COMMIT", "STATE", "TRIES", "ASKED", "WHY")
		for _, l := range lines {
			row(l.Request, l.Project, orDash(l.Ref), orDash(l.Commit[:min(12, len(l.Commit))]), string(l.State), strconv.Itoa(l.Tries), moment(l.AskedAt), why(l.Error))
		}
	}}
}

// whyLength is how much of an error a table shows; -o json and show have all.
const whyLength = 100

func why(e *imgd.StatusError) string {
	if e == nil {
		return "-"
	}
	return cell(e.Message, whyLength)
}

// cell is text cut to a line of a table.
func cell(text string, length int) string {
	runes := []rune(strings.Join(strings.Fields(text), " "))
	if len(runes) > length {
		return string(runes[:length-1]) + "…"
	}
	return string(runes)
}
