package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/imgd/imgd"
)

// A HistoryAnswer is a page of all that a tag ever named, newest first.
type HistoryAnswer struct {
	Image string `json:"image"`
	Tag   string `json:"tag"`
	List[imgd.Step]
}

func (a *API) history(w http.ResponseWriter, r *http.Request, image, tag string) error {
	q, err := parse(r, "limit", "cursor", "seq")
	if err != nil {
		return err
	}
	seq, err := a.seq(r.Context(), q)
	if err != nil {
		return err
	}
	steps := imgd.Steps(tag, a.Index.History(image, tag))
	if len(steps) == 0 {
		return a.unknown(image, tag)
	}
	list, err := page(q, steps, max(seq, steps[0].Seq), stepKey)
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, HistoryAnswer{Image: image, Tag: tag, List: list})
}

// stepKey sorts the newest first.
func stepKey(s imgd.Step) string { return fmt.Sprintf("%020d", ^s.Seq) }

// Commander does what operators say about tags.
type Commander interface {
	// Command does it and answers the release that has the tags; created says
	// that it was not there before. Durable when it returns, and safe to repeat
	// under the same ID. imgd.ErrInvalid, imgd.ErrNotFound, imgd.ErrConflict,
	// imgd.ErrSuperseded, imgd.ErrRefused. After another error the release may
	// come with it, admitted: it is published later.
	Command(ctx context.Context, c imgd.Command) (rel imgd.Release, created bool, err error)
}

// A TagCommand is the body of a command about a tag. It may be missing where
// nothing is required.
type TagCommand struct {
	Request    string        `json:"request,omitempty"`    // 32 hex digits drawn by who asks: asked again with them nothing is done twice
	To         digest.Digest `json:"to,omitempty"`         // of rollback: root or platform's manifest to go back to
	Generation uint64        `json:"generation,omitempty"` // of rollback: go back to that
	Tags       []string      `json:"tags,omitempty"`       // of tag: those that are to name the same
	Force      bool          `json:"force,omitempty"`      // change an immutable tag; needs a reason
	Reason     string        `json:"reason,omitempty"`
}

// A Commanded is the answer to a command: the release that has the tags.
type Commanded struct {
	Image   string            `json:"image"`
	Command imgd.CommandName  `json:"command"`
	Outcome string            `json:"outcome"` // new or same
	Release string            `json:"release"`
	Root    digest.Digest     `json:"root,omitempty"` // empty: the tag was removed
	Tags    []imgd.ReleaseTag `json:"tags"`
	Records []imgd.Record     `json:"records"`
	Seq     uint64            `json:"seq"` // entry of the index that published it

	Repositories []string `json:"repositories"` // registry/name; all hold the root
}

// commandTag answers POST …/tags/{tag}/{rollback,tag,untag}. Of tag the {tag} may
// be a digest that the image has had.
func (a *API) commandTag(w http.ResponseWriter, r *http.Request, image, tag string, name imgd.CommandName) error {
	if _, err := parse(r); err != nil {
		return err
	}
	var body TagCommand
	if err := read(w, r, &body, true); err != nil {
		return err
	}
	c, err := body.command(image, tag, name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), answerTime)
	defer cancel()
	rel, created, err := a.Commander.Command(ctx, c)
	switch {
	case err != nil && rel.State == imgd.ReleaseAdmitted:
		return fmt.Errorf("%w; release %s is admitted, and imgd goes on with it by itself", err, rel.ID)
	case errors.Is(err, imgd.ErrSuperseded), errors.Is(err, imgd.ErrRefused):
		return problem(http.StatusConflict, CodeConflict, err.Error())
	case err != nil:
		return err
	}
	a.Log.Info("operator's command", "command", name, "image", image, "tags", c.Tags(), "release", rel.ID, "created", created, "by", c.By, "reason", c.Reason)
	done := Commanded{Image: image, Command: name, Outcome: OutcomeSame, Release: rel.ID, Root: rel.Root.Digest, Tags: rel.Tags,
		Records: append([]imgd.Record{}, rel.Records()...), Seq: rel.Seq, Repositories: append([]string{}, a.repositories(image, rel.ID)...)}
	status := http.StatusOK
	if created {
		done.Outcome, status = OutcomeNew, http.StatusCreated
	}
	return answer(w, status, done)
}

// command refuses what the command does not take: it would be overlooked.
func (b TagCommand) command(image, tag string, name imgd.CommandName) (imgd.Command, error) {
	c := imgd.Command{Name: name, ID: b.Request, Image: image, Tag: tag, To: b.To, Generation: b.Generation, NewTags: b.Tags,
		Force: b.Force, Reason: b.Reason, By: caller}
	switch {
	case name != imgd.CommandRollback && (b.To != "" || b.Generation > 0):
		return c, usage(string(name) + " takes no to and no generation; rollback does")
	case name != imgd.CommandTag && len(b.Tags) > 0:
		return c, usage(string(name) + " takes no tags; tag does")
	}
	if name == imgd.CommandTag && strings.Contains(tag, ":") {
		c.Tag, c.To = "", digest.Digest(tag)
	}
	return c, nil
}
