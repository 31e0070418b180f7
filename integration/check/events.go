package check

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// told are the ends of a request that have an event.
var told = []string{Superseded, Conflict, Failed, Dead}

// deleted is what an event tells of a release without root, drift one of a tag.
const (
	deleted = "deleted"
	drift   = "drift"
)

// event is what tells of the release.
func (r Release) event() string {
	if r.Root.Digest == "" {
		return deleted + " " + r.ID
	}
	return Published + " " + r.ID
}

// events checks what the world was told of releases: nothing that is not so (I1), and each release once, in their order (I2).
func (c *checker) events() {
	seen := map[string]bool{}
	var last Release
	for _, e := range c.Events {
		if key := e.What + " " + e.ID; seen[key] {
			c.say("I2", "event %s of %s stands twice in IMGD_EVENTS", e.ID, e.What)
		} else {
			seen[key] = true
		}
		switch {
		case e.What == Published || e.What == deleted:
			c.published(e)
			if r := c.releases[e.ID]; r.Seq >= last.Seq {
				last = r
			} else if r.Seq > 0 {
				c.say("I2", "event %s of entry %d comes after %s of entry %d", e.ID, r.Seq, last.ID, last.Seq)
			}
		case e.What != drift && !slices.Contains(told, e.What):
			c.say("I1", "event %s is of no kind: %q", e.ID, e.What)
		}
	}
	for _, r := range c.Index.Releases {
		if r.State != Published || seen[r.event()] {
			continue
		}
		if r.Seq <= c.Index.Told {
			c.say("I2", "release %s of entry %d has no event, and all up to %d is told", r.ID, r.Seq, c.Index.Told)
		} else if c.ended {
			c.say("I2", "release %s has no event", r.ID)
		}
	}
	if last := c.lastPublished(); c.ended && c.Index.Told < last {
		c.say("I2", "all up to entry %d is published, and told up to %d", last, c.Index.Told)
	}
}

func (c *checker) lastPublished() (seq uint64) {
	for _, r := range c.Index.Releases {
		seq = max(seq, r.Seq)
	}
	return seq
}

func (c *checker) published(e Event) {
	r, known := c.releases[e.ID]
	if !known || r.State != Published || r.event() != e.What+" "+e.ID {
		c.say("I1", "event %s is out as %s, and in images.json its release is %q, of root %q", e.ID, e.What, r.State, r.Root.Digest)
		return
	}
	if e.What == deleted {
		return
	}
	if e.Image != r.Image || e.Seq != r.Seq || e.Root != r.Root.Digest || e.Request != r.Request.ID || e.Source != "urn:imgd:"+c.Index.ID {
		c.say("I1", "event %s tells of %s of image %s in entry %d of %s; images.json has %s of %s in entry %d",
			e.ID, e.Root, e.Image, e.Seq, e.Source, r.Root.Digest, r.Image, r.Seq)
	}
	var want []string
	for _, t := range r.Tags {
		for _, record := range r.records(t.Tag) {
			want = append(want, text(record))
		}
	}
	var got []string
	for _, record := range e.Records {
		got = append(got, text(record))
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		c.say("I1", "event %s has the records %s, its release makes %s", e.ID, got, want)
	}
}

// ends compares the events of requests that ended without a release with their states (I3).
func (c *checker) ends() {
	waiting := c.waiting()
	for id, s := range c.States {
		if !slices.Contains(told, s.State) || waiting[id] {
			continue
		}
		if !slices.ContainsFunc(c.Events, func(e Event) bool { return e.What == s.State && e.ID == s.eventID() }) {
			c.say("I3", "request %s has ended %s, and no event %s says so", id, s.State, s.eventID())
		}
	}
	for _, e := range c.Events {
		if !slices.Contains(told, e.What) {
			continue
		}
		if e.End.State != e.What || e.End.eventID() != e.ID || e.Source != "urn:imgd:"+c.Index.ID {
			c.say("I3", "event %s of %s tells of %s, which is %q, in %s", e.ID, e.What, e.End.eventID(), e.End.State, e.Source)
		}
		request, _, _ := strings.Cut(e.ID, "-")
		s, known := c.States[request]
		switch {
		case !known:
			c.say("I3", "event %s of %s is out, and its request has no state", e.ID, e.What)
		case waiting[request] || e.ID != s.eventID():
			// It is being asked again, or was asked later.
		case s.State != e.What && !(s.State == Unchanged && e.What == Superseded):
			c.say("I3", "event %s says %s, and its request is %s", e.ID, e.What, s.State)
		}
	}
}

