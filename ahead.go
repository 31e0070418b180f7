package imgd

import (
	"context"
	"fmt"
	"runtime/debug"
	"strings"
	"sync"
)

// Peeker is what git can say without, and about, the rest of a repository.
type Peeker interface {
	// Peek answers the commit and its time, without Describe, and whether it is
	// at hand. It asks nobody, and a commit never changes; whether any ref names
	// it still is Confirm's to say. Safe for concurrent use.
	Peek(ctx context.Context, project, commit string) (Commit, bool)
	// Confirm asks whether the tag ref (peeled) names commit at this moment.
	// ErrSuperseded if it does not any more. It changes nothing, is safe to
	// repeat and for concurrent use.
	Confirm(ctx context.Context, project, ref, commit string) error
}

// guess completes a copy of req as Resolve would if its ref still stands for
// its commit, but for git describe's answer, and reports whether it can: the
// commit of a tag is named by the ask and at hand, and what the build gets of
// it does not rest on other refs.
func (p *Pipeline) guess(ctx context.Context, req Request) (Request, bool) {
	project, ok := p.Projects.Get(req.Project)
	if !ok || p.Peeker == nil || req.Commit == "" || !strings.HasPrefix(req.Ref, "refs/tags/") || !project.Allows(req.Ref) || project.describes() {
		return req, false
	}
	commit, ok := p.Peeker.Peek(ctx, req.Project, req.Commit)
	if !ok {
		return req, false
	}
	return req, req.complete(project, commit) == nil
}

// describes reports whether a template or a rule of the project may use git
// describe's answer.
func (p Project) describes() bool {
	mentions := strings.Contains(p.LDFlags, "Describe")
	for _, rule := range p.Tags {
		mentions = mentions || strings.Contains(rule, "describe")
	}
	for _, template := range p.BuildArgs {
		mentions = mentions || strings.Contains(template, "Describe")
	}
	return mentions
}

// ahead makes the candidate of req, of which nothing stands yet, while git is
// asked whether the ref stands for the commit: guessed is req if it does, and
// req becomes that. What git says comes before what became of the build, which
// is stopped when the answer is no.
func (p *Pipeline) ahead(ctx context.Context, req *Request, guessed Request, report func(State)) (Release, error) {
	var asking sync.WaitGroup
	defer asking.Wait() // even if the build panics
	both, stop := context.WithCancel(ctx)
	defer stop()
	confirmed := make(chan error, 1)
	asking.Go(func() {
		err := p.confirm(both, guessed)
		if err != nil {
			stop()
		}
		confirmed <- err
	})
	candidate, err := p.candidate(both, guessed, Release{}, report)
	if refused := <-confirmed; refused != nil {
		return Release{}, fmt.Errorf("resolve %s: %w", req.Ref, refused)
	}
	if project, _ := p.Projects.Get(req.Project); project.describes() { // a reload came between
		if err := p.Resolve(ctx, req); err != nil {
			return Release{}, err
		}
		return p.candidate(ctx, *req, Release{}, report)
	}
	*req = guessed
	return candidate, err
}

// confirm asks git whether the ref of req stands for its commit. A panic is an
// error here already: it would meet nobody else in this goroutine, and end the
// process.
func (p *Pipeline) confirm(ctx context.Context, req Request) (err error) {
	defer func() {
		if v := recover(); v != nil {
			p.log().Error("asking git panicked", "request", req.ID, "panic", v, "stack", string(debug.Stack()))
			err = fmt.Errorf("imgd panicked, of which its log tells more: %v", v)
		}
	}()
	return p.observed(ctx, StageResolve, req, func(ctx context.Context) error {
		return p.Peeker.Confirm(ctx, req.Project, req.Ref, req.Commit)
	})
}
