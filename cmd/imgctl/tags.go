package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/internal/httpapi"
)

// An order is a command about tags as its flags say it.
type order struct {
	*app
	name   imgd.CommandName
	body   httpapi.TagCommand
	output output
}

// flags adds what all orders have in common.
func (o *order) flags(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().BoolVar(&o.body.Force, "force", false, "change also what an immutable tag names; needs --reason")
	cmd.Flags().StringVar(&o.body.Reason, "reason", "", "why; kept in the history")
	completeFlag(cmd, "reason", cobra.NoFileCompletions)
	o.outputFlags(cmd, &o.output, "table", "json", "yaml", "digest", "template")
	return cmd
}

func (a *app) rollbackCommand() *cobra.Command {
	o := &order{app: a, name: imgd.CommandRollback}
	var to string
	cmd := &cobra.Command{
		Use:   "rollback IMAGE:TAG",
		Short: "Let a tag name again what it named before",
		Long: `Let a tag name again what it named before, or what it named in another generation, or a digest that it
has named. The image is not built again: if the registry has lost it, exits 6. No redelivery and no
late older build undoes it; the next newer release takes over. A version tag needs --force and --reason.`,
		Example: `  imgctl rollback demo/hello:latest --reason "v1.3.0 loses sessions"
  imgctl rollback demo/hello:latest --to-generation 1
  imgctl rollback demo/hello:latest --to $(imgctl get demo/hello:v1.2.3 --jq '.[0].digest')`,
		Args:              between(1, 1, "one IMAGE:TAG"),
		ValidArgsFunction: first(a.tags),
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("to-generation") && o.body.Generation == 0 {
				return usage("--to-generation 0: generations begin at 1; see imgctl history %s", args[0])
			}
			if to != "" && o.body.Generation > 0 {
				return usage("--to and --to-generation exclude each other")
			}
			o.body.To = digest.Digest(to)
			return o.run(cmd, args[0])
		},
	}
	cmd.Flags().Uint64Var(&o.body.Generation, "to-generation", 0, "the generation to go back to, as imgctl history shows them (default: what the tag named before)")
	cmd.Flags().StringVar(&to, "to", "", "the digest to go back to, sha256:… of the image or of one of its platforms")
	completeFlag(cmd, "to-generation", cobra.NoFileCompletions)
	completeFlag(cmd, "to", cobra.NoFileCompletions)
	return o.flags(cmd)
}

func (a *app) tagCommand() *cobra.Command {
	o := &order{app: a, name: imgd.CommandTag}
	return o.flags(&cobra.Command{
		Use:   "tag IMAGE:TAG NEWTAG...",
		Short: "Name what a tag names now under other tags too",
		Long: `Name what a tag of the image names now, or by IMAGE@DIGEST one that it has had, under other tags of the
image. A tag that is new is immutable if it is a version, as v1.2.3; others move. What is taken by a
build later stays its own: a branch named stable does not get a tag stable that was made here.`,
		Example: `  imgctl tag demo/hello:v1.2.3 stable prod
  imgctl tag demo/hello@$(imgctl get demo/hello:latest --jq '.[0].digest') stable`,
		Args:              between(2, 100, "IMAGE:TAG or IMAGE@DIGEST, and at least one NEWTAG"),
		ValidArgsFunction: first(a.tags),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.body.Tags = args[1:]
			return o.run(cmd, args[0])
		},
	})
}

func (a *app) untagCommand() *cobra.Command {
	o := &order{app: a, name: imgd.CommandUntag}
	return o.flags(&cobra.Command{
		Use:   "untag IMAGE:TAG",
		Short: "Remove a tag",
		Long: `Remove a tag from the index and from its registry; its history stays, and the image itself too. What
another hand has put under the tag in the registry meanwhile is left there. No redelivery and no late older build brings
it back. A version tag needs --force and --reason, and stays kept for what it named. A tag whose image is held by the
daemon's config (holds) is not removed, exit code 5.`,
		Example: `  imgctl untag demo/hello:1.2 --reason "nobody pulls it"
  imgctl untag demo/hello:v1.2.3 --force --reason "it leaks a secret"`,
		Args:              between(1, 1, "one IMAGE:TAG"),
		ValidArgsFunction: first(a.tags),
		RunE:              func(cmd *cobra.Command, args []string) error { return o.run(cmd, args[0]) },
	})
}

func (o *order) run(cmd *cobra.Command, name string) error {
	if o.body.Force && strings.TrimSpace(o.body.Reason) == "" {
		return usage("--force needs a --reason, which the history keeps")
	}
	path, err := o.path(cmd, name)
	if err != nil {
		return err
	}
	if o.body.Request, err = drawID(); err != nil {
		return err
	}
	ctx, cancel := o.within(cmd, callTime)
	defer cancel()
	var done httpapi.Commanded
	if err := o.give(ctx, path, &done); err != nil {
		return err
	}
	if done.Outcome == httpapi.OutcomeSame {
		o.say("it was so already, by release %s", done.Release)
	}
	return o.output.print(ctx, o.stdout, commandedResult(done))
}

// path is where the order goes. Of tag the name may be IMAGE@DIGEST.
func (o *order) path(cmd *cobra.Command, name string) (string, error) {
	image, d, ok := strings.Cut(name, "@")
	if ok && o.name == imgd.CommandTag {
		r, err := parseReference(image)
		if err == nil && (r.tag != "" || digest.Digest(d).Validate() != nil) {
			err = usage("%s is neither IMAGE:TAG nor IMAGE@sha256:…", name)
		}
		return "/v1/images/" + r.image + "/tags/" + d + "/tag", err
	}
	r, err := parseTag(cmd, name)
	return r.path() + "/" + string(o.name), err
}

// drawID draws the ID of a command: given again under it, it is done once.
func drawID() (string, error) {
	b := make([]byte, 16)
	_, err := rand.Read(b)
	return hex.EncodeToString(b), err
}

// giveTries is how often an order is given whose answer was lost. imgd goes on
// with it by itself once it has begun.
const giveTries = 3

// give gives the order, and again under the same ID if the answer is lost.
func (o *order) give(ctx context.Context, path string, done *httpapi.Commanded) error {
	if _, err := o.find.Find(); err != nil {
		return err
	}
	delay := firstDelay
	for try := 1; ; try++ {
		err := o.client().Post(ctx, path, o.body, done)
		var l *lostError
		if try == giveTries || !errors.As(err, &l) || errors.Is(err, syscall.ECONNREFUSED) {
			return err
		}
		o.say("%v; trying again in %s", err, delay)
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return err
		}
		delay *= 2
	}
}

func commandedResult(done httpapi.Commanded) result {
	return result{
		items: []httpapi.Commanded{done},
		table: func(row func(...string)) {
			row("IMAGE", "TAG", "GENERATION", "DIGEST", "BEFORE", "RELEASE")
			for _, t := range done.Tags {
				if t.Reason != "" {
					row(done.Image, t.Name, "-", "-", "-", t.Reason)
					continue
				}
				row(done.Image, t.Name, strconv.FormatUint(t.Generation, 10), orNothing(done.Root), orNothing(t.Previous), done.Release)
			}
		},
		digests: references(done.Records, done.Repositories),
	}
}
