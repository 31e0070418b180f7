package git_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/internal/git"
)

func TestResolveBranch(t *testing.T) {
	o := newOrigin(t)
	first := o.push("main")
	r := open(t, o.config(t.TempDir()))
	if got, want := resolve(t, r, "refs/heads/main", ""), (imgd.Commit{ID: first, Time: start.Add(time.Minute), DefaultBranch: "main"}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	second := o.push("main")
	if got := resolve(t, r, "refs/heads/main", "").ID; got != second {
		t.Errorf("after a push: got %s, want %s", got, second)
	}
	if got, want := resolve(t, r, "refs/heads/main", first), (imgd.Commit{ID: first, Time: start.Add(time.Minute), DefaultBranch: "main"}); got != want {
		t.Errorf("an older commit: got %+v, want %+v", got, want)
	}
}

func TestResolveTag(t *testing.T) {
	o := newOrigin(t)
	first, second := o.push("main"), o.push("main")
	o.set("refs/tags/v1.0.0", first)
	o.annotate("v1.1.0", second)
	o.annotate("nested", "v1.1.0")
	r := open(t, o.config(t.TempDir()))
	for _, tt := range []struct{ ref, commit, id, describe string }{
		{"refs/tags/v1.0.0", "", first, "v1.0.0"},
		{"refs/tags/v1.0.0", first, first, "v1.0.0"},
		{"refs/tags/v1.1.0", "", second, "v1.1.0"},
		{"refs/tags/v1.1.0", second, second, "v1.1.0"},
		{"refs/tags/nested", "", second, "v1.1.0"},
	} {
		if got := resolve(t, r, tt.ref, tt.commit); got.ID != tt.id || got.Describe != tt.describe {
			t.Errorf("Resolve(%s, %s): got %+v, want %s %s", tt.ref, tt.commit, got, tt.id, tt.describe)
		}
	}
}

func TestResolveErrors(t *testing.T) {
	o := newOrigin(t)
	first, second := o.push("main"), o.push("main")
	other := o.commit()
	o.set("refs/heads/other", other)
	o.set("refs/tags/v1.0.0", first)
	o.annotate("v2.0.0", second)
	annotation := o.git("rev-parse", "refs/tags/v2.0.0")
	o.annotate("tree", o.git("rev-parse", "main^{tree}"))
	o.annotate("blob", o.git("rev-parse", "main:f"))
	o.set("refs/tags/refs/heads/gone", first) // what a revision argument would find
	unpushed := o.commit(second)
	r := open(t, o.config(t.TempDir()))
	for _, tt := range []struct {
		name, ref, commit string
		want              error
	}{
		{"no branch", "refs/heads/gone", "", imgd.ErrInvalid},
		{"no tag", "refs/tags/v9.9.9", "", imgd.ErrInvalid},
		{"branch gone", "refs/heads/gone", first, imgd.ErrSuperseded},
		{"tag gone", "refs/tags/v9.9.9", first, imgd.ErrSuperseded},
		{"tag of another commit", "refs/tags/v1.0.0", second, imgd.ErrSuperseded},
		{"tag of its annotation", "refs/tags/v2.0.0", annotation, imgd.ErrSuperseded},
		{"commit of another branch", "refs/heads/main", other, imgd.ErrSuperseded},
		{"commit not pushed", "refs/heads/main", unpushed, imgd.ErrSuperseded},
		{"annotation on a branch", "refs/heads/main", annotation, imgd.ErrSuperseded},
		{"tree as a commit", "refs/heads/main", o.git("rev-parse", "main^{tree}"), imgd.ErrSuperseded},
		{"tag of a tree", "refs/tags/tree", "", imgd.ErrInvalid},
		{"tag of a blob", "refs/tags/blob", "", imgd.ErrInvalid},
		{"short commit", "refs/heads/main", first[:12], imgd.ErrInvalid},
		{"upper case", "refs/heads/main", strings.ToUpper(first), imgd.ErrInvalid},
		{"option as commit", "refs/heads/main", "--output=x", imgd.ErrInvalid},
		{"short ref", "main", "", imgd.ErrInvalid},
		{"pull request", "refs/pull/1/head", "", imgd.ErrInvalid},
	} {
		if _, err := r.Resolve(t.Context(), project, tt.ref, tt.commit); !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.name, err, tt.want)
		}
	}
	if _, err := r.Resolve(t.Context(), "nobody", "refs/heads/main", ""); !errors.Is(err, imgd.ErrInvalid) {
		t.Errorf("unknown project: got %v", err)
	}
}

