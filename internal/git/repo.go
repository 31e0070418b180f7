package git

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/version"
)

// abbrev is the length of the commit in a describe answer, as in v1.2.3-4-gabcdef0.
// Left alone, git grows it with the number of objects in the clone, and the
// same commit would get another version some day.
const abbrev = 7

// A repo reads a clone. Nothing here reaches the network.
type repo struct {
	git runner
	dir string
}

func (g repo) run(ctx context.Context, args ...string) (string, error) {
	return g.git.local(ctx, append([]string{"--git-dir=" + g.dir}, args...)...)
}

// refs answers the objects of those of the full names that exist, and of the
// refs below them. It uses for-each-ref because whatever takes a revision also
// tries refs/tags/<name>.
func (g repo) refs(ctx context.Context, names ...string) (map[string]string, error) {
	out, err := g.run(ctx, append([]string{"for-each-ref", "--format=%(objectname) %(refname)", "--"}, names...)...)
	if err != nil {
		return nil, err
	}
	found := map[string]string{}
	for line := range strings.Lines(out) {
		object, name, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		found[name] = object
	}
	return found, nil
}

// one answers the only one of names that exists.
func (g repo) one(ctx context.Context, short string, names []string) (string, error) {
	found, err := g.refs(ctx, names...)
	if err != nil {
		return "", err
	}
	names = slices.DeleteFunc(slices.Clone(names), func(n string) bool { return found[n] == "" })
	switch len(names) {
	case 0:
		return "", fmt.Errorf("there is no branch or tag %s: %w", short, imgd.ErrNotFound)
	case 1:
		return names[0], nil
	default:
		return "", fmt.Errorf("%s is ambiguous: say %s: %w", short, strings.Join(names, " or "), imgd.ErrInvalid)
	}
}

// head answers the commit that ref names, peeled and without Describe.
func (g repo) head(ctx context.Context, ref string) (imgd.Commit, error) {
	found, err := g.refs(ctx, ref)
	if err != nil {
		return imgd.Commit{}, err
	}
	return g.named(ctx, ref, found)
}

// named is head, where the objects of the refs are known.
func (g repo) named(ctx context.Context, ref string, refs map[string]string) (imgd.Commit, error) {
	object, ok := refs[ref]
	if !ok {
		return imgd.Commit{}, fmt.Errorf("there is no %s: %w", ref, imgd.ErrNotFound)
	}
	head, ok, err := g.commit(ctx, object)
	if err != nil {
		return imgd.Commit{}, err
	}
	if !ok { // a tag of a tree or a blob, or a clone that has lost its commits
		return imgd.Commit{}, fmt.Errorf("%s %w: %w", ref, errNoCommit, imgd.ErrInvalid)
	}
	return head, nil
}

// commit answers the commit that object is or peels to, and whether the clone
// has it. rev-list is the one command that does not try to fetch what is
// missing in a partial clone, which in a large one takes a walk over all of it.
func (g repo) commit(ctx context.Context, object string) (imgd.Commit, bool, error) {
	out, err := g.run(ctx, "rev-list", "--no-walk", "--missing=allow-any", "--no-commit-header", "--format=%H %ct", "--end-of-options", object)
	var exit *exitError
	if errors.As(err, &exit) && strings.Contains(exit.stderr, "fatal: bad object") {
		return imgd.Commit{}, false, nil
	}
	if err != nil || out == "" {
		return imgd.Commit{}, false, err
	}
	id, stamp, _ := strings.Cut(strings.TrimSpace(out), " ")
	seconds, err := strconv.ParseInt(stamp, 10, 64)
	if err != nil {
		return imgd.Commit{}, false, fmt.Errorf("read time of commit %s: %w", id, err)
	}
	return imgd.Commit{ID: id, Time: time.Unix(seconds, 0).UTC()}, true, nil
}

