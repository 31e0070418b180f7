package git_test

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"strings"
	"testing"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/internal/git"
)

var _ imgd.Git = (*git.Repos)(nil)

// files commits these files, by path, on top of the parents.
func (o *origin) files(content map[string]string, parents ...string) string {
	o.t.Helper()
	index := filepath.Join(o.t.TempDir(), "index")
	for path, text := range content {
		blob := o.tree(text) // a tree with the blob in it
		blob = o.git("rev-parse", blob+":f")
		o.indexed(index, "update-index", "--add", "--cacheinfo", "100644,"+blob+","+path)
	}
	o.minutes++
	args := []string{"commit-tree", "-m", fmt.Sprint("commit ", o.minutes)}
	for _, p := range parents {
		args = append(args, "-p", p)
	}
	return o.git(append(args, o.indexed(index, "write-tree"))...)
}

// watching is o's project with these paths.
func (o *origin) watching(dir string, paths ...string) git.Config {
	c := o.config(dir)
	c.Projects = configured(map[string]imgd.Project{project: {Name: project, Git: o.url(), Paths: paths}})
	return c
}

func TestTouched(t *testing.T) {
	o := newOrigin(t)
	base := map[string]string{"go.mod": "1", "svc-a/main.go": "1", "svc-a/docs/x.md": "1", "svc-ab/main.go": "1", "docs/a.md": "1", "Dockerfile": "1", "[x]/y": "1"}
	first := o.files(base)
	o.set("refs/heads/main", first)
	changed := func(path, content string) string {
		next := maps.Clone(base)
		if next[path] = content; content == "" {
			delete(next, path)
		}
		return o.files(next, first)
	}
	commits := map[string]string{}
	for _, path := range []string{"go.mod", "svc-a/main.go", "svc-a/docs/x.md", "svc-ab/main.go", "docs/a.md", "Dockerfile", "[x]/y", "svc-a/new/deep/file", "docs/sub/b.md", "top.txt"} {
		commits[path] = changed(path, "2")
		o.set("refs/heads/"+fmt.Sprint(len(commits)), commits[path])
	}
	commits["removed svc-a/main.go"] = changed("svc-a/main.go", "")
	o.set("refs/heads/removed", commits["removed svc-a/main.go"])
	dir := t.TempDir()
	for _, tt := range []struct {
		paths   []string
		touches []string // of commits
	}{
		{[]string{"svc-a/**"}, []string{"svc-a/main.go", "svc-a/docs/x.md", "svc-a/new/deep/file", "removed svc-a/main.go"}},
		{[]string{"svc-a"}, []string{"svc-a/main.go", "svc-a/docs/x.md", "svc-a/new/deep/file", "removed svc-a/main.go"}},
		{[]string{"svc-a/"}, []string{"svc-a/main.go", "svc-a/docs/x.md", "svc-a/new/deep/file", "removed svc-a/main.go"}},
		{[]string{"svc-a/*"}, []string{"svc-a/main.go", "removed svc-a/main.go"}},
		{[]string{"svc-a/**", "!svc-a/docs/**"}, []string{"svc-a/main.go", "svc-a/new/deep/file", "removed svc-a/main.go"}},
		{[]string{"!svc-a/docs/**", "svc-a/**"}, []string{"svc-a/main.go", "svc-a/new/deep/file", "removed svc-a/main.go"}},
		{[]string{"go.mod", "Dockerfile"}, []string{"go.mod", "Dockerfile"}},
		{[]string{"*"}, []string{"go.mod", "Dockerfile", "top.txt"}},
		{[]string{"**/*.md"}, []string{"svc-a/docs/x.md", "docs/a.md", "docs/sub/b.md"}},
		{[]string{"**"}, []string{"go.mod", "svc-a/main.go", "svc-a/docs/x.md", "svc-ab/main.go", "docs/a.md", "Dockerfile", "[x]/y", "svc-a/new/deep/file", "docs/sub/b.md", "top.txt", "removed svc-a/main.go"}},
		{[]string{"!docs"}, []string{"go.mod", "svc-a/main.go", "svc-a/docs/x.md", "svc-ab/main.go", "Dockerfile", "[x]/y", "svc-a/new/deep/file", "top.txt", "removed svc-a/main.go"}},
		{[]string{`\[x]/y`}, []string{"[x]/y"}},
		{[]string{"svc-a[b]/*.go"}, []string{"svc-ab/main.go"}},
		{[]string{"nothing/**"}, nil},
		{[]string{"--output=canary", ":(top)docs", "-h"}, nil},
		{nil, []string{"go.mod", "svc-a/main.go", "svc-a/docs/x.md", "svc-ab/main.go", "docs/a.md", "Dockerfile", "[x]/y", "svc-a/new/deep/file", "docs/sub/b.md", "top.txt", "removed svc-a/main.go"}},
	} {
		r := open(t, o.watching(dir, tt.paths...))
		resolve(t, r, "refs/heads/main", "")
		for name, commit := range commits {
			want := strings.Contains("\n"+strings.Join(tt.touches, "\n")+"\n", "\n"+name+"\n")
			if got, err := r.Touched(t.Context(), project, first, commit); err != nil || got != want {
				t.Errorf("%q by %s: got %t, %v; want %t", tt.paths, name, got, err, want)
			}
		}
		if got, err := r.Touched(t.Context(), project, first, first); err != nil || got != (tt.paths == nil) {
			t.Errorf("%q by nothing: got %t, %v", tt.paths, got, err)
		}
	}
}

