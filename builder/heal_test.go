package builder_test

import (
	"os"
	"path/filepath"
	"testing"
)

// A buildkitd that was killed while git ran leaves a lock behind, with which git
// fails for ever. The next try of a build finds that mended.
func TestDamagedGitCache(t *testing.T) {
	b := newBuilder(t)
	r := newRepo(t, map[string]string{"Dockerfile": "FROM scratch\nCOPY Dockerfile /\n"})
	p, req := r.ask()
	if _, err := b.Build(t.Context(), p, req); err != nil {
		t.Fatal(err)
	}
	repos, err := filepath.Glob(filepath.Join(world.root, "*", "snapshots", "snapshots", "*", "fs", "HEAD"))
	if err != nil || len(repos) == 0 {
		t.Fatalf("no repository under %s: %v", world.root, err)
	}
	for _, head := range repos {
		for _, lock := range []string{"index.lock", "shallow.lock", "config.lock"} {
			if err := os.WriteFile(filepath.Join(filepath.Dir(head), lock), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	r.write(map[string]string{"Dockerfile": "FROM scratch\nCOPY Dockerfile /new\n"})
	p, req = r.ask()
	if _, err := b.Build(t.Context(), p, req); err == nil {
		t.Fatal("a locked repository is no hindrance: the test does not damage what it should")
	} else {
		t.Log(err)
	}
	if _, err := b.Build(t.Context(), p, req); err != nil {
		t.Errorf("the next try: %v", err)
	}
}
