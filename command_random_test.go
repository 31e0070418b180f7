package imgd_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/imgd/imgd"
)

// commands gives operators' commands at random beside everything else, some of
// them again, and remembers the last that was done to each tag.
type commands struct {
	*play
	mu    sync.Mutex
	given []imgd.Command
}

// next draws a command, or one that was given before.
func (c *commands) next() imgd.Command {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.given) > 0 && c.roll(3) == 0 {
		return c.given[c.roll(len(c.given))]
	}
	tags := []string{"latest", "main", "1.0", "v1.0.0", "v1.0.1", "v1.0.2", "stable"}
	name := []imgd.CommandName{imgd.CommandRollback, imgd.CommandTag, imgd.CommandUntag}[c.roll(3)]
	cmd := order(name, len(c.given)+1, tags[c.roll(len(tags))])
	if cmd.Force = c.roll(2) == 0; name == imgd.CommandTag {
		cmd.NewTags = []string{tags[c.roll(len(tags))], tags[c.roll(len(tags))]}
	}
	c.given = append(c.given, cmd)
	return cmd
}

func (c *commands) give(daemon *imgd.Pipeline) {
	cmd := c.next()
	rel, _, err := daemon.Command(context.Background(), cmd)
	if err != nil && !isEnd(err) && !errors.Is(err, imgd.ErrNotFound) && !errors.Is(err, errInjected) && rel.State != imgd.ReleaseAdmitted {
		c.t.Errorf("%s %s: %v", cmd.Name, cmd.Tag, err)
	}
	if n := c.releases(cmd.ID); n > 1 {
		c.t.Errorf("command %s made %d releases", cmd.ID, n)
	}
}

// releases is how many the request has made.
func (c *commands) releases(request string) (n int) {
	for {
		if _, ok := c.index.Release(fmt.Sprint(request, "-", n+1)); !ok {
			return n
		}
		n++
	}
}

// generations holds that no generation of a tag is used for two roots.
func (c *commands) generations() {
	roots := map[string]string{}
	for _, rel := range c.index.Published(0) {
		for _, t := range rel.Taken() {
			key := fmt.Sprint(t.Name, " ", t.Generation)
			if was := roots[key]; was != "" && rel.Root.Digest != "" && was != rel.Root.Digest.String() {
				c.t.Errorf("generation %s is used for %s and %s", key, was, rel.Root.Digest)
			}
			roots[key] = cmp.Or(rel.Root.Digest.String(), "removed")
		}
	}
}

// However commands, requests, faults, refusals and daemons interleave: everything
// ends, and the registry agrees with the index, also about what was removed.
func TestCommandInterleavings(t *testing.T) {
	for _, daemons := range []int{1, 2} {
		for seed := range uint64(40) {
			t.Run(fmt.Sprintf("%d daemons/seed %d", daemons, seed), func(t *testing.T) {
				t.Parallel()
				c := &commands{play: newPlay(t, seed, daemons)}
				v := c.watch()
				for range 8 {
					c.push()
					if c.roll(3) == 0 {
						c.refuse()
					}
					var running sync.WaitGroup
					for _, daemon := range c.daemons {
						running.Go(func() { c.give(daemon) })
					}
					c.round()
					running.Wait()
					v.look()
				}
				clear(c.refuses)
				c.settle()
				v.look()
				for key := range c.refused { // what it kept then is still there
					c.refuses[key] = -1
				}
				c.check()
				c.generations()
			})
		}
	}
}
