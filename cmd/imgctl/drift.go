package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/internal/httpapi"
)

// auditTime is how long the daemon may compare while somebody waits, without
// --timeout: it does not ask registries faster than audit.rate.
const auditTime = time.Hour

func (a *app) driftCommand() *cobra.Command {
	var o output
	var ask httpapi.AuditCommand
	var now, deep bool
	cmd := &cobra.Command{
		Use:   "drift [IMAGE]",
		Short: "Show where registries have something else than the index, and put it right",
		Long: `Show where registries have something else than the index, of one image or of all, and exit 3 if they do:
what imgd has found the last time that it compared all tags, every six hours (audit.every), or with --now
what is so now. Nothing is changed by that.

--repair puts tags right that are missing, or name something else, where imgd has made them and the image is
still there; of the others it says what to do. What another CI has pushed, and tags that the index does not
know, are left alone. What cannot be looked at is unreachable, which is no drift: exit code 1.`,
		Example: `  imgctl drift
  imgctl drift demo/hello --now
  imgctl drift --now --deep
  imgctl drift demo/hello --repair
  imgctl drift --jq '.items[] | .repository + ":" + .tag + " " + .kind'`,
		Args:              between(0, 1, "no arguments, or one IMAGE"),
		ValidArgsFunction: first(a.images),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				r, err := parseReference(args[0])
				if err == nil && r.tag != "" {
					err = usage("%s is a tag; to compare one: imgctl verify %s", args[0], args[0])
				}
				if err != nil {
					return err
				}
				ask.Image = r.image
			}
			if deep {
				ask.Depth = imgd.DepthBytes
			}
			return a.drift(cmd, ask, now || deep || ask.Repair, &o)
		},
	}
	cmd.Flags().BoolVar(&now, "now", false, "compare now, and wait for it")
	cmd.Flags().BoolVar(&deep, "deep", false, "compare now, and read all bytes of all images")
	cmd.Flags().BoolVar(&ask.Repair, "repair", false, "compare now, and put right what can be")
	a.outputFlags(cmd, &o, "table", "json", "yaml", "template")
	return cmd
}

func (a *app) drift(cmd *cobra.Command, ask httpapi.AuditCommand, now bool, o *output) error {
	otherwise := callTime
	if now {
		otherwise = auditTime
	}
	ctx, cancel := a.within(cmd, otherwise)
	defer cancel()
	var found imgd.Audit
	var err error
	if now {
		found, err = a.auditNow(ctx, ask)
	} else {
		query := url.Values{}
		if ask.Image != "" {
			query.Set("image", ask.Image)
		}
		err = a.client().Get(ctx, "/v1/drift", query, &found)
	}
	if err != nil {
		return err
	}
	if len(found.Items) > 0 || o.format != "table" {
		err = o.print(ctx, a.stdout, result{items: found, table: func(row func(...string)) { driftTable(found, row) }})
	}
	if err != nil {
		return err
	}
	a.say("%s, as of %s", found.Summary(), moment(found.EndedAt))
	return driftEnd(found)
}

// auditNow has the daemon compare, and says how far it is.
func (a *app) auditNow(ctx context.Context, ask httpapi.AuditCommand) (found imgd.Audit, err error) {
	body, err := json.Marshal(ask)
	if err != nil {
		return found, err
	}
	c, last := a.client(), imgd.AuditProgress{}
	post := func(ctx context.Context) (*http.Response, error) {
		return c.Send(ctx, http.MethodPost, "/v1/drift", body)
	}
	err = c.read(ctx, post, func(e event) error {
		switch e.name {
		case "progress":
			before := last
			if err := json.Unmarshal(e.data, &last); err == nil && last.Tags > before.Tags {
				a.say("%d tags looked at, %d findings; %s", last.Tags, last.Differs, last.At)
			}
		case "end":
			return json.Unmarshal(e.data, &found)
		}
		return nil
	})
	if end := stopped(ctx, "; the audit has ended too, and what it has found so far was told as events"); end != nil {
		return found, end
	}
	return found, err
}

func driftTable(found imgd.Audit, row func(...string)) {
	row("REPOSITORY", "TAG", "KIND", "WANTED", "FOUND", "SINCE", "NOTE")
	for _, f := range found.Items {
		row(f.Repository, orDash(f.Tag), string(f.Kind), dashed(f.Wanted), dashed(f.Found), moment(f.Since), driftNote(f))
	}
}

// driftNote is what else is to be known of it, on one line.
func driftNote(f imgd.Finding) string {
	var notes []string
	if f.Lack != nil {
		notes = append(notes, fmt.Sprintf("%s %s: %s", f.Lack.Part, f.Lack.Digest, f.Lack.Why))
	}
	if f.Error != "" {
		notes = append(notes, f.Error)
	}
	if f.Repair != "" {
		notes = append(notes, strings.TrimSuffix(string(f.Repair)+": "+f.Why, ": "))
	}
	if f.Unreported != "" {
		notes = append(notes, "not told as event: "+f.Unreported)
	}
	return strings.Join(notes, "; ")
}

func dashed(d digest.Digest) string { return orDash(d.String()) }

// driftEnd is how the command ends for what was found.
func driftEnd(found imgd.Audit) error {
	switch {
	case found.Differs() > 0:
		return &exitError{Code: httpapi.CodeDiffers, Message: fmt.Sprintf("%d tags differ", found.Differs())}
	case found.Counts[imgd.DriftUnreachable] > 0:
		return &exitError{Code: httpapi.CodeFailed, Message: "not everything could be looked at"}
	}
	return nil
}
