package main_test

import (
	"context"

	"github.com/imgd/imgd"
)

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
