package main

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"unicode"

	"github.com/opencontainers/go-digest"

	"github.com/imgd/imgd"
	names "github.com/imgd/imgd/version"
)

// rules are the retention as the clean-up reads it.
func (c RetentionConfig) rules() imgd.Retention {
	r := imgd.Retention{Never: c.Never}
	for _, rule := range c.Rules {
		one := imgd.RetentionRule{Tags: rule.Tags, Keep: rule.Keep, TTL: rule.TTL, KeepLast: rule.KeepLast}
		for _, kind := range rule.Kinds {
			one.Kinds = append(one.Kinds, names.Kind(kind))
		}
		r.Rules = append(r.Rules, one)
	}
	return r
}

// holds are the reasons of what is held, by digest.
func (c Config) holds() map[digest.Digest]string {
	reasons := map[digest.Digest]string{}
	for _, hold := range c.Holds {
		reasons[digest.Digest(hold.Digest)] = hold.Reason
	}
	return reasons
}

// validateHolds checks what is held. A digest that is mistyped would hold nothing.
func (c *config) validateHolds() {
	first := map[string]int{}
	for i, hold := range c.Holds {
		key := fmt.Sprintf("holds[%d]", i)
		d := digest.Digest(hold.Digest)
		c.bad(d.Validate() == nil && d.Algorithm() == digest.SHA256, key+".digest", "%q: want sha256: and 64 hex digits, as imgctl get IMAGE:TAG -o json has it", hold.Digest)
		c.bad(strings.TrimSpace(hold.Reason) != "", key+".reason", "is missing: whoever wonders that a tag stays gets to see it")
		c.bad(!strings.ContainsFunc(hold.Reason, unicode.IsControl), key+".reason", "%q: want one line", hold.Reason)
		other, twice := first[hold.Digest]
		c.bad(!twice, key+".digest", "stands in holds[%d] already", other)
		first[hold.Digest] = i
	}
}

// validateRetention checks which tags go by themselves. A rule that nothing stays
// by is a mistake that would be seen too late.
func (c *config) validateRetention(r RetentionConfig, at string) {
	globs := func(key string, all []string) {
		for i, glob := range all {
			_, err := path.Match(glob, "")
			c.bad(err == nil && glob != "", fmt.Sprintf("%s[%d]", key, i), "glob %q: want a pattern of whole tags, as v* or pr-[0-9]*", glob)
		}
	}
	globs(at+".never", r.Never)
	for i, rule := range r.Rules {
		key := fmt.Sprintf("%s.rules[%d]", at, i)
		globs(key+".tags", rule.Tags)
		globs(key+".keep", rule.Keep)
		for j, kind := range rule.Kinds {
			known := []names.Kind{names.KindVersion, names.KindCommit, names.KindSeries, names.KindBranch, names.KindOther}
			c.bad(slices.Contains(known, names.Kind(kind)), fmt.Sprintf("%s.kinds[%d]", key, j), "%q is none of %q", kind, known)
		}
		c.bad(rule.TTL >= 0, key+".ttl", "must not be negative")
		c.bad(rule.KeepLast >= 0, key+".keepLast", "must not be negative")
		c.bad(rule.TTL != 0 || rule.KeepLast != 0, key, "needs ttl, keepLast or both: what stays? To keep what it names for ever put that into never")
	}
}
