package git

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/imgd/imgd"
)

const (
	// maxPacks is how many packs a clone may have; each fetch that brings
	// something adds one, and each costs every later command a file to open.
	maxPacks = 32
	// partial leaves trees and blobs with the server.
	partial = "--filter=tree:0"
	// incomplete is git's word on a partial clone of a repository with a
	// lightweight tag on a tree: git 2.39 cannot make one.
	incomplete = "did not send all necessary objects"
	// maxPulls is how many pull requests are fetched anew with a clone that is
	// made anew: those that anybody may be looking at.
	maxPulls = 1000
	// maxTimes is how many commits' times are kept at hand. What is asked for is
	// what was pushed just now.
	maxTimes = 256
	// cloneSuffix ends the name of a clone's directory; before it is the project's.
	cloneSuffix = ".git"
	// tmpPrefix starts the names of clones in the making and in the unmaking.
	tmpPrefix = ".tmp-"
)

// A clone is the local copy of one project. It comes into being by a rename,
// complete; when git cannot use it, for whatever reason, another takes its
// place in the same way.
type clone struct {
	name string
	root string // directory of all clones
	dir  string // this one's
	log  *slog.Logger

	// runs is how git is run for the project, as it is configured now, which set
	// says. A fetch uses one from its beginning to its end.
	runs atomic.Pointer[runner]
	set  setting

	// swapping is held for writing while another clone takes dir.
	swapping sync.RWMutex

	// busy is a lock that a context can stop the wait for. Whoever has put
	// something into it fetches; it guards result, served, made and known.
	busy   chan struct{}
	result error  // of the last fetch
	served uint64 // calls with a number up to this have their answer in result
	made   uint64 // how often dir was replaced
	known  string // URL of which dir was seen to be a clone; nobody else writes there

	mu    sync.Mutex // guards calls, pulls and times
	calls uint64
	pulls map[string]uint64    // the last call for each ref of a pull request that was asked for, at most maxPulls
	times map[string]time.Time // of commits that were looked for, at most maxTimes
}

// A setting is what a runner is made of.
type setting struct {
	url    string
	change int // of the rules
}

func newClone(name string, c Config) (*clone, error) {
	if name == "" || name != filepath.Base(name) || strings.HasPrefix(name, ".") {
		return nil, fmt.Errorf("%q cannot be a file name: %w", name, imgd.ErrInvalid)
	}
	log := c.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &clone{name: name, root: c.Dir, dir: filepath.Join(c.Dir, name+cloneSuffix),
		log: log.With("project", name), busy: make(chan struct{}, 1), pulls: map[string]uint64{}}, nil
}

// setUp has what begins from now on run as c says, of which change is the
// number. A clone of another URL is replaced by the next fetch. One at a time.
func (c *clone) setUp(rawURL string, config Config, change int) error {
	now := setting{url: rawURL, change: change}
	if c.set == now {
		return nil
	}
	u, err := parseURL(rawURL, config.Rules)
	if err != nil {
		return err
	}
	git, err := newRunner(c.root, u, config)
	if err != nil {
		return err
	}
	if old := c.runs.Swap(&git); old != nil {
		old.ask.close()
	}
	c.set = now
	return nil
}

func (c *clone) git() runner { return *c.runs.Load() }

// peek answers the commit if the clone has it, without a fetch, or has had it
// when it was looked for last: a commit's time never changes.
func (c *clone) peek(ctx context.Context, commit string) (imgd.Commit, bool) {
	c.mu.Lock()
	at, known := c.times[commit]
	c.mu.Unlock()
	if known {
		return imgd.Commit{ID: commit, Time: at}, true
	}
	var found imgd.Commit
	err := c.read(ctx, func(ctx context.Context, g repo) (err error) {
		found, _, err = g.commit(ctx, commit)
		return err
	})
	if err != nil || found.ID != commit { // another ID: it is an annotated tag
		return imgd.Commit{}, false
	}
	c.remember(found)
	return found, true
}

// remember keeps the commit's time at hand.
func (c *clone) remember(found imgd.Commit) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.times == nil || len(c.times) >= maxTimes {
		c.times = map[string]time.Time{}
	}
	c.times[found.ID] = found.Time
}

// view fetches, with ref if that is a pull request's, then reads. If the clone
// turns out unreadable it is made anew, once; what a new one does not have, the
// server does not have.
func (c *clone) view(ctx context.Context, ref string, look func(context.Context, repo) error) error {
	made, err := c.fetch(ctx, ref)
	if err != nil {
		return fmt.Errorf("fetch project %s: %w", c.name, err)
	}
	err = c.read(ctx, look)
	if !broken(err) {
		return err
	}
	if renewErr := c.renew(ctx, made, err); renewErr != nil {
		return fmt.Errorf("clone project %s again: %w", c.name, renewErr)
	}
	return c.read(ctx, look)
}

// read runs look on a clone that stays where it is meanwhile.
func (c *clone) read(ctx context.Context, look func(context.Context, repo) error) error {
	c.swapping.RLock()
	defer c.swapping.RUnlock()
	return look(ctx, repo{git: c.git(), dir: c.dir})
}

// broken reports whether err may come from a damaged clone.
func broken(err error) bool {
	var exit *exitError
	return errors.As(err, &exit) || errors.Is(err, errNoCommit)
}

