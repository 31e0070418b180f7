package main

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/internal/httpapi"
)

func (a *app) showCommand() *cobra.Command {
	var o output
	cmd := &cobra.Command{
		Use:   "show ID",
		Short: "Show a request: who asked for it, where it stands, why, and what it made",
		Long: `Show a request: who asked for it, where it stands, why, what it made, and what can be done.
Of a dead letter it shows the reason and the message itself.`,
		Example: `  imgctl requests show 0f3c2b9d8a7e6f5041328374655647ab
  imgctl requests show dead-7
  imgctl requests show 0f3c2b9d8a7e6f5041328374655647ab -o template='{{range .}}{{.state}}{{end}}'`,
		Args:              between(1, 1, "one ID: "+anyForm),
		ValidArgsFunction: first(a.orLetters(a.requests())),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkID(args[0]); err != nil {
				return err
			}
			if isLetter(args[0]) {
				return a.showLetter(cmd, args[0], &o)
			}
			return a.showRequest(cmd, args[0], &o)
		},
	}
	a.outputFlags(cmd, &o, "table", "json", "yaml", "digest", "template")
	return cmd
}

func (a *app) showRequest(cmd *cobra.Command, id string, o *output) error {
	ctx, cancel := a.within(cmd, callTime)
	defer cancel()
	var r httpapi.RequestAnswer
	if err := a.client().Get(ctx, "/v1/requests/"+id, nil, &r); err != nil {
		return err
	}
	return o.print(ctx, a.stdout, result{items: []httpapi.RequestAnswer{r}, digests: references(r.Records, r.Repositories),
		table: func(row func(...string)) { sheet(row).request(r) }})
}

func (a *app) showLetter(cmd *cobra.Command, id string, o *output) error {
	if o.format == "digest" {
		return usage("a dead letter has no digest")
	}
	ctx, cancel := a.within(cmd, callTime)
	defer cancel()
	var l imgd.Letter
	if err := a.client().Get(ctx, "/v1/letters/"+id, nil, &l); err != nil {
		return err
	}
	return o.print(ctx, a.stdout, result{items: []imgd.Letter{l}, table: func(row func(...string)) { sheet(row).letter(l) }})
}

// A sheet takes what is shown of one thing: names and values, below each other.
type sheet func(cells ...string)

// put shows a value, each line of it, and nothing of one that is empty.
func (s sheet) put(name, value string) {
	value = strings.TrimRight(strings.ReplaceAll(value, "\t", "    "), "\r\n")
	if value == "" {
		return
	}
	name += ":"
	for text := range strings.SplitSeq(value, "\n") {
		s(name, text)
		name = ""
	}
}

func (s sheet) time(name string, t time.Time) {
	if !t.IsZero() {
		s.put(name, moment(t))
	}
}

func (s sheet) request(r httpapi.RequestAnswer) {
	s.ask(r.Status)
	s.put("State", string(r.State))
	s.put("Tries", strconv.Itoa(r.Tries))
	s.put("Asked", byWhom(moment(r.AskedAt), r.By))
	s.time("Started", r.StartedAt)
	s.time("Ended", r.EndedAt)
	s.failure(r.Error)
	s.put("Release", r.Release)
	s.put("Image", r.Image)
	s.put("Tags", taken(r.Tags))
	s.put("Digests", strings.Join(references(r.Records, r.Repositories), "\n"))
	s.put("Log", "imgctl logs "+follow(r.State)+r.Request)
	s.put("To do", todo(r.Status))
}

// ask is what was asked for.
func (s sheet) ask(r imgd.Status) {
	s.put("Request", r.Request)
	s.put("Project", r.Project)
	s.put("Ref", r.Ref)
	s.put("Commit", r.Commit)
	s.put("Reason", r.Reason)
	s.put("Force", ifSet(r.Force))
	s.put("Rebuild", ifSet(r.Rebuild))
	s.put("Compare", ifSet(r.Compare))
	var args []string
	for _, name := range slices.Sorted(maps.Keys(r.Args)) {
		args = append(args, name+"="+r.Args[name])
	}
	s.put("Args", strings.Join(args, "\n"))
	s.put("Target", r.Target)
	s.put("Platforms", strings.Join(r.Platforms, ", "))
}

func (s sheet) failure(e *imgd.StatusError) {
	if e == nil {
		return
	}
	s.put("Error", e.Kind+": "+e.Message)
	where := e.File
	if where != "" && e.Line > 0 {
		where += ":" + strconv.Itoa(e.Line)
	}
	s.put("At", where)
	if e.ExitCode != 0 {
		s.put("Exit code", strconv.Itoa(e.ExitCode))
	}
	s.put("Built", e.Built.String())
}

func (s sheet) letter(l imgd.Letter) {
	s.put("Letter", l.ID)
	s.put("Request", orDash(l.Request))
	s.put("Project", l.Project)
	s.put("Reason", l.Reason)
	s.put("Tries", strconv.Itoa(l.Tries))
	s.put("Given up", moment(l.At))
	s.put("Subject", l.Subject)
	s.put("Message", l.Body)
	s.put("To do", fmt.Sprintf("imgctl requests retry %s\nimgctl requests drop %s", l.ID, l.ID))
}

func byWhom(at, by string) string {
	if by == "" {
		return at
	}
	return at + " by " + by
}

func ifSet(b bool) string {
	if b {
		return "yes"
	}
	return ""
}

func follow(s imgd.State) string {
	if s.Final() {
		return ""
	}
	return "-f "
}

// todo is what an operator can do to a request that stands so.
func todo(s imgd.Status) string {
	switch s.State {
	case imgd.Queued, imgd.Resolving, imgd.Building:
		return "imgctl requests cancel " + s.Request
	case imgd.Publishing:
		return "it publishes, which goes on until it is done; to give it up: imgctl requests drop " + s.Request
	case imgd.Conflicted:
		return fmt.Sprintf("imgctl build %s --ref %s --commit %s --force --reason WHY", s.Project, s.Ref, s.Commit)
	case imgd.Failed, imgd.Cancelled:
		return "imgctl requests retry " + s.Request
	case imgd.Dead:
		return fmt.Sprintf("imgctl requests retry %s\nimgctl requests drop %s", s.Request, s.Request)
	}
	return ""
}
