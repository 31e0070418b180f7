package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/imgd/imgd"
)

// A view is what the flags of events say.
type view struct {
	since  uint64
	follow bool
	image  string
	what   []string
}

func (a *app) eventsCommand() *cobra.Command {
	var o output
	var v view
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Show what imgd has told the world",
		Long: `Show the events of stream IMGD_EVENTS: published, deleted, failed, conflict, superseded, dead, drift.
With -o json each is a line: the CloudEvent as its subscribers get it, and --jq goes over each. Followed with -f, each is shown
once, also across lost connections and restarts of the daemon.`,
		Example: `  imgctl events
  imgctl events -f --since 17
  imgctl events --what failed,dead,conflict --image demo/hello -o json
  imgctl events --what published --jq '.id + " " + .subject'`,
		Args: between(0, 0, "no arguments; --image NAME and --what KIND choose"),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.events(cmd, v, &o) },
	}
	flags := cmd.Flags()
	flags.Uint64Var(&v.since, "since", 0, "show those after this sequence of IMGD_EVENTS")
	flags.BoolVarP(&v.follow, "follow", "f", false, "wait for more")
	flags.StringVar(&v.image, "image", "", "only those of this image")
	flags.StringSliceVar(&v.what, "what", nil, "only those of these kinds, separated by commas")
	completeFlag(cmd, "since", cobra.NoFileCompletions)
	completeFlag(cmd, "image", a.images)
	completeFlag(cmd, "what", anyOf("published", "deleted", "failed", "conflict", "superseded", "dead", "drift"))
	a.outputFlags(cmd, &o, "table", "json")
	return cmd
}

// query asks for the rest of what is to be seen.
func (v view) query() url.Values {
	query := url.Values{"since": {strconv.FormatUint(v.since, 10)}, "follow": {strconv.FormatBool(v.follow)}}
	if v.image != "" {
		query.Set("image", v.image)
	}
	if len(v.what) > 0 {
		query.Set("what", strings.Join(v.what, ","))
	}
	return query
}

// command is the one that shows the rest.
func (v view) command() string {
	command := "imgctl events -f --since " + strconv.FormatUint(v.since, 10)
	if v.image != "" {
		command += " --image " + v.image
	}
	if len(v.what) > 0 {
		command += " --what " + strings.Join(v.what, ",")
	}
	return command
}

// events shows each event once: after a lost connection it goes on behind the
// last one it has shown.
func (a *app) events(cmd *cobra.Command, v view, o *output) error {
	otherwise := callTime
	if v.follow {
		otherwise = 0
	}
	ctx, cancel := a.within(cmd, otherwise)
	defer cancel()
	return a.show(ctx, feed{
		path:  "/v1/events",
		query: func() url.Values { return v.query() },
		head: func() error {
			if o.format != "table" {
				return nil
			}
			return a.row("SEQ", "TIME", "WHAT", "IMAGE", "TAGS", "DIGEST OR REASON")
		},
		event: func(e event) error {
			seq, err := strconv.ParseUint(e.id, 10, 64)
			if err != nil {
				return fmt.Errorf("read event: id %q is no sequence", e.id)
			}
			v.since = seq
			return a.printEvent(ctx, seq, e.data, o)
		},
		rest: func() string { return v.command() },
	}, false)
}

// row prints one line. What is long stands at its end.
func (a *app) row(cells ...any) error {
	return a.printLine("%-6v  %-20s  %-10s  %-24s  %-24s  %s", cells...)
}

// A cloudEvent is what a row shows of one.
type cloudEvent struct {
	Type    string    `json:"type"`
	Subject string    `json:"subject"`
	Time    time.Time `json:"time"`
	Data    struct {
		CustomData struct { // of what was published or deleted
			Records []imgd.Record `json:"records"`
			Tags    []struct {
				Tag string `json:"tag"`
			} `json:"tags"`
			Reason string `json:"reason"`
		} `json:"customData"`
		Image string            `json:"image"` // this and the rest: of the end of a request, and of a drift
		Ref   string            `json:"ref"`
		Error *imgd.StatusError `json:"error"`
		imgd.Drift
	} `json:"data"`
}

func (a *app) printEvent(ctx context.Context, seq uint64, data []byte, o *output) error {
	switch o.format {
	case "jq":
		if !json.Valid(data) {
			a.say("event %d is no JSON, so --jq passes over it", seq)
			return nil
		}
		return o.printQuery(ctx, a.stdout, json.RawMessage(data))
	case "json":
		_, err := fmt.Fprintf(a.stdout, "%s\n", data)
		return err
	}
	var e cloudEvent
	if err := json.Unmarshal(data, &e); err != nil {
		e.Type = "unreadable" // another hand wrote into the stream
	}
	image, tags, text := e.subject()
	return a.row(seq, moment(e.Time), what(e.Type), image, tags, text)
}

// subject is what the event is about: which image and tags, and the digest that
// they name or the reason why not.
func (e cloudEvent) subject() (image, tags, text string) {
	d := e.Data
	var all []string
	for _, t := range d.CustomData.Tags {
		all = append(all, t.Tag)
	}
	switch {
	case len(d.CustomData.Records) > 0:
		first := d.CustomData.Records[0]
		return first.Image, strings.Join(all, ","), first.Root().String()
	case len(all) > 0:
		return imageOf(e.Subject), strings.Join(all, ","), "removed: " + cell(cmp.Or(d.CustomData.Reason, "no reason given"), whyLength)
	case d.Tag != "":
		return d.Image, d.Tag, drifted(d.Drift)
	case d.Error != nil:
		text = cell(d.Error.Message, whyLength)
	}
	return d.Image, strings.TrimPrefix(strings.TrimPrefix(d.Ref, "refs/heads/"), "refs/tags/"), text
}

// drifted says what the repository has, and what it should have.
func drifted(d imgd.Drift) string {
	switch {
	case d.Lack != nil:
		return fmt.Sprintf("%s has %s, but its %s %s is damaged: %s", d.Repository, d.Found, d.Lack.Part, d.Lack.Digest, cell(d.Lack.Why, whyLength))
	case d.Kind == imgd.DriftMoved && d.Found == "":
		return fmt.Sprintf("%s has no image, not %s", d.Repository, d.Wanted)
	case d.Kind == imgd.DriftUnknownTag:
		return fmt.Sprintf("%s has %s under a tag that the index does not know", d.Repository, d.Found)
	}
	return fmt.Sprintf("%s has %s, not %s", d.Repository, orNothing(d.Found), orNothing(d.Wanted))
}

// imageOf is the image of a purl that says where it lies, "" of others.
func imageOf(purl string) string {
	_, query, _ := strings.Cut(purl, "?")
	values, _ := url.ParseQuery(query) // what is none has no repository
	_, image, _ := strings.Cut(values.Get("repository_url"), "/")
	return image
}

func orNothing(d digest.Digest) string { return cmp.Or(d.String(), "nothing") }

// what is the third last word of dev.cdevents.artifact.published.0.3.0 but for
// its version, and of dev.imgd.conflict.v1.
func what(eventType string) string {
	words := strings.Split(eventType, ".")
	for i := len(words) - 1; i >= 0; i-- {
		if w := strings.TrimPrefix(words[i], "v"); strings.Trim(w, "0123456789") != "" {
			return words[i]
		}
	}
	return eventType
}