// A ref that moves, is reset or goes away between two calls.
func TestRefsMove(t *testing.T) {
	o := newOrigin(t)
	first, second := o.push("main"), o.push("main")
	o.set("refs/tags/v1.0.0", first)
	r := open(t, o.config(t.TempDir()))
	resolve(t, r, "refs/heads/main", second)
	resolve(t, r, "refs/tags/v1.0.0", first)

	third := o.commit(first)
	o.set("refs/heads/main", third)
	o.set("refs/tags/v1.0.0", second)
	_, err := r.Resolve(t.Context(), project, "refs/heads/main", second)
	if !errors.Is(err, imgd.ErrSuperseded) {
		t.Errorf("reset branch: got %v", err)
	}
	_, err = r.Resolve(t.Context(), project, "refs/tags/v1.0.0", first)
	if !errors.Is(err, imgd.ErrSuperseded) {
		t.Errorf("moved tag: got %v", err)
	}
	if got, err := r.Head(t.Context(), project, "refs/heads/main"); err != nil || got != third {
		t.Errorf("Head: got %s, %v; want %s", got, err, third)
	}

	o.remove("refs/heads/main")
	if got, err := r.Head(t.Context(), project, "refs/heads/main"); !errors.Is(err, imgd.ErrNotFound) {
		t.Errorf("Head of a removed branch: got %s, %v", got, err)
	}
	o.push("main/below") // where the branch was a file is a directory now
	if got, err := r.Head(t.Context(), project, "refs/heads/main"); !errors.Is(err, imgd.ErrNotFound) {
		t.Errorf("Head of a branch that is a directory: got %s, %v", got, err)
	}
	if _, err := r.Head(t.Context(), project, "refs/heads/main/below"); err != nil {
		t.Error(err)
	}
	o.remove("refs/heads/main/below")
	if got, err := r.Head(t.Context(), project, "refs/tags/v1.0.0"); err != nil || got != second {
		t.Errorf("Head of a tag without branches: got %s, %v; want %s", got, err, second)
	}
}

func TestContains(t *testing.T) {
	o := newOrigin(t)
	first, second := o.push("main"), o.push("main")
	merged := o.commit(first)
	head := o.commit(second, merged)
	o.set("refs/heads/main", head)
	side := o.commit(first)
	o.set("refs/heads/side", side)
	o.annotate("v1.0.0", first)
	gone := o.commit(head)
	r := open(t, o.config(t.TempDir()))
	for _, tt := range []struct {
		name, head, commit string
		want               bool
	}{
		{"itself", head, head, true},
		{"parent", head, second, true},
		{"merged", head, merged, true},
		{"root", head, first, true},
		{"child", first, head, false},
		{"sibling", head, side, false},
		{"not there", head, gone, false},
		{"annotation", head, o.git("rev-parse", "refs/tags/v1.0.0"), false},
	} {
		if got, err := r.Contains(t.Context(), project, tt.head, tt.commit); err != nil || got != tt.want {
			t.Errorf("%s: got %t, %v; want %t", tt.name, got, err, tt.want)
		}
	}
	if got, err := r.Contains(t.Context(), project, gone, head); err == nil {
		t.Errorf("unknown head: got %t, want an error", got)
	}
	if _, err := r.Contains(t.Context(), project, head, first[:10]); !errors.Is(err, imgd.ErrInvalid) {
		t.Errorf("short commit: got %v", err)
	}
	o.set("refs/heads/main", gone)
	if got, err := r.Contains(t.Context(), project, gone, head); err != nil || !got {
		t.Errorf("a head pushed since: got %t, %v", got, err)
	}
	o.set("refs/heads/main", side)
	o.remove("refs/heads/side")
	if got, err := r.Contains(t.Context(), project, side, head); err != nil || got {
		t.Errorf("the old head after a reset: got %t, %v", got, err)
	}
}

