package integration_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/imgd/imgd/integration/check"
	"github.com/imgd/imgd/integration/kit"
)

// A keep is a store with random images, tags that go in all the ways in which tags go, and others that publish while imgd
// cleans up and collects.
type keep struct {
	*store
	random *rand.Rand

	mu        sync.Mutex          // guards what follows
	artifacts map[string]artifact // all that was pushed, by digest
	signed    map[string]artifact // subject -> signature
}

// keepLast is how many of n-* stay.
const keepLast = 2

func newKeep(t *testing.T, seed uint64) *keep {
	t.Helper()
	k := &keep{random: rand.New(rand.NewPCG(seed, 5)), artifacts: map[string]artifact{}, signed: map[string]artifact{}}
	k.store = newStore(t, seed, func(c *kit.Config) {
		c.Projects[0].Retention = &kit.Retention{Never: []string{"n-never*"}, Rules: []kit.RetentionRule{{Tags: []string{"n-*"}, KeepLast: keepLast}}}
	})
	return k
}

// artifact is an image, or an index of two of which one may be another's too.
func (k *keep) artifact() artifact {
	k.Helper()
	a := k.anImage("amd64")
	if k.random.IntN(2) == 0 {
		return k.pushed(a)
	}
	other := k.anImage("arm64")
	for _, d := range slices.Sorted(maps.Keys(k.artifacts)) {
		if past := k.artifacts[d]; past.index != nil && k.random.IntN(3) == 0 {
			other = past.parts[1]
		}
	}
	return k.pushed(k.anIndex(a, other))
}

// pushed notes what is pushed.
func (k *keep) pushed(a artifact) artifact {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, part := range append(a.parts, a) {
		k.artifacts[part.digest()] = part
	}
	return a
}

// publishOne publishes something new under a tag of one of the kinds: for a second, for a day, one of the last, never to go.
func (k *keep) publishOne(a artifact, n int) error {
	switch n % 4 {
	case 0:
		return k.publish(a, fmt.Sprint("short-", n%12), "--moving", "--ttl", "1s")
	case 1:
		return k.publish(a, fmt.Sprint("long-", n%12), "--moving", "--ttl", "24h")
	case 2:
		return k.publish(a, fmt.Sprint("n-", n%24), "--moving")
	}
	return k.publish(a, fmt.Sprint("n-never-", n%8), "--moving")
}

// going is the model, in the words of docs/retention.md: which tags go once every time is over, by what images.json says.
func (k *keep) going(now time.Time) []string {
	k.Helper()
	index, err := check.ReadIndex(k.daemon.Data())
	k.must(err)
	var all []check.Tag
	last := func(t check.Tag) check.Release { return index.Release(t.Holder) }
	for _, t := range index.Tags {
		if last(t).Root.Digest != "" {
			all = append(all, t)
		}
	}
	slices.SortFunc(all, func(a, b check.Tag) int { return int(last(b).Seq) - int(last(a).Seq) }) // the last published first
	var going []string
	kept := 0
	for _, t := range all {
		rel := last(t)
		ruled, _ := path.Match("n-*", t.Tag)
		never, _ := path.Match("n-never*", t.Tag)
		over := !rel.ExpiresAt.IsZero() && !rel.ExpiresAt.After(now)
		switch {
		case never, k.isHeld(rel), !ruled && !over:
		case over:
			going = append(going, t.Tag)
		default:
			if kept++; kept > keepLast {
				going = append(going, t.Tag)
			}
		}
	}
	slices.Sort(going)
	return going
}

func (k *keep) isHeld(rel check.Release) bool {
	return slices.ContainsFunc(k.config.Holds, func(h kit.HoldConfig) bool {
		return h.Digest == rel.Root.Digest || slices.ContainsFunc(rel.Platforms, func(d check.Descriptor) bool { return d.Digest == h.Digest })
	})
}

// stays are the digests that the registry needs: of the records, of what their tags named before, and of what is held, with
// all that it consists of and what refers to that.
func (k *keep) stays() map[string]bool {
	k.Helper()
	images, err := kit.ReadImages(k.daemon.Data())
	k.must(err)
	stays := map[string]bool{}
	var add func(d string)
	add = func(d string) {
		if d == "" || stays[d] {
			return
		}
		stays[d] = true
		for _, part := range k.artifacts[d].parts {
			add(part.digest())
		}
		if signature, ok := k.signed[d]; ok {
			add(signature.digest())
		}
	}
	for _, r := range images.Records {
		add(r.Digest)
		add(r.IndexDigest)
		add(r.Previous)
	}
	for _, hold := range k.config.Holds {
		add(hold.Digest)
	}
	return stays
}

