package httpapi_test

import (
	"context"
	"testing"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/internal/httpapi"
)

// commits is git as the pipeline asks it: each ref names what the world says.
type commits struct{ w *world }

func (c commits) Resolve(_ context.Context, _, ref, commit string) (imgd.Commit, error) {
	if _, _, err := c.w.Expand(context.Background(), "", ref); err != nil {
		return imgd.Commit{}, err
	}
	return imgd.Commit{ID: commit, Time: epoch}, nil
}

type planner struct{}

func (planner) Plan(_ imgd.Project, req imgd.Request) (imgd.Plan, error) {
	return imgd.Plan{Platforms: []string{"linux/amd64"}, Dockerfile: "Dockerfile", Args: map[string]string{"VERSION": req.Version},
		Labels: map[string]string{"env": "prod"}}, nil
}

func TestExplain(t *testing.T) {
	w := newWorld(t)
	w.refs["refs/tags/v1.2.3"], w.refs["refs/heads/main"] = commit("a"), commit("b")
	golden(t, "explain", w.get("/v1/projects/hello/explain?ref=v1.2.3").body)
	w.publish(w.release("refs/tags/v1.2.3", "c", "C"))
	golden(t, "explain-conflict", w.get("/v1/projects/hello/explain?ref=refs/tags/v1.2.3&commit="+commit("a")).body)
	for path, code := range map[string]httpapi.Code{
		"/v1/projects/none/explain?ref=main":            "not-found",
		"/v1/projects/hello/explain":                    "usage",
		"/v1/projects/hello/explain?ref=gone":           "not-found",
		"/v1/projects/hello/explain?ref=main&commit=ab": "usage",
		"/v1/projects/hello/explain?ref=main&reff=x":    "usage",
	} {
		status := map[httpapi.Code]int{"usage": 400, "not-found": 404}[code]
		checkProblem(t, w.get(path), status, code, "")
	}
}
