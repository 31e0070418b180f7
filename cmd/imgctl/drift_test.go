package main_test

import (
	"context"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/internal/httpapi"
)

// auditor compares as the daemon does.
func (w *world) auditor(config httpapi.Config) httpapi.Auditor {
	return tellsHow{&imgd.Auditor{Verifier: &imgd.Verifier{Index: w.index, Registry: w, Projects: config.Projects, Drifts: w}, Records: w.index, Lister: w,
		Pipeline: config.Commander.(*imgd.Pipeline), Patience: time.Nanosecond, Now: func() time.Time { return epoch }}, w}
}

// tellsHow never comes to the end of an image that has no end.
type tellsHow struct {
	*imgd.Auditor
	w *world
}

// Audit tells of its progress once at least.
func (a tellsHow) Audit(ctx context.Context, ask imgd.AuditAsk) (imgd.Audit, error) {
	ask.Progress(imgd.AuditProgress{Tags: 1, At: "demo/hello:first"})
	if ask.Image == "demo/endless" {
		a.w.change(func() { a.w.watched++ })
		<-ctx.Done()
		return imgd.Audit{}, ctx.Err()
	}
	return a.Auditor.Audit(ctx, ask)
}

func (w *world) Tags(_ context.Context, repository string) iter.Seq2[string, error] {
	w.mu.Lock()
	keys, down := slices.Sorted(maps.Keys(w.served)), w.down
	w.mu.Unlock()
	return func(yield func(string, error) bool) {
		if down != nil {
			yield("", down)
			return
		}
		for _, key := range keys {
			if tag, ok := strings.CutPrefix(key, repository+":"); ok && !yield(tag, nil) {
				return
			}
		}
	}
}
