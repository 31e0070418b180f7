package embedded_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

var (
	graphs    = flag.Uint64("graphs", 3, "registries that TestRandomGraphs makes")
	firstSeed = flag.Uint64("seed", rand.Uint64(), "seed of the first of them; each other's is one more")
)

// A node is a manifest or an image index that somebody has pushed.
type node struct {
	digest, mediaType, text string
	blobs, manifests        []string // that it names
}

// A graph is a registry with images that share layers, image indexes that share
// images and lie in each other, and referrers of any of these, in two repositories;
// and the model of it: what was pushed, what tags name, and what stays.
type graph struct {
	*shelf
	random *rand.Rand
	named  []string // as the index of imgd does: records, claims, holds
	used   []string // since all that there is was made old

	mu     sync.Mutex                 // guards what follows, while others push
	nodes  map[string]node            // by digest; those that are gone too
	places map[string]map[string]bool // repository -> digests that were pushed there
	tags   map[string]string          // repository:tag -> digest
}

func newGraph(t *testing.T, seed uint64) *graph {
	return &graph{shelf: newShelf(t), random: rand.New(rand.NewPCG(seed, 21)), nodes: map[string]node{}, places: map[string]map[string]bool{"demo/a": {}, "demo/b": {}}, tags: map[string]string{}}
}

