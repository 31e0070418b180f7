package git_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/internal/git"
)

// A history is what git fast-import is told: commits by number from 1, and tags
// of them.
type history struct {
	bytes.Buffer
	commits int
	tags    map[string]bool // that there are: fast-import takes each once
	random  *rand.Rand
}

// commit adds one with these parents.
func (h *history) commit(parents ...int) int {
	h.commits++
	fmt.Fprintf(h, "commit refs/heads/main\nmark :%d\ncommitter c <c@example.com> %d +0000\ndata 1\nc\n", h.commits, start.Unix()+int64(h.commits*60))
	for i, p := range parents {
		fmt.Fprintf(h, "%s :%d\n", map[bool]string{true: "from", false: "merge"}[i == 0], p)
	}
	fmt.Fprintf(h, "M 100644 inline f%d\ndata %d\n%d\n", h.commits%7, len(fmt.Sprint(h.commits)), h.commits)
	return h.commits
}

// tag names a commit, lightweight or annotated, unless the tag is there.
func (h *history) tag(name string, commit int, annotated bool) {
	if h.tags[name] {
		return
	}
	if h.tags == nil {
		h.tags = map[string]bool{}
	}
	h.tags[name] = true
	if annotated {
		fmt.Fprintf(h, "tag %s\nfrom :%d\ntagger t <t@example.com> %d +0000\ndata 1\nt\n", name, commit, start.Unix()+int64(h.random.IntN(5)*1000))
		return
	}
	fmt.Fprintf(h, "reset refs/tags/%s\nfrom :%d\n\n", name, commit)
}

// into imports it into o, as all that is there.
func (h *history) into(o *origin) []string {
	o.t.Helper()
	fmt.Fprintf(h, "reset refs/heads/main\nfrom :%d\n\n", h.commits)
	marks := filepath.Join(o.t.TempDir(), "marks")
	cmd := exec.Command("git", "--git-dir="+o.dir, "fast-import", "--quiet", "--force", "--export-marks="+marks)
	cmd.Stdin, cmd.Env = h, cleanEnv()
	if out, err := cmd.CombinedOutput(); err != nil {
		o.t.Fatalf("git fast-import: %v\n%s", err, out)
	}
	var ids []string // of main
	for line := range strings.Lines(o.git("rev-list", "refs/heads/main")) {
		ids = append(ids, strings.TrimSpace(line))
	}
	return ids
}

// both are the project that has all tags, and one with a prefix, in their own
// clones.
func (o *origin) both(dir string) git.Config {
	c := o.config(dir)
	c.Projects = configured(map[string]imgd.Project{
		project: {Name: project, Git: o.url()},
		"svc-a": {Name: "svc-a", Git: o.url(), TagPrefix: "svc-a/"},
	})
	return c
}

// strict is a semantic version as https://semver.org has it, with or without v.
var strict = regexp.MustCompile(`^v?(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-((0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(\.(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*))?(\+[0-9a-zA-Z-]+(\.[0-9a-zA-Z-]+)*)?$`)

// sameAsGit holds that imgd describes the commits as git does in a full clone of
// this moment, which is told each tag that counts.
func sameAsGit(t *testing.T, o *origin, r *git.Repos, commits []string) (described int) {
	t.Helper()
	full := filepath.Join(t.TempDir(), "full.git")
	runGit(t, full, start, "clone", "--quiet", "--mirror", o.dir, full)
	for name, prefix := range map[string]string{project: "", "svc-a": "svc-a/"} {
		args := []string{"describe", "--tags", "--abbrev=7"}
		for tag := range strings.Lines(runGit(t, full, start, "for-each-ref", "--format=%(refname:strip=2)", "refs/tags")) {
			tag = strings.TrimSpace(tag)
			if own, ok := strings.CutPrefix(tag, prefix); ok && strict.MatchString(own) {
				args = append(args, "--match="+tag)
			}
		}
		for _, commit := range commits {
			want := ""
			if cmd := exec.Command("git", append([]string{"--git-dir=" + full}, append(slices.Clone(args), commit)...)...); len(args) > 3 {
				cmd.Env = cleanEnv()
				out, _ := cmd.Output() // it fails where no tag is reachable
				want = strings.TrimPrefix(strings.TrimSpace(string(out)), prefix)
			}
			got, err := r.Resolve(t.Context(), name, "refs/heads/main", commit)
			if err != nil || got.Describe != want {
				t.Errorf("%s with prefix %q: got %q, %v; git says %q", commit, prefix, got.Describe, err, want)
			}
			if want != "" {
				described++
			}
		}
	}
	return described
}

