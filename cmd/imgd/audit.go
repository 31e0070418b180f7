package main

import (
	"context"
	"time"

	"github.com/imgd/imgd"
)

// firstAudit is how long after the start registries are first compared with the
// index, and after an audit that was left out: what stands open from before is
// driven by then, and a registry that was started with imgd is there.
const firstAudit = 5 * time.Minute

// newAuditor compares by the config in effect. It asks registries at its own pace,
// beside what requests ask.
func (d *daemon) newAuditor() *imgd.Auditor {
	paced := d.publisher.Paced(func() int { return d.live.config.Load().Audit.Rate })
	return &imgd.Auditor{
		Verifier: &imgd.Verifier{Index: d.index, Registry: paced, Projects: d.live.projects, Drifts: d.bus},
		Records:  d.index, Lister: paced, Pipeline: d.pipeline, Ready: d.bus.Fits,
		Ignore: func() []string { return d.live.config.Load().Audit.Ignore },
	}
}

// audits are the audits that operators ask for.
type audits struct{ *daemon }

func (a audits) Audit(ctx context.Context, ask imgd.AuditAsk) (imgd.Audit, error) {
	return a.audit(ctx, ask)
}

func (a audits) Last() (imgd.Audit, bool) { return a.auditor.Last() }

// auditOften compares the registries with the index every audit.every, until ctx is
// done. One audit takes as long as it takes: it is bounded by the number of tags, as
// each answer is, and only then the time to the next begins.
func (d *daemon) auditOften(ctx context.Context) {
	often(ctx, d.cfg.Audit.Every, firstAudit, func(ctx context.Context) (soon bool) {
		if err := d.bus.Paused(); err != nil {
			d.log.Info("registries are not audited: imgd is paused", "error", err)
			return true
		}
		if _, err := d.audit(ctx, imgd.AuditAsk{Repair: d.live.config.Load().Audit.Repair}); err != nil && ctx.Err() == nil {
			d.log.Warn("registries could not be audited", "error", err)
		}
		return false
	})
}

// audit does one, and logs and counts what it has found.
func (d *daemon) audit(ctx context.Context, ask imgd.AuditAsk) (imgd.Audit, error) {
	if ask.Depth == "" {
		ask.Depth = imgd.VerifyDepth(d.live.config.Load().Audit.Depth)
	}
	done, err := d.auditor.Audit(ctx, ask)
	last, _ := d.auditor.Last()
	switch {
	case err == nil:
		d.metrics.Audited(&done, last)
	case ctx.Err() == nil && ask.Image == "":
		d.metrics.Audited(nil, last)
	}
	if err != nil {
		return done, err
	}
	for _, f := range done.Items {
		d.found(f)
	}
	d.log.Info("registries are audited", "image", done.Image, "depth", done.Depth, "found", done.Summary(), "unread", done.Unread,
		"complete", done.Complete, "took", done.EndedAt.Sub(done.BeganAt))
	return done, nil
}

// found logs what an audit has found of one tag.
func (d *daemon) found(f imgd.Finding) {
	log := d.log.With("kind", f.Kind, "tag", f.Repository+":"+f.Tag, "wanted", f.Wanted, "found", f.Found, "since", f.Since)
	if f.Lack != nil {
		log = log.With("lacks", f.Lack.Digest)
	}
	switch {
	case f.Repair == imgd.Repaired:
		log.Warn("drift is repaired")
	case f.Kind == imgd.DriftUnreachable:
		log.Warn("a registry does not say what it has", "error", f.Error)
	case f.Repair != "":
		log.Warn("drift is not repaired", "state", f.Repair, "why", f.Why)
	default:
		log.Warn("drift: the registry has something else than the index")
	}
	if f.Unreported != "" {
		log.Error("drift is not reported", "error", f.Unreported)
	}
}
