package integration_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/integration/check"
	"github.com/imgd/imgd/integration/kit"
)

// An author works on one project: commits to two branches, versions, branches that are reset, tags that are moved,
// Dockerfiles that fail.
type author struct {
	project, image string

	mu     sync.Mutex // guards what follows; the repository is for one at a time
	repo   *kit.Repo
	rand   *rand.Rand
	n      int                 // of the last commit
	minor  int                 // of the last version
	branch string              // that is checked out
	heads  map[string][]string // branch -> all its heads, in their order
	broken map[string]bool     // commits whose Dockerfile fails
	newest map[string]string   // full ref -> what it names now
	asked  map[string]string   // full ref -> a request for what it names now, which was acknowledged
}

var branches = []string{"main", "dev"}

func newAuthor(ctx context.Context, git *kit.GitServer, project string, seed uint64) (*author, error) {
	a := &author{project: project, image: "storm/" + project, rand: rand.New(rand.NewPCG(seed, 1)), branch: "main",
		heads: map[string][]string{}, broken: map[string]bool{}, newest: map[string]string{}, asked: map[string]string{}}
	var err error
	if a.repo, err = git.Create(ctx, a.image); err != nil {
		return nil, err
	}
	if _, err := a.commit(ctx); err != nil {
		return nil, err
	}
	if err := a.repo.Branch(ctx, "dev", "main"); err != nil {
		return nil, err
	}
	a.branch = "dev"
	_, err = a.commit(ctx)
	return a, err
}

// act does something, and answers the ref that is to be built and what it names.
func (a *author) act(ctx context.Context) (ref, commit string, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch n := a.rand.IntN(100); {
	case n < 50:
		ref, err = a.commit(ctx)
	case n < 60:
		ref, err = a.switchBranch(ctx)
	case n < 80:
		ref, err = a.version(ctx)
	case n < 86:
		ref, err = a.reset(ctx)
	case n < 89:
		ref, err = a.moveVersion(ctx)
	case n < 92:
		ref, err = a.breakIt(ctx)
	default: // asked for once more
		ref = a.anyRef()
	}
	return ref, a.newest[ref], err
}

// commit makes one, in the branch that is checked out.
func (a *author) commit(ctx context.Context) (ref string, err error) {
	a.n++
	id, err := a.repo.Commit(ctx, fmt.Sprint("commit ", a.n), scratchFiles(fmt.Sprint(a.project, a.n)))
	return a.moved(id), err
}

// names notes what the ref names now, which nobody has asked for yet.
func (a *author) names(ref, commit string) string {
	a.newest[ref] = commit
	delete(a.asked, ref)
	return ref
}

// breakIt makes a commit that cannot be built.
func (a *author) breakIt(ctx context.Context) (ref string, err error) {
	a.n++
	id, err := a.repo.Commit(ctx, fmt.Sprint("broken ", a.n), map[string]string{"Dockerfile": fmt.Sprintf("FROM scratch\nCOPY nothing%d /\n", a.n)})
	a.broken[id] = true
	return a.moved(id), err
}

// moved notes the branch's new head.
func (a *author) moved(id string) (ref string) {
	a.heads[a.branch] = append(a.heads[a.branch], id)
	return a.names("refs/heads/"+a.branch, id)
}

func (a *author) switchBranch(ctx context.Context) (ref string, err error) {
	other := branches[0]
	if a.branch == other {
		other = branches[1]
	}
	if err := a.repo.Checkout(ctx, other); err != nil {
		return "", err
	}
	a.branch = other
	return a.commit(ctx)
}

// reset takes the branch back by a commit or two; the next goes on from there.
func (a *author) reset(ctx context.Context) (ref string, err error) {
	heads := a.heads[a.branch]
	to := heads[max(0, len(heads)-2-a.rand.IntN(2))]
	return a.moved(to), a.repo.Reset(ctx, to)
}

// version tags the head with the next version.
func (a *author) version(ctx context.Context) (ref string, err error) {
	a.minor++
	name := fmt.Sprintf("v1.%d.0", a.minor)
	head := a.newest["refs/heads/"+a.branch]
	return a.names("refs/tags/"+name, head), a.repo.Tag(ctx, name, head)
}

// moveVersion makes a version tag name the head: a conflict, unless it does already or was never built.
func (a *author) moveVersion(ctx context.Context) (ref string, err error) {
	if a.minor == 0 {
		return a.version(ctx)
	}
	name := fmt.Sprintf("v1.%d.0", 1+a.rand.IntN(a.minor))
	head := a.newest["refs/heads/"+a.branch]
	return a.names("refs/tags/"+name, head), a.repo.MoveTag(ctx, name, head)
}

func (a *author) anyRef() string {
	var refs []string
	for ref := range a.newest {
		refs = append(refs, ref)
	}
	slices.Sort(refs)
	return refs[a.rand.IntN(len(refs))]
}

// acknowledged notes that imgd has been asked for what the ref names now.
func (a *author) acknowledged(ref, commit string, asked check.Asked) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.newest[ref] != commit {
		return
	}
	if a.asked[ref] = asked.Request; asked.Request == "" {
		a.asked[ref] = imgd.Request{Project: a.project, Ref: ref, Commit: commit}.Hash()
	}
}

// follows reports whether the branch has had a head, since old was its head, in which now was, and old was not or before
// now.
func (a *author) follows(ctx context.Context, branch, old, now string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	heads := a.heads[branch]
	since := slices.Index(heads, old)
	if since < 0 {
		return false
	}
	return slices.ContainsFunc(heads[since:], func(head string) bool {
		return a.repo.Contains(ctx, head, now) && (!a.repo.Contains(ctx, head, old) || a.repo.Contains(ctx, now, old))
	})
}

// mustHave says which of the newest commits has no end, or has ended published and is not what its branch's tag names.
func (a *author) mustHave(w *check.World, refused bool) []error {
	a.mu.Lock()
	defer a.mu.Unlock()
	var errs []error
	for ref, commit := range a.newest {
		request, ok := a.asked[ref]
		if !ok {
			continue // nobody has said that it will be built
		}
		s := w.States[request]
		if s.Commit != commit || !s.Final() {
			errs = append(errs, fmt.Errorf("%s %s of %s stands as %+v", ref, commit, a.project, s))
			continue
		}
		branch, isBranch := strings.CutPrefix(ref, "refs/heads/")
		switch {
		case a.broken[commit]:
			if s.State != check.Failed {
				errs = append(errs, fmt.Errorf("%s %s of %s cannot be built, and is %s", ref, commit, a.project, s.State))
			}
		case refused || !isBranch:
			// It may have lost to the registry, or to who tagged it first.
		default:
			holder := w.Index.Release(w.Index.Tag(a.image, branch).Holder)
			if holder.Request.Commit != commit {
				errs = append(errs, fmt.Errorf("%s of %s is %s, and its tag names %s of release %s; its request is %+v", ref, a.project, commit, holder.Request.Commit, holder.ID, s))
			}
		}
	}
	return errs
}
