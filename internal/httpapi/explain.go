package httpapi

import (
	"context"
	"fmt"
	"net/http"

	"github.com/imgd/imgd"
)

// Explainer says what would become of a request.
type Explainer interface {
	// Explain says what a build of req's ref and commit would be called and why,
	// and what admission would say of each of its tags at this moment. Nothing is
	// built or written. Errors as of imgd.Git.Resolve.
	Explain(ctx context.Context, req imgd.Request) (imgd.Explanation, error)
}

func (a *API) explain(w http.ResponseWriter, r *http.Request) error {
	q, err := parse(r, "ref", "commit", "event")
	if err != nil {
		return err
	}
	project, err := a.project(r)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), askTime)
	defer cancel()
	req, err := a.request(ctx, project, Build{Ref: q.values.Get("ref"), Commit: q.values.Get("commit"), Event: q.values.Get("event")})
	if err != nil {
		return err
	}
	req.AskedAt = a.Now()
	found, err := a.Explainer.Explain(ctx, req)
	if err != nil {
		return fmt.Errorf("explain %s of project %s: %w", req.Ref, project.Name, err)
	}
	return answer(w, http.StatusOK, found)
}