// It compares what is there, not what was pushed in between.
func TestTouchedThereAndBack(t *testing.T) {
	o := newOrigin(t)
	first := o.files(map[string]string{"a/x": "1", "b/x": "1"})
	second := o.files(map[string]string{"a/x": "2", "b/x": "1"}, first)
	back := o.files(map[string]string{"a/x": "1", "b/x": "3"}, second)
	elsewhere := o.files(map[string]string{"a/x": "1", "b/x": "4"}) // another history
	o.set("refs/heads/main", back)
	o.set("refs/heads/elsewhere", elsewhere)
	r := open(t, o.watching(t.TempDir(), "a/**"))
	resolve(t, r, "refs/heads/main", "")
	for _, tt := range []struct {
		from, to string
		want     bool
	}{{first, second, true}, {second, back, true}, {first, back, false}, {back, first, false}, {back, elsewhere, false}, {second, elsewhere, true}} {
		if got, err := r.Touched(t.Context(), project, tt.from, tt.to); err != nil || got != tt.want {
			t.Errorf("%.7s..%.7s: got %t, %v; want %t", tt.from, tt.to, got, err, tt.want)
		}
	}
	o.set("refs/heads/main", first)
	o.git("reflog", "expire", "--expire=now", "--all")
	r = open(t, o.watching(t.TempDir(), "a/**"))
	resolve(t, r, "refs/heads/main", "")
	if got, err := r.Touched(t.Context(), project, back, first); err != nil || !got {
		t.Errorf("a commit that no ref has any more: got %t, %v", got, err)
	}
}

func TestTouchedErrors(t *testing.T) {
	o := newOrigin(t)
	first := o.push("main")
	second := o.push("main")
	c := o.watching(t.TempDir(), "f")
	r := open(t, c)
	resolve(t, r, "refs/heads/main", "")
	for _, bad := range []string{"", "main", "--output=canary", first[:12]} {
		if _, err := r.Touched(t.Context(), project, bad, first); !errors.Is(err, imgd.ErrInvalid) {
			t.Errorf("from %q: got %v", bad, err)
		}
		if _, err := r.Touched(t.Context(), project, first, bad); !errors.Is(err, imgd.ErrInvalid) {
			t.Errorf("to %q: got %v", bad, err)
		}
	}
	if _, err := r.Touched(t.Context(), "nobody", first, second); !errors.Is(err, imgd.ErrInvalid) {
		t.Errorf("unknown project: got %v", err)
	}
	addr := o.server.Listener.Addr().String()
	o.server.Close()
	if got, err := r.Touched(t.Context(), project, first, second); err == nil {
		t.Errorf("the server is away: got %t, want an error", got)
	}
	o.serve(addr)
	for range 2 { // interrupted, repeated
		if got, err := r.Touched(t.Context(), project, first, second); err != nil || !got {
			t.Errorf("it is back: got %t, %v", got, err)
		}
	}
	o.server.Close()
	if got, err := r.Touched(t.Context(), project, first, second); err != nil || !got {
		t.Errorf("what was compared before needs no server: got %t, %v", got, err)
	}
}

// Whatever has happened to the clone, it is asked again of a new one.
func TestTouchedHeals(t *testing.T) {
	o := newOrigin(t)
	first := o.files(map[string]string{"a/x": "1", "b/x": "1"})
	second := o.files(map[string]string{"a/x": "1", "b/x": "2"}, first)
	o.set("refs/heads/main", second)
	c := o.watching(t.TempDir(), "a/**")
	r := open(t, c)
	for range 20 { // and however often it is packed anew
		second = o.files(map[string]string{"a/x": "1", "b/x": fmt.Sprint(o.minutes)}, second)
		o.set("refs/heads/main", second)
		resolve(t, r, "refs/heads/main", "")
		if got, err := r.Touched(t.Context(), project, first, second); err != nil || got {
			t.Fatalf("got %t, %v", got, err)
		}
	}
	truncate(t, filepath.Join(c.Dir, project+".git"), "objects/pack/*.pack")
	if got, err := r.Touched(t.Context(), project, first, second); err != nil || got {
		t.Errorf("of a damaged clone: got %t, %v", got, err)
	}
}

func TestCheckPath(t *testing.T) {
	for _, good := range []string{"go.mod", "svc-a/**", "!docs/**", "svc-a/", "*", "**", "a[b-d]?", "!a", ".github/workflows/*.yml", "..a/b", "a b", "-x", ":(top)x", `\!x`, "ä"} {
		if err := git.CheckPath(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"", "!", "/go.mod", "!/x", "a//b", "../x", "a/../b", "a/..", "./a", ".", "a/.", "a\nb", "a\x00", "\xff", "[a", "a\\", strings.Repeat("a", 5000), "//"} {
		if err := git.CheckPath(bad); err == nil {
			t.Errorf("%q passed", bad)
		}
	}
}

// FuzzCheckPath holds that git takes whatever passes, and finds by it no more
// than a path.
func FuzzCheckPath(f *testing.F) {
	for _, seed := range []string{"go.mod", "svc-a/**", "!docs/**", "[a", ":(top)x", "!", "a\\", "**/x", "[[:alpha:]]", "[]a]"} {
		f.Add(seed)
	}
	o := newOrigin(f)
	first := o.files(map[string]string{"a": "1"})
	second := o.files(map[string]string{"a": "2"}, first)
	o.set("refs/heads/main", second)
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, pattern string) {
		if git.CheckPath(pattern) != nil {
			return
		}
		r := open(t, o.watching(dir, pattern))
		if _, err := r.Touched(t.Context(), project, first, second); err != nil {
			t.Errorf("%q passed: %v", pattern, err)
		}
	})
}
