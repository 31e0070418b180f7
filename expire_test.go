package imgd_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/version"
)

const closedRef = "refs/pull/7/head"

// A keeper is a world that cleans up so long after epoch.
type keeper struct {
	*world
	retention imgd.Retention
	share     int
	since     time.Duration
}

func (k *keeper) expirer() *imgd.Expirer {
	p := k.pipeline()
	hello, _ := p.Projects.Get("hello")
	hello.Refs, hello.Retention = []string{"*"}, k.retention
	p.Projects = configured(map[string]imgd.Project{"hello": hello})
	p.Now = func() time.Time { return epoch.Add(k.since) }
	return &imgd.Expirer{Pipeline: p, Index: k.index, Weigher: weights{}, Share: func() int { return k.share }}
}

// weights says of each root that it has a layer of its own and one in common.
type weights struct{}

func (weights) Contents(_ context.Context, repository string, root digest.Digest) ([]ocispec.Descriptor, error) {
	if repository != copyRepo {
		return nil, imgd.ErrNotFound
	}
	return []ocispec.Descriptor{{Digest: root, Size: 400}, {Digest: digest.FromString("of " + root.String()), Size: 10_000}, {Digest: digest.FromString("base"), Size: 1_000_000}}, nil
}

// newKeeper is a world with v1.2.2 and v1.2.3, and of a pull request two commits.
func newKeeper(t *testing.T) *keeper {
	w, _, _ := twoVersions(t)
	k := &keeper{world: w, share: 100}
	for i, letter := range []string{"c", "d"} {
		w.refs[closedRef] = commit(letter)
		req := request(closedRef, i)
		if _, err := k.expirer().Pipeline.Handle(t.Context(), &req, func(imgd.State) {}); err != nil {
			t.Fatal(err)
		}
	}
	return k
}

// expire cleans up, and says of each tag what became of it.
func (k *keeper) expire(ask imgd.Expire) string {
	k.t.Helper()
	ask.By = "imgd"
	done, err := k.expirer().Expire(k.t.Context(), ask)
	if err != nil {
		k.t.Fatal(err)
	}
	return states(done)
}

func states(done imgd.Expiry) string {
	var all []string
	for _, item := range done.Items {
		all = append(all, fmt.Sprint(item.Tag, " ", item.State))
	}
	return strings.Join(all, ", ")
}

var (
	pullOld, pullNew = "pr-7-" + commit("c")[:7], "pr-7-" + commit("d")[:7]
	allOfPull        = fmt.Sprintf("pr-7 %%[1]s, %s %%[1]s, %s %%[1]s", pullOld, pullNew)
)

// Seven days after they were asked for the tags of a pull request go: by a release
// of its own each, in the registry too, and once. Siblings stay, and versions.
func TestExpire(t *testing.T) {
	k := newKeeper(t)
	pull, _ := k.index.Wanted(demoImage, "pr-7")
	sibling := order(imgd.CommandTag, 1, "pr-7")
	sibling.NewTags = []string{"kept"}
	k.obeyed(sibling)
	k.since = 7*day + time.Second
	seq := k.index.Seq()
	if got, want := k.expire(imgd.Expire{DryRun: true}), fmt.Sprintf(allOfPull, "goes"); got != want || k.index.Seq() != seq {
		t.Errorf("dry run: got %s at entry %d, want %s at %d", got, k.index.Seq(), want, seq)
	}
	k.shows("pr-7", pull.Root.Digest)
	if got, want := k.expire(imgd.Expire{}), fmt.Sprintf(allOfPull, "gone"); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for _, tag := range []string{"pr-7", pullOld, pullNew} {
		k.shows(tag, "")
		past := k.index.History(demoImage, tag)
		last := past[len(past)-1]
		if last.Command != imgd.CommandExpire || last.Root.Digest != "" || last.Removes != past[len(past)-2].ID || last.Request.By != "imgd" || !strings.Contains(last.Request.Reason, "it expired at 2026-11-28") || last.Request.Force {
			t.Errorf("%s was removed by %+v", tag, last)
		}
	}
	k.shows("kept", pull.Root.Digest)
	k.shows("latest", k.tags["v1.2.3"])
	seq = k.index.Seq()
	if got := k.expire(imgd.Expire{}); got != "" || k.index.Seq() != seq {
		t.Errorf("again: got %s", got)
	}
	k.check()
}

