package git_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// The default branch is known without a call of its own, until it changes.
func TestDefaultBranch(t *testing.T) {
	for _, asks := range []bool{true, false} {
		o := newOrigin(t)
		o.push("main")
		o.push("trunk")
		var seen calls
		if !asks { // a server that answers git alone
			seen.ask = func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "", http.StatusForbidden) }
		}
		o.intercept(seen.handler)
		dir := t.TempDir()
		r := open(t, o.config(dir))
		want := func(step, branch string, perhaps int) {
			t.Helper()
			seen.mu.Lock()
			seen.seen = nil
			seen.mu.Unlock()
			if got := resolve(t, r, "refs/heads/trunk", "").DefaultBranch; got != branch {
				t.Errorf("%s: got %q, want %q", step, got, branch)
			}
			asked := strings.Count(strings.Join(seen.seen, "\n"), "ask ")
			if asked != perhaps {
				t.Errorf("%s: asked %d times, want %d: %q", step, asked, perhaps, seen.seen)
			}
		}
		want("a clone", "main", 0)
		want("a fetch", "main", 0)
		o.push("main")
		want("a push", "main", 0)
		o.git("symbolic-ref", "HEAD", "refs/heads/trunk")
		want("another branch", "trunk", 1)
		want("a fetch after it", "trunk", 0)
		r = open(t, o.config(dir))
		want("a restart", "trunk", 0)
		o.push("trunk")
		o.remove("refs/heads/main")
		want("the old branch is gone", "trunk", 0)
		o.git("symbolic-ref", "HEAD", "refs/heads/gone")
		want("HEAD names a branch that is not there: the last one is kept", "trunk", 0)
		o.git("update-ref", "--no-deref", "HEAD", o.commit())
		want("HEAD names no branch", "", 1)
		o.git("symbolic-ref", "HEAD", "refs/heads/trunk")
		want("again a branch", "trunk", 0)
	}
}

// Two branches at one commit are told apart as soon as they part.
func TestDefaultBranchesAtOneCommit(t *testing.T) {
	o := newOrigin(t)
	o.set("refs/heads/trunk", o.push("main"))
	r := open(t, o.config(t.TempDir()))
	resolve(t, r, "refs/heads/main", "")
	o.git("symbolic-ref", "HEAD", "refs/heads/trunk")
	for _, pushed := range []string{"main", "trunk"} {
		o.push(pushed)
		if got := resolve(t, r, "refs/heads/"+pushed, "").DefaultBranch; got != "trunk" {
			t.Errorf("after a push to %s: got %q", pushed, got)
		}
	}
}

// What a server says of its HEAD is not trusted either.
func TestHostileDefaultBranch(t *testing.T) {
	for _, target := range []string{"refs/heads/-x", "refs/heads/../x", "refs/tags/v1", "HEAD", "--delete", "refs/heads/a..b", "refs/heads/\x1b[2J"} {
		o := newOrigin(t)
		id := o.push("main")
		seen := calls{ask: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/x-git-upload-pack-result")
			line := id + " HEAD symref-target:" + target + "\n"
			_, _ = fmt.Fprintf(w, "%04x%s0000", len(line)+4, line)
		}}
		o.intercept(seen.handler)
		r := open(t, o.config(t.TempDir()))
		o.push("other")
		o.git("symbolic-ref", "HEAD", "refs/heads/other")
		resolve(t, r, "refs/heads/main", "") // cloned now
		o.push("third")
		o.git("symbolic-ref", "HEAD", "refs/heads/third")
		if got := resolve(t, r, "refs/heads/main", "").DefaultBranch; got != "" {
			t.Errorf("%q: got %q", target, got)
		}
	}
}
