package imgd_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/version"
)

// cleaner is the clean-up of a daemon, by rules that have nearly all go.
func (c *commands) cleaner(daemon *imgd.Pipeline) *imgd.Expirer {
	hello, _ := daemon.Projects.Get("hello")
	hello.Retention = imgd.Retention{Never: []string{"v1.0.1", "stable"}, Rules: []imgd.RetentionRule{
		{Kinds: []version.Kind{version.KindVersion, version.KindCommit}, TTL: time.Hour, KeepLast: 1},
		{Kinds: []version.Kind{version.KindBranch, version.KindSeries}, Keep: []string{"1"}, TTL: time.Hour},
	}}
	p := configured(map[string]imgd.Project{"hello": hello})
	daemon.Projects.Set(map[string]imgd.Project{"hello": p.All()[0]})
	return &imgd.Expirer{Pipeline: daemon, Index: c.index, Share: func() int { return 100 }}
}

// freeze holds one of the roots that tags name, in all daemons, and answers it, with
// the releases that there are: what those remove was decided before.
func (c *commands) freeze() (root digest.Digest, before map[string]imgd.ReleaseState) {
	tagged := c.index.Holds(demoImage)
	if len(tagged) == 0 {
		return "", nil
	}
	root, before = tagged[c.roll(len(tagged))].Release.Root.Digest, map[string]imgd.ReleaseState{}
	for _, rel := range append(c.index.Open(), c.index.Published(0)...) {
		before[rel.ID] = rel.State
	}
	for _, daemon := range c.daemons {
		daemon.AuditHolds = held(root)
	}
	return root, before
}

// frozen holds that no tag was taken from the root since: by no clean-up, and by no
// untag but of a release that took the tag in the very moment.
func (c *commands) frozen(root digest.Digest, before map[string]imgd.ReleaseState) {
	for _, rel := range c.index.Published(0) {
		removed, _ := c.index.Release(rel.Removes) // also of what removes again what is removed
		meant := rel.Command == imgd.CommandExpire || before[removed.ID] == imgd.ReleasePublished
		if root != "" && rel.Removes != "" && rel.Taken()[0].Previous == root && before[rel.ID] == "" && meant {
			c.t.Errorf("%s has taken %s from %s, which is held", rel.ID, rel.Taken()[0].Name, root)
		}
	}
}

// expired holds what the clean-up has removed: nothing that never goes, and what a
// release of its own was taken from, once.
func (c *commands) expired() (n int) {
	taken := map[string]string{}
	for _, rel := range c.index.Published(0) {
		if rel.Command != imgd.CommandExpire {
			continue
		}
		n++
		tag := rel.Taken()[0].Name
		if tag == "v1.0.1" || tag == "stable" || tag == "1" {
			c.t.Errorf("%s, which never goes, was removed by %s", tag, rel.ID)
		}
		if other := taken[tag+rel.Removes]; other != "" {
			c.t.Errorf("%s was taken from %s by %s and %s", tag, rel.Removes, other, rel.ID)
		}
		taken[tag+rel.Removes] = rel.ID
	}
	return n
}

// However clean-ups of two daemons, commands, requests, faults and refusals
// interleave: everything ends, the registry agrees with the index, and what is to
// go is gone in the end.
func TestExpireInterleavings(t *testing.T) {
	removed := make([]int, 30)
	t.Run("runs", func(t *testing.T) {
		for seed := range removed {
			t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
				t.Parallel()
				c := &commands{play: newPlay(t, uint64(seed), 2)}
				v := c.watch()
				var cleaners []*imgd.Expirer
				for _, daemon := range c.daemons {
					cleaners = append(cleaners, c.cleaner(daemon))
				}
				var root digest.Digest
				var before map[string]imgd.ReleaseState
				for n := range 8 {
					if n == 2 {
						root, before = c.freeze()
					}
					c.push()
					if c.roll(4) == 0 {
						c.refuse()
					}
					var running sync.WaitGroup
					for i, daemon := range c.daemons {
						running.Go(func() { c.give(daemon) })
						running.Go(func() {
							if _, err := cleaners[i].Expire(t.Context(), imgd.Expire{By: "imgd"}); err != nil {
								t.Error(err)
							}
						})
					}
					c.round()
					running.Wait()
					v.look()
				}
				c.frozen(root, before)
				clear(c.refuses)
				c.settle()
				v.look()
				if _, err := cleaners[0].Expire(t.Context(), imgd.Expire{By: "imgd"}); err != nil {
					t.Error(err)
				}
				done, err := cleaners[1].Expire(t.Context(), imgd.Expire{DryRun: true})
				if refused := done.Count(imgd.ExpireRefused); err != nil || len(done.Items) > refused {
					t.Errorf("in the end something is to go still: %s, %v", states(done), err)
				}
				for key := range c.refused { // and what it kept then is still there
					c.refuses[key] = -1
				}
				c.check()
				c.generations()
				c.frozen(root, before)
				removed[seed] = c.expired()
			})
		}
	})
	all := 0
	for _, n := range removed {
		all += n
	}
	if all < len(removed) {
		t.Errorf("only %d tags have expired in %d runs", all, len(removed))
	}
}