// What was built of a closed pull request goes at once, and nothing else.
func TestClose(t *testing.T) {
	k := newKeeper(t)
	k.share = 1
	k.retention.Never = []string{pullOld}
	done, err := k.expirer().Close(t.Context(), "hello", closedRef, "github:ada")
	if want := fmt.Sprintf("pr-7 gone, %s gone", pullNew); err != nil || states(done) != want {
		t.Errorf("got %s, %v; want %s", states(done), err, want)
	}
	k.shows("pr-7", "")
	if k.tags[pullOld] == "" || k.tags["latest"] == "" {
		t.Errorf("too much is gone: %v", k.tags)
	}
	if past := k.index.History(demoImage, "pr-7"); past[len(past)-1].Request.Reason != closedRef+" was closed" || past[len(past)-1].Request.By != "github:ada" {
		t.Errorf("removed by %+v", past[len(past)-1])
	}
	for _, ref := range []string{closedRef, "refs/pull/7/merge", "refs/pull/8/head"} {
		seq := k.index.Seq()
		if done, err := k.expirer().Close(t.Context(), "hello", ref, ""); err != nil || done.Count(imgd.ExpireGone) > 0 || k.index.Seq() != seq {
			t.Errorf("again: %s, %v", states(done), err)
		}
	}
	for project, ref := range map[string]string{"nobody": closedRef, "hello": "refs/heads/main"} {
		if _, err := k.expirer().Close(t.Context(), project, ref, ""); !errors.Is(err, imgd.ErrInvalid) {
			t.Errorf("%s of %s: %v", ref, project, err)
		}
	}
	k.check()
}

// Too many at once are held back, as is said; few never are.
func TestExpireHoldsBack(t *testing.T) {
	k := newKeeper(t)
	k.since, k.share = 8*day, 30
	k.retention.Rules = []imgd.RetentionRule{{Kinds: []version.Kind{version.KindVersion, version.KindBranch, version.KindCommit}, TTL: day}}
	seq := k.index.Seq()
	done, err := k.expirer().Expire(t.Context(), imgd.Expire{})
	if err != nil || len(done.Held) != 1 || done.Held[0] != demoImage || done.Count(imgd.ExpireHeld) != len(done.Items) || len(done.Items) < 5 || k.index.Seq() != seq {
		t.Errorf("got %s, held %v, %v", states(done), done.Held, err)
	}
	k.retention.Rules = nil // three of ten are more than 5 %, and few
	k.share = 5
	if got, want := k.expire(imgd.Expire{DryRun: true}), fmt.Sprintf(allOfPull, "goes"); got != want {
		t.Errorf("few: got %s, want %s", got, want)
	}
	k.retention.Rules = []imgd.RetentionRule{{Kinds: []version.Kind{version.KindVersion}, KeepLast: 1}, {TTL: day}}
	if got := k.expire(imgd.Expire{Yes: true}); strings.Contains(got, "held") || !strings.Contains(got, "v1.2.2 gone") || strings.Contains(got, "v1.2.3") {
		t.Errorf("with yes: got %s", got)
	}
	if _, err := k.expirer().Expire(t.Context(), imgd.Expire{Image: "demo/none"}); !errors.Is(err, imgd.ErrNotFound) {
		t.Errorf("an image that is not there: %v", err)
	}
	k.check()
}

// What the registry refuses to remove stays, also in the index, and is asked for
// again after a day.
func TestExpireRefused(t *testing.T) {
	k := newKeeper(t)
	k.since, k.retention.Rules = time.Hour, []imgd.RetentionRule{{Tags: []string{"pr-*"}, TTL: time.Minute}}
	root := k.tags["pr-7"]
	k.refuses["pr-7"], k.refuses[pullNew] = -1, -1
	want := fmt.Sprintf("pr-7 refused, %s gone, %s refused", pullOld, pullNew)
	if got := k.expire(imgd.Expire{}); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	k.shows("pr-7", root)
	k.shows(pullNew, root)
	seq := k.index.Seq()
	done, err := k.expirer().Expire(t.Context(), imgd.Expire{})
	if err != nil || k.index.Seq() != seq || done.Count(imgd.ExpireRefused) != 2 || !strings.Contains(done.Items[0].Error, "pr-7 is immutable") {
		t.Errorf("an hour later: got %+v, %v", done, err)
	}
	k.check()
	k.refuses = map[string]int{}
	k.since = 24 * time.Hour
	if got, want := k.expire(imgd.Expire{}), fmt.Sprintf("pr-7 gone, %s gone", pullNew); got != want {
		t.Errorf("days later: got %s, want %s", got, want)
	}
	k.check()
}

// stale answers what the index held some time ago.
type stale struct{ holds []imgd.Hold }

func (s stale) Images() []string         { return []string{demoImage} }
func (s stale) Holds(string) []imgd.Hold { return s.holds }

func (s stale) Missed(string) map[string]string { return nil }

// The commit tag of a pull request stays if the commit became a branch's as it
// was, and the branch's release asked for the tag in vain; not for another pull
// request of the same commit, whose time is over too.
func TestExpireSparesSharedCommits(t *testing.T) {
	k := newKeeper(t)
	p := k.ruled(func(p *imgd.Project) { p.Tags = []string{"type=ref,event=pr", "type=ref,event=branch", "type=sha"} })
	k.refs[closedRef], k.refs["refs/pull/8/head"], k.refs["refs/pull/9/head"], k.refs[mainRef] = commit("e"), commit("f"), commit("f"), commit("e")
	for at, ref := range []string{closedRef, "refs/pull/8/head", "refs/pull/9/head", mainRef} {
		if _, err := k.handled(p, request(ref, 20+at)); err != nil {
			t.Fatal(err)
		}
	}
	done, err := k.expirer().Close(t.Context(), "hello", closedRef, "github:ada")
	if want := fmt.Sprintf("pr-7 gone, %s gone, %s gone", pullOld, pullNew); err != nil || states(done) != want {
		t.Errorf("got %s, %v; want %s", states(done), err, want)
	}
	k.since = 8 * day
	if got, want := k.expire(imgd.Expire{}), "pr-8 gone, pr-9 gone, sha-fffffff gone"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if k.tags["sha-eeeeeee"] == "" {
		t.Error("the branch has lost the tag of its commit")
	}
	k.check()
}

