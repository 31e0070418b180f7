package events

import (
	"context"
	"fmt"
	"strings"

	"github.com/imgd/imgd"
)

// ReportDrift tells the world of the drift, durably before it returns. Safe to
// repeat: the same drift of the same generation is told once, however often and
// by however many it is seen.
func (b *Bus) ReportDrift(ctx context.Context, d imgd.Drift) error {
	subject, body, err := DriftEnvelope(d, b.cfg.Now(), b.cfg.IndexID)
	if err != nil {
		return err
	}
	if err := b.writeOnce(ctx, subject, eventID(subject), body); err != nil {
		return fmt.Errorf("report drift of %s:%s: %w", d.Image, d.Tag, err)
	}
	b.cfg.Observe.Drifted(d)
	return nil
}

// eventID is that of the event that goes to subject.
func eventID(subject string) string { return subject[strings.LastIndexByte(subject, '.')+1:] }
