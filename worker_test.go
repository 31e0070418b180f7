package imgd_test

import (
	"context"
	"fmt"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgd/imgd"
)

// A worker handles one request in a pipeline of its own, as another process
// would, and stands still before and after each of its effects until the test
// lets it go on: so it can be past its lease at any moment, and whatever happens
// meanwhile, happens in an order that a seed repeats.
type worker struct {
	*world
	req  imgd.Request
	at   string // "before tag", "after tag", …; "end" with rel and err
	what string // of that tag, release
	rel  imgd.Release
	err  error
	die  context.CancelFunc
	fate func(effect string) string // what befalls the next effect: see do; nil: nothing
	p    *imgd.Pipeline
	slow bool // it stands still between the write of a tag and the reading back too

	steps  chan struct{} // each lets it go on
	stands chan struct{} // each says that it stands still
}

// work begins to handle req and stands still before the first effect.
func (w *world) work(req imgd.Request) *worker {
	ctx, die := context.WithCancel(context.Background())
	k := &worker{world: w, req: req, at: "begin", die: die, steps: make(chan struct{}), stands: make(chan struct{})}
	p := w.pipeline()
	p.Git, p.Builder, p.Capturer, p.Tagger, p.Index, p.Asker = k, k, reader{k, w}, k, k, k
	k.p = p
	go func() {
		<-k.steps
		got := k.req
		k.rel, k.err = p.Handle(ctx, &got, func(imgd.State) {})
		k.at = "end"
		k.stands <- struct{}{}
	}()
	w.t.Cleanup(func() {
		die()
		for k.at != "end" {
			k.step()
		}
	})
	return k
}

// step lets k go on to where it stands next.
func (k *worker) step() {
	k.steps <- struct{}{}
	<-k.stands
}

func (k *worker) stand(at string) {
	k.at = at
	k.stands <- struct{}{}
	<-k.steps
}

// do is one effect, under its fate: fails, fails but took effect, or dies
// before it.
func (k *worker) do(ctx context.Context, effect string, do func() error) error {
	k.stand("before " + effect)
	fate := ""
	if k.fate != nil {
		fate = k.fate(effect)
	}
	if fate == "dies" {
		k.die()
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if fate == "fails" {
		return errInjected
	}
	err := do()
	if fate == "fails but took effect" && err == nil {
		err = errInjected
	}
	k.stand("after " + effect)
	return err
}

func (k *worker) Resolve(ctx context.Context, project, ref, id string) (out imgd.Commit, err error) {
	err = k.do(ctx, "resolve", func() error { out, err = k.world.Resolve(ctx, project, ref, id); return err })
	return out, err
}

func (k *worker) Build(ctx context.Context, p imgd.Project, req imgd.Request) (out ocispec.Descriptor, err error) {
	err = k.do(ctx, "build", func() error { out, err = k.world.Build(ctx, p, req); return err })
	return out, err
}

func (k *worker) Capture(ctx context.Context, repositories []string, root digest.Digest) (out ocispec.Descriptor, platforms []ocispec.Descriptor, err error) {
	err = k.do(ctx, "capture", func() error { out, platforms, err = k.world.Capture(ctx, repositories, root); return err })
	return out, platforms, err
}

// Tag holds only that the root was admitted some time: it may come late.
func (k *worker) Tag(ctx context.Context, repository, tag string, root ocispec.Descriptor) error {
	k.what = at(repository, tag) + " = " + root.Digest.String()[7:12]
	err := k.do(ctx, "tag", func() error { return k.lateTag(repository, tag, root.Digest) })
	if err != nil || !k.slow {
		return err
	}
	return k.do(ctx, "read back", func() error {
		if there := k.tags[at(repository, tag)]; there != root.Digest {
			return fmt.Errorf("%s:%s names %s right after %s was put", repository, tag, there, root.Digest)
		}
		return nil
	})
}

// lateTag is Tag where the index may want another root by the time of the write.
func (w *world) lateTag(repository, tag string, root digest.Digest) error {
	if !w.index.Made(demoImage, "", root) {
		w.t.Errorf("tag %s is written with %s, which was never admitted (I5)", tag, root)
	}
	return w.put(at(repository, tag), root)
}

// Untag holds that nothing is removed which the index wants at that moment.
func (k *worker) Untag(ctx context.Context, repository, tag string, ours func(digest.Digest) bool) error {
	k.what = at(repository, tag)
	return k.do(ctx, "untag", func() error {
		return k.remove(at(repository, tag), func(d digest.Digest) bool {
			mine := ours(d)
			if want, ok := k.index.Wanted(demoImage, tag); mine && ok {
				k.t.Errorf("tag %s is removed, and %s wants it", tag, want.ID)
			}
			return mine
		})
	})
}

func (k *worker) Admit(ctx context.Context, rel imgd.Release, known string) (out imgd.Release, err error) {
	err = k.do(ctx, "admit", func() error { out, err = k.world.Admit(ctx, rel, known); return err })
	return out, err
}

func (k *worker) Publish(ctx context.Context, id string) (out imgd.Release, err error) {
	err = k.do(ctx, "publish", func() error { out, err = k.index.Publish(ctx, id); return err })
	return out, err
}

func (k *worker) Forgo(ctx context.Context, id, tag, reason string) (out imgd.Release, err error) {
	err = k.do(ctx, "forgo", func() error { out, err = k.world.Forgo(ctx, id, tag, reason); return err })
	return out, err
}

func (k *worker) Abandon(ctx context.Context, id, why string) (out imgd.Release, err error) {
	err = k.do(ctx, "abandon", func() error { out, err = k.world.Abandon(ctx, id, why); return err })
	return out, err
}

func (k *worker) Ask(ctx context.Context, req imgd.Request) error {
	k.notDropped(req)
	return k.do(ctx, "ask", func() error {
		k.asked = append(k.asked, req)
		return nil
	})
}
