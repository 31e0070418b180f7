// Package git answers what a ref of a project names now: its commit, what git
// describe says of it, and whether one commit contains another. It keeps a bare
// partial clone per project (commits and tags, no trees and blobs) and asks the
// git binary (2.39 or newer), which nothing from outside can make read another
// configuration, run a program or reach a host that is not the project's. It
// does not check files out, and does not know images.
package git

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/version"
)

const (
	headRefs = "refs/heads/"
	tagRefs  = "refs/tags/"

	// defaultTimeout bounds one git command: a first clone of a million commits
	// takes minutes, a server that trickles must not hold a request for ever.
	defaultTimeout = 10 * time.Minute
)

// Config is what New needs.
type Config struct {
	// Dir holds one <project>.git each, and nothing else. One process at a time
	// may use it. Required; made if it is not there.
	Dir string
	// Projects are looked at by each call; their Git is the URL to clone from.
	Projects *imgd.Projects
	// Rules say where projects may be. SetRules changes them.
	Rules Rules
	// CAFile has the certificates, in PEM, that sign https servers, and instead
	// of all others. Default: GIT_SSL_CAINFO, else SSL_CERT_FILE, else the
	// system's.
	CAFile string
	// Lookup answers the addresses of a host name. Default: the system's resolver.
	Lookup func(ctx context.Context, host string) ([]netip.Addr, error)
	// Timeout of one git command, a whole fetch or clone. Default 10m.
	Timeout time.Duration
	// Log is told when a clone has to be made anew. Default: nobody.
	Log *slog.Logger
}

// Rules say where projects may be cloned from.
type Rules struct {
	// AllowHosts are the hosts, with or without port, that projects may be on.
	// Default: those of the projects.
	AllowHosts []string
	// PlainHTTP allows http:// URLs. Default false.
	PlainHTTP bool
	// AllowPrivate allows host names with addresses that are not the internet's:
	// loopback, link-local, private ones. A host that is written as an address,
	// or as localhost, needs no leave. Default false.
	AllowPrivate bool
}

// Repos are the clones of the configured projects. It implements imgd.Git; its
// methods are safe to repeat and for concurrent use.
type Repos struct {
	config Config // but for its rules

	// mu guards what follows.
	mu      sync.Mutex
	rules   Rules
	changes int               // of rules, counted from 1
	clones  map[string]*clone // of projects that were asked for; one for each directory
}

var errNoCommit = errors.New("names no commit")

// New checks the projects' URLs and makes Dir ready. It clears away what a
// killed git has left there, and the clones of projects that are not configured
// any more, and contacts nobody.
func New(c Config) (*Repos, error) {
	if _, err := exec.LookPath("git"); err != nil {
		return nil, fmt.Errorf("find git: %w", err)
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make directory of clones: %w", err)
	}
	dir, err := filepath.EvalSymlinks(c.Dir)
	if err == nil {
		dir, err = filepath.Abs(dir)
	}
	if err != nil {
		return nil, fmt.Errorf("find directory of clones: %w", err)
	}
	if err := sweep(dir); err != nil {
		return nil, fmt.Errorf("clear directory of clones: %w", err)
	}
	c.Dir = dir
	r := &Repos{config: c, rules: c.Rules, changes: 1, clones: map[string]*clone{}}
	for _, project := range c.Projects.All() {
		if _, err := r.clone(project.Name); err != nil {
			return nil, err
		}
	}
	if err := r.forget(); err != nil {
		return nil, fmt.Errorf("remove clones of projects that are gone: %w", err)
	}
	return r, nil
}

// forget removes the clones of projects that are not configured any more. One
// that comes back is cloned again.
func (r *Repos) forget() error {
	dirs, err := filepath.Glob(filepath.Join(r.config.Dir, "*"+cloneSuffix))
	for _, dir := range dirs {
		name := strings.TrimSuffix(filepath.Base(dir), cloneSuffix)
		if _, ok := r.config.Projects.Get(name); !ok && err == nil {
			err = os.RemoveAll(dir)
		}
	}
	return err
}

// SetRules holds for what begins from now on.
func (r *Repos) SetRules(rules Rules) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rules = rules
	r.changes++
}

