package imgd_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/imgd/imgd"
)

func commit(letter string) string { return strings.Repeat(letter, 40) }

// request asks for ref at second at.
func request(ref string, at int) imgd.Request {
	return imgd.Request{Project: "hello", Ref: ref, AskedAt: epoch.Add(time.Duration(at) * time.Second)}
}

func (w *world) reached(s imgd.State) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stage = s
}

// deliver handles req as the queue would: again after every error, in a new
// process after the death of one, until it ends.
func (w *world) deliver(req imgd.Request) (imgd.Release, error) {
	w.t.Helper()
	for range 8 {
		ctx, die := context.WithCancel(w.t.Context())
		w.die = die
		got := req // what one delivery resolves is gone with it
		w.stage = imgd.Queued
		rel, err := w.pipeline().Handle(ctx, &got, w.reached)
		w.stage = ""
		w.answered(got, rel, err)
		if now, _ := w.index.Newest(got.ID); err != nil && !isEnd(err) && now.State == imgd.ReleaseAbandoned && now.Why != imgd.RootLost && !got.AskedAt.After(now.Request.AskedAt) && rel.ID != now.ID {
			w.t.Errorf("%v comes without release %s, for which something is left to do", err, now.ID)
		}
		dead := ctx.Err() != nil
		die()
		if dead {
			w.index.Close()
			w.open()
		}
		if err == nil && !dead || isEnd(err) {
			return rel, err
		}
	}
	w.t.Fatalf("no end after 8 deliveries; effects: %v", w.effects)
	return imgd.Release{}, nil
}

// answered holds what Handle promises of the release next to an error: whoever
// reads the answer knows whether something is admitted.
func (w *world) answered(req imgd.Request, rel imgd.Release, err error) {
	w.t.Helper()
	w.fits(rel, err)
	now, _ := w.index.Newest(req.ID)
	admitted := now.State == imgd.ReleaseAdmitted
	switch {
	case isEnd(err) && admitted:
		w.t.Errorf("%v is an end, and release %s is admitted", err, now.ID)
	case err != nil && admitted && rel.ID != now.ID:
		w.t.Errorf("%v comes with release %q, and %s is admitted", err, rel.ID, now.ID)
	}
}

// fits is the part of it that holds whatever others have done meanwhile.
func (w *world) fits(rel imgd.Release, err error) {
	w.t.Helper()
	switch {
	case err == nil && rel.State != imgd.ReleasePublished,
		isEnd(err) && rel.ID != "" && rel.State != imgd.ReleaseAbandoned,
		err != nil && !isEnd(err) && rel.ID != "" && rel.State != imgd.ReleaseAdmitted && rel.State != imgd.ReleaseAbandoned:
		w.t.Errorf("release %q %q comes with %v", rel.ID, rel.State, err)
	}
}

func isEnd(err error) bool {
	var failed *imgd.BuildError
	return errors.As(err, &failed) || slices.ContainsFunc([]error{imgd.ErrUnchanged, imgd.ErrSuperseded, imgd.ErrConflict, imgd.ErrInvalid, imgd.ErrRefused},
		func(end error) bool { return errors.Is(err, end) })
}

// check holds what must be true whenever nothing runs: I6 (but for what the
// registry refuses, or cannot have as it lost the root), I7, and one release for
// the given requests.
func (w *world) check() {
	w.t.Helper()
	for key, root := range w.tags {
		tag := key[strings.LastIndex(key, ":")+1:]
		rel, ok := w.index.Wanted(demoImage, tag)
		if lost := ok && rel.Root.Digest != "" && !w.roots[rel.Root.Digest]; !lost && rel.Root.Digest != root && w.refuses[key] == 0 {
			w.t.Errorf("registry says %s for %s, the index %s (I6)", root, key, rel.Root.Digest)
		}
	}
	for _, rel := range w.index.Published(0) {
		for _, t := range rel.Taken() {
			for _, repository := range w.repos {
				if want, _ := w.index.Wanted(demoImage, t.Name); w.tags[at(repository, t.Name)] == "" && w.roots[want.Root.Digest] && w.refuses[at(repository, t.Name)] == 0 {
					w.t.Errorf("%s is published and %s has no %s", rel.ID, repository, t.Name)
				}
			}
		}
	}
	if open := w.index.Open(); len(open) > 0 {
		w.t.Errorf("%d releases are open", len(open))
	}
}
