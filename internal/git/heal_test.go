package git_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/internal/git"
)

// What a full disk, a kill -9 or another program may have done to the clone.
func TestDamagedCloneHeals(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, dir string){
		"empty directory": func(t *testing.T, dir string) { empty(t, dir, "") },
		"no fetch":        func(t *testing.T, dir string) { empty(t, dir, ""); runGit(t, dir, start, "init", "--quiet", "--bare") },
		"no config":       func(t *testing.T, dir string) { remove(t, filepath.Join(dir, "config")) },
		"no HEAD":         func(t *testing.T, dir string) { remove(t, filepath.Join(dir, "HEAD")) },
		"no objects":      func(t *testing.T, dir string) { empty(t, dir, "objects/pack") },
		"empty objects":   func(t *testing.T, dir string) { truncate(t, dir, "objects/pack/*") },
		"empty pack":      func(t *testing.T, dir string) { truncate(t, dir, "objects/pack/*.pack") },
		"empty index":     func(t *testing.T, dir string) { truncate(t, dir, "objects/pack/*.idx") },
		"empty refs":      func(t *testing.T, dir string) { truncate(t, dir, "packed-refs") },
		"garbled refs":    func(t *testing.T, dir string) { write(t, filepath.Join(dir, "packed-refs"), "garbage\n") },
		"garbled branch":  func(t *testing.T, dir string) { write(t, filepath.Join(dir, "refs/heads/main"), "garbage\n") },
		"lock of branch":  func(t *testing.T, dir string) { write(t, filepath.Join(dir, "refs/heads/main.lock"), "") },
		"lock of refs":    func(t *testing.T, dir string) { write(t, filepath.Join(dir, "packed-refs.lock"), "") },
		"lock of config":  func(t *testing.T, dir string) { write(t, filepath.Join(dir, "config.lock"), "") },
		"a file":          func(t *testing.T, dir string) { empty(t, dir, ""); remove(t, dir); write(t, dir, "") },
		"wrong commit": func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "refs/heads/main"), strings.Repeat("1", 40)+"\n")
		},
		"another's origin": func(t *testing.T, dir string) {
			runGit(t, dir, start, "config", "remote.origin.url", "http://127.0.0.1:1/x")
		},
		"not bare":       func(t *testing.T, dir string) { runGit(t, dir, start, "config", "core.bare", "false") },
		"unknown format": func(t *testing.T, dir string) { runGit(t, dir, start, "config", "core.repositoryformatversion", "99") },
	} {
		for _, pushed := range []string{"pushed", "unchanged"} {
			t.Run(name+"/"+pushed, func(t *testing.T) {
				t.Parallel()
				o := newOrigin(t)
				o.set("refs/tags/v1.0.0", o.push("main"))
				o.set("refs/tags/old", "refs/tags/v1.0.0")
				c := o.config(t.TempDir())
				r := open(t, c)
				want := resolve(t, r, "refs/heads/main", "").ID
				if pushed == "pushed" {
					want = o.push("main")
					o.remove("refs/tags/old") // rewrites packed-refs
				}
				damage(t, filepath.Join(c.Dir, project+".git"))
				for range 2 {
					if got := resolve(t, r, "refs/heads/main", want); got.ID != want || !strings.HasPrefix(got.Describe, "v1.0.0") {
						t.Errorf("got %+v, want %s", got, want)
					}
				}
				onlyClone(t, c.Dir)
			})
		}
	}
}

// What a fetch does not notice: history is damaged below the heads. A commit
// that is lost in it must not look like one that was never there.
func TestDamagedHistoryHeals(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, pack string){
		"gone": func(t *testing.T, pack string) {
			remove(t, pack+"pack")
			remove(t, pack+"idx")
		},
		"empty": func(t *testing.T, pack string) { truncate(t, filepath.Dir(pack), filepath.Base(pack)+"pack") },
		"garbled": func(t *testing.T, pack string) {
			b, err := os.ReadFile(pack + "pack")
			if err != nil {
				t.Fatal(err)
			}
			truncate(t, filepath.Dir(pack), filepath.Base(pack)+"pack")
			write(t, pack+"pack", string(b[:30])+"\xff\xff\xff\xff\xff\xff"+string(b[36:]))
		},
	} {
		for _, ask := range []string{"Resolve", "Resolve full", "Describe full", "Contains", "Contains full", "Contains not", "Contains not full"} {
			t.Run(name+"/"+ask, func(t *testing.T) {
				t.Parallel()
				o := newOrigin(t)
				first := o.push("main")
				o.annotate("v1.0.0", first)
				ask, full := strings.CutSuffix(ask, " full")
				if full { // git cannot leave trees out then
					o.set("refs/tags/tree", o.git("rev-parse", "main^{tree}"))
				}
				c := o.config(t.TempDir())
				r := open(t, c)
				resolve(t, r, "refs/heads/main", "")
				middle, clone := o.push("main"), filepath.Join(c.Dir, project+".git")
				resolve(t, r, "refs/heads/main", "")
				pack := packOf(t, clone, middle)
				o.push("main")
				head := resolve(t, r, "refs/heads/main", "").ID
				damage(t, pack)

				var got bool
				var err error
				switch ask {
				case "Resolve":
					var commit imgd.Commit
					commit, err = r.Resolve(t.Context(), project, "refs/heads/main", middle)
					got = commit.ID == middle
				case "Describe":
					var commit imgd.Commit
					commit, err = r.Resolve(t.Context(), project, "refs/heads/main", "")
					got = commit.Describe == "v1.0.0-2-g"+head[:7]
				case "Contains":
					got, err = r.Contains(t.Context(), project, head, first)
				case "Contains not":
					got, err = r.Contains(t.Context(), project, head, strings.Repeat("1", 40))
					got = !got
				}
				if err != nil || !got {
					t.Errorf("got %t, %v", got, err)
				}
				if n := cloneGit(t, c.Dir, "rev-list", "--count", head); n != "3" {
					t.Errorf("history: got %s commits, want 3", n)
				}
			})
		}
	}
}