// behind answers the commit if ref, which is at head, still stands for it.
func (g repo) behind(ctx context.Context, ref string, head imgd.Commit, commit string) (imgd.Commit, error) {
	if strings.HasPrefix(ref, tagRefs) {
		return imgd.Commit{}, fmt.Errorf("%s names %s now, no longer %s: %w", ref, head.ID, commit, imgd.ErrSuperseded)
	}
	contained, _, err := g.contains(ctx, head.ID, commit)
	if err != nil {
		return imgd.Commit{}, err
	}
	if !contained {
		return imgd.Commit{}, fmt.Errorf("%s is at %s now, which does not contain %s: %w", ref, head.ID, commit, imgd.ErrSuperseded)
	}
	found, _, err := g.commit(ctx, commit)
	return found, err
}

// contains reports whether commit is head or its ancestor, and whether the
// clone has it. It fails if the clone does not have head.
func (g repo) contains(ctx context.Context, head, commit string) (contained, known bool, err error) {
	if h, ok, err := g.commit(ctx, head); err != nil || !ok || h.ID != head {
		return false, false, errors.Join(err, fmt.Errorf("commit %s is not in the clone", head))
	}
	found, known, err := g.commit(ctx, commit)
	if err != nil {
		return false, false, err
	}
	if !known || found.ID != commit { // another ID: the object is an annotated tag
		// Not there, or lost: of lost history nothing can be said, so walk it.
		_, err := g.run(ctx, "rev-list", "--count", "--end-of-options", head)
		return false, false, err
	}
	_, err = g.run(ctx, "merge-base", "--is-ancestor", "--end-of-options", commit, head)
	var exit *exitError
	if errors.As(err, &exit) && exit.code == 1 && exit.stderr == "" {
		return false, true, nil
	}
	return err == nil, true, err
}

// describe is git describe over version tags: v1.2.3, or v1.2.3-4-gabcdef0 for
// the fourth commit after it, or empty where none is reachable. Only tags that
// begin with prefix count, and the answer is without it.
func (g repo) describe(ctx context.Context, commit, prefix string) (string, error) {
	wrong, versions, err := g.notVersions(ctx, prefix)
	if err != nil || !versions {
		return "", err
	}
	args := []string{"describe", "--tags", "--always", "--abbrev=" + strconv.Itoa(abbrev),
		"--match=" + prefix + "v[0-9]*.[0-9]*.[0-9]*", "--match=" + prefix + "[0-9]*.[0-9]*.[0-9]*"}
	for _, tag := range wrong {
		args = append(args, "--exclude="+tag)
	}
	out, err := g.run(ctx, append(args, "--end-of-options", commit)...)
	if err != nil {
		return "", err
	}
	found, ok := strings.CutPrefix(strings.TrimSpace(out), prefix)
	if !ok || !strings.Contains(found, ".") {
		return "", nil // --always: the bare commit
	}
	return found, nil
}

// notVersions answers the tags with that prefix that look like versions to a
// glob but are none, or whose target is no commit, on which git describe fails
// in a clone without trees; and whether there is any version.
func (g repo) notVersions(ctx context.Context, prefix string) (wrong []string, versions bool, err error) {
	under := tagRefs + prefix
	out, err := g.run(ctx, "for-each-ref", "--format=%(objecttype) %(type) %(refname:strip=2)", "--",
		under+"v[0-9]*", under+"[0-9]*", under+"v[0-9]*/**", under+"[0-9]*/**")
	if err != nil {
		return nil, false, err
	}
	for line := range strings.Lines(out) {
		kind, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		target, tag, _ := strings.Cut(rest, " ")
		commit := kind == "commit" || kind == "tag" && (target == "commit" || target == "tag")
		if commit && isVersion(strings.TrimPrefix(tag, prefix)) {
			versions = true
		} else if strings.Count(tag, ".") > 1 {
			wrong = append(wrong, tag)
		}
	}
	return wrong, versions, nil
}

// isVersion reports whether tag is a strict semver, with or without v: those
// come after every other string, whatever that is.
func isVersion(tag string) bool { return version.Compare(tag, tag+"!") > 0 }