// send is one request of a client.
func (g *graph) send(method, url, mediaType, body string) (status int, location string, err error) {
	ctx, cancel := context.WithTimeout(g.t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Content-Type", mediaType)
	req.Header.Set("Accept", manifestType+", "+indexType)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, resp.Header.Get("Location"), err
}

// push puts the node under the tag, or by its digest, as a client does: what is
// there is not pushed again. What it was told is there must be there then.
func (g *graph) push(repository, tag string, n node) error {
	base := g.base(repository)
	for _, blob := range n.blobs {
		text := contents(blob)
		if status, _, err := g.send("HEAD", base+"/blobs/"+digestOf([]byte(text)), "", ""); err != nil || status == http.StatusOK {
			if err != nil {
				return err
			}
			continue
		}
		_, location, err := g.send("POST", base+"/blobs/uploads/", "", "")
		if err != nil {
			return err
		}
		if status, _, err := g.send("PUT", location+"&digest="+digestOf([]byte(text)), "application/octet-stream", text); err != nil || status != http.StatusCreated {
			return fmt.Errorf("push blob %s to %s: %d, %w", blob, repository, status, err)
		}
	}
	reference := tag
	if tag == "" {
		reference = n.digest
	}
	if status, _, err := g.send("PUT", base+"/manifests/"+reference, n.mediaType, n.text); err != nil || status != http.StatusCreated {
		return fmt.Errorf("push %s as %s:%s: %d, %w", n.digest, repository, reference, status, err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.nodes[n.digest], g.places[repository][n.digest] = n, true
	if tag != "" {
		g.tags[repository+":"+tag] = n.digest
	}
	return nil
}

// contents is a blob, by its name.
func contents(blob string) string { return strings.Repeat(blob+" ", 40) }

// image names some of a few layers.
func image(random *rand.Rand) node {
	n := node{mediaType: manifestType, blobs: []string{fmt.Sprint(`{"config":`, random.IntN(9), "}")}}
	var layers []string
	for range 1 + random.IntN(3) {
		blob := fmt.Sprint("layer", random.IntN(12))
		n.blobs = append(n.blobs, blob)
		layers = append(layers, fmt.Sprintf(`{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":%q,"size":1}`, digestOf([]byte(contents(blob)))))
	}
	n.text = fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":1},"layers":[%s]}`,
		manifestType, digestOf([]byte(contents(n.blobs[0]))), strings.Join(layers, ","))
	n.digest = digestOf([]byte(n.text))
	return n
}

// list is an image index of the manifests.
func list(manifests ...node) node {
	n := node{mediaType: indexType}
	var all []string
	for _, m := range manifests {
		n.manifests = append(n.manifests, m.digest)
		all = append(all, fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":1}`, m.mediaType, m.digest))
	}
	n.text = fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[%s]}`, indexType, strings.Join(all, ","))
	n.digest = digestOf([]byte(n.text))
	return n
}

// live is the model, in the words of docs/operations.md and decision 0021: what a
// tag names stays, what is named without one, and what was used, with all that it
// consists of; and so does what refers to something that stays.
func (g *graph) live() map[string]bool {
	live := map[string]bool{}
	var keep func(d string)
	keep = func(d string) {
		if there := g.places["demo/a"][d] || g.places["demo/b"][d]; there && !live[d] {
			live[d] = true
			for _, m := range g.nodes[d].manifests {
				keep(m)
			}
		}
	}
	for _, d := range slices.Concat(g.named, g.used) {
		keep(d)
	}
	referring := map[string]string{}
	for name, d := range g.tags {
		if _, subject, ok := strings.Cut(name, ":sha256-"); ok {
			referring[name] = "sha256:" + subject
		} else {
			keep(d)
		}
	}
	for range len(referring) { // each round finds at least one, or none is left
		for name, subject := range referring {
			if live[subject] || slices.Contains(g.named, subject) {
				keep(g.tags[name])
			}
		}
	}
	return live
}

// present are the nodes that stay in the repository, in a fixed order.
func (g *graph) present(repository string) (nodes []node) {
	live := g.live()
	for _, d := range slices.Sorted(maps.Keys(g.places[repository])) {
		if live[d] {
			nodes = append(nodes, g.nodes[d])
		}
	}
	return nodes
}

// change pushes, tags, untags and signs at random.
func (g *graph) change() error {
	repository := []string{"demo/a", "demo/b"}[g.random.IntN(2)]
	tag := ""
	if g.random.IntN(3) > 0 {
		tag = fmt.Sprint("t", g.random.IntN(6))
	}
	there := g.present(repository)
	some := func() node { return there[g.random.IntN(len(there))] }
	switch roll := g.random.IntN(10); {
	case roll < 4 || len(there) == 0:
		return g.push(repository, tag, image(g.random))
	case roll < 6:
		return g.push(repository, tag, list(some(), some()))
	case roll < 8: // a signature of anything, which may be a signature
		m := image(g.random)
		return errors.Join(g.push(repository, "", m), g.push(repository, referrers(some().digest), list(m)))
	case roll == 8:
		return g.push(repository, tag, some())
	}
	names := slices.Sorted(maps.Keys(g.tags))
	names = slices.DeleteFunc(names, func(name string) bool { return strings.Contains(name, ":sha256-") })
	if len(names) == 0 {
		return nil
	}
	name := names[g.random.IntN(len(names))]
	repository, tag, _ = strings.Cut(name, ":")
	g.untag(repository, tag)
	delete(g.tags, name)
	return nil
}

// grow has all be old, but for a few that are read, and others named.
func (g *graph) grow() {
	g.age()
	g.named, g.used = nil, nil
	for _, d := range slices.Sorted(maps.Keys(g.nodes)) { // what is gone may be named too
		if g.random.IntN(8) == 0 {
			g.named = append(g.named, d)
		}
	}
	for _, repository := range []string{"demo/a", "demo/b"} {
		for _, n := range g.present(repository) {
			if g.random.IntN(8) == 0 {
				g.do("GET", g.base(repository)+"/manifests/"+n.digest, "", "", http.StatusOK)
				g.used = append(g.used, n.digest)
			}
		}
	}
}

// publish pushes as others do while a collection runs: new images of layers that
// are there or just go, and images that are there still and get a tag again.
func (g *graph) publish(ctx context.Context, random *rand.Rand, back []node) error {
	for ctx.Err() == nil {
		repository, tag := []string{"demo/a", "demo/b"}[random.IntN(2)], fmt.Sprint("new", random.IntN(5))
		n := image(random)
		if len(back) > 0 && random.IntN(2) == 0 {
			n = back[random.IntN(len(back))]
			if status, _, err := g.send("GET", g.base(repository)+"/manifests/"+n.digest, "", ""); err != nil || status != http.StatusOK {
				continue // it has gone, as it may
			}
		}
		if err := g.push(repository, tag, n); err != nil {
			return err
		}
	}
	return nil
}

// collectBeside collects while others push.
func (g *graph) collectBeside() {
	var dead []node
	live := g.live()
	for _, d := range slices.Sorted(maps.Keys(g.nodes)) {
		if n := g.nodes[d]; !live[d] && len(n.manifests) == 0 {
			dead = append(dead, n)
		}
	}
	ctx, stop := context.WithCancel(g.t.Context())
	var others sync.WaitGroup
	random := rand.New(rand.NewPCG(g.random.Uint64(), 1))
	others.Go(func() {
		if err := g.publish(ctx, random, dead); err != nil {
			g.t.Error(err)
		}
	})
	for range 3 {
		if _, err := g.Collect(g.t.Context(), keeping(g.named...)); err != nil {
			g.t.Error(err)
		}
	}
	stop()
	others.Wait()
}

// agree holds that all is there that stays, whole, and nothing else if exactly.
func (g *graph) agree(exactly bool) {
	g.t.Helper()
	live, blobs := g.live(), map[string]bool{}
	for repository, digests := range g.places {
		for d := range digests {
			status, text := g.ask("GET", g.base(repository)+"/manifests/"+d, "", "")
			if live[d] && (status != http.StatusOK || digestOf(text) != d) || exactly && !live[d] && status != http.StatusNotFound {
				g.t.Errorf("%s@%s: %d; it stays: %t%s", repository, d, status, live[d], g.about(d))
			}
			if status == http.StatusNotFound && !live[d] {
				delete(digests, d)
			}
			for _, blob := range g.nodes[d].blobs {
				if status, text := g.ask("GET", g.base(repository)+"/blobs/"+digestOf([]byte(contents(blob))), "", ""); live[d] && (status != http.StatusOK || string(text) != contents(blob)) {
					g.t.Errorf("%s of %s@%s, which stays: %d", blob, repository, d, status)
				}
			}
		}
	}
	for name, d := range g.tags {
		repository, tag, _ := strings.Cut(name, ":")
		status, _ := g.ask("GET", g.base(repository)+"/manifests/"+tag, "", "")
		if live[d] != (status == http.StatusOK) && (live[d] || exactly) {
			g.t.Errorf("tag %s: %d; %s stays: %t", name, status, d, live[d])
		}
		if status == http.StatusNotFound && !live[d] {
			delete(g.tags, name) // a signature's
		}
	}
	for d := range live {
		blobs[d] = true
		for _, blob := range g.nodes[d].blobs {
			blobs[digestOf([]byte(contents(blob)))] = true
		}
	}
	if got := g.blobs(); exactly && !maps.Equal(got, blobs) {
		g.t.Errorf("%d blobs are there, want %d", len(got), len(blobs))
	}
}

// about is what the model knows of it.
func (g *graph) about(d string) (all string) {
	for name, names := range g.tags {
		if names == d {
			all += ", tagged " + name
		}
	}
	for other, n := range g.nodes {
		if slices.Contains(n.manifests, d) {
			all += ", in " + other
		}
	}
	return all + fmt.Sprintf(", named: %t, used: %t", slices.Contains(g.named, d), slices.Contains(g.used, d))
}

// blobs are those on the disk.
func (g *graph) blobs() map[string]bool {
	g.t.Helper()
	all := map[string]bool{}
	err := filepath.WalkDir(filepath.Join(g.dir, "docker/registry/v2/blobs"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Name() == "data" {
			all["sha256:"+filepath.Base(filepath.Dir(path))] = true
		}
		return err
	})
	if err != nil {
		g.t.Fatal(err)
	}
	return all
}

// TestRandomGraphs: whatever refers to whatever, a collection leaves what the model
// says, and nothing else, also if others push, and tag again, what just goes. -graphs
// and -seed are for the soak.
func TestRandomGraphs(t *testing.T) {
	for i := range *graphs {
		seed := *firstSeed + i
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			g := newGraph(t, seed)
			for round := range 4 {
				for range 12 {
					if err := g.change(); err != nil {
						t.Fatal(err)
					}
				}
				if g.grow(); round%2 == 1 {
					g.collectBeside()
					g.agree(false)
					g.grow()
				}
				if _, err := g.Collect(within(t), keeping(g.named...)); err != nil {
					t.Fatal(err)
				}
				g.agree(true)
				g.used = slices.Collect(maps.Keys(g.live())) // it was read just now
			}
		})
	}
}
