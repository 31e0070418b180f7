package httpapi

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/imgd/imgd"
)

// An OpenRelease is a release that is admitted and not published, and where its
// request stands: the error in that says what holds it up.
type OpenRelease struct {
	imgd.Release
	Status  *imgd.Status `json:"status,omitempty"`  // of its request, left out if there is none any more
	Unknown string       `json:"unknown,omitempty"` // why the status could not be read
}

// listReleases lists the open ones only: the others are found by their tags and
// requests.
func (a *API) listReleases(w http.ResponseWriter, r *http.Request) error {
	q, err := parse(r, "open", "image", "limit", "cursor", "seq")
	if err != nil {
		return err
	}
	open, err := q.flag("open", false)
	if err == nil && !open {
		err = usage("only the open releases are listed, those that are admitted and not published: add open=1")
	}
	if err != nil {
		return err
	}
	seq, err := a.seq(r.Context(), q)
	if err != nil {
		return err
	}
	releases := slices.DeleteFunc(a.Index.Open(), func(rel imgd.Release) bool {
		return q.values.Get("image") != "" && rel.Image != q.values.Get("image")
	})
	slices.SortFunc(releases, func(x, y imgd.Release) int { return strings.Compare(admission(x), admission(y)) })
	list, err := page(q, releases, seq, admission)
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, List[OpenRelease]{Items: a.withStatuses(r.Context(), list.Items), Next: list.Next, Seq: list.Seq})
}

// admission sorts releases by when they were admitted.
func admission(rel imgd.Release) string {
	return rel.AdmittedAt.UTC().Format("2006-01-02T15:04:05.000000000") + " " + rel.ID
}

// Bounds of looking for the states of releases. What the index says is worth an
// answer while the stream of states is away, too.
const (
	statusesTime   = 5 * time.Second
	statusesAtOnce = 8
)

func (a *API) withStatuses(ctx context.Context, releases []imgd.Release) []OpenRelease {
	ctx, cancel := context.WithTimeout(ctx, statusesTime)
	defer cancel()
	all := make([]OpenRelease, len(releases))
	var group errgroup.Group
	group.SetLimit(statusesAtOnce)
	for i, rel := range releases {
		all[i].Release = rel
		group.Go(func() error {
			status, ok, err := a.Statuses.Status(ctx, rel.Request.ID)
			if err != nil {
				all[i].Unknown = err.Error()
			} else if ok {
				all[i].Status = &status
			}
			return nil
		})
	}
	_ = group.Wait() // what went wrong stands in all
	return all
}
