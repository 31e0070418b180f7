package imgd

import (
	"context"
	"strings"
)

// Peeker knows commits that git has at hand.
type Peeker interface {
	// Peek answers the commit and its time, without Describe, and whether it is
	// at hand. It asks nobody, and a commit never changes; whether any ref names
	// it still is Git.Resolve's to say. Safe for concurrent use.
	Peek(ctx context.Context, project, commit string) (Commit, bool)
}

// guess completes a copy of req as Resolve would if its ref still stands for
// its commit, and reports whether it can: the commit of a tag is named by the
// ask and at hand, and what the build gets of it does not rest on other refs.
func (p *Pipeline) guess(ctx context.Context, req Request) (Request, bool) {
	project, ok := p.Projects.Get(req.Project)
	if !ok || p.Peeker == nil || req.Commit == "" || !strings.HasPrefix(req.Ref, "refs/tags/") || !project.Allows(req.Ref) || project.describes() {
		return req, false
	}
	commit, ok := p.Peeker.Peek(ctx, req.Project, req.Commit)
	if !ok {
		return req, false
	}
	return req, req.complete(commit) == nil
}

// describes reports whether a template of the project may use git describe's
// answer.
func (p Project) describes() bool {
	mentions := strings.Contains(p.LDFlags, "Describe")
	for _, template := range p.BuildArgs {
		mentions = mentions || strings.Contains(template, "Describe")
	}
	return mentions
}

// ahead makes the candidate of req, of which nothing stands yet, while git is
// asked whether the ref stands for the commit: guessed is req as that will
// answer. What git says comes before what became of the build, which is
// stopped when the answer is no; all of req is git's answer then.
func (p *Pipeline) ahead(ctx context.Context, req *Request, guessed Request, report func(State)) (Release, error) {
	building, stop := context.WithCancel(ctx)
	defer stop()
	resolved := make(chan error, 1)
	go func() {
		err := p.Resolve(ctx, req)
		if err != nil {
			stop()
		}
		resolved <- err
	}()
	candidate, err := p.candidate(building, guessed, Release{}, report)
	if resolveErr := <-resolved; resolveErr != nil {
		return Release{}, resolveErr
	}
	if req.Version != guessed.Version || !req.CommitTime.Equal(guessed.CommitTime) {
		return p.candidate(ctx, *req, Release{}, report) // not reached while commits and tags are what they are
	}
	candidate.Request.Describe = req.Describe
	candidate.Tags = wanted(req.Tags)
	return candidate, err
}
