package main_test

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/imgd/imgd"
)

func (w *world) Statuses(_ context.Context, filter imgd.StatusFilter, limit int, before uint64) ([]imgd.Status, uint64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []imgd.Status
	for _, s := range w.statuses {
		if (filter.State == "" || s.State == filter.State) && (filter.Project == "" || s.Project == filter.Project) {
			all = append(all, s)
		}
	}
	slices.SortFunc(all, func(a, b imgd.Status) int { return cmp.Compare(b.Ref, a.Ref) })
	items, next := pageOf(all, limit, before)
	return items, next, w.down
}

func (w *world) Letters(_ context.Context, limit int, before uint64) ([]imgd.Letter, uint64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	items, next := pageOf(w.letters, limit, before)
	return items, next, w.down
}

// pageOf begins at before, or at the first for 0.
func pageOf[T any](all []T, limit int, before uint64) (items []T, next uint64) {
	all = all[before:]
	if len(all) <= limit {
		return all, 0
	}
	return all[:limit], before + uint64(limit)
}

func (w *world) Letter(_ context.Context, id string) (imgd.Letter, bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := slices.IndexFunc(w.letters, func(l imgd.Letter) bool { return l.ID == id })
	if i < 0 {
		return imgd.Letter{}, false, nil
	}
	return w.letters[i], true, nil
}

func (w *world) Cancel(ctx context.Context, request, _ string) (imgd.Status, error) {
	s, ok, _ := w.Status(ctx, request)
	switch {
	case !ok:
		return s, imgd.ErrNotFound
	case s.State.Final() || s.State == imgd.Publishing:
		return s, fmt.Errorf("request %s is %s: %w", request, s.State, imgd.ErrConflict)
	}
	s.State = imgd.Cancelled
	w.change(func() { w.statuses[request] = s })
	return s, nil
}

// Retry makes of the request what the script has said of the next one.
func (w *world) Retry(ctx context.Context, id, _ string) (imgd.Request, error) {
	if strings.HasPrefix(id, "dead-") {
		l, ok, _ := w.Letter(ctx, id)
		if !ok {
			return imgd.Request{}, imgd.ErrNotFound
		}
		if l.Request == "" {
			return imgd.Request{Project: l.Project}, nil
		}
		id = l.Request
	}
	s, ok, _ := w.Status(ctx, id)
	switch {
	case !ok:
		return imgd.Request{}, imgd.ErrNotFound
	case !s.State.Final():
		return imgd.Request{}, fmt.Errorf("request %s is %s: %w", id, s.State, imgd.ErrConflict)
	}
	return w.ask(ctx, s.Again())
}

func (w *world) Drop(ctx context.Context, id, by, reason string) (imgd.Status, error) {
	if strings.HasPrefix(id, "dead-") {
		w.change(func() { w.letters = slices.DeleteFunc(w.letters, func(l imgd.Letter) bool { return l.ID == id }) })
		return imgd.Status{}, nil
	}
	s, ok, _ := w.Status(ctx, id)
	switch {
	case !ok:
		return s, imgd.ErrNotFound
	case s.State == imgd.Published:
		return s, fmt.Errorf("release %s is published: %w", s.Release, imgd.ErrConflict)
	}
	if s.Release != "" {
		if _, err := w.index.Abandon(ctx, s.Release, "dropped"); err != nil {
			return s, err
		}
	}
	s.State, s.Error = imgd.Failed, &imgd.StatusError{Kind: "dropped", Message: "dropped by " + by + ": " + reason}
	w.change(func() { w.statuses[id] = s })
	return s, nil
}

func (w *world) ReportDrift(context.Context, imgd.Drift) error { return w.down }
