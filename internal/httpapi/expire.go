package httpapi

import (
	"context"
	"errors"
	"net/http"

	"github.com/imgd/imgd"
)

// Expirer removes the tags whose time is over.
type Expirer interface {
	// Expire does it, or says what it would do. imgd.ErrNotFound of an image that
	// has no tags. What it answers with the error of ctx is what was done so far.
	// Safe to repeat.
	Expire(ctx context.Context, ask imgd.Expire) (imgd.Expiry, error)
}

// An ExpireCommand is the body of POST /v1/expire. It may be missing.
type ExpireCommand struct {
	Image  string `json:"image,omitempty"`  // only of this one
	DryRun bool   `json:"dryRun,omitempty"` // only say what would go
	Yes    bool   `json:"yes,omitempty"`    // whatever share of an image's tags that is
	Stays  bool   `json:"stays,omitempty"`  // say also what stays, and why
}

// expire answers what was done. That too many tags would go at once, or the
// registry refuses, is an answer too.
func (a *API) expire(w http.ResponseWriter, r *http.Request) error {
	if _, err := parse(r); err != nil {
		return err
	}
	var body ExpireCommand
	if err := read(w, r, &body, true); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), answerTime)
	defer cancel()
	done, err := a.Expirer.Expire(ctx, imgd.Expire{Image: body.Image, DryRun: body.DryRun, Yes: body.Yes, Stays: body.Stays, Weigh: true, By: caller})
	if err != nil && !(done.More && errors.Is(err, context.DeadlineExceeded)) {
		return err
	}
	if !done.DryRun {
		a.Metrics.Expired(done)
		a.Log.Info("operator's command", "command", "expire", "image", body.Image, "yes", body.Yes, "by", caller, "done", done.Summary())
	}
	return answer(w, http.StatusOK, done)
}

// Expired counts what a clean-up has done. It is an imgd.Expiry of any ask.
func (m *Metrics) Expired(done imgd.Expiry) {
	for _, item := range done.Items {
		switch item.State {
		case imgd.ExpireGone, imgd.ExpireRefused, imgd.ExpireLeft:
			m.expired.WithLabelValues(string(item.State)).Inc()
		}
	}
}

// HeldBack says of how many images the last clean-up of all has removed nothing,
// as too many of their tags would have gone at once.
func (m *Metrics) HeldBack(images int) { m.heldBack.Set(float64(images)) }
