package httpapi

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/version"
)

// maxWait bounds ?wait=: proxies cut what is silent for longer.
const maxWait = time.Minute

// A RequestAnswer is a request's state with what it came to.
type RequestAnswer struct {
	imgd.Status
	Image        string        `json:"image,omitempty"`        // of the project
	Repositories []string      `json:"repositories,omitempty"` // registry/name; all hold what the records name
	Tags         []Outcome     `json:"tags,omitempty"`         // of its release
	Records      []imgd.Record `json:"records,omitempty"`      // published: those of its release; unchanged, superseded: what its tags name now
	Root         *Root         `json:"root,omitempty"`         // what the first record's tag points at
	Seq          uint64        `json:"seq"`
}

// A Root is the descriptor of a platform's manifest, or of the index above
// several.
type Root struct {
	MediaType string        `json:"mediaType"`
	Digest    digest.Digest `json:"digest"`
	Size      int64         `json:"size"`
}

// An Outcome says whether the release took a tag.
type Outcome struct {
	Tag    string `json:"tag"`
	Reason string `json:"reason,omitempty"` // why not; "" if it did
}

// states are the names that state= may have.
var states = []string{
	string(imgd.Queued), string(imgd.Resolving), string(imgd.Building), string(imgd.Publishing), string(imgd.Published), string(imgd.Unchanged),
	string(imgd.Superseded), string(imgd.Cancelled), string(imgd.Conflicted), string(imgd.Failed), string(imgd.Dead),
}

func (a *API) listRequests(w http.ResponseWriter, r *http.Request) error {
	q, err := parse(r, "state", "project", "limit", "cursor", "seq")
	if err != nil {
		return err
	}
	filter := imgd.StatusFilter{Project: q.values.Get("project"), State: imgd.State(q.values.Get("state"))}
	if filter.State != "" && !slices.Contains(states, string(filter.State)) {
		return usage(fmt.Sprintf("parameter state=%q is none of %s", filter.State, strings.Join(states, ", ")))
	}
	limit, before, err := q.place()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), answerTime)
	defer cancel()
	items, next, err := a.Statuses.Statuses(ctx, filter, limit, before)
	if err != nil {
		return fmt.Errorf("read states: %w", err)
	}
	seq, err := a.seq(ctx, q)
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, listOf(items, next, seq))
}

func (a *API) getRequest(w http.ResponseWriter, r *http.Request) error {
	q, err := parse(r, "wait", "askedAt", "seq")
	if err != nil {
		return err
	}
	wait, err := q.duration("wait", maxWait)
	if err != nil {
		return err
	}
	askedAt, err := q.moment("askedAt")
	if err != nil {
		return err
	}
	id := r.PathValue("id")
	if err := a.await(r.Context(), id, askedAt, wait); err != nil {
		return err
	}
	status, err := a.status(r.Context(), id)
	if err != nil {
		return err
	}
	return a.answerRequest(r.Context(), w, q, status)
}

// answerRequest answers the state with what the request came to.
func (a *API) answerRequest(ctx context.Context, w http.ResponseWriter, q query, status imgd.Status) error {
	seq, err := a.seq(ctx, q)
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, a.outcome(status, seq))
}

// await waits until the request has ended for who asked at askedAt, at most so
// long.
func (a *API) await(ctx context.Context, id string, askedAt time.Time, atMost time.Duration) error {
	if atMost == 0 || !validRequest(id) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, atMost)
	defer cancel()
	ctx, stop := a.waits.until(ctx)
	defer stop()
	for status, err := range a.Statuses.WatchStatus(ctx, id) {
		if err != nil && ctx.Err() == nil {
			return fmt.Errorf("watch the state of request %s: %w", id, err)
		}
		if err != nil || status.EndedFor(askedAt) {
			return nil
		}
	}
	return nil
}

// status is where the request stands now.
func (a *API) status(ctx context.Context, id string) (imgd.Status, error) {
	if !validRequest(id) {
		return imgd.Status{}, unknownRequest(id)
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	status, ok, err := a.Statuses.Status(ctx, id)
	if err != nil {
		return status, fmt.Errorf("read the state of request %s: %w", id, err)
	}
	if !ok {
		return status, unknownRequest(id)
	}
	return status, nil
}

func unknownRequest(id string) error {
	if validLetter(id) {
		return problem(http.StatusNotFound, CodeNotFound, fmt.Sprintf("%s is no request but may be a dead letter; GET /v1/letters/%s shows it", id, id))
	}
	return problem(http.StatusNotFound, CodeNotFound, fmt.Sprintf("no request %q is known; GET /v1/requests has those of the last 30 days", id))
}

// validRequest reports whether id can be a request's: 32 hex digits.
func validRequest(id string) bool {
	return len(id) == 32 && strings.Trim(id, "0123456789abcdef") == ""
}

// outcome adds what the index knows of the request.
func (a *API) outcome(status imgd.Status, seq uint64) RequestAnswer {
	project, _ := a.Projects.Get(status.Project)
	out := RequestAnswer{Status: status, Image: project.Image, Repositories: project.Repositories, Seq: seq}
	release, known := a.Index.Release(status.Release)
	if !known {
		release, known = a.Index.Newest(status.Request)
	}
	if known {
		out.Image, out.Repositories = release.Image, release.Repositories
		out.Tags = outcomes(release)
	}
	switch status.State {
	case imgd.Published:
		if release.State == imgd.ReleasePublished {
			out.Records = release.Records()
		}
	case imgd.Unchanged, imgd.Superseded:
		out.Records = a.named(out.Image, a.wanted(status, release))
	}
	if len(out.Records) > 0 {
		out.Root = a.root(out.Records[0])
	}
	return out
}

func (a *API) root(rec imgd.Record) *Root {
	release, ok := a.Index.Release(rec.Release)
	if !ok {
		return nil
	}
	return &Root{MediaType: release.Root.MediaType, Digest: release.Root.Digest, Size: release.Root.Size}
}

func outcomes(release imgd.Release) []Outcome {
	var all []Outcome
	for _, t := range release.Tags {
		if t.Reason == "" && release.State == imgd.ReleaseAbandoned {
			t.Reason = "was given back: " + release.Why
		}
		all = append(all, Outcome{Tag: t.Name, Reason: t.Reason})
	}
	return all
}

// wanted are the tags that the request asked for.
func (a *API) wanted(status imgd.Status, release imgd.Release) []string {
	var names []string
	for _, t := range release.Tags {
		names = append(names, t.Name)
	}
	if names == nil {
		// A request without a release has no tags on record. An error means that
		// its ref gives none.
		for _, t := range a.wouldTake(status) {
			names = append(names, t.Name)
		}
	}
	return names
}

// wouldTake are the tags that today's rules give a request without a release, as
// far as they do not rest on what only git knows.
func (a *API) wouldTake(status imgd.Status) []version.Tag {
	project, _ := a.Projects.Get(status.Project)
	rules, err := project.Rules()
	if err != nil {
		return nil
	}
	req := status.Again()
	req.AskedAt, req.Prefix = status.AskedAt, project.TagPrefix
	named, _ := rules.Apply(req.Info())
	return named.Tags
}

// named is what the image's tags of these names name, in their order: the first
// is the one that people know the release by.
func (a *API) named(image string, tags []string) []imgd.Record {
	var found []imgd.Record
	for _, tag := range tags {
		found = append(found, a.Index.Tag(image, tag)...)
	}
	return found
}