func (s State) eventID() string { return fmt.Sprintf("%s-%d", s.Request, s.AskedAt.UnixMilli()) }

// waiting are the requests that stand in the queue.
func (c *checker) waiting() map[string]bool {
	all := map[string]bool{}
	for _, q := range c.Queue {
		all[q.Request] = true
	}
	return all
}

// states checks that none is orphaned: what has not ended stands in the queue, what is published has its release; and that
// none has an end that is not so (I3).
func (c *checker) states(cancelled []string) {
	waiting := c.waiting()
	for _, r := range c.Index.Releases {
		s, known := c.States[r.Request.ID]
		if known && !waiting[s.Request] && r.State == Published && s.State != Published && s.AskedAt.Equal(r.Request.AskedAt) {
			c.say("I3", "request %s stands as %s, and its release %s is published", s.Request, s.State, r.ID)
		}
	}
	for id, s := range c.States {
		switch r := c.releases[s.Release]; {
		case !s.Final() && !waiting[id] && !c.unnamed(s):
			c.say("I3", "request %s stands as %s, and is not in the queue: %s", id, s.State, text(s))
		case s.State == Published && (r.State != Published || r.Request.ID != id):
			c.say("I3", "request %s is published by release %q, which is %q of request %s", id, s.Release, r.State, r.Request.ID)
		case s.State == Dead && !waiting[id] && !slices.ContainsFunc(c.Dead, func(l Letter) bool { return l.Request == id }):
			c.say("I3", "request %s is dead, and IMGD_DEAD does not have it", id)
		case s.State == Cancelled && !slices.Contains(cancelled, id):
			c.say("I3", "request %s is cancelled, and nobody has cancelled it", id)
		case s.State == Unchanged && !slices.ContainsFunc(c.Index.Releases, s.standsIn):
			c.say("I3", "request %s has ended unchanged, and nothing of its commit is published", id)
		}
	}
	if c.ended && len(c.Queue) > 0 {
		c.say("I3", "%d requests are in the queue still: %+v", len(c.Queue), c.Queue)
	}
}

// standsIn reports whether what the request asks for can be what the release has published: one of its commit, or of another of
// its ref, from which it differs in nothing that the project watches.
func (s State) standsIn(r Release) bool {
	if r.State != Published || r.Request.Project != s.Project {
		return false
	}
	return r.Request.Commit == s.Commit || r.Request.Ref == s.Ref && s.Error != nil && strings.Contains(s.Error.Message, "of which release "+r.ID+" was built")
}

// unnamed reports whether the state may be that of a message that names no commit: it stands under the ID of the commit
// that was found.
func (c *checker) unnamed(s State) bool {
	return slices.ContainsFunc(c.Queue, func(q Queued) bool { return q.Commit == "" && q.Project == s.Project && q.Ref == s.Ref })
}

// asked checks that nothing that was acknowledged is lost (I3).
func (c *checker) asked(all []Asked) {
	for _, a := range all {
		if c.queued(a) && !c.ended {
			continue
		}
		if a.NoGood {
			if !slices.ContainsFunc(c.Dead, func(l Letter) bool { return l.Delivery == a.Delivery && l.Reason != "" }) {
				c.say("I3", "%s was acknowledged, and is neither queued nor in IMGD_DEAD", a)
			}
			continue
		}
		if !c.hasEnded(a) {
			c.say("I3", "%s was acknowledged, and is neither queued nor has it ended", a)
		}
	}
}

func (c *checker) queued(a Asked) bool {
	return slices.ContainsFunc(c.Queue, func(q Queued) bool {
		return a.Delivery != "" && q.Delivery == a.Delivery || a.Request != "" && q.Request == a.Request ||
			a.Request == "" && !a.NoGood && q.Project == a.Project && q.Ref == a.Ref // under another ID once its commit is known
	})
}

func (c *checker) hasEnded(a Asked) bool {
	ended := func(s State) bool { return s.Final() && !s.AskedAt.Before(a.AskedAt.Truncate(time.Millisecond)) }
	if a.Request != "" {
		return ended(c.States[a.Request])
	}
	for _, s := range c.States {
		if s.Project == a.Project && s.Ref == a.Ref && ended(s) {
			return true
		}
	}
	return false
}
