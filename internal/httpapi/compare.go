package httpapi

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/imgd/imgd"
)

// compareTime bounds a comparison, which may read two large layers.
const compareTime = 11 * time.Minute

// getCompare says whether two images are the same, by the first of the image's
// repositories: all hold the same.
func (a *API) getCompare(w http.ResponseWriter, r *http.Request) error {
	q, err := parse(r, "image", "a", "b")
	if err != nil {
		return err
	}
	image, first, second := q.values.Get("image"), digest.Digest(q.values.Get("a")), digest.Digest(q.values.Get("b"))
	for _, d := range []digest.Digest{first, second} {
		if err := d.Validate(); err != nil {
			return usage(fmt.Sprintf("digest %q: %v; compare takes image=, and the digests of two images as a= and b=", d, err))
		}
	}
	found, _, _ := a.Index.Find(imgd.Find{Image: image, Limit: 1})
	if image == "" || len(found) == 0 {
		return a.unknown(image, "")
	}
	repositories := a.repositories(image, found[0].Release)
	if len(repositories) == 0 {
		return problem(http.StatusNotFound, CodeNotFound, fmt.Sprintf("no repository of %s is known: it was recorded unseen, so there is nothing to read", image))
	}
	ctx, cancel := context.WithTimeout(r.Context(), compareTime)
	defer cancel()
	comparison, err := a.Registry.Compare(ctx, repositories[0], first, second)
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, comparison)
}
