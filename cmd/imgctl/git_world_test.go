package main_test

import (
	"context"
	"fmt"

	"github.com/imgd/imgd"
)

func (w *world) Head(_ context.Context, _, ref string) (string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.refs[ref], nil
}

func (w *world) Contains(_ context.Context, _, head, commit string) (bool, error) {
	return head == commit, nil
}

func (w *world) Expand(_ context.Context, _, short string) (ref, commit string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, name := range []string{short, "refs/heads/" + short, "refs/tags/" + short} {
		if w.refs[name] != "" {
			return name, w.refs[name], nil
		}
	}
	return "", "", fmt.Errorf("there is no branch or tag %s: %w", short, imgd.ErrNotFound)
}

// commits is git as the pipeline asks it.
type commits struct{ *world }

func (c commits) Resolve(_ context.Context, _, _, commit string) (imgd.Commit, error) {
	return imgd.Commit{ID: commit, Time: epoch, Describe: "v1.2.2-3-gaaaaaaa"}, nil
}

func (commits) Touched(context.Context, string, string, string) (bool, error) { return true, nil }

type planner struct{}

func (planner) Plan(_ imgd.Project, req imgd.Request) (imgd.Plan, error) {
	return imgd.Plan{Platforms: []string{"linux/amd64", "linux/arm64"}, Dockerfile: "Dockerfile", Labels: map[string]string{"env": "prod"},
		Args: map[string]string{"VERSION": req.Version, "LDFLAGS": "-s -w -X main.version=" + req.Version}}, nil
}