// mustKeep holds that all that stays is whole, and with exactly that nothing else is there.
func (k *keep) mustKeep(exactly bool) {
	k.Helper()
	stays := k.stays()
	for _, d := range slices.Sorted(maps.Keys(k.artifacts)) {
		a := k.artifacts[d]
		switch {
		case stays[d]:
			k.mustServe(a)
		case exactly && !k.gone(d):
			k.Errorf("%s, which nothing needs, is there still", d)
		default:
			k.mustBeFromAbove(a)
		}
	}
}

// beside has others publish, while imgd cleans up and collects again and again.
func (k *keep) beside(publishes int) {
	k.Helper()
	var work []artifact
	for range publishes {
		work = append(work, k.artifact())
	}
	var others sync.WaitGroup
	for who := range 2 {
		others.Go(func() {
			for n := who; n < publishes; n += 2 {
				if err := k.publishOne(work[n], n); err != nil {
					k.Error(err)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { others.Wait(); close(done) }()
	for busy := true; busy; {
		k.imgctl("expire", "--yes")
		k.imgctl("usage", "--collect")
		select {
		case <-done:
			busy = false
		default:
		}
	}
}

// killed is imgd's end at any moment of a clean-up and a collection, and its next start.
func (k *keep) killed() {
	k.Helper()
	k.age()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = k.daemon.Imgctl(k.Context(), "expire", "--yes") // imgd dies meanwhile, or a little later
		_, _ = k.daemon.Imgctl(k.Context(), "usage", "--collect")
	}()
	select {
	case <-ended:
	case <-time.After(time.Duration(k.random.IntN(200)) * time.Millisecond):
	}
	k.daemon.Kill9()
	<-ended
	k.again()
	k.mustEnd()
	k.mustKeep(false)
}

// freeze holds some of what is there, roots, platforms and signatures.
func (k *keep) freeze() {
	k.Helper()
	k.config.Holds = nil
	all := slices.Sorted(maps.Keys(k.stays()))
	for range 2 {
		d := all[k.random.IntN(len(all))]
		if !slices.ContainsFunc(k.config.Holds, func(h kit.HoldConfig) bool { return h.Digest == d }) {
			k.config.Holds = append(k.config.Holds, kit.HoldConfig{Digest: d, Reason: "a test"})
		}
	}
	k.reload()
}

// signSome signs some of what stays, signatures too.
func (k *keep) signSome() {
	k.Helper()
	for _, d := range slices.Sorted(maps.Keys(k.stays())) {
		if _, already := k.signed[d]; !already && k.random.IntN(4) == 0 {
			k.signed[d] = k.pushed(k.sign(d))
		}
	}
}

// cleanUp has everything go whose time is over, by the model and by imgd, and compares.
func (k *keep) cleanUp() {
	k.Helper()
	var want []string
	k.must(kit.Wait(k.Context(), func(ctx context.Context) error { // a second has passed for what lasts so long
		want = k.going(time.Now().Add(time.Hour))
		if now := k.going(time.Now()); !slices.Equal(now, want) {
			return fmt.Errorf("%q are to go, and %q as yet", want, now)
		}
		return nil
	}))
	before := k.tags()
	k.imgctl("expire", "--yes")
	after := k.tags()
	var gone []string
	for tag := range before {
		if after[tag] == "" {
			gone = append(gone, tag)
		}
	}
	slices.Sort(gone)
	if !slices.Equal(gone, want) {
		k.Errorf("%q are gone, want %q", gone, want)
	}
	served := k.mustEnd().Tags[k.daemon.Registry+"/"+image]
	for tag := range served {
		if after[tag] == "" && !strings.HasPrefix(tag, "sha256-") {
			k.Errorf("the registry has %s still", tag)
		}
	}
}

// mustHaveNoHalves holds that each tag which the registry lists names something: no kill has cut one in two for ever.
func (k *keep) mustHaveNoHalves() {
	k.Helper()
	tags, err := filepath.Glob(filepath.Join(k.registry(), "docker/registry/v2/repositories", image, "_manifests/tags/*"))
	k.must(err)
	for _, tag := range tags {
		if _, err := os.Stat(filepath.Join(tag, "current/link")); err != nil {
			k.Errorf("a tag is listed that names nothing: %v", err)
		}
	}
}

// run is one life of a keep.
func (k *keep) run(rounds int) {
	k.Helper()
	for range rounds {
		k.beside(8)
		k.signSome()
		k.killed()
		k.freeze()
		k.cleanUp()
		k.mustKeep(false)
		k.age()
		k.imgctl("usage", "--collect")
		k.mustKeep(true)
		k.mustHaveNoHalves()
		k.pullAll()
		maps.DeleteFunc(k.artifacts, func(d string, _ artifact) bool { return k.gone(d) })
	}
}

// Whatever is published, signed, held, cleaned up and collected at the same time, and whenever imgd is killed: the tags go that the model says, what is
// needed is whole, what is not is gone, and all invariants hold.
func TestRandomKeep(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed) // of what is made; the order of what is done beside it is its own
	newKeep(t, seed).run(2)
}
