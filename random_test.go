package imgd_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/version"
)

// chance is a world whose effects fail at random, some after they took effect.
type chance struct {
	*world
	percent int // of the effects that fail

	dice   sync.Mutex // guards random
	random *rand.Rand
}

func (c *chance) roll(n int) int {
	c.dice.Lock()
	defer c.dice.Unlock()
	return c.random.IntN(n)
}

func (c *chance) maybe(do func() error) error {
	for range c.roll(4) {
		runtime.Gosched()
	}
	x := c.roll(100)
	if x < c.percent/2 {
		return errInjected
	}
	err := do()
	if err == nil && x < c.percent {
		return errInjected
	}
	return err
}

func (c *chance) Resolve(ctx context.Context, project, ref, id string) (out imgd.Commit, err error) {
	err = c.maybe(func() error { out, err = c.world.Resolve(ctx, project, ref, id); return err })
	return out, err
}

func (c *chance) Build(ctx context.Context, p imgd.Project, req imgd.Request) (out ocispec.Descriptor, err error) {
	err = c.maybe(func() error { out, err = c.world.Build(ctx, p, req); return err })
	return out, err
}

func (c *chance) Capture(ctx context.Context, repositories []string, root digest.Digest) (out ocispec.Descriptor, platforms []ocispec.Descriptor, err error) {
	err = c.maybe(func() error { out, platforms, err = c.world.Capture(ctx, repositories, root); return err })
	return out, platforms, err
}

// Tag is without the world's check: between two daemons the index may want
// another root by the time of the write.
func (c *chance) Tag(_ context.Context, repository, tag string, root ocispec.Descriptor) error {
	return c.maybe(func() error { return c.lateTag(repository, tag, root.Digest) })
}

func (c *chance) Admit(ctx context.Context, rel imgd.Release, known string) (out imgd.Release, err error) {
	err = c.maybe(func() error { out, err = c.index.Admit(ctx, rel, known); return err })
	return out, err
}

func (c *chance) Publish(ctx context.Context, id string) (out imgd.Release, err error) {
	err = c.maybe(func() error { out, err = c.index.Publish(ctx, id); return err })
	return out, err
}

func (c *chance) Forgo(ctx context.Context, id, tag, reason string) (out imgd.Release, err error) {
	err = c.maybe(func() error { out, err = c.index.Forgo(ctx, id, tag, reason); return err })
	return out, err
}

func (c *chance) Abandon(ctx context.Context, id, why string) (out imgd.Release, err error) {
	err = c.maybe(func() error { out, err = c.index.Abandon(ctx, id, why); return err })
	return out, err
}

func (c *chance) Ask(_ context.Context, req imgd.Request) error {
	return c.maybe(func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.asked = append(c.asked, req)
		return nil
	})
}

// A play is one random run: pushes, resets, lost roots, refusals, drops and
// deliveries in any order, by one or two daemons.
type play struct {
	*chance
	daemons []*imgd.Pipeline
	queue   []imgd.Request
	known   map[string]imgd.Request // all that was asked for, by ID
	clock   int
	pushed  int    // of main's commits, the newest
	head    string // last asked for
}

const commits = "abcdef"

func newPlay(t *testing.T, seed uint64, daemons int) *play {
	p := &play{chance: &chance{world: newWorld(t), random: rand.New(rand.NewPCG(seed, 7)), percent: 15}, known: map[string]imgd.Request{}}
	p.repos = []string{demoRepo, copyRepo}
	for i := 1; i < len(commits); i++ {
		p.past[commit(commits[i:i+1])] = commit(commits[i-1 : i])
	}
	for range daemons {
		pipeline := p.pipeline()
		pipeline.Git, pipeline.Builder, pipeline.Capturer, pipeline.Tagger, pipeline.Index, pipeline.Asker = p, p, reader{p, p.world}, p, p, p
		p.daemons = append(p.daemons, pipeline)
	}
	return p
}

// ask enqueues what ref names after a push.
func (p *play) ask(ref, letter string) {
	p.mu.Lock()
	p.refs[ref] = commit(letter)
	p.mu.Unlock()
	p.clock++
	req := request(ref, p.clock)
	req.Commit = commit(letter)
	req.ID = req.Hash()
	p.known[req.ID] = req
	p.queue = append(p.queue, req)
}

func (p *play) push() {
	if p.roll(2) == 0 {
		n := p.roll(4)
		p.ask(fmt.Sprintf("refs/tags/v1.0.%d", n), commits[n:n+1])
		return
	}
	at := min(p.pushed, len(commits)-1)
	if p.roll(3) == 0 {
		at = p.roll(len(commits)) // a force push
	}
	p.pushed++
	p.head = commits[at : at+1]
	p.ask(mainRef, p.head)
}

// lose takes a root that is not published out of the registry.
func (p *play) lose() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for root := range p.roots {
		if !slices.ContainsFunc(p.index.Published(0), func(rel imgd.Release) bool { return rel.Root.Digest == root }) {
			delete(p.roots, root)
			return
		}
	}
}

