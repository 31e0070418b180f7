package httpapi

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/imgd/imgd"
)

// Auditor compares all tags with the registries.
type Auditor interface {
	// Audit does it now, and repairs if it is asked to. imgd.ErrNotFound of an image
	// that nobody knows. It ends with ctx; then what it did not come to is as it was.
	// Safe to repeat.
	Audit(ctx context.Context, ask imgd.AuditAsk) (imgd.Audit, error)
	// Last is what the last one of all has found, false if there was none.
	Last() (imgd.Audit, bool)
}

// An AuditCommand is the body of POST /v1/drift. It may be missing.
type AuditCommand struct {
	Image  string           `json:"image,omitempty"`  // only of this one
	Depth  imgd.VerifyDepth `json:"depth,omitempty"`  // default: the config's
	Repair bool             `json:"repair,omitempty"` // put right what imgd may and can
}

// getDrift answers what the last audit has found.
func (a *API) getDrift(w http.ResponseWriter, r *http.Request) error {
	q, err := parse(r, "image")
	if err != nil {
		return err
	}
	last, ok := a.Auditor.Last()
	if !ok {
		return problem(http.StatusNotFound, CodeNotFound, "no audit has come to its end since imgd was started; for one now: imgctl drift --now")
	}
	if image := q.values.Get("image"); image != "" {
		if !a.isKnown(image) {
			return problem(http.StatusNotFound, CodeNotFound, fmt.Sprintf("nothing is published as %s, and no project makes it", image))
		}
		last = last.Of(image)
	}
	return answer(w, http.StatusOK, last)
}

// isKnown reports whether an audit looks for the image: of another nothing differs.
func (a *API) isKnown(image string) bool {
	found, _, _ := a.Index.Find(imgd.Find{Image: image, Limit: 1})
	return len(found) > 0 || len(a.Projects.Repositories(image)) > 0
}

// progressEvery is how often who waits for an audit is told how far it is.
const progressEvery = time.Second

// postDrift has an audit done while the caller waits, and is told how far it has
// come. If he leaves, it ends.
func (a *API) postDrift(w http.ResponseWriter, r *http.Request) error {
	if _, err := parse(r); err != nil {
		return err
	}
	var body AuditCommand
	if err := read(w, r, &body, true); err != nil {
		return err
	}
	if body.Depth != "" && !slices.Contains(imgd.VerifyDepths(), body.Depth) {
		return usage(fmt.Sprintf("depth %q is none of %q", body.Depth, imgd.VerifyDepths()))
	}
	return a.stream(w, r, func(ctx context.Context, send send) error {
		var told time.Time
		ask := imgd.AuditAsk{Image: body.Image, Depth: body.Depth, Repair: body.Repair, Progress: func(p imgd.AuditProgress) {
			if now := time.Now(); now.Sub(told) >= progressEvery {
				told = now
				_ = send(event("progress", p)) // it fails if ctx is over, which ends the audit
			}
		}}
		if body.Repair {
			a.Log.Info("operator's command", "command", "drift --repair", "image", body.Image, "by", caller)
		}
		done, err := a.Auditor.Audit(ctx, ask)
		if err != nil {
			return err
		}
		return send(event("end", done))
	})
}

// Audited counts an audit: what it has found, nil if it did not come to its end,
// and what differs since by the audits of all.
func (m *Metrics) Audited(done *imgd.Audit, last imgd.Audit) {
	if done == nil {
		m.audits.WithLabelValues("failed").Inc()
		return
	}
	for _, state := range repairStates() {
		m.repairs.WithLabelValues(string(state)).Add(float64(done.Count(state)))
	}
	for _, kind := range imgd.DriftKinds() {
		m.driftTags.WithLabelValues(string(kind)).Set(float64(last.Counts[kind]))
	}
	if done.Image != "" {
		return
	}
	m.auditTime.Set(done.EndedAt.Sub(done.BeganAt).Seconds())
	if !done.Complete {
		m.audits.WithLabelValues("incomplete").Inc()
		return
	}
	m.audits.WithLabelValues("complete").Inc()
	m.auditedAt.Set(float64(done.EndedAt.Unix()))
}

func repairStates() []imgd.RepairState {
	return []imgd.RepairState{imgd.Repaired, imgd.RepairLeft, imgd.RepairRefused}
}