// packOf answers the pack that has the object, up to its extension.
func packOf(t *testing.T, clone, object string) string {
	t.Helper()
	files, _ := filepath.Glob(filepath.Join(clone, "objects/pack/*.idx"))
	for _, file := range files {
		if strings.Contains(runGit(t, clone, start, "verify-pack", "--verbose", file), object) {
			return strings.TrimSuffix(file, "idx")
		}
	}
	t.Fatalf("no pack has %s", object)
	return ""
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

func empty(t *testing.T, dir, name string) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := errors.Join(os.RemoveAll(path), os.Mkdir(path, 0o700)); err != nil {
		t.Fatal(err)
	}
}

func truncate(t *testing.T, dir, pattern string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: got %v, %v", pattern, files, err)
	}
	for _, file := range files { // git's packs are read-only
		if err := errors.Join(os.Remove(file), os.WriteFile(file, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
}

func write(t *testing.T, file, content string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte(content), 0o600)); err != nil {
		t.Fatal(err)
	}
}

// onlyClone fails the test if dir holds anything but the clone.
func onlyClone(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 || entries[0].Name() != project+".git" {
		t.Errorf("got %v, %v; want the clone alone", entries, err)
	}
}

func TestNewClearsRests(t *testing.T) {
	o := newOrigin(t)
	o.push("main")
	c := o.config(t.TempDir())
	resolve(t, open(t, c), "refs/heads/main", "")
	clone := filepath.Join(c.Dir, project+".git")
	rests := []string{filepath.Join(c.Dir, ".tmp-hello-1/new/HEAD"), filepath.Join(clone, "refs/heads/x.lock"), filepath.Join(clone, "objects/pack/tmp_pack_x")}
	branch := filepath.Join(clone, "refs/heads/tmp_x")
	for _, file := range append(rests, branch) {
		write(t, file, "")
	}
	open(t, c)
	for _, file := range rests {
		if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: got %v, want it gone", file, err)
		}
	}
	if _, err := os.Stat(branch); err != nil {
		t.Error(err)
	}
	remove(t, branch)
	onlyClone(t, c.Dir)
}

// The git of an imgd that was killed may go on with a clone for a while.
func TestNewBesideALivingGit(t *testing.T) {
	o := newOrigin(t)
	dir := t.TempDir()
	clone := filepath.Join(dir, ".tmp-hello-1", "new")
	ctx, stop := context.WithCancel(t.Context())
	var writing sync.WaitGroup
	for n := range 4 {
		writing.Go(func() {
			for i := 0; ctx.Err() == nil; i++ { // errors are those of what was just removed
				_ = os.MkdirAll(clone, 0o755)
				_ = os.WriteFile(filepath.Join(clone, fmt.Sprint(n, "-", i%100)), nil, 0o644)
			}
		})
	}
	for range 1000 {
		if _, err := git.New(o.config(dir)); err != nil {
			t.Error(err)
			break
		}
	}
	stop()
	writing.Wait()
	if _, err := git.New(o.config(dir)); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(clone); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the clone is still there: %v", err)
	}
}

// On a machine that is busy, git's helpers may end long after git has.
func TestHelperThatOutlivesGit(t *testing.T) {
	o := newOrigin(t)
	head := o.push("main")
	real, err := exec.LookPath("git")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	script := "#!/bin/sh\ncase \"$*\" in *clone*) sleep 60 & ;; esac\nexec " + real + " \"$@\"\n"
	if err := os.WriteFile(filepath.Join(dir, "git"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	c := o.config(t.TempDir())
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	if got := resolve(t, open(t, c), "refs/heads/main", ""); got.ID != head {
		t.Errorf("got %+v, want %s", got, head)
	}
}

// The clones of projects that are gone go too; what is no clone stays.
func TestNewForgetsProjects(t *testing.T) {
	o := newOrigin(t)
	want := o.push("main")
	c := o.config(t.TempDir())
	resolve(t, open(t, c), "refs/heads/main", want)
	gone, other := filepath.Join(c.Dir, "gone.git"), filepath.Join(c.Dir, "notes")
	write(t, filepath.Join(gone, "objects/pack/x.pack"), "")
	write(t, other, "")
	for range 2 {
		r := open(t, c)
		if _, err := os.Stat(gone); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the clone of a project that is gone: got %v", err)
		}
		if _, err := os.Stat(other); err != nil {
			t.Error(err)
		}
		resolve(t, r, "refs/heads/main", want)
	}
}