// refuse makes the registry refuse a tag that it has, or allow it again.
func (p *play) refuse() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if keys := slices.Sorted(maps.Keys(p.tags)); len(keys) > 0 {
		p.refuses[keys[p.roll(len(keys))]] = []int{0, 1, 2, -1}[p.roll(4)]
	}
}

// drop gives up what a request has admitted, if it has.
func (p *play) drop() {
	ids := slices.Sorted(maps.Keys(p.known))
	_, err := p.daemons[0].Drop(context.Background(), ids[p.roll(len(ids))], "dropped by ada")
	if err != nil && !errors.Is(err, imgd.ErrNotFound) && !errors.Is(err, imgd.ErrConflict) && !errors.Is(err, errInjected) {
		p.t.Error(err)
	}
}

// again asks for everything once more.
func (p *play) again() {
	for _, id := range slices.Sorted(maps.Keys(p.known)) {
		p.clock++
		req := p.known[id]
		req.AskedAt = request("", p.clock).AskedAt
		p.queue = append(p.queue, req)
	}
}

// round handles everything in the queue once, all at a time, but no request
// twice at once in one daemon.
func (p *play) round() {
	p.mu.Lock()
	for _, req := range p.asked {
		p.clock++
		req.AskedAt = request("", p.clock).AskedAt
		req.ID = req.Hash()
		p.queue = append(p.queue, req)
	}
	p.asked = nil
	p.mu.Unlock()
	var mu sync.Mutex
	var left []imgd.Request
	again := func(req imgd.Request) {
		mu.Lock()
		defer mu.Unlock()
		left = append(left, req)
	}
	var running sync.WaitGroup
	if p.percent > 0 && p.roll(4) == 0 {
		running.Go(p.drop)
	}
	taken := map[string]bool{}
	for i, req := range p.queue {
		key := fmt.Sprint(i%len(p.daemons), req.ID)
		if taken[key] {
			again(req)
			continue
		}
		taken[key] = true
		running.Go(func() {
			got := req
			if _, err := p.daemons[i%len(p.daemons)].Handle(context.Background(), &got, func(imgd.State) {}); err != nil && !isEnd(err) {
				again(req)
			}
		})
	}
	running.Wait()
	p.queue = left
}

// settle lets everything come to its end without faults.
func (p *play) settle() {
	p.t.Helper()
	p.percent = 0
	for n := 0; len(p.queue)+len(p.asked)+len(p.index.Open()) > 0; n++ {
		if n > 60 {
			p.t.Fatalf("%d requests and %d releases never end", len(p.queue), len(p.index.Open()))
		}
		p.round()
		p.sweep()
	}
	p.sweep() // what the last round has left
}

// sweep is that of each daemon. What it cannot do it does in the next.
func (p *play) sweep() {
	for _, daemon := range p.daemons {
		_ = daemon.DriveOpen(p.t.Context(), p.later(), 0)
	}
}

// However requests, faults, refusals, drops and daemons interleave: everything
// ends; and once nothing is refused any more and all is asked for again, every
// tag is at what it should, and the registry agrees.
func TestInterleavings(t *testing.T) {
	for _, daemons := range []int{1, 2} {
		for seed := range uint64(60) {
			t.Run(fmt.Sprintf("%d daemons/seed %d", daemons, seed), func(t *testing.T) {
				t.Parallel()
				p := newPlay(t, seed, daemons)
				v := p.watch()
				for range 8 {
					for range 1 + p.roll(3) {
						p.push()
					}
					if p.roll(3) == 0 {
						p.lose()
					}
					if p.roll(2) == 0 {
						p.refuse()
					}
					p.round()
					v.look()
				}
				p.settle()
				for key := range p.refused { // and what it kept then is still there
					p.refuses[key] = -1
				}
				p.check()
				clear(p.refuses)
				p.again()
				p.settle()
				v.look()
				for key := range p.refused { // the commit of a branch that left it is not asked for again
					if len(key[strings.LastIndex(key, ":")+1:]) == 12 {
						p.refuses[key] = -1
					}
				}
				p.check()
				p.checkNewest()
			})
		}
	}
}

// checkNewest holds that main is the head asked for last, and latest the
// highest version that is published.
func (p *play) checkNewest() {
	p.t.Helper()
	if main, _ := p.index.Wanted(demoImage, "main"); p.head != "" && main.Request.Commit != commit(p.head) {
		p.t.Errorf("main is %.6s, the head %s was asked for last", main.Request.Commit, p.head)
	}
	best := ""
	for _, rel := range p.index.Published(0) {
		if rel.Tags[0].Kind == version.KindVersion && (best == "" || version.Compare(rel.Request.Version, best) > 0) {
			best = rel.Request.Version
		}
	}
	if latest, _ := p.index.Wanted(demoImage, "latest"); latest.Request.Version != best {
		p.t.Errorf("latest is %q, the highest published is %q", latest.Request.Version, best)
	}
}
