package check

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/imgd/imgd/integration/kit"
	"github.com/imgd/imgd/version"
)

// index checks images.json in itself: releases and tags fit each other, the records are those of the holders, and no
// request has two releases that are open (I7).
func (c *checker) index() {
	open := map[string]string{}
	entries := map[uint64]string{}
	for _, r := range c.Index.Releases {
		if _, twice := c.releases[r.ID]; twice {
			c.say("I7", "release %s stands twice in images.json", r.ID)
		}
		c.releases[r.ID] = r
		if other := entries[r.Seq]; r.Seq != 0 && other != "" {
			c.say("I1", "releases %s and %s were both published in entry %d", other, r.ID, r.Seq)
		}
		entries[r.Seq] = r.ID
		if r.State == Admitted {
			if other := open[r.Request.ID]; other != "" {
				c.say("I7", "releases %s and %s of one request are both open", other, r.ID)
			}
			open[r.Request.ID] = r.ID
			if c.ended {
				c.say("I7", "release %s is open still", r.ID)
			}
		}
		c.release(r)
	}
	for _, t := range c.Index.Tags {
		key := tagKey{t.Image, t.Tag}
		if _, twice := c.tags[key]; twice {
			c.say("I4", "%s stands twice in images.json", key)
		}
		c.tags[key] = t
		c.tag(t)
		c.mark(t)
	}
	c.records()
}

func (c *checker) release(r Release) {
	request, n, _ := strings.Cut(r.ID, "-")
	if i, err := strconv.Atoi(n); err != nil || i < 1 || request != r.Request.ID {
		c.say("I7", "release %s is of request %s", r.ID, r.Request.ID)
	}
	if hash := r.Request.hash(); hash != r.Request.ID && !r.Pushed && r.Command == "" { // a command's ID is drawn
		c.say("I7", "request %s of release %s has fields that give %s", r.Request.ID, r.ID, hash)
	}
	if r.Request.Force && strings.TrimSpace(r.Request.Reason) == "" {
		c.say("I4", "release %s is forced, and nobody says why", r.ID)
	}
	switch {
	case !slices.Contains([]string{Admitted, Published, Abandoned}, r.State):
		c.say("I7", "release %s is %q", r.ID, r.State)
	case r.State == Published && (r.Seq == 0 || r.Seq > c.Index.Seq || r.PublishedAt.IsZero()):
		c.say("I1", "release %s was published in entry %d at %s, and the index is at %d", r.ID, r.Seq, r.PublishedAt, c.Index.Seq)
	case r.State != Published && r.Seq != 0:
		c.say("I1", "release %s is %s and has entry %d", r.ID, r.State, r.Seq)
	}
}

// tag checks that claim and holder are releases that took the tag.
func (c *checker) tag(t Tag) {
	key := tagKey{t.Image, t.Tag}
	for _, owner := range []struct{ id, state string }{{t.Claim, Admitted}, {t.Holder, Published}} {
		if owner.id == "" {
			continue
		}
		r, known := c.releases[owner.id]
		taken, ok := r.took(t.Tag)
		if !known || r.State != owner.state || r.Image != t.Image || !ok || taken.Kind != t.Kind {
			c.say("I5", "%s (%s) belongs to release %s, which is %q of %s and took it as %q", key, t.Kind, owner.id, r.State, r.Image, taken.Kind)
		}
		if owner.state == Published && taken.Generation != t.Generation {
			c.say("I4", "%s has generation %d, its holder %s has %d", key, t.Generation, owner.id, taken.Generation)
		}
	}
	if c.ended && t.Claim != "" {
		c.say("I6", "%s is claimed by %s still", key, t.Claim)
	}
}

// mark checks that a moving tag's mark is not below what the tag names.
func (c *checker) mark(t Tag) {
	r := c.releases[t.Holder]
	if t.Holder == "" || immutable(t.Kind) {
		return
	}
	if t.Mark.Commit == "" || t.Mark.AskedAt.Before(r.Request.AskedAt) || t.Kind == "series" && version.Compare(t.Mark.Version, r.Request.Version) < 0 {
		c.say("I5", "%s:%s names %s of %s, asked at %s, and its mark is %+v", t.Image, t.Tag, r.Request.Version, r.Request.Commit, r.Request.AskedAt, t.Mark)
	}
}

// took is the tag as the release claims or holds it, or did.
func (r Release) took(tag string) (ReleaseTag, bool) {
	i := slices.IndexFunc(r.Tags, func(t ReleaseTag) bool { return t.Tag == tag && t.Reason == "" })
	if i < 0 {
		return ReleaseTag{}, false
	}
	return r.Tags[i], true
}

