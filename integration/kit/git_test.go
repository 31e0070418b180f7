package kit_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/imgd/imgd/integration/kit"
)

func serveGit(t *testing.T) *kit.GitServer {
	t.Helper()
	server, err := kit.ServeGit(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	return server
}

func git(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "git", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// history makes two commits with tags and a branch.
func history(t *testing.T, server *kit.GitServer) (repo *kit.Repo, first, second string) {
	t.Helper()
	ctx := t.Context()
	repo, err := server.Create(ctx, "team/hello")
	if err != nil {
		t.Fatal(err)
	}
	step := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	first, err = repo.Commit(ctx, "first", map[string]string{"a.txt": "1\n", "dir/b.txt": "1\n"})
	step(err)
	step(repo.Tag(ctx, "v1.0.0", "HEAD"))
	second, err = repo.Commit(ctx, "second", map[string]string{"a.txt": "2\n"})
	step(err)
	step(repo.AnnotatedTag(ctx, "v1.1.0", "HEAD", "the second"))
	step(repo.Branch(ctx, "feature/x", first))
	return repo, first, second
}

func TestRepoIsTheSameEverywhere(t *testing.T) {
	repo, first, second := history(t, serveGit(t))
	if first != "7d2f5955e0bd91a97ca7c6b0e234c9c33f6740ec" || second != "169961793fa9a991c46ce14b4760b2b46935234b" {
		t.Errorf("commits are %s and %s", first, second)
	}
	refs := git(t, "ls-remote", repo.URL)
	for _, want := range []string{
		second + "\tHEAD", second + "\trefs/heads/main", first + "\trefs/heads/feature/x",
		first + "\trefs/tags/v1.0.0", second + "\trefs/tags/v1.1.0^{}",
	} {
		if !strings.Contains(refs+"\n", want+"\n") {
			t.Errorf("ls-remote lacks %q:\n%s", want, refs)
		}
	}
}

func TestRepoRewrites(t *testing.T) {
	ctx := t.Context()
	repo, first, second := history(t, serveGit(t))
	for _, err := range []error{
		repo.Checkout(ctx, "main"), repo.Reset(ctx, first), repo.MoveTag(ctx, "v1.0.0", second), repo.DeleteRef(ctx, "refs/tags/v1.1.0"),
		repo.DeleteRef(ctx, "refs/heads/feature/x"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	got := strings.Fields(git(t, "ls-remote", repo.URL))
	want := []string{first, "HEAD", first, "refs/heads/main", second, "refs/tags/v1.0.0"}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("ls-remote gives %v, want %v", got, want)
	}
}

// A daemon fetches without trees and asks for single commits, also ones that no ref names any more.
func TestGitServerServesPartialClones(t *testing.T) {
	repo, first, second := history(t, serveGit(t))
	clone := filepath.Join(t.TempDir(), "clone.git")
	git(t, "clone", "-q", "--bare", "--filter=tree:0", repo.URL, clone)
	if got := git(t, "-C", clone, "describe", "--tags", second); got != "v1.1.0" {
		t.Errorf("describe gives %q", got)
	}
	if got := git(t, "-C", clone, "show", first+":a.txt"); got != "1" { // fetched by the way
		t.Errorf("a.txt at the first commit is %q", got)
	}
	if err := repo.Checkout(t.Context(), "main"); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{repo.DeleteRef(t.Context(), "refs/tags/v1.1.0"), repo.Reset(t.Context(), first)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	shallow := filepath.Join(t.TempDir(), "shallow.git")
	git(t, "init", "-q", "--bare", shallow)
	git(t, "-C", shallow, "fetch", "-q", "--depth=1", repo.URL, second)
	if got := git(t, "-C", shallow, "cat-file", "-t", second); got != "commit" {
		t.Errorf("the fetched commit is a %s", got)
	}
	if _, err := os.Stat(filepath.Join(shallow, "shallow")); err != nil {
		t.Errorf("the fetch was not shallow: %v", err)
	}
}
