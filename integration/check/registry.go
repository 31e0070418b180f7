package check

import (
	"maps"
	"regexp"
	"slices"
	"strings"
)

// lost is how the reason begins of a tag that a release claimed and lost. (One that it never claimed has another.)
const lost = "lost to release "

// referrers is a tag that says what refers to a digest, of the OCI distribution spec for registries without a referrers API,
// and of cosign. Whoever signs an image writes it, and it is no tag of imgd's.
var referrers = regexp.MustCompile(`^sha256-[0-9a-f]{64}(\.[a-z]+)?$`)

// registry compares what every repository serves with the index: nothing that was not admitted (I5), and what the index
// says (I6).
func (c *checker) registry() {
	for _, r := range c.Index.Releases {
		if served, ok := c.Roots[r.Root.Digest]; ok && !slices.Equal(served, r.manifests()) {
			c.say("I6", "root %s has the manifests %q, release %s says %q", r.Root.Digest, served, r.ID, r.manifests())
		}
	}
	waiting := c.waiting()
	images := c.images()
	for _, repository := range slices.Sorted(maps.Keys(c.Tags)) {
		image := images[repository]
		for tag, digest := range c.Tags[repository] {
			if referrers.MatchString(tag) {
				continue
			}
			c.served(repository, tagKey{image, tag}, digest, waiting)
		}
		for key, t := range c.tags {
			holder := c.releases[t.Holder]
			if claim, claimed := c.releases[t.Claim]; claimed && claim.Root.Digest == "" {
				continue // it is on its way to be removed
			}
			if key.image == image && t.Holder != "" && c.Tags[repository][key.tag] == "" && holder.Root.Digest != "" && !c.explained(key, holder, "") {
				c.say("I6", "%s:%s is not there, the index has %s of release %s", repository, key.tag, c.releases[t.Holder].Root.Digest, t.Holder)
			}
		}
	}
	for repository := range images {
		if _, looked := c.Tags[repository]; !looked {
			c.say("I6", "nobody has looked into %s", repository)
		}
	}
}

// manifests are those of its platforms, sorted.
func (r Release) manifests() []string {
	var all []string
	for _, d := range r.Platforms {
		all = append(all, d.Digest)
	}
	slices.Sort(all)
	return all
}

// images are those of the repositories that releases name.
func (c *checker) images() map[string]string {
	all := map[string]string{}
	for _, r := range c.Index.Releases {
		for _, repository := range r.Repositories {
			all[repository] = r.Image
		}
	}
	return all
}

// served checks one tag that a repository has.
func (c *checker) served(repository string, key tagKey, digest string, waiting map[string]bool) {
	t := c.tags[key]
	claim, holder := c.releases[t.Claim], c.releases[t.Holder]
	if t.Holder != "" && digest == holder.Root.Digest || t.Claim != "" && digest == claim.Root.Digest {
		return
	}
	if t.Holder != "" && c.explained(key, holder, digest) {
		return
	}
	if holder.Pushed && t.Claim == "" {
		c.say("I6", "%s:%s names %s, the index says %s of release %s, and no drift was told", repository, key.tag, digest, holder.Root.Digest, t.Holder)
		return
	}
	why := c.may(key, t, digest, waiting)
	switch {
	case why == "":
		return
	case why == never:
		c.say("I5", "%s:%s names %s, for which no release ever claimed it (claim %q, holder %q of %s)", repository, key.tag, digest, t.Claim, t.Holder, holder.Root.Digest)
	default:
		c.say("I6", "%s:%s names %s %s; claim %q of %q, holder %q of %q", repository, key.tag, digest, why, t.Claim, claim.Root.Digest, t.Holder, holder.Root.Digest)
	}
}

// explained reports whether a drift event says that the tag names what it does instead of the holder's root. What another CI
// pushed and nobody has read may name anything.
func (c *checker) explained(key tagKey, holder Release, found string) bool {
	if holder.Pushed && holder.Root.MediaType == "" {
		return true
	}
	return slices.ContainsFunc(c.Events, func(e Event) bool {
		d := e.Drift
		return e.What == "drift" && d.Image == key.image && d.Tag == key.tag && d.Wanted == holder.Root.Digest && d.Found == found
	})
}

const never = "never"

// may says why the tag should not name what neither its claim nor its holder has, "" if it may for a while: until it is
// settled, it can name what it was claimed for by a release that has lost the claim, or gave it back.
func (c *checker) may(key tagKey, t Tag, digest string, waiting map[string]bool) string {
	answer := never
	for _, r := range c.Index.Releases {
		if r.Image != key.image || r.Root.Digest != digest || !r.claimed(key.tag) {
			continue
		}
		_, held := r.took(key.tag)
		switch {
		case c.ended:
			answer = "of release " + r.ID + ", though nothing is left to do"
		case r.State == Admitted || t.Claim != "" && !(held && r.State == Published):
			return "" // who lost a claim settles what he lost, and so does whoever has it now
		case r.State == Abandoned && waiting[r.Request.ID]:
			return "" // its request comes again and settles back
		case answer == never:
			answer = "of release " + r.ID + ", which is " + r.State
		}
	}
	return answer
}

// claimed reports whether the release had the tag at some time.
func (r Release) claimed(tag string) bool {
	return slices.ContainsFunc(r.Tags, func(t ReleaseTag) bool {
		return t.Tag == tag && (t.Reason == "" || strings.HasPrefix(t.Reason, lost))
	})
}
