package embedded

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
)

// maxPause is after how long a collection lets writes in again. One removal is
// never cut.
const maxPause = 50 * time.Millisecond

// Keep says what a collection must leave.
type Keep struct {
	// What was written, read by digest or left by a tag so lately stays. It must
	// exceed the time from the push of an image to that of its tag.
	For time.Duration
	// Named answers roots that stay although no tag names them: first all, and
	// then those that have come since it was asked last. It is asked when the
	// marking begins, before each time that writes are shut out, and while they
	// are, when it has to be quick. nil: none.
	Named func() []digest.Digest
}

// Collected is what a collection has removed.
type Collected struct {
	Manifests, Blobs, Uploads int
	Bytes                     int64         // of blobs and uploads
	Pause                     time.Duration // the longest that writes were kept waiting
	Paused                    time.Duration // in all
}

// Collect removes what nothing needs: manifests that no tag names, that are not
// part of an image index that stays and that keep does not spare; tags that
// stand for the referrers of what is gone; then the blobs that no manifest
// needs, and uploads that nobody goes on with. While it looks for them, all goes
// on; while it removes, writes wait, for maxPause at a time.
//
// It may be interrupted and repeated: at any point all that stays is whole, and
// what names another goes before that. One runs at a time; it has to end before
// Close. It answers what it has removed also with an error.
//
// It does not use storage.MarkAndSweep, see docs/decisions/0021.
func (r *Registry) Collect(ctx context.Context, keep Keep) (Collected, error) {
	r.collecting.Lock()
	defer r.collecting.Unlock()
	r.gate.notes(true)
	defer r.gate.notes(false)
	m := newMarking(r.gate.layout, time.Now().Add(-keep.For))
	if err := m.mark(ctx, keep.named()); err != nil {
		return Collected{}, fmt.Errorf("look for what to keep in the registry: %w", err)
	}
	s := &sweeping{marking: m, gate: r.gate, named: keep.named}
	s.plan()
	if err := s.run(ctx); err != nil {
		return s.done, fmt.Errorf("remove from the registry what nothing needs: %w", err)
	}
	return s.done, nil
}

func (k Keep) named() []digest.Digest {
	if k.Named == nil {
		return nil
	}
	return k.Named()
}

// A sweeping removes what a marking has not marked.
type sweeping struct {
	*marking
	gate  *gate
	named func() []digest.Digest
	tasks []func() error // removals, each of which looks again whether it may
	done  Collected
}

// plan lists the removals: what names others before what they name.
func (s *sweeping) plan() {
	for _, dir := range s.halves {
		s.tasks = append(s.tasks, func() error { return removeHalf(dir) })
	}
	s.tasks = append(s.tasks, s.above()...)
	for _, at := range s.layers {
		if s.goes(at.digest) {
			s.tasks = append(s.tasks, func() error { return s.removeLayer(at) })
		}
	}
	for _, at := range s.blobs {
		if s.goes(at.digest) {
			s.tasks = append(s.tasks, func() error { return s.removeBlob(at) })
		}
	}
	for _, dir := range s.uploads {
		s.tasks = append(s.tasks, func() error { return s.removeUpload(dir) })
	}
}

// above are the removals of manifests and of tags that stand for referrers: an
// image index before what is in it, and a manifest before the tag that says what
// refers to it. So if the manifest turns out to be needed, the tag is there still.
func (s *sweeping) above() []func() error {
	places, referrers := map[digest.Digest][]linked{}, map[digest.Digest][]tagLink{}
	for _, at := range s.revisions {
		if s.goes(at.digest) {
			places[at.digest] = append(places[at.digest], at)
		}
	}
	for _, t := range s.tags {
		if s.goes(t.names) {
			referrers[t.subject] = append(referrers[t.subject], t)
		}
	}
	var order []func() error // what is named first
	var visit func(d digest.Digest)
	visitTags := func(subject digest.Digest) {
		tags := referrers[subject]
		delete(referrers, subject)
		for _, t := range tags {
			visit(t.names)
			order = append(order, func() error { return s.removeTag(t) })
		}
	}
	visit = func(d digest.Digest) {
		at := places[d]
		delete(places, d)
		if len(at) == 0 {
			return
		}
		named, _ := s.layout.references(d) // an unreadable one is nobody's index any more
		for _, n := range named {
			visit(n)
		}
		visitTags(d)
		for _, place := range at {
			order = append(order, func() error { return s.removeManifest(place) })
		}
	}
	for _, at := range s.revisions {
		visit(at.digest)
	}
	for _, t := range s.tags { // of what was gone before
		visitTags(t.subject)
	}
	slices.Reverse(order)
	return order
}

