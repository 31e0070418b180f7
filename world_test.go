package imgd_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/index"
)

const (
	demoImage = "demo/hello"
	demoRepo  = "registry.test/demo/hello"
	copyRepo  = "registry.test/demo/copy"
)

var epoch = time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)

var errInjected = errors.New("injected fault")

// A fault befalls the effects of one name, while there are any left.
type fault struct {
	effect string // resolve, touched, build, capture, read, admit, tag, untag, publish, forgo, abandon, ask, drift
	mode   string // see world.effect
	left   int
}

// A world is everything outside the pipeline: git, BuildKit, the registry and
// the queue in memory, and a real index in a directory. It fails the test when
// the pipeline breaks the order of effects.
type world struct {
	t       *testing.T
	dir     string
	index   *index.Index
	repos   []string           // of the project
	die     context.CancelFunc // ends the process that runs
	fault   fault
	effects []string // all, in order

	unobserved bool     // the pipeline has no Observer
	observed   []string // what the Observer was told: stages that have ended, and how

	mu           sync.Mutex
	stage        imgd.State        // last reported, while deliver runs
	refs         map[string]string // full ref -> commit
	past         map[string]string // commit -> parent
	said         string            // what git describe says
	paths        []string          // that the project watches
	watched      map[string]string // commit -> what is under those paths
	reproducible bool              // every build makes the same
	peeks        bool              // commits are at hand: builds of tags run ahead
	made         int               // builds so far: each makes another digest
	roots        map[digest.Digest]bool
	tags         map[string]digest.Digest // of the registry, see at
	refuses      map[string]int           // writes of those tags that the registry refuses yet, negative for ever
	refused      map[string]bool          // by the registry, once at least
	written      map[string]bool          // tags that something was put under, ever
	asked        []imgd.Request
	lists        map[digest.Digest][]ocispec.Descriptor // roots that are of several platforms
	drifts       []imgd.Drift                           // as they were told
	seconds      int                                    // of the clock that recorder has
	hours        int                                    // that later has let pass
	holds        *imgd.AuditHolds
}

// at is where a tag stands in tags: by its name in demoRepo, else with its
// repository.
func at(repository, tag string) string {
	if repository == demoRepo {
		return tag
	}
	return repository + ":" + tag
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, dir: t.TempDir(), refs: map[string]string{}, past: map[string]string{}, repos: []string{demoRepo},
		roots: map[digest.Digest]bool{}, tags: map[string]digest.Digest{}, die: func() {},
		refuses: map[string]int{}, refused: map[string]bool{}, written: map[string]bool{}}
	w.open()
	t.Cleanup(func() { w.index.Close() })
	return w
}

// open starts a process over what the disk has.
func (w *world) open() {
	w.t.Helper()
	x, err := index.Open(index.Config{Dir: w.dir, History: w, Registry: foreign{w}, Writer: "test", Now: func() time.Time { return epoch }})
	if err != nil {
		w.t.Fatal(err)
	}
	w.index = x
}

func (w *world) pipeline() *imgd.Pipeline {
	project := imgd.Project{Name: "hello", Git: "https://git.test/hello.git", Image: demoImage,
		Repositories: w.repos, Refs: []string{"refs/heads/*", "refs/tags/*"}, Paths: w.paths}
	p := &imgd.Pipeline{Projects: configured(map[string]imgd.Project{"hello": project}),
		Git: w, Builder: w, Capturer: reader{w, w}, Tagger: w, Index: w, Lookup: w.index, Asker: w, Drifts: w, Observe: w.observe(), AuditHolds: w.holds}
	if w.peeks {
		p.Peeker = w
	}
	return p
}

// Peek has every commit at hand.
func (w *world) Peek(_ context.Context, _, commit string) (imgd.Commit, bool) {
	return imgd.Commit{ID: commit, Time: epoch}, true
}

type captures interface {
	Capture(context.Context, []string, digest.Digest) (ocispec.Descriptor, []ocispec.Descriptor, error)
}

// A reader is the registry as the pipeline reads it: its tags are the world's.
type reader struct {
	captures
	w *world
}

func (r reader) Resolve(ctx context.Context, repository, ref string) (d ocispec.Descriptor, err error) {
	err = r.w.effect(ctx, "read", func() error {
		d, err = foreign{r.w}.Resolve(ctx, repository, ref)
		return err
	})
	return d, err
}

