package httpapi

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/imgd/imgd"
)

// Recorder publishes what another CI has pushed.
type Recorder interface {
	// Record publishes it and answers the release that has the tag; created says
	// that it was not known before. Durable when it returns, and safe to repeat.
	// imgd.ErrInvalid, imgd.ErrNotFound; imgd.ErrDiffers and imgd.ErrConflict
	// with a *imgd.MismatchError. After another error the release may come with it,
	// admitted: it is published later.
	Record(ctx context.Context, in imgd.Pushed) (rel imgd.Release, created bool, err error)
}

// A Publish is the body that records what another CI has pushed under a tag.
type Publish struct {
	Digest   digest.Digest     `json:"digest"`             // that the tag names: its root, or a platform's
	Source   string            `json:"source"`             // <git URL>@<40 hex>
	Platform string            `json:"platform,omitempty"` // that must be there
	Labels   map[string]string `json:"labels,omitempty"`
	TTL      string            `json:"ttl,omitempty"`      // 12h, 7d: after which the records expire
	Registry string            `json:"registry,omitempty"` // host[:port]; default where the image is known to be, else the daemon's
	Moving   bool              `json:"moving,omitempty"`   // the tag may move
	NoVerify bool              `json:"noVerify,omitempty"` // the registry is not asked
	Force    bool              `json:"force,omitempty"`    // replace what an immutable tag names; needs a reason
	Reason   string            `json:"reason,omitempty"`
}

// Pushed is what the body says of the image's tag, by whom. imgd.ErrInvalid for a
// ttl that is none.
func (b Publish) Pushed(image, tag, by string) (imgd.Pushed, error) {
	ttl, err := parseTTL(b.TTL)
	return imgd.Pushed{Image: image, Tag: tag, Digest: b.Digest, Source: b.Source, Platform: b.Platform, Labels: b.Labels, TTL: ttl,
		Registry: b.Registry, Moving: b.Moving, NoVerify: b.NoVerify, Force: b.Force, Reason: b.Reason, By: by}, err
}

// day is what Go's durations do not have.
const day = 24 * time.Hour

// parseTTL reads a Go duration or days, as 7d; "" is 0, and nothing else is.
func parseTTL(s string) (time.Duration, error) {
	if s == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(s)
	if days, ok := strings.CutSuffix(s, "d"); ok {
		var n uint64
		n, err = strconv.ParseUint(days, 10, 16) // more than a century is a mistake
		d = time.Duration(n) * day
	}
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("ttl %.40q is no duration as 12h or 7d: %w", s, imgd.ErrInvalid)
	}
	return d, nil
}

// Outcomes of a record.
const (
	OutcomeNew  = "new"
	OutcomeSame = "same" // it was known
)

// Recorded is the answer: the record of the digest's platform, and the rest.
type Recorded struct {
	imgd.Record
	Outcome      string        `json:"outcome"`
	Repositories []string      `json:"repositories"` // registry/name; all hold it
	Records      []imgd.Record `json:"records"`      // of the tag, one a platform
	Seq          uint64        `json:"seq"`          // entry of the index that published it
}

// RecordedOf is the answer for what was said, which the release has.
func RecordedOf(in imgd.Pushed, rel imgd.Release, created bool) Recorded {
	r := Recorded{Outcome: OutcomeSame, Repositories: rel.Repositories, Records: []imgd.Record{}, Seq: rel.Seq}
	if created {
		r.Outcome = OutcomeNew
	}
	if r.Repositories == nil {
		r.Repositories = []string{}
	}
	for _, t := range rel.Taken() {
		if t.Name == in.Tag {
			r.Records = rel.RecordsOf(t)
		}
	}
	i := slices.IndexFunc(r.Records, func(rec imgd.Record) bool { return rec.Digest == in.Digest })
	if i < 0 {
		i = slices.IndexFunc(r.Records, func(rec imgd.Record) bool { return rec.Platform == in.Platform })
	}
	if len(r.Records) > 0 {
		r.Record = r.Records[max(i, 0)]
	}
	return r
}

func (a *API) publish(w http.ResponseWriter, r *http.Request, image, tag string) error {
	if _, err := parse(r); err != nil {
		return err
	}
	var body Publish
	if err := read(w, r, &body, false); err != nil {
		return err
	}
	in, err := body.Pushed(image, tag, caller)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), answerTime)
	defer cancel()
	rel, created, err := a.Recorder.Record(ctx, in)
	if err != nil && rel.State == imgd.ReleaseAdmitted {
		return fmt.Errorf("%w; release %s is admitted, and imgd goes on with it by itself", err, rel.ID)
	}
	if err != nil {
		return err
	}
	recorded := RecordedOf(in, rel, created)
	a.Log.Info("recorded what another CI has pushed", "image", image, "tag", tag, "digest", in.Digest, "release", rel.ID,
		"outcome", recorded.Outcome, "by", in.By, "reason", in.Reason)
	status := http.StatusOK
	if created {
		status = http.StatusCreated
	}
	return answer(w, status, recorded)
}