// A tag that has moved on since it was looked at stays.
func TestExpireMovedOn(t *testing.T) {
	k := newKeeper(t)
	e := k.expirer()
	e.Index = stale{k.index.Holds(demoImage)}
	k.refs[closedRef] = commit("e")
	req := request(closedRef, 9)
	rel, err := k.expirer().Pipeline.Handle(t.Context(), &req, func(imgd.State) {})
	if err != nil {
		t.Fatal(err)
	}
	k.since = 8 * day
	done, err := e.Expire(t.Context(), imgd.Expire{})
	if want := fmt.Sprintf("pr-7 stays, %s gone, %s gone", pullOld, pullNew); err != nil || states(done) != want {
		t.Errorf("got %s, %v; want %s", states(done), err, want)
	}
	k.shows("pr-7", rel.Root.Digest)
	k.check()
}

// What another CI has pushed goes when the time is over that it has named.
func TestExpirePushed(t *testing.T) {
	k := newKeeper(t)
	k.unobserved = true // it is of no project
	in := pushed("tmp", k.push(otherRepo, "tmp", "theirs"))
	in.TTL, in.Moving = time.Hour, true
	e := k.expirer()
	e.Pipeline.Tagger = unchecked{k.world}
	if _, _, err := e.Pipeline.Record(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	k.since = time.Hour
	if done, err := e.Expire(t.Context(), imgd.Expire{}); err != nil || states(done) != "tmp gone" || k.tags[at(otherRepo, "tmp")] != "" {
		t.Errorf("got %s, %v; the registry has %v", states(done), err, k.tags)
	}
}

// Whatever befalls whichever effect: the next run, or the sweep, ends it, and no
// tag is removed twice.
func TestFaultsInExpire(t *testing.T) {
	for _, effect := range []string{"admit", "untag", "publish", "abandon"} {
		for _, mode := range []string{"fails", "fails but took effect", "interrupted before", "interrupted after", "repeated"} {
			t.Run(effect+"/"+mode, func(t *testing.T) {
				k := newKeeper(t)
				k.since = 8 * day
				if effect == "abandon" {
					k.refuses[pullNew] = 1
				}
				k.fault = fault{effect: effect, mode: mode, left: 1}
				for range 3 {
					ctx, die := context.WithCancel(t.Context())
					k.die = die
					_, err := k.expirer().Expire(ctx, imgd.Expire{})
					if dead := ctx.Err() != nil; dead {
						k.index.Close()
						k.open()
					} else if err != nil {
						t.Error(err)
					}
					die()
					_ = k.expirer().Pipeline.DriveOpen(t.Context(), k.later(), 0)
				}
				for _, tag := range []string{"pr-7", pullOld, pullNew} {
					past := k.index.History(demoImage, tag)
					removed := slices.DeleteFunc(past, func(rel imgd.Release) bool { return rel.Command != imgd.CommandExpire })
					if len(removed) != 1 {
						t.Errorf("%s was removed %d times", tag, len(removed))
					}
				}
				k.check()
			})
		}
	}
}

// What could be freed at most is what no tag names any more, without what an
// image that stays is made of.
func TestExpireWeighs(t *testing.T) {
	k := newKeeper(t)
	k.since = 8 * day
	weigh := func() imgd.Expiry {
		done, err := k.expirer().Expire(t.Context(), imgd.Expire{DryRun: true, Weigh: true})
		if err != nil {
			t.Fatal(err)
		}
		return done
	}
	if done := weigh(); done.Bytes != 2*10_400 || done.Unweighed != 0 {
		t.Errorf("got %d bytes, %d unweighed, want those of two roots without the common layer", done.Bytes, done.Unweighed)
	}
	sibling := order(imgd.CommandTag, 1, "pr-7")
	sibling.NewTags = []string{"kept"}
	k.obeyed(sibling)
	if done := weigh(); done.Bytes != 10_400 {
		t.Errorf("with a sibling that stays: got %d bytes", done.Bytes)
	}
	k.repos = []string{demoRepo}
	if done := weigh(); done.Bytes != 0 || done.Unweighed != 1 {
		t.Errorf("in a repository that does not answer: got %d bytes, %d unweighed", done.Bytes, done.Unweighed)
	}
	if got := k.expire(imgd.Expire{DryRun: true, Stays: true}); !strings.Contains(got, "latest stays") || !strings.Contains(got, "pr-7 goes") {
		t.Errorf("got %s", got)
	}
}
