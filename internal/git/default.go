package git

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// serverHead is the ref in a clone that names what the server's HEAD named at
// the last fetch. git does not say which branch that was.
const serverHead = "refs/imgd/HEAD"

// refsAndDefault answers the object of ref, if there is such a ref, and the full
// ref of the default branch. That is HEAD's in the clone, which is as it was when
// it was cloned or asked for last: as long as that branch is where the server's
// HEAD is. It is empty if it has to be asked for. So it costs a call more only
// once after it has changed; until the new branch and the old one part, the old
// one is answered.
func (g repo) refsAndDefault(ctx context.Context, ref string) (refs map[string]string, main string, err error) {
	text, err := os.ReadFile(filepath.Join(g.dir, "HEAD"))
	if err != nil {
		return nil, "", fmt.Errorf("read HEAD of the clone: %w", err)
	}
	names := []string{ref, serverHead}
	if main, _ = strings.CutPrefix(strings.TrimSpace(string(text)), "ref: "); isBranch(main) {
		names = append(names, main)
	}
	if refs, err = g.refs(ctx, names...); err != nil {
		return nil, "", err
	}
	head, fetched := refs[serverHead] // a clone that was made just now has none
	if branch, ok := refs[main]; !ok || fetched && branch != head {
		main = ""
	}
	return refs, main, nil
}

func isBranch(ref string) bool { return strings.HasPrefix(ref, headRefs) && CheckRef(ref) == nil }

// askDefault asks the server for its default branch, full, and keeps it as the
// clone's HEAD; it is empty if the server has none. Safe to repeat.
func (c *clone) askDefault(ctx context.Context) (string, error) {
	git := c.git()
	main, err := git.defaultBranch(ctx)
	if err != nil || !isBranch(main) {
		return "", err
	}
	if err := c.lock(ctx); err != nil { // one at a time writes it
		return "", err
	}
	defer c.unlock()
	if _, err := git.local(ctx, "--git-dir="+c.dir, "symbolic-ref", "HEAD", main); err != nil {
		return "", fmt.Errorf("keep the default branch: %w", err)
	}
	return main, nil
}

// defaultBranch is the ref that the server's HEAD names, or empty.
func (r runner) defaultBranch(ctx context.Context) (string, error) {
	if named, err := r.ask.names(ctx, "HEAD"); err == nil {
		return named.target, nil
	}
	out, err := r.remote(ctx, "ls-remote", "--quiet", "--symref", "--end-of-options", r.url, "HEAD")
	if err != nil {
		return "", fmt.Errorf("ask %s for its default branch: %w", r.url, err)
	}
	for line := range strings.Lines(out) {
		target, name, _ := strings.Cut(strings.TrimSpace(line), "\t")
		if target, ok := strings.CutPrefix(target, "ref: "); ok && name == "HEAD" {
			return target, nil
		}
	}
	return "", nil
}