// fetch makes the clone as new as the server was at some time during the call,
// and answers which making of the clone that is. One runs at a time; those who
// wait meanwhile share the next one, as only a fetch that began after a call
// can answer it.
func (c *clone) fetch(ctx context.Context, ref string) (made uint64, err error) {
	mine := c.call(ref)
	if err := c.lock(ctx); err != nil {
		return 0, err
	}
	defer c.unlock()
	if c.served >= mine {
		return c.made, c.result
	}
	last, pulls := c.called(c.served)
	err = c.update(ctx, pulls)
	if err == nil || ctx.Err() == nil { // a caller who gave up answers nobody else
		c.served, c.result = last, err
	}
	return c.made, err
}

// call notes that somebody needs a fetch from now on, and of which pull request,
// if ref is one's.
func (c *clone) call(ref string) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls++
	if !pullGrammar.MatchString(ref) {
		return c.calls
	}
	c.pulls[ref] = c.calls
	if len(c.pulls) > maxPulls {
		oldest := slices.MinFunc(slices.Collect(maps.Keys(c.pulls)), func(a, b string) int { return cmp.Compare(c.pulls[a], c.pulls[b]) })
		delete(c.pulls, oldest)
	}
	return c.calls
}

// called are the last call so far, and the refs of pull requests that calls after
// that one need.
func (c *clone) called(after uint64) (last uint64, pulls []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for ref, call := range c.pulls {
		if call > after {
			pulls = append(pulls, ref)
		}
	}
	slices.Sort(pulls)
	return c.calls, pulls
}

func (c *clone) lock(ctx context.Context) error {
	select {
	case c.busy <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *clone) unlock() { <-c.busy }

// update fetches into the clone, or makes one. A clone into which git cannot
// fetch, but whose server lets itself be cloned, is damaged (a disk that was
// full, a kill -9 that left lock files) and is replaced. The caller is busy.
func (c *clone) update(ctx context.Context, pulls []string) error {
	git := c.git()
	if c.known != git.url {
		if !c.ours(ctx, git) {
			return c.replace(ctx, git)
		}
		c.known = git.url
	}
	err := git.fetch(ctx, c.dir, pulls)
	if err == nil {
		return c.tidy(ctx, git)
	}
	if !broken(err) || c.replace(ctx, git) != nil {
		return err
	}
	c.log.Warn("git could not fetch into the clone, made it anew", "err", err)
	return nil
}

// ours reports whether dir is a clone of the configured URL.
func (c *clone) ours(ctx context.Context, git runner) bool {
	out, err := git.local(ctx, "--git-dir="+c.dir, "config", "--get", "remote.origin.url")
	return err == nil && strings.TrimSuffix(out, "\n") == git.url
}

// tidy keeps the clone small: git's own gc does not run, as it would run in
// the background. Where git cannot repack (2.39: an annotated tag on a tree),
// a new clone is one pack too.
func (c *clone) tidy(ctx context.Context, git runner) error {
	packs, err := filepath.Glob(filepath.Join(c.dir, "objects/pack/*.pack"))
	if err != nil || len(packs) <= maxPacks {
		return err
	}
	_, err = git.local(ctx, "--git-dir="+c.dir, "repack", "-a", "-d", "-q")
	if err == nil {
		_, err = git.local(ctx, "--git-dir="+c.dir, "pack-refs", "--all")
	}
	if broken(err) {
		return c.replace(ctx, git)
	}
	return err
}

// renew replaces the clone, unless somebody has since it was made the made-th
// time.
func (c *clone) renew(ctx context.Context, made uint64, why error) error {
	if err := c.lock(ctx); err != nil {
		return err
	}
	defer c.unlock()
	if c.made != made {
		return nil
	}
	c.log.Warn("git could not read the clone, making it anew", "err", why)
	return c.replace(ctx, c.git())
}

// replace clones the project and puts that in the place of what is in dir. A
// crash leaves the old one, the new one or none, and rests that New clears
// away. The caller is busy.
func (c *clone) replace(ctx context.Context, git runner) error {
	tmp, err := os.MkdirTemp(c.root, tmpPrefix+c.name+"-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }() // else New does it
	fresh := filepath.Join(tmp, "new")
	err = git.clone(ctx, fresh, partial)
	var exit *exitError
	if errors.As(err, &exit) && strings.Contains(exit.stderr, incomplete) {
		err = git.clone(ctx, fresh)
	}
	if _, pulls := c.called(0); err == nil && len(pulls) > 0 { // others may be about to read what they have fetched
		err = git.fetch(ctx, fresh, pulls)
	}
	if err != nil {
		return err
	}
	c.known = "" // what is there from now on is another's, if the URL was another's
	return c.swap(fresh, filepath.Join(tmp, "old"))
}

func (c *clone) swap(fresh, old string) error {
	c.swapping.Lock()
	defer c.swapping.Unlock()
	if err := os.Rename(c.dir, old); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	c.made++
	return os.Rename(fresh, c.dir)
}

// sweep removes what a git or an imgd that was killed has left: clones in the
// making, lock files, packs in the making. The git of an imgd that was killed
// may live on for a while; what it makes or removes meanwhile is left to the
// next sweep.
func sweep(root string) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if d.IsDir() && strings.HasPrefix(d.Name(), tmpPrefix) {
			if err := os.RemoveAll(path); err != nil && !errors.Is(err, syscall.ENOTEMPTY) {
				return err
			}
			return fs.SkipDir
		}
		inObjects, _ := filepath.Match("*.git/objects/*/tmp_*", strings.TrimPrefix(path, root+"/"))
		if !d.IsDir() && (inObjects || strings.HasSuffix(d.Name(), ".lock")) { // no ref may end so
			if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		return nil
	})
}