// some are n of the commits, the first and the last among them.
func some(random *rand.Rand, commits []string, n int) []string {
	picked := []string{commits[0], commits[len(commits)-1]}
	for range n - 2 {
		picked = append(picked, commits[random.IntN(len(commits))])
	}
	return picked
}

// names are what tags are called: versions, what looks like one, others, with
// and without the prefix.
func (h *history) name() string {
	n := h.random.IntN
	name := fmt.Sprintf([]string{"v%d.%d.%d", "v%d.%d.%d", "v%d.%d.%d", "%d.%d.%d", "v%d.%d.%d-rc.1", "v%d.%d.%d+b5", "v%d.%d.%d.4", "v%d.%d-%d", "x%d.%d.%d", "v0%d.%d.%d", "v%d.%d.%d-"}[n(11)], n(3), n(4), n(9))
	return []string{"", "", "svc-a/", "svc-ab/", "svc-a/x/"}[n(5)] + name
}

// Random histories: merges, several tags on one commit, lightweight and
// annotated, tags off the branch; then tags are moved, removed and added.
func TestDescribeRandomHistories(t *testing.T) {
	described := 0
	for seed := range uint64(6) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 6))
			h := &history{random: random}
			for range 20 + random.IntN(60) {
				var parents []int
				for range min(1+random.IntN(5)/3, h.commits) {
					if p := h.commits - random.IntN(min(6, h.commits)); !slices.Contains(parents, p) {
						parents = append(parents, p)
					}
				}
				c := h.commit(parents...)
				for range random.IntN(4) / 2 * random.IntN(4) {
					h.tag(h.name(), c, random.IntN(2) == 0)
				}
			}
			o := newOrigin(t)
			ids := h.into(o)
			r := open(t, o.both(t.TempDir()))
			described += sameAsGit(t, o, r, some(random, ids, 3))
			tags := strings.Fields(o.git("for-each-ref", "--format=%(refname)", "refs/tags"))
			for _, tag := range tags {
				switch random.IntN(4) {
				case 0:
					o.remove(tag)
				case 1:
					o.set(tag, ids[random.IntN(len(ids))])
				case 2:
					o.annotate(strings.TrimPrefix(tag, "refs/tags/"), ids[random.IntN(len(ids))])
				}
			}
			described += sameAsGit(t, o, r, some(random, ids, 3))
		})
	}
	if described < 25 {
		t.Errorf("only %d of the commits were described: the test says little", described)
	}
}

// A long line with 1,000 tags.
func TestDescribeLinearHistory(t *testing.T) {
	h := &history{random: rand.New(rand.NewPCG(1, 1))}
	c := h.commit()
	for i := range 1000 {
		for range 2 {
			c = h.commit(c)
		}
		prefix := []string{"", "svc-a/"}[i%2]
		h.tag(fmt.Sprintf("%sv%d.%d.%d", prefix, i/100, i/10%10, i%10), c, i%3 == 0)
	}
	for range 5 {
		c = h.commit(c)
	}
	describesHuge(t, h)
}

// A history in which every second commit is a merge of what went its own way for
// long.
func TestDescribeMergeHeavyHistory(t *testing.T) {
	random := rand.New(rand.NewPCG(2, 2))
	h := &history{random: random}
	tips := []int{h.commit()}
	for i := range 1500 {
		a := random.IntN(len(tips))
		b := random.IntN(len(tips))
		switch {
		case len(tips) < 20 && random.IntN(3) == 0:
			tips = append(tips, h.commit(tips[a])) // another way begins
		case a != b:
			tips[a] = h.commit(tips[a], tips[b])
		default:
			tips[a] = h.commit(tips[a])
		}
		if i%7 == 0 {
			h.tag(fmt.Sprintf("%sv1.%d.%d", []string{"", "svc-a/"}[i%2], i/100, i), h.commits, i%2 == 0)
		}
	}
	h.commit(tips...)
	describesHuge(t, h)
}

func describesHuge(t *testing.T, h *history) {
	t.Helper()
	o := newOrigin(t)
	ids := h.into(o)
	r := open(t, o.both(t.TempDir()))
	if n := sameAsGit(t, o, r, some(h.random, ids, 4)); n < 4 {
		t.Errorf("only %d commits were described", n)
	}
	for i, tag := range strings.Fields(o.git("for-each-ref", "--format=%(refname)", "refs/tags")) {
		switch i % 40 {
		case 0:
			o.remove(tag)
		case 1:
			o.set(tag, ids[h.random.IntN(len(ids))])
		}
	}
	o.remove("refs/tags/v9.9.8")
	sameAsGit(t, o, r, some(h.random, ids, 4))
}
