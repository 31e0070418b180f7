package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/integration/kit"
	"github.com/imgd/imgd/internal/git"
)

// The repository: what a service has after some years, in a monorepo of that
// many directories.
const (
	tagsCommits = 10_000
	tagsTags    = 1_000
	tagsDirs    = 2_000

	tagsWarmRounds = 31
	tagsColdRounds = 5
	tagsPathRounds = 15
	// tagsGoal: what a push costs beside the fetch that brings it.
	tagsGoal = 2.0
)

// A forge is a git server with that repository, and imgd's and git's own clones
// of it, which are of the same kind.
type forge struct {
	dir  string
	url  string
	bare string // the repository on the server
	tip  int    // number of its newest commit
}

// tags measures how long imgd takes to know what a push is called: fetch,
// describe and the tag rules, cold and warm, against git's own clone and fetch
// from the same server; and to know whether it touches the project's paths.
func tags(ctx context.Context, progress io.Writer) (figures []figure, err error) {
	dir, err := os.MkdirTemp("", "imgd-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	server, err := kit.ServeGit(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	repo, err := server.Create(ctx, "mono")
	if err != nil {
		return nil, err
	}
	f := &forge{dir: dir, url: repo.URL, bare: filepath.Join(dir, "bare", "mono.git")}
	if err := f.fill(ctx); err != nil {
		return nil, err
	}
	for _, measure := range []func(context.Context, io.Writer) ([]figure, error){f.cold, f.warm, f.paths} {
		found, err := measure(ctx, progress)
		if err != nil {
			return nil, err
		}
		figures = append(figures, found...)
	}
	return figures, nil
}

// fill makes the repository by one fast-import, and packs it as a server would.
func (f *forge) fill(ctx context.Context) error {
	var stream bytes.Buffer
	for n := range tagsCommits {
		f.commit(&stream, n == 0)
		if n%(tagsCommits/tagsTags) == 0 {
			fmt.Fprintf(&stream, "reset refs/tags/v%d.%d.%d\nfrom :%d\n\n", n/1000, n/100%10, n/10%10, f.tip)
		}
	}
	if err := f.imports(ctx, &stream); err != nil {
		return err
	}
	_, err := f.git(ctx, f.bare, "repack", "-a", "-d", "-q")
	return err
}

// commit adds a commit to the stream: the first has all directories, each other
// changes a file in one of them.
func (f *forge) commit(stream *bytes.Buffer, first bool) {
	f.tip++
	fmt.Fprintf(stream, "commit refs/heads/main\nmark :%d\ncommitter c <c@example.com> %d +0000\ndata 1\nc\n", f.tip, kit.FirstCommit().Unix()+int64(f.tip))
	dirs := []int{f.tip % tagsDirs}
	if first {
		dirs = dirs[:0]
		for n := range tagsDirs {
			dirs = append(dirs, n)
		}
	} else if f.tip > tagsCommits {
		fmt.Fprintln(stream, "from refs/heads/main^0") // a stream of its own
	}
	for _, n := range dirs {
		fmt.Fprintf(stream, "M 100644 inline svc-%d/src/file\ndata %d\n%d\n", n, len(fmt.Sprint(f.tip)), f.tip)
	}
}

func (f *forge) imports(ctx context.Context, stream io.Reader) error {
	cmd := exec.CommandContext(ctx, "git", "--git-dir="+f.bare, "fast-import", "--quiet")
	cmd.Stdin = stream
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("git fast-import: %w: %s", err, out)
	}
	return nil
}

// push makes one commit on the server.
func (f *forge) push(ctx context.Context) error {
	var stream bytes.Buffer
	f.commit(&stream, false)
	return f.imports(ctx, &stream)
}

// git runs git as imgd does: without anybody's configuration.
func (f *forge) git(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", append([]string{"--git-dir=" + dir}, args...)...)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL="+os.DevNull)
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("git %s: %w", args[0], err)
	}
	return strings.TrimSpace(string(out)), nil
}

// resolver is imgd's way from a request to its tags, with its clones in the
// directory.
func (f *forge) resolver(dir string) (*imgd.Pipeline, *git.Repos, error) {
	u, err := url.Parse(f.url)
	if err != nil {
		return nil, nil, err
	}
	projects := new(imgd.Projects)
	projects.Set(map[string]imgd.Project{"mono": {Name: "mono", Git: f.url, Image: "mono", Refs: []string{"refs/*"}, Paths: []string{"svc-7/**", "go.mod"}}})
	repos, err := git.New(git.Config{Dir: dir, Projects: projects, Rules: git.Rules{PlainHTTP: true, AllowHosts: []string{u.Host}}})
	if err != nil {
		return nil, nil, err
	}
	return &imgd.Pipeline{Projects: projects, Git: repos}, repos, nil
}

