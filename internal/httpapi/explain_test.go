package httpapi_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/internal/httpapi"
	"github.com/imgd/imgd/version"
)

// commits is git as the pipeline asks it: each ref names what the world says.
type commits struct{ w *world }

func (c commits) Resolve(_ context.Context, _, ref, commit string) (imgd.Commit, error) {
	if _, _, err := c.w.Expand(context.Background(), "", ref); err != nil {
		return imgd.Commit{}, err
	}
	return imgd.Commit{ID: commit, Time: epoch}, nil
}

func (commits) Touched(context.Context, string, string, string) (bool, error) { return true, nil }

type planner struct{}

func (planner) Plan(_ imgd.Project, req imgd.Request) (imgd.Plan, error) {
	return imgd.Plan{Platforms: []string{"linux/amd64"}, Dockerfile: "Dockerfile", Args: map[string]string{"VERSION": req.Version},
		Labels: map[string]string{"env": "prod"}}, nil
}

// A release keeps what each rule gave, and a command who gave it.
func TestWhy(t *testing.T) {
	w, _, _ := twice(t)
	rel := w.release("refs/tags/v9.0.0", "a", "A")
	rel.Steps = []version.Step{{Rule: "type=semver,pattern={{version}}", Tag: "9.0.0"}, {Rule: "type=edge", Note: "is for the default branch"}}
	w.publish(rel)
	golden(t, "why", w.get("/v1/images/demo/hello/tags/v9.0.0/why").body)
	w.order(latest+"/rollback", `{"reason":"it leaks"}`, http.StatusCreated)
	if got := w.get(latest + "/why"); !strings.Contains(got.body, `"command":"rollback"`) || !strings.Contains(got.body, `"reason":"it leaks"`) {
		t.Errorf("got %s", got.body)
	}
	checkProblem(t, w.get("/v1/images/demo/hello/tags/none/why"), http.StatusNotFound, "not-found", "nothing is published")
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
		"/v1/projects/hello/explain?ref=main&event=x":   "usage",
	} {
		status := map[httpapi.Code]int{"usage": 400, "not-found": 404}[code]
		checkProblem(t, w.get(path), status, code, "")
	}
}
