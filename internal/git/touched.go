package git

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

const (
	// touchTime bounds one question after paths, in which git downloads the
	// directories of a commit, without the files in them: while it does, the clone
	// cannot be replaced.
	touchTime = 2 * time.Minute
	// maxPath bounds a watched path, in bytes, as Linux does.
	maxPath = 4096
)

// CheckPath reports whether pattern may be one of a project's paths: a path in
// the repository, of a file or of a directory with all that is in it; or one in
// which * and ? match within one name, [a-z] one of some characters and ** any
// run of directories, which is then the whole of a file's. After a ! it is what
// does not count.
func CheckPath(pattern string) error {
	glob := strings.TrimPrefix(pattern, "!")
	switch {
	case glob == "":
		return errors.New("it is empty")
	case len(glob) > maxPath:
		return fmt.Errorf("longer than %d bytes", maxPath)
	case !utf8.ValidString(glob) || strings.ContainsFunc(glob, unicode.IsControl):
		return errors.New("control characters cannot be in it")
	case glob[0] == '/':
		return errors.New("it is seen from the root of the repository, without a slash at the beginning")
	}
	parts := strings.Split(strings.TrimSuffix(glob, "/"), "/")
	if slices.ContainsFunc(parts, func(part string) bool { return part == "" || part == "." || part == ".." }) {
		return errors.New("no part between slashes can be empty, a dot or two dots")
	}
	if _, err := path.Match(glob, ""); err != nil {
		return errors.New("a [ is not closed, or a \\ stands at the end")
	}
	return nil
}

// Touched implements imgd.Git.
func (r *Repos) Touched(ctx context.Context, project, from, to string) (bool, error) {
	c, err := r.clone(project)
	if err != nil {
		return false, err
	}
	if err := errors.Join(checkCommit(from), checkCommit(to)); err != nil {
		return false, err
	}
	configured, _ := r.config.Projects.Get(project)
	if len(configured.Paths) == 0 {
		return true, nil
	}
	touched := false
	look := func(ctx context.Context, g repo) (err error) {
		touched, err = g.touched(ctx, from, to, configured.Paths)
		return err
	}
	if err = c.read(ctx, look); broken(err) {
		err = c.view(ctx, "", look)
	}
	if err != nil {
		return false, fmt.Errorf("compare %s with %s: %w", to, from, err)
	}
	return touched, nil
}

// touched compares trees, of which a clone has those that were compared before:
// this is the one question in which git fetches by itself what is missing.
func (g repo) touched(ctx context.Context, from, to string, paths []string) (bool, error) {
	if _, ok, err := g.commit(ctx, to); err != nil || !ok { // the clone has lost its commits
		return false, errors.Join(err, fmt.Errorf("%s %w", to, errNoCommit))
	}
	if found, ok, err := g.commit(ctx, from); err != nil || !ok || found.ID != from {
		return true, err
	}
	args := []string{"--git-dir=" + g.dir, "diff-tree", "--quiet", "-r", "--no-renames", "--end-of-options", from, to, "--"}
	for _, p := range paths {
		magic := ":(glob)"
		if left, not := strings.CutPrefix(p, "!"); not {
			magic, p = ":(exclude,glob)", left
		}
		args = append(args, magic+p)
	}
	g.git.timeout = min(g.git.timeout, touchTime)
	_, err := g.git.remote(ctx, args...)
	var exit *exitError
	if errors.As(err, &exit) && exit.code == 1 {
		return true, nil
	}
	return false, err
}