// run does the tasks, with the gate shut for maxPause at a time, and then open
// for as long.
func (s *sweeping) run(ctx context.Context) error {
	for len(s.tasks) > 0 {
		if err := s.keepNamed(); err != nil { // all but what comes until the gate is shut
			return err
		}
		if err := s.gate.shut(ctx); err != nil {
			return err
		}
		began := time.Now()
		err := s.some(ctx, began.Add(maxPause))
		s.gate.open()
		pause := time.Since(began)
		s.done.Pause, s.done.Paused = max(s.done.Pause, pause), s.done.Paused+pause
		if err != nil {
			return err
		}
		select { // as long for others
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
	return nil
}

// some does tasks until then, at least one. First it keeps what has come to be
// needed since it looked last.
func (s *sweeping) some(ctx context.Context, until time.Time) error {
	for _, d := range s.gate.take() {
		if err := s.keepWritten(d); err != nil {
			return err
		}
	}
	if err := s.keepNamed(); err != nil {
		return err
	}
	for len(s.tasks) > 0 {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := s.tasks[0](); err != nil {
			return err
		}
		if s.tasks = s.tasks[1:]; time.Now().After(until) {
			break
		}
	}
	return nil
}

// keepNamed marks the roots that have come to be named.
func (s *sweeping) keepNamed() error {
	for _, d := range s.named() {
		if err := s.keep(d); err != nil {
			return err
		}
	}
	return nil
}

func (s *sweeping) removeTag(t tagLink) error {
	if !s.goes(t.names) || s.live[t.subject] || youngFile(filepath.Join(t.dir, "current", "link"), s.since) {
		return s.keep(t.names)
	}
	return os.RemoveAll(t.dir)
}

// removeHalf removes a tag that is listed and names nothing. No write is under way
// that would yet have it name something.
func removeHalf(dir string) error {
	if _, err := os.Stat(filepath.Join(dir, "current", "link")); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.RemoveAll(dir)
}

// removeManifest removes it from one repository, and from what its tags named
// before.
func (s *sweeping) removeManifest(at linked) error {
	if !s.goes(at.digest) || s.layout.isYoung(at, s.since) {
		return s.keep(at.digest)
	}
	s.done.Manifests++
	errs := []error{removeBoth(at.dir, "link")}
	for _, dir := range s.history[at.digest] {
		errs = append(errs, removeBoth(dir, "link"))
	}
	delete(s.history, at.digest)
	return errors.Join(errs...)
}

func (s *sweeping) removeLayer(at linked) error {
	if !s.goes(at.digest) || s.layout.isYoung(at, s.since) {
		s.young[at.digest] = true
		return nil
	}
	return removeBoth(at.dir, "link")
}

func (s *sweeping) removeBlob(at linked) error {
	data := filepath.Join(at.dir, "data")
	info, err := os.Stat(data)
	if errors.Is(err, fs.ErrNotExist) {
		return os.RemoveAll(at.dir) // what a crash left of it
	}
	if err != nil || !s.goes(at.digest) || !info.ModTime().Before(s.since) {
		return err
	}
	s.done.Blobs++
	s.done.Bytes += info.Size()
	return removeBoth(at.dir, "data")
}

// removeBoth removes a directory and the file in it. It asks a third of
// os.RemoveAll of the disk, which others wait for.
func removeBoth(dir, file string) error {
	if os.Remove(filepath.Join(dir, file)) == nil && os.Remove(dir) == nil {
		return nil
	}
	return os.RemoveAll(dir) // there was more, or less, in it
}

// removeUpload removes an upload into which nothing was written lately.
func (s *sweeping) removeUpload(dir string) error {
	var size int64
	young := false
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil {
			young = young || !info.ModTime().Before(s.since)
			size += info.Size()
		}
		return err
	})
	if errors.Is(err, fs.ErrNotExist) || err == nil && young {
		return nil
	}
	if err != nil {
		return err
	}
	s.done.Uploads++
	s.done.Bytes += size
	return os.RemoveAll(dir)
}