func TestDescribe(t *testing.T) {
	o := newOrigin(t)
	first, second := o.push("main"), o.push("main")
	r := open(t, o.config(t.TempDir()))
	after := func(tag string) string { return fmt.Sprintf("%s-1-g%s", tag, second[:7]) }
	for _, tt := range []struct {
		name, tag, object, want string
	}{
		{"none", "", "", ""},
		{"no version", "nightly", second, ""},
		{"prefix of a version", "v1-foo", second, ""},
		{"series", "v1.2", second, ""},
		{"too many parts", "v1.2.3.4", second, ""},
		{"leading zero", "v2026.01.05", second, ""},
		{"glob's idea of a version", "v1-foo.2.3", second, ""},
		{"with a slash", "v1.0.0/x.y", second, ""},
		{"below a project", "app/v1.0.0", second, ""},
		{"prerelease", "v0.1.0-rc.1", first, after("v0.1.0-rc.1")},
		{"release beside it", "v0.1.0", first, after("v0.1.0")},
		{"version of a tree", "v9.0.0", "main^{tree}", after("v0.1.0")},
		{"version of a blob", "v9.0.1-blob", "main:f", after("v0.1.0")},
		{"prerelease here", "v0.2.0-rc.1", second, "v0.2.0-rc.1"},
		{"without v", "0.2.0", second, "0.2.0"},
	} {
		if tt.tag != "" {
			o.annotate(tt.tag, tt.object)
			o.minutes++ // of several annotated tags git takes the youngest
		}
		for kept, r := range map[string]*git.Repos{"fetched": r, "cloned": open(t, o.config(t.TempDir()))} {
			if got := resolve(t, r, "refs/heads/main", "").Describe; got != tt.want {
				t.Errorf("%s, %s: got %q, want %q", tt.name, kept, got, tt.want)
			}
		}
	}
	if got := resolve(t, r, "refs/heads/main", first).Describe; got != "v0.1.0" {
		t.Errorf("the older commit: got %q", got)
	}
}

// git 2.39 cannot make a clone without trees of such a repository.
func TestLightweightTagOfTree(t *testing.T) {
	o := newOrigin(t)
	first := o.push("main")
	r := open(t, o.config(t.TempDir()))
	resolve(t, r, "refs/heads/main", "")
	o.set("refs/tags/v1.0.0", first)
	o.set("refs/tags/v2.0.0", o.git("rev-parse", "main^{tree}"))
	for _, r := range []*git.Repos{r, open(t, o.config(t.TempDir()))} {
		if got := resolve(t, r, "refs/heads/main", ""); got.ID != first || !strings.HasPrefix(got.Describe, "v1.0.0") {
			t.Errorf("got %+v, want %s v1.0.0", got, first)
		}
		if _, err := r.Resolve(t.Context(), project, "refs/tags/v2.0.0", ""); !errors.Is(err, imgd.ErrInvalid) {
			t.Errorf("tag of a tree: got %v", err)
		}
		o.push("main")
		first = o.push("main")
		if got := resolve(t, r, "refs/heads/main", ""); got.ID != first || !strings.HasPrefix(got.Describe, "v1.0.0-") {
			t.Errorf("got %+v, want %s v1.0.0-…", got, first)
		}
	}
}

func TestExpand(t *testing.T) {
	o := newOrigin(t)
	first, second := o.push("main"), o.push("main")
	o.annotate("v1.0.0", first)
	o.set("refs/heads/both", first)
	o.set("refs/tags/both", second)
	o.set("refs/heads/heads/main", first)
	o.set("refs/heads/feature/x", second)
	r := open(t, o.config(t.TempDir()))
	for _, tt := range []struct {
		short, ref, commit string
		err                error
	}{
		{"main", "refs/heads/main", second, nil},
		{"v1.0.0", "refs/tags/v1.0.0", first, nil},
		{"feature/x", "refs/heads/feature/x", second, nil},
		{"refs/heads/main", "refs/heads/main", second, nil},
		{"refs/tags/v1.0.0", "refs/tags/v1.0.0", first, nil},
		{"tags/both", "refs/tags/both", second, nil},
		{"heads/both", "refs/heads/both", first, nil},
		{"heads/main", "", "", imgd.ErrInvalid},
		{"both", "", "", imgd.ErrInvalid},
		{"feature", "", "", imgd.ErrNotFound},
		{"nothing", "", "", imgd.ErrNotFound},
		{first[:12], "", "", imgd.ErrNotFound},
		{first, "", "", imgd.ErrInvalid},
		{"", "", "", imgd.ErrInvalid},
		{"HEAD^{commit}", "", "", imgd.ErrInvalid},
		{"refs/stash", "", "", imgd.ErrInvalid},
		{"--all", "", "", imgd.ErrInvalid},
	} {
		ref, commit, err := r.Expand(t.Context(), project, tt.short)
		if ref != tt.ref || commit != tt.commit || !errors.Is(err, tt.err) {
			t.Errorf("Expand(%q): got %q %q %v, want %q %q %v", tt.short, ref, commit, err, tt.ref, tt.commit, tt.err)
		}
	}
	_, _, err := r.Expand(t.Context(), project, "both")
	for _, name := range []string{"refs/heads/both", "refs/tags/both"} {
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("ambiguous ref: got %v, want %s in it", err, name)
		}
	}
}

