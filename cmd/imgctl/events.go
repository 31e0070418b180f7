package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/imgd/imgd"
)

func (a *app) eventsCommand() *cobra.Command {
	formats := []string{"table", "json"}
	var format string
	var since uint64
	var follow bool
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Show what imgd has told the world",
		Long: `Show the events of stream IMGD_EVENTS. With -o json each is a line: the CloudEvent as its
subscribers get it.`,
		Example: `  imgctl events
  imgctl events -f --since 17
  imgctl events -o json`,
		Args: between(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := parseOutput(format, formats...)
			if err != nil {
				return err
			}
			return a.events(cmd, since, follow, o)
		},
	}
	cmd.Flags().StringVarP(&format, "output", "o", "table", outputHelp(formats...))
	cmd.Flags().Uint64Var(&since, "since", 0, "show those after this sequence of IMGD_EVENTS")
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "wait for more")
	return cmd
}

// events shows each event once: after a lost connection it goes on behind the
// last one it has shown.
func (a *app) events(cmd *cobra.Command, since uint64, follow bool, o output) error {
	otherwise := callTime
	if follow {
		otherwise = 0
	}
	ctx, cancel := a.within(cmd, otherwise)
	defer cancel()
	head := sync.OnceValue(func() error {
		if o.format != "table" {
			return nil
		}
		return a.row("SEQ", "TIME", "WHAT", "IMAGE", "TAGS", "DIGEST")
	})
	c := a.client()
	heard := false // so the daemon can be reached, and lost
	err := a.insist(ctx, func() error {
		query := url.Values{"since": {strconv.FormatUint(since, 10)}, "follow": {strconv.FormatBool(follow)}}
		err := c.stream(ctx, "/v1/events", query, func(e event) error {
			heard = true
			if err := head(); err != nil || e.name != "" {
				return err
			}
			seq, err := strconv.ParseUint(e.id, 10, 64)
			if err != nil {
				return fmt.Errorf("read event: id %q is no sequence", e.id)
			}
			since = seq
			return a.printEvent(seq, e.data, o)
		})
		var l *lostError
		if !heard && errors.As(err, &l) {
			return l.err
		}
		return err
	})
	if end := stopped(ctx, fmt.Sprintf("; go on with: imgctl events -f --since %d", since)); end != nil {
		return end
	}
	return err
}

// row prints one line. What is long stands at its end, as a stream cannot know
// widths.
func (a *app) row(cells ...any) error {
	line := fmt.Sprintf("%-6v  %-20s  %-10s  %-24s  %-24s  %s", cells...)
	_, err := fmt.Fprintln(a.stdout, strings.TrimRight(line, " "))
	return err
}

// A cloudEvent is what a row shows of one.
type cloudEvent struct {
	Type string    `json:"type"`
	Time time.Time `json:"time"`
	Data struct {
		CustomData struct {
			Records []imgd.Record `json:"records"`
			Tags    []struct {
				Tag string `json:"tag"`
			} `json:"tags"`
		} `json:"customData"`
	} `json:"data"`
}

func (a *app) printEvent(seq uint64, data []byte, o output) error {
	if o.format == "json" {
		_, err := fmt.Fprintf(a.stdout, "%s\n", data)
		return err
	}
	var e cloudEvent
	if err := json.Unmarshal(data, &e); err != nil {
		e.Type = "unreadable" // another hand wrote into the stream
	}
	custom := e.Data.CustomData
	var image, root string
	var tags []string
	if len(custom.Records) > 0 {
		image, root = custom.Records[0].Image, custom.Records[0].Root().String()
	}
	for _, t := range custom.Tags {
		tags = append(tags, t.Tag)
	}
	return a.row(seq, moment(e.Time), what(e.Type), image, strings.Join(tags, ","), root)
}

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
