package git

import (
	"context"
	"fmt"
	"strings"
)

// Probe asks the project's server what HEAD names, and answers that in words. It
// reads nothing else and leaves the clone alone. Errors say why the server does
// not answer imgd, without credentials.
func (r *Repos) Probe(ctx context.Context, project string) (string, error) {
	c, err := r.clone(project)
	if err != nil {
		return "", err
	}
	git := c.git()
	out, err := git.remote(ctx, "ls-remote", "--symref", "--end-of-options", git.url, "HEAD")
	if err != nil {
		return "", fmt.Errorf("ask %s: %w", git.url, err)
	}
	return headOf(out), nil
}

// headOf reads the answer of ls-remote --symref: a line with the branch, and one
// with its commit.
func headOf(out string) string {
	var branch, commit string
	for line := range strings.Lines(out) {
		what, name, _ := strings.Cut(strings.TrimSpace(line), "\t")
		if name != "HEAD" {
			continue
		}
		if ref, ok := strings.CutPrefix(what, "ref: "); ok {
			branch = strings.TrimPrefix(ref, headRefs)
		} else {
			commit = what
		}
	}
	switch {
	case commit == "":
		return "it is empty"
	case branch == "":
		branch = "HEAD"
	}
	return fmt.Sprintf("%s is at %.12s", branch, commit)
}
