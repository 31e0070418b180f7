package git_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/imgd/imgd"
)

// A pull request's ref is fetched when it is asked for, and no other.
func TestPullRequests(t *testing.T) {
	o := newOrigin(t)
	first := o.push("main")
	o.set("refs/tags/v1.0.0", first)
	for n := range 20 {
		o.set(fmt.Sprintf("refs/pull/%d/head", n+1), o.commit(first))
	}
	dir := t.TempDir()
	r := open(t, o.config(dir))
	for _, ref := range []string{"refs/pull/7/head", "refs/pull/7/merge", "refs/merge-requests/7/head", "refs/merge-requests/7/merge"} {
		old := o.commit(first)
		o.set(ref, old)
		got := resolve(t, r, ref, old)
		if want := "v1.0.0-1-g" + old[:7]; got.ID != old || got.Describe != want || got.DefaultBranch != "main" {
			t.Errorf("%s: got %+v, want %s, described as %s", ref, got, old, want)
		}
		head := o.commit(old)
		o.set(ref, head)
		if got := resolve(t, r, ref, ""); got.ID != head {
			t.Errorf("%s after a push: got %s, want %s", ref, got.ID, head)
		}
		if got := resolve(t, r, ref, old); got.ID != old {
			t.Errorf("%s, an older commit: got %s, want %s", ref, got.ID, old)
		}
		if in, err := r.Contains(t.Context(), project, head, old); err != nil || !in {
			t.Errorf("%s: the head contains the commit before: got %t, %v", ref, in, err)
		}
		o.set(ref, o.commit(first)) // a force push
		if _, err := r.Resolve(t.Context(), project, ref, old); !errors.Is(err, imgd.ErrSuperseded) {
			t.Errorf("%s after a force push: got %v", ref, err)
		}
	}
	refs := runGit(t, dir+"/hello.git", start, "for-each-ref", "--format=%(refname)", "refs/pull", "refs/merge-requests")
	if got := len(strings.Fields(refs)); got != 4 {
		t.Errorf("the clone has %d refs of pull requests, want the four that were asked for:\n%s", got, refs)
	}
}

// A pull request that is not there, or is there no more, harms nobody.
func TestPullRequestGone(t *testing.T) {
	o := newOrigin(t)
	first := o.push("main")
	r := open(t, o.config(t.TempDir()))
	for ref, commit := range map[string]string{"refs/pull/9/head": "", "refs/pull/9/merge": first} {
		want := imgd.ErrInvalid
		if commit != "" {
			want = imgd.ErrSuperseded
		}
		if _, err := r.Resolve(t.Context(), project, ref, commit); !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", ref, err, want)
		}
	}
	o.set("refs/pull/9/head", first)
	resolve(t, r, "refs/pull/9/head", "")
	o.remove("refs/pull/9/head")
	if _, err := r.Resolve(t.Context(), project, "refs/pull/9/head", first); !errors.Is(err, imgd.ErrSuperseded) {
		t.Errorf("a ref that was removed: got %v", err)
	}
	if got, err := r.Head(t.Context(), project, "refs/pull/9/head"); !errors.Is(err, imgd.ErrNotFound) {
		t.Errorf("Head of a ref that was removed: got %s, %v", got, err)
	}
}

// Those who wait for one fetch get what each of them asked for.
func TestPullRequestsAtOnce(t *testing.T) {
	o := newOrigin(t)
	first := o.push("main")
	heads := map[string]string{"refs/heads/main": first}
	for n := range 8 {
		ref := fmt.Sprintf("refs/pull/%d/head", n+1)
		heads[ref] = o.commit(first)
		o.set(ref, heads[ref])
	}
	r := open(t, o.config(t.TempDir()))
	var all sync.WaitGroup
	for ref, head := range heads {
		for range 2 {
			all.Go(func() {
				if got, err := r.Resolve(t.Context(), project, ref, ""); err != nil || got.ID != head {
					t.Errorf("%s: got %s, %v; want %s", ref, got.ID, err, head)
				}
			})
		}
	}
	all.Wait()
}

// A clone that is made anew has the pull requests that somebody may look at.
func TestPullRequestsInANewClone(t *testing.T) {
	o := newOrigin(t)
	first := o.push("main")
	pull := o.commit(first)
	o.set("refs/pull/7/head", pull)
	dir := t.TempDir()
	r := open(t, o.config(dir))
	for range 2 {
		if got := resolve(t, r, "refs/pull/7/head", pull); got.ID != pull {
			t.Errorf("got %s, want %s", got.ID, pull)
		}
		empty(t, dir+"/hello.git", "objects/pack")
	}
	if got, err := r.Head(t.Context(), project, "refs/pull/7/head"); err != nil || got != pull {
		t.Errorf("Head: got %s, %v", got, err)
	}
}

func TestExpandPullRequest(t *testing.T) {
	o := newOrigin(t)
	first := o.push("main")
	pull := o.commit(first)
	o.set("refs/pull/7/head", pull)
	o.set("refs/merge-requests/7/head", first)
	r := open(t, o.config(t.TempDir()))
	for short, want := range map[string]string{"pull/7/head": pull, "refs/pull/7/head": pull, "merge-requests/7/head": first} {
		ref, commit, err := r.Expand(t.Context(), project, short)
		if err != nil || !strings.HasSuffix(ref, short) || !strings.HasPrefix(ref, "refs/") || commit != want {
			t.Errorf("%s: got %s, %s, %v; want %s", short, ref, commit, err, want)
		}
	}
	o.set("refs/heads/pull/7/head", first)
	if _, _, err := r.Expand(t.Context(), project, "pull/7/head"); !errors.Is(err, imgd.ErrInvalid) {
		t.Errorf("a branch of the same name: got %v, want it ambiguous", err)
	}
}
