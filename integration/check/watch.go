package check

import (
	"fmt"
	"maps"
	"slices"

	"github.com/imgd/imgd/version"
)

// A Watcher looks at one index again and again, and says what has become other than it may (I4, I5): history that is
// rewritten, a generation that goes down or is used twice, a mark that goes down.
type Watcher struct {
	// Follows reports whether new contains old, as commits of the branch that the tag stands for, or the branch has been
	// rewritten since old was its head. Without it no commit follows another.
	Follows func(image, tag, old, new string) bool

	last  *World
	roots map[generation]string
}

type generation struct {
	tagKey
	n uint64
}

// Watch answers what is wrong in w against all the worlds it has seen before.
func (w *Watcher) Watch(now *World) []string {
	s := &step{Watcher: w, now: now}
	s.generations()
	if w.last != nil {
		s.index()
		s.releases()
		s.tags()
		s.events()
	}
	w.last = now
	return s.wrong
}

// A step is from the world before to now.
type step struct {
	*Watcher
	now   *World
	wrong []string
}

func (s *step) say(invariant, format string, args ...any) {
	s.wrong = append(s.wrong, invariant+": "+fmt.Sprintf(format, args...))
}

func (s *step) generations() {
	if s.roots == nil {
		s.roots = map[generation]string{}
	}
	byID := releasesByID(s.now)
	for _, t := range s.now.Index.Tags {
		if t.Holder == "" {
			continue
		}
		g, root := generation{tagKey{t.Image, t.Tag}, t.Generation}, byID[t.Holder].Root.Digest
		if root == "" { // a removal ends a generation
			continue
		}
		if before, used := s.roots[g]; used && before != root {
			s.say("I4", "%s: generation %d was that of %s, and now is that of %s", g.tagKey, g.n, before, root)
		}
		s.roots[g] = root
	}
}

func releasesByID(w *World) map[string]Release {
	all := map[string]Release{}
	for _, r := range w.Index.Releases {
		all[r.ID] = r
	}
	return all
}

func (s *step) index() {
	before, now := s.last.Index, s.now.Index
	if now.ID != before.ID || now.Seq < before.Seq || now.Told < before.Told {
		s.say("I4", "index %s at entry %d, told %d, was index %s at entry %d, told %d", now.ID, now.Seq, now.Told, before.ID, before.Seq, before.Told)
	}
}

// releases checks that what is published stays as it was, and what was admitted keeps its root.
func (s *step) releases() {
	now := releasesByID(s.now)
	for id, before := range releasesByID(s.last) {
		after, known := now[id]
		switch {
		case !known:
			s.say("I4", "release %s, which was %s, is not in images.json any more", id, before.State)
		case before.State != Admitted && text(before) != text(after):
			s.say("I4", "release %s was %s and is %s", id, text(before), text(after))
		case before.Root.Digest != after.Root.Digest || !before.Request.AskedAt.Equal(after.Request.AskedAt):
			s.say("I4", "release %s was of %s, asked at %s, and is of %s, asked at %s", id, before.Root.Digest, before.Request.AskedAt, after.Root.Digest, after.Request.AskedAt)
		}
	}
}

func (s *step) tags() {
	now := map[tagKey]Tag{}
	for _, t := range s.now.Index.Tags {
		now[tagKey{t.Image, t.Tag}] = t
	}
	for _, before := range s.last.Index.Tags {
		key := tagKey{before.Image, before.Tag}
		after, known := now[key]
		if !known && before.Generation == 0 {
			continue // never held, and given back
		}
		if after.Generation < before.Generation || after.Kind != before.Kind || after.Ref != before.Ref {
			s.say("I4", "%s was a %s tag of %q in generation %d, and is a %s tag of %q in generation %d", key, before.Kind, before.Ref, before.Generation, after.Kind, after.Ref, after.Generation)
		}
		if why := s.lower(after, before.Mark, after.Mark); why != "" {
			s.say("I5", "%s: its mark was %+v and is %+v: %s", key, before.Mark, after.Mark, why)
		}
	}
}

// lower says why the mark of a moving tag went down, "" if it did not.
func (s *step) lower(t Tag, before, after Mark) string {
	switch {
	case before == (Mark{}) || before == after:
		return ""
	case after == (Mark{}):
		return "it is gone"
	case t.Kind == "series" && version.Compare(after.Version, before.Version) < 0:
		return "a lower version"
	case t.Kind == "branch" && after.Commit != before.Commit:
		if s.Follows == nil || !s.Follows(t.Image, t.Tag, before.Commit, after.Commit) {
			return "not a later commit of the branch"
		}
		return ""
	case t.Kind == "series" && after.Version != before.Version:
		return ""
	case after.AskedAt.Before(before.AskedAt):
		return "asked for earlier"
	}
	return ""
}

// events checks that what the world was told stays told (I2).
func (s *step) events() {
	now := map[uint64]Event{}
	for _, e := range s.now.Events {
		now[e.StreamSeq] = e
	}
	for _, e := range s.last.Events {
		if after := now[e.StreamSeq]; after.ID != e.ID || after.What != e.What {
			s.say("I2", "message %d of IMGD_EVENTS was %s of %s, and is %q", e.StreamSeq, e.ID, e.What, after.ID)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(s.last.States)) {
		before := s.last.States[id]
		after, known := s.now.States[id]
		if !known && !before.Final() {
			continue // it named no commit, and stands under another ID now
		}
		if before.State == Published && before.AskedAt.Equal(after.AskedAt) && after.State != Published || after.AskedAt.Before(before.AskedAt) {
			s.say("I3", "request %s was %s for the ask of %s, and is %q for that of %s", id, before.State, before.AskedAt, after.State, after.AskedAt)
		}
	}
}