// resolve asks for the newest commit of main, and holds that it is named well.
func (f *forge) resolve(ctx context.Context, p *imgd.Pipeline) (imgd.Request, error) {
	req := imgd.Request{Project: "mono", Ref: "refs/heads/main"}
	if err := p.Resolve(ctx, &req); err != nil {
		return req, err
	}
	if after := fmt.Sprintf("v9.9.9-%d-g", f.tip-tagsCommits+tagsCommits/tagsTags-1); !strings.HasPrefix(req.Version, after) || len(req.Named.Tags) == 0 {
		return req, fmt.Errorf("commit %d is %s with %d tags, want %s…", f.tip, req.Version, len(req.Named.Tags), after)
	}
	return req, nil
}

// duel runs both sides once a round, after what comes before each, who goes
// first changing, and answers the medians of their times in milliseconds and of
// the ratios.
func duel(rounds int, before func() error, sides [2]func(round int) error) (ours, theirs, ratio float64, err error) {
	var times [2][]float64
	var ratios []float64
	for round := range rounds {
		if err := before(); err != nil {
			return 0, 0, 0, err
		}
		var took [2]float64
		for i := range sides {
			side := (i + round) % 2
			began := time.Now()
			if err := sides[side](round); err != nil {
				return 0, 0, 0, err
			}
			took[side] = float64(time.Since(began).Microseconds()) / 1000
			times[side] = append(times[side], took[side])
		}
		ratios = append(ratios, took[0]/took[1])
	}
	return median(times[0]), median(times[1]), median(ratios), nil
}

// cold is the first time: a clone is made.
func (f *forge) cold(ctx context.Context, progress io.Writer) ([]figure, error) {
	ours := func(round int) error {
		p, _, err := f.resolver(filepath.Join(f.dir, fmt.Sprint("cold-", round)))
		if err == nil {
			_, err = f.resolve(ctx, p)
		}
		return err
	}
	theirs := func(round int) error {
		clone := f.clone(round)
		_, err := f.git(ctx, clone, "clone", "--quiet", "--bare", "--filter=tree:0", f.url, clone)
		return err
	}
	took, peer, ratio, err := duel(tagsColdRounds, func() error { return nil }, [2]func(int) error{ours, theirs})
	fmt.Fprintf(progress, "cold: %.0f ms, git clone %.0f ms\n", took, peer)
	return []figure{
		{Name: "resolve-cold", Value: ratio, Unit: "ratio", Peer: "git clone --bare --filter=tree:0"},
		{Name: "resolve-cold-time", Value: took, Unit: "ms"},
	}, err
}

// clone is where git's own clone of a round is.
func (f *forge) clone(round int) string { return filepath.Join(f.dir, fmt.Sprint("clone-", round)) }

// warm is a push into a repository that imgd knows.
func (f *forge) warm(ctx context.Context, progress io.Writer) ([]figure, error) {
	p, _, err := f.resolver(filepath.Join(f.dir, "warm"))
	if err != nil {
		return nil, err
	}
	ours := func(int) error {
		_, err := f.resolve(ctx, p)
		return err
	}
	theirs := func(int) error { return f.fetch(ctx) }
	if err := errors.Join(ours(0), theirs(0)); err != nil { // clones are made, programs come into memory
		return nil, err
	}
	took, peer, ratio, err := duel(tagsWarmRounds, func() error { return f.push(ctx) }, [2]func(int) error{ours, theirs})
	fmt.Fprintf(progress, "warm: %.1f ms, git fetch %.1f ms\n", took, peer)
	return []figure{
		figure{Name: "resolve-warm", Value: ratio, Unit: "ratio", Peer: "git fetch of the same push"}.atMost(tagsGoal),
		{Name: "resolve-warm-time", Value: took, Unit: "ms"},
	}, err
}

// fetch is git's own, into a clone of the same kind.
func (f *forge) fetch(ctx context.Context) error {
	_, err := f.git(ctx, f.clone(0), "fetch", "--quiet", "--prune", "origin", "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
	return err
}

// paths is the question whether a push, which imgd knows already, touches the
// project, for which git downloads directories.
func (f *forge) paths(ctx context.Context, progress io.Writer) ([]figure, error) {
	p, repos, err := f.resolver(filepath.Join(f.dir, "warm"))
	if err != nil {
		return nil, err
	}
	built, err := f.resolve(ctx, p)
	if err != nil {
		return nil, err
	}
	var pushed imgd.Request
	before := func() (err error) {
		if err = f.push(ctx); err == nil {
			pushed, err = f.resolve(ctx, p)
		}
		return err
	}
	ours := func(int) error {
		touched, err := repos.Touched(ctx, "mono", built.Commit, pushed.Commit)
		if err == nil && touched {
			err = fmt.Errorf("commit %d touches the project", f.tip)
		}
		return err
	}
	took, peer, ratio, err := duel(tagsPathRounds, before, [2]func(int) error{ours, func(int) error { return f.fetch(ctx) }})
	fmt.Fprintf(progress, "paths: %.1f ms, git fetch %.1f ms\n", took, peer)
	return []figure{
		{Name: "paths", Value: ratio, Unit: "ratio", Peer: "git fetch of the same push"},
		{Name: "paths-time", Value: took, Unit: "ms"},
	}, err
}