// ReportDrift notes each drift once, as the stream does.
func (w *world) ReportDrift(ctx context.Context, d imgd.Drift) error {
	return w.effect(ctx, "drift", func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if !slices.Contains(w.drifts, d) {
			w.drifts = append(w.drifts, d)
		}
		return nil
	})
}

// Confirm is its Resolve for tags that are to be built ahead.
func (w *world) Confirm(ctx context.Context, _, ref, commit string) error {
	return w.effect(ctx, "resolve", func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.refs[ref] != commit {
			return imgd.ErrSuperseded
		}
		return nil
	})
}

// effect runs do under the fault of that name.
func (w *world) effect(ctx context.Context, name string, do func() error) error {
	if err := ctx.Err(); err != nil {
		return err // a dead process has no effects
	}
	w.mustBeObserved(ctx, name)
	w.mu.Lock()
	w.effects = append(w.effects, name)
	if after := []string{"tag", "untag", "publish", "forgo", "abandon", "ask"}; w.stage != "" && w.stage != imgd.Publishing && slices.Contains(after, name) {
		w.t.Errorf("%s while the stage is %s, which holds a build slot", name, w.stage)
	}
	hit := w.fault.effect == name && w.fault.left > 0
	if hit {
		w.fault.left--
	}
	w.mu.Unlock()
	if !hit {
		return do()
	}
	switch w.fault.mode {
	case "fails":
		return errInjected
	case "fails but took effect":
		return errors.Join(do(), errInjected)
	case "interrupted before":
		w.die()
		return ctx.Err()
	case "interrupted after":
		err := do()
		w.die()
		return errors.Join(err, ctx.Err())
	case "repeated":
		return errors.Join(do(), do())
	}
	panic("unreachable: no such mode " + w.fault.mode)
}

func (w *world) Resolve(ctx context.Context, _, ref, commit string) (c imgd.Commit, err error) {
	err = w.effect(ctx, "resolve", func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		head, ok := w.refs[ref]
		if !ok || commit != "" && !w.in(head, commit) {
			return imgd.ErrSuperseded
		}
		if commit == "" {
			commit = head
		}
		c = imgd.Commit{ID: commit, Time: epoch, Describe: w.said}
		return nil
	})
	return c, err
}

func (w *world) Touched(ctx context.Context, _, from, to string) (touched bool, err error) {
	err = w.effect(ctx, "touched", func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		touched = w.watched[from] != w.watched[to]
		return nil
	})
	return touched, err
}

func (w *world) in(head, commit string) bool {
	for c := head; c != ""; c = w.past[c] {
		if c == commit {
			return true
		}
	}
	return false
}

// Head and Contains make the world the index's History.
func (w *world) Head(_ context.Context, _, ref string) (string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	head, ok := w.refs[ref]
	if !ok {
		return "", imgd.ErrNotFound
	}
	return head, nil
}

func (w *world) Contains(_ context.Context, _, head, commit string) (bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.in(head, commit), nil
}

// Build is not reproducible unless the world is: the hardest case.
func (w *world) Build(ctx context.Context, _ imgd.Project, _ imgd.Request) (d ocispec.Descriptor, err error) {
	err = w.effect(ctx, "build", func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.made++
		d.Digest = digest.FromString(fmt.Sprint("build ", w.made))
		if w.reproducible {
			d.Digest = digest.FromString("build")
		}
		w.roots[d.Digest] = true
		return nil
	})
	return d, err
}

func (w *world) Capture(ctx context.Context, _ []string, root digest.Digest) (d ocispec.Descriptor, p []ocispec.Descriptor, err error) {
	err = w.effect(ctx, "capture", func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if !w.roots[root] {
			return imgd.ErrNotFound
		}
		if p = w.lists[root]; p != nil {
			d = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: root, Size: 900}
			return nil
		}
		d = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: root, Size: 479}
		platform := d
		platform.Platform = &ocispec.Platform{OS: "linux", Architecture: "amd64"}
		p = []ocispec.Descriptor{platform}
		return nil
	})
	return d, p, err
}