// records compares those of images.json with those that its holders make.
func (c *checker) records() {
	want := map[string]bool{}
	for _, t := range c.Index.Tags {
		for _, record := range c.releases[t.Holder].records(t.Tag) {
			record.ExpiresAt = time.Time{}
			want[text(record)] = true
		}
	}
	for _, record := range c.Index.Records {
		record.ExpiresAt = time.Time{} // the tag's own, which may change without a release
		if line := text(record); want[line] {
			delete(want, line)
		} else {
			c.say("I1", "record %s is not what a holder makes", line)
		}
	}
	for _, line := range slices.Sorted(maps.Keys(want)) {
		c.say("I1", "record %s is missing", line)
	}
}

func text(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic("unreachable: records marshal: " + err.Error())
	}
	return string(b)
}

// records are those of one tag that the release holds.
func (r Release) records(tag string) []kit.Record {
	taken, ok := r.took(tag)
	if !ok {
		return nil
	}
	var records []kit.Record
	for _, d := range r.Platforms {
		record := kit.Record{Image: r.Image, Tag: tag, Digest: d.Digest, Platform: d.platform(), MediaType: d.MediaType, Size: d.Size,
			PublishedAt: r.PublishedAt, SourceRef: r.Source + "@" + r.Request.Commit, Version: r.Request.Version, Labels: r.Labels,
			Generation: int(taken.Generation), Release: r.ID, Previous: taken.Previous, ExpiresAt: r.ExpiresAt}
		if r.Root.Digest != d.Digest {
			record.IndexDigest = r.Root.Digest
		}
		records = append(records, record)
	}
	return records
}

func (d Descriptor) platform() string {
	name := d.Platform.OS + "/" + d.Platform.Architecture
	if d.Platform.Variant != "" {
		name += "/" + d.Platform.Variant
	}
	return name
}

// tagsOverTime follows each tag through the releases that published it (I4).
func (c *checker) tagsOverTime() {
	for key, line := range c.lines() {
		roots := map[uint64]string{} // generation -> root
		var before Release
		for _, r := range line {
			taken, _ := r.took(key.tag)
			if taken.Generation == 0 || taken.Previous != before.Root.Digest {
				c.say("I4", "%s: release %s has generation %d, after %q, and %q was before it", key, r.ID, taken.Generation, taken.Previous, before.Root.Digest)
			}
			if root, used := roots[taken.Generation]; used && r.Root.Digest != "" && root != r.Root.Digest {
				c.say("I4", "%s: generation %d is that of %s and, in release %s, of %s", key, taken.Generation, root, r.ID, r.Root.Digest)
			}
			if r.Root.Digest != "" { // a removal ends a generation
				roots[taken.Generation] = r.Root.Digest
			}
			if before.ID != "" {
				c.step(key, before, r)
			}
			before = r
		}
		// A release without root has removed the tag.
		if t, known := c.tags[key]; !known || t.Holder != before.ID && (t.Holder != "" || before.Root.Digest != "") {
			c.say("I4", "%s is held by %q, and %s published it later", key, t.Holder, before.ID)
		}
	}
}

// lines are the releases that published each tag, in their order.
func (c *checker) lines() map[tagKey][]Release {
	lines := map[tagKey][]Release{}
	for _, r := range c.Index.Releases {
		for _, t := range r.Tags {
			if r.State == Published && t.Reason == "" {
				key := tagKey{r.Image, t.Tag}
				lines[key] = append(lines[key], r)
			}
		}
	}
	for _, line := range lines {
		slices.SortFunc(line, func(a, b Release) int { return cmp.Compare(a.Seq, b.Seq) })
	}
	return lines
}

// step is from one release that published the tag to the next.
func (c *checker) step(key tagKey, a, b Release) {
	before, _ := a.took(key.tag)
	after, _ := b.took(key.tag)
	if after.Generation < before.Generation {
		c.say("I4", "%s: generation %d in release %s, and then %d in %s", key, before.Generation, a.ID, after.Generation, b.ID)
	}
	if before.Kind != after.Kind {
		c.say("I4", "%s: a %s tag in release %s, and then a %s tag in %s", key, before.Kind, a.ID, after.Kind, b.ID)
	}
	if immutable(after.Kind) && !samePlatforms(a, b) && !b.free(a, after.Kind) && !b.Request.Force && !c.Gone[a.Root.Digest] {
		c.say("I4", "%s: from %s in release %s to %s in %s, which is not forced, and the registry has the former", key, a.Root.Digest, a.ID, b.Root.Digest, b.ID)
	}
}

// free reports whether r needs no force after the release before: it takes the tag away because the time of that was over,
// or takes a commit's tag that it had removed.
func (r Release) free(before Release, kind string) bool {
	return r.Command == "expire" && r.Removes == before.ID || before.Root.Digest == "" && kind == "commit"
}

func immutable(kind string) bool { return kind == "version" || kind == "commit" }

func samePlatforms(a, b Release) bool {
	return slices.EqualFunc(a.Platforms, b.Platforms, func(x, y Descriptor) bool {
		return x.Digest == y.Digest && x.platform() == y.platform()
	})
}