// Resolve implements imgd.Git.
func (r *Repos) Resolve(ctx context.Context, project, ref, commit string) (imgd.Commit, error) {
	c, err := r.clone(project)
	if err != nil {
		return imgd.Commit{}, err
	}
	if err := CheckRef(ref); err != nil {
		return imgd.Commit{}, err
	}
	if err := checkCommit(commit); commit != "" && err != nil {
		return imgd.Commit{}, err
	}
	configured, _ := r.config.Projects.Get(project)
	var found imgd.Commit
	main := ""
	err = c.view(ctx, ref, func(ctx context.Context, g repo) (err error) {
		found, main, err = resolve(ctx, g, ref, commit, configured.TagPrefix)
		return err
	})
	if err != nil {
		return imgd.Commit{}, err
	}
	if main == "" {
		if main, err = c.askDefault(ctx); err != nil {
			return imgd.Commit{}, err
		}
	}
	found.DefaultBranch = strings.TrimPrefix(main, headRefs)
	c.remember(found)
	return found, nil
}

// Peek implements imgd.Peeker: it answers the commit if the clone has it, or
// had it when it was resolved last, and does not fetch.
func (r *Repos) Peek(ctx context.Context, project, commit string) (imgd.Commit, bool) {
	c, err := r.clone(project)
	if err != nil || checkCommit(commit) != nil {
		return imgd.Commit{}, false
	}
	return c.peek(ctx, commit)
}

// Confirm implements imgd.Peeker. It asks the server alone and leaves the clone
// as it is. Where the short way does not say yes, git's own answer counts.
func (r *Repos) Confirm(ctx context.Context, project, ref, commit string) error {
	c, err := r.clone(project)
	if err != nil {
		return err
	}
	if err := errors.Join(CheckRef(ref), checkCommit(commit)); err != nil {
		return err
	}
	git, peeled := c.git(), ref+"^{}"
	if named, err := git.ask.names(ctx, ref); err == nil && named.object == commit {
		return nil
	}
	out, err := git.remote(ctx, "ls-remote", "--quiet", "--end-of-options", git.url, ref, peeled)
	if err != nil {
		return fmt.Errorf("ask %s: %w", git.url, err)
	}
	named := map[string]string{} // a pattern also matches the ends of longer names
	for line := range strings.Lines(out) {
		object, name, _ := strings.Cut(strings.TrimSpace(line), "\t")
		named[name] = object
	}
	switch now := cmp.Or(named[peeled], named[ref]); now {
	case commit:
		return nil
	case "":
		return fmt.Errorf("%s is gone, it named %s: %w", ref, commit, imgd.ErrSuperseded)
	default:
		return fmt.Errorf("%s names %s now, no longer %s: %w", ref, now, commit, imgd.ErrSuperseded)
	}
}

// resolve answers the commit, and the full ref of the default branch if the
// clone tells it.
func resolve(ctx context.Context, g repo, ref, commit, prefix string) (found imgd.Commit, main string, err error) {
	refs, main, err := g.refsAndDefault(ctx, ref)
	if err != nil {
		return imgd.Commit{}, "", err
	}
	head, err := g.named(ctx, ref, refs)
	switch {
	case errors.Is(err, imgd.ErrNotFound) && commit != "":
		return imgd.Commit{}, "", fmt.Errorf("%s is gone, it named %s: %w", ref, commit, imgd.ErrSuperseded)
	case errors.Is(err, imgd.ErrNotFound):
		return imgd.Commit{}, "", fmt.Errorf("there is no %s: %w", ref, imgd.ErrInvalid)
	case err != nil:
		return imgd.Commit{}, "", err
	}
	found = head
	if commit != "" && commit != head.ID {
		if found, err = g.behind(ctx, ref, head, commit); err != nil {
			return imgd.Commit{}, "", err
		}
	}
	found.Describe, err = g.describe(ctx, found.ID, prefix)
	return found, main, err
}