func (w *world) Tag(ctx context.Context, repository, tag string, root ocispec.Descriptor) error {
	return w.effect(ctx, "tag", func() error {
		rel, ok := w.index.Wanted(demoImage, tag)
		if !ok || rel.Root.Digest != root.Digest {
			w.t.Errorf("tag %s is written with %s before the index wants it (I5)", tag, root.Digest)
		}
		if rel.Pushed {
			w.t.Errorf("tag %s is written, which another CI has pushed", tag)
		}
		return w.put(at(repository, tag), root.Digest)
	})
}

func (w *world) put(key string, root digest.Digest) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.roots[root] {
		return imgd.ErrNotFound
	}
	if w.tags[key] == root {
		return nil // nothing is put, so nothing refused
	}
	if err := w.refuse(key); err != nil {
		return err
	}
	w.tags[key], w.written[key] = root, true
	return nil
}

// refuse is the registry's answer to a write of a tag, under mu.
func (w *world) refuse(key string) error {
	if w.refuses[key] == 0 {
		return nil
	}
	w.refuses[key]--
	w.refused[key] = true
	return fmt.Errorf("%s is immutable: %w", key, imgd.ErrRefused)
}

func (w *world) Untag(ctx context.Context, repository, tag string, ours func(digest.Digest) bool) error {
	return w.effect(ctx, "untag", func() error { return w.remove(at(repository, tag), ours) })
}

func (w *world) remove(key string, ours func(digest.Digest) bool) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !ours(w.tags[key]) {
		return nil
	}
	if err := w.refuse(key); err != nil {
		return err
	}
	delete(w.tags, key)
	return nil
}

// foreign is the registry as the index asks it: what do tags name there?
type foreign struct{ w *world }

func (f foreign) Resolve(_ context.Context, repository, tag string) (ocispec.Descriptor, error) {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	if d, ok := f.w.tags[at(repository, tag)]; ok {
		return ocispec.Descriptor{Digest: d}, nil
	}
	return ocispec.Descriptor{}, imgd.ErrNotFound
}

func (f foreign) Capture(ctx context.Context, repositories []string, root digest.Digest) (ocispec.Descriptor, []ocispec.Descriptor, error) {
	return f.w.Capture(ctx, repositories, root)
}

func (w *world) Admit(ctx context.Context, rel imgd.Release, known string) (out imgd.Release, err error) {
	err = w.effect(ctx, "admit", func() error {
		out, err = w.index.Admit(ctx, rel, known)
		return err
	})
	return out, err
}

func (w *world) Publish(ctx context.Context, id string) (out imgd.Release, err error) {
	err = w.effect(ctx, "publish", func() error {
		rel, _ := w.index.Release(id)
		for _, t := range rel.Taken() {
			if rel.Pushed {
				continue // what is not there is told as drift
			}
			for _, repository := range rel.Repositories {
				key := at(repository, t.Name)
				if want, _ := w.index.Wanted(rel.Image, t.Name); w.tags[key] != want.Root.Digest {
					w.t.Errorf("%s is published while the registry says %s for %s", id, w.tags[key], key)
				}
			}
		}
		out, err = w.index.Publish(ctx, id)
		return err
	})
	return out, err
}

func (w *world) Forgo(ctx context.Context, id, tag, reason string) (out imgd.Release, err error) {
	err = w.effect(ctx, "forgo", func() error {
		out, err = w.index.Forgo(ctx, id, tag, reason)
		return err
	})
	return out, err
}

func (w *world) Abandon(ctx context.Context, id, why string) (out imgd.Release, err error) {
	err = w.effect(ctx, "abandon", func() error {
		out, err = w.index.Abandon(ctx, id, why)
		return err
	})
	return out, err
}

func (w *world) Ask(ctx context.Context, req imgd.Request) error {
	w.notDropped(req)
	return w.effect(ctx, "ask", func() error {
		w.asked = append(w.asked, req)
		return nil
	})
}

// notDropped holds that imgd does not ask anew for what an operator dropped.
func (w *world) notDropped(req imgd.Request) {
	if newest, _ := w.index.Newest(req.ID); strings.HasPrefix(newest.Why, "dropped by") {
		w.t.Errorf("%s, which an operator has dropped, is asked for anew", newest.ID)
	}
}

// configured are the projects of a config, by name.
func configured(byName map[string]imgd.Project) *imgd.Projects {
	p := new(imgd.Projects)
	p.Set(byName)
	return p
}