func TestEmptyRepository(t *testing.T) {
	o := newOrigin(t)
	r := open(t, o.config(t.TempDir()))
	if _, err := r.Resolve(t.Context(), project, "refs/heads/main", ""); !errors.Is(err, imgd.ErrInvalid) {
		t.Errorf("got %v", err)
	}
	want := o.push("main")
	if got := resolve(t, r, "refs/heads/main", "").ID; got != want {
		t.Errorf("after the first push: got %s, want %s", got, want)
	}
}

func TestSHA256(t *testing.T) {
	o := newOrigin(t, "--object-format=sha256")
	first, second := o.push("main"), o.push("main")
	o.annotate("v1.0.0", first)
	r := open(t, o.config(t.TempDir()))
	if got := resolve(t, r, "refs/heads/main", second); len(got.ID) != 64 || got.Describe != "v1.0.0-1-g"+second[:7] {
		t.Errorf("got %+v", got)
	}
}

func TestServerDown(t *testing.T) {
	o := newOrigin(t)
	first := o.push("main")
	r := open(t, o.config(t.TempDir()))
	cold := open(t, o.config(t.TempDir()))
	resolve(t, r, "refs/heads/main", "")
	addr := o.server.Listener.Addr().String()
	o.server.Close()
	for name, r := range map[string]*git.Repos{"with clone": r, "without": cold} {
		for _, commit := range []string{"", first} {
			_, err := r.Resolve(t.Context(), project, "refs/heads/main", commit)
			notAnEnd(t, name+": Resolve", err)
		}
		_, err := r.Head(t.Context(), project, "refs/heads/main")
		notAnEnd(t, name+": Head", err)
		_, _, err = r.Expand(t.Context(), project, "main")
		notAnEnd(t, name+": Expand", err)
		_, err = r.Contains(t.Context(), project, first, strings.Repeat("1", 40))
		notAnEnd(t, name+": Contains", err)
	}
	o.serve(addr)
	for _, r := range []*git.Repos{r, cold} {
		if got := resolve(t, r, "refs/heads/main", first).ID; got != first {
			t.Errorf("after the outage: got %s, want %s", got, first)
		}
	}
}

// notAnEnd fails the test unless err is one that is tried again.
func notAnEnd(t *testing.T, what string, err error) {
	t.Helper()
	if err == nil || errors.Is(err, imgd.ErrInvalid) || errors.Is(err, imgd.ErrSuperseded) || errors.Is(err, imgd.ErrNotFound) {
		t.Errorf("%s: got %v, want an error that is worth another try", what, err)
	}
}