// Head fetches and says which commit ref (full) names now, peeled. Errors:
// imgd.ErrNotFound if there is no such ref (any more), imgd.ErrInvalid if it
// cannot be one or names no commit.
func (r *Repos) Head(ctx context.Context, project, ref string) (string, error) {
	c, err := r.clone(project)
	if err != nil {
		return "", err
	}
	if err := CheckRef(ref); err != nil {
		return "", err
	}
	var head imgd.Commit
	err = c.view(ctx, ref, func(ctx context.Context, g repo) (err error) {
		head, err = g.head(ctx, ref)
		return err
	})
	return head.ID, err
}

// Contains reports whether commit is head or an ancestor of head, fetching
// only if the clone does not have both. A commit that git does not have after a
// fetch either is not contained; if that is head, it is an error, as nothing is
// known of its history then.
func (r *Repos) Contains(ctx context.Context, project, head, commit string) (bool, error) {
	c, err := r.clone(project)
	if err != nil {
		return false, err
	}
	if err := errors.Join(checkCommit(head), checkCommit(commit)); err != nil {
		return false, err
	}
	if head == commit {
		return true, nil
	}
	contained, known := false, false
	look := func(ctx context.Context, g repo) (err error) {
		contained, known, err = g.contains(ctx, head, commit)
		return err
	}
	if err := c.read(ctx, look); err == nil && known {
		return contained, nil // the history of a commit never changes
	}
	err = c.view(ctx, "", look)
	return contained, err
}

// Expand fetches and says which full ref the short one means, and the commit,
// peeled, that it names. main, heads/main and refs/heads/main are understood,
// and tags likewise, and pull/7/head. Errors: imgd.ErrNotFound if there is no such ref,
// imgd.ErrInvalid if it cannot be one, means several, is a commit or names none.
func (r *Repos) Expand(ctx context.Context, project, short string) (ref, commit string, err error) {
	c, err := r.clone(project)
	if err != nil {
		return "", "", err
	}
	if checkCommit(short) == nil {
		return "", "", fmt.Errorf("%s is a commit: name the branch or tag that has it, with the commit beside it: %w", short, imgd.ErrInvalid)
	}
	names, err := candidates(short)
	if err != nil {
		return "", "", err
	}
	var head imgd.Commit
	err = c.view(ctx, pullOf(names), func(ctx context.Context, g repo) (err error) {
		if ref, err = g.one(ctx, short, names); err == nil {
			head, err = g.head(ctx, ref)
		}
		return err
	})
	if err != nil {
		return "", "", err
	}
	return ref, head.ID, nil
}

// candidates are the full refs that short may mean.
func candidates(short string) ([]string, error) {
	names := []string{short}
	if !strings.HasPrefix(short, "refs/") {
		names = []string{headRefs + short, tagRefs + short}
		if strings.HasPrefix(short, "heads/") || strings.HasPrefix(short, "tags/") {
			names = append(names, "refs/"+short)
		}
	}
	if pull := "refs/" + short; pullGrammar.MatchString(pull) {
		names = append(names, pull)
	}
	for _, name := range names {
		if err := CheckRef(name); err != nil {
			return nil, err
		}
	}
	return names, nil
}

// pullOf is the one of the full names that is a pull request's, or empty.
func pullOf(names []string) string {
	if i := slices.IndexFunc(names, pullGrammar.MatchString); i >= 0 {
		return names[i]
	}
	return ""
}

// clone is the clone of the project, set up as it is configured now.
func (r *Repos) clone(name string) (*clone, error) {
	project, ok := r.config.Projects.Get(name)
	if !ok {
		return nil, fmt.Errorf("project %q is not configured: %w", name, imgd.ErrInvalid)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.clones[name]
	if c == nil {
		made, err := newClone(name, r.config)
		if err != nil {
			return nil, fmt.Errorf("project %q: %w", name, err)
		}
		c = made
	}
	config := r.config
	config.Rules = r.rules
	if err := c.setUp(project.Git, config, r.changes); err != nil {
		return nil, fmt.Errorf("project %s: %w", name, err)
	}
	r.clones[name] = c
	return c, nil
}

func checkCommit(commit string) error {
	if err := version.ValidCommit(commit); err != nil {
		return fmt.Errorf("%w: %w", err, imgd.ErrInvalid)
	}
	return nil
}