// The ssh here runs what it is told on this machine, and notes how it was called.
func TestSSH(t *testing.T) {
	o := newOrigin(t)
	head := o.push("main")
	bin := t.TempDir()
	script := "#!/bin/sh\necho \"$@\" >> " + bin + "/calls\nfor last; do :; done\nexec sh -c \"$last\"\n"
	if err := os.WriteFile(filepath.Join(bin, "ssh"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	c := git.Config{Dir: t.TempDir(), Projects: of("ssh://git@git.example.com:2222" + o.dir), Lookup: names("203.0.113.7")}
	r := open(t, c)
	if got := resolve(t, r, "refs/heads/main", "").ID; got != head {
		t.Errorf("got %s, want %s", got, head)
	}
	head = o.push("main")
	if got := resolve(t, r, "refs/heads/main", "").ID; got != head {
		t.Errorf("got %s, want %s", got, head)
	}
	calls, _ := os.ReadFile(filepath.Join(bin, "calls"))
	for call := range strings.Lines(string(calls)) {
		if !strings.Contains(call, "-o BatchMode=yes") || !strings.Contains(call, "-p 2222 git@git.example.com git-upload-pack") {
			t.Errorf("ssh was called with %s", call)
		}
	}
}

var _ imgd.Peeker = (*git.Repos)(nil)

// What the clone has is at hand, without a word to the server.
func TestPeek(t *testing.T) {
	o := newOrigin(t)
	first, second := o.push("main"), o.push("main")
	o.annotate("v1.0.0", second)
	annotation := o.git("rev-parse", "refs/tags/v1.0.0")
	dir := t.TempDir()
	r := open(t, o.config(dir))
	if got, ok := r.Peek(t.Context(), project, first); ok {
		t.Errorf("without a clone: got %+v", got)
	}
	resolve(t, r, "refs/heads/main", "")
	later := o.push("main")
	o.server.Close()
	again := open(t, o.config(dir)) // another process
	for _, r := range []*git.Repos{r, again, again} {
		for commit, want := range map[string]time.Time{first: start.Add(time.Minute), second: start.Add(2 * time.Minute)} {
			if got, ok := r.Peek(t.Context(), project, commit); !ok || got != (imgd.Commit{ID: commit, Time: want}) {
				t.Errorf("got %+v, %v, want it, of %s", got, ok, want)
			}
		}
		for _, commit := range []string{later, annotation, first[:12], "", strings.Repeat("0", 40), "--all"} {
			if got, ok := r.Peek(t.Context(), project, commit); ok {
				t.Errorf("Peek(%q): got %+v", commit, got)
			}
		}
	}
	if _, ok := r.Peek(t.Context(), "nobody", first); ok {
		t.Error("a project that is not configured has it")
	}
}

// Confirm says what the server's tag names, and nothing of tags whose names end
// alike.
func TestConfirm(t *testing.T) {
	o := newOrigin(t)
	first, second := o.push("main"), o.push("main")
	o.set("refs/tags/v1.0.0", first)
	o.annotate("v1.1.0", second)
	o.annotate("nested", "v1.1.0")
	o.set("refs/tags/refs/tags/v9.0.0", first)
	o.annotate("tree", o.git("rev-parse", "main^{tree}"))
	annotation := o.git("rev-parse", "refs/tags/v1.1.0")
	r := open(t, o.config(t.TempDir()))
	for _, tt := range []struct {
		ref, commit string
		want        error
	}{
		{"refs/tags/v1.0.0", first, nil},
		{"refs/tags/v1.1.0", second, nil},
		{"refs/tags/nested", second, nil},
		{"refs/tags/v1.0.0", second, imgd.ErrSuperseded},
		{"refs/tags/v1.1.0", first, imgd.ErrSuperseded},
		{"refs/tags/v1.1.0", annotation, imgd.ErrSuperseded},
		{"refs/tags/tree", first, imgd.ErrSuperseded},
		{"refs/tags/v9.0.0", first, imgd.ErrSuperseded},
		{"refs/tags/v2.0.0", first, imgd.ErrSuperseded},
		{"--upload-pack=x", first, imgd.ErrInvalid},
		{"v1.0.0", first, imgd.ErrInvalid},
		{"refs/tags/v1.0.0", first[:12], imgd.ErrInvalid},
		{"refs/tags/v1.0.0", "", imgd.ErrInvalid},
	} {
		for range 2 {
			if err := r.Confirm(t.Context(), project, tt.ref, tt.commit); !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
				t.Errorf("Confirm(%s, %s): got %v, want %v", tt.ref, tt.commit, err, tt.want)
			}
		}
	}
	o.set("refs/tags/v1.0.0", second)
	if err := r.Confirm(t.Context(), project, "refs/tags/v1.0.0", second); err != nil {
		t.Errorf("moved: %v", err)
	}
	if err := r.Confirm(t.Context(), "nobody", "refs/tags/v1.0.0", first); !errors.Is(err, imgd.ErrInvalid) {
		t.Errorf("unknown project: %v", err)
	}
	o.server.Close()
	if err := r.Confirm(t.Context(), project, "refs/tags/v1.1.0", second); err == nil || errors.Is(err, imgd.ErrSuperseded) || errors.Is(err, imgd.ErrInvalid) {
		t.Errorf("the server is away: %v", err)
	}
}
