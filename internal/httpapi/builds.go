package httpapi

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/version"
)

// A Build is the body of an ask for a build. Who asked is not in it: the API
// knows.
type Build struct {
	Schema    int               `json:"schema,omitempty"` // 1, or left out
	Ref       string            `json:"ref"`              // full or short: main, v1.2.3
	Commit    string            `json:"commit,omitempty"` // full; default: what ref names now
	By        string            `json:"by,omitempty"`     // read as in the queue's bodies, and replaced
	Reason    string            `json:"reason,omitempty"`
	Force     bool              `json:"force,omitempty"`
	Rebuild   bool              `json:"rebuild,omitempty"`
	Compare   bool              `json:"compare,omitempty"` // release nothing; the state says what was built
	Args      map[string]string `json:"args,omitempty"`
	Target    string            `json:"target,omitempty"`
	Platforms []string          `json:"platforms,omitempty"`
	Event     string            `json:"event,omitempty"`   // schedule, if a clock asks
	AskedAt   string            `json:"askedAt,omitempty"` // RFC 3339; default: when the queue takes it
}

// Asked is the answer to it, and to a retry: the request is in the queue.
type Asked struct {
	Request string     `json:"request,omitempty"`
	Project string     `json:"project"`
	Ref     string     `json:"ref,omitempty"`
	Commit  string     `json:"commit,omitempty"`
	AskedAt time.Time  `json:"askedAt,omitzero"`
	Before  imgd.State `json:"before,omitempty"` // where an earlier ask for the same stood, "" if there was none
}

// schema of the bodies.
const schema = 1

// askTime bounds an ask: git may have to clone a large repository first, for
// which it takes ten minutes at most.
const askTime = 11 * time.Minute

func (a *API) askBuild(w http.ResponseWriter, r *http.Request) error {
	if _, err := parse(r); err != nil {
		return err
	}
	project, err := a.project(r)
	if err != nil {
		return err
	}
	var body Build
	if err := read(w, r, &body, false); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), askTime)
	defer cancel()
	asked, err := a.submit(ctx, project, body)
	if err != nil {
		return err
	}
	w.Header().Set("Location", "/v1/requests/"+asked.Request)
	return answer(w, http.StatusAccepted, asked)
}

// project is the one that the path names.
func (a *API) project(r *http.Request) (imgd.Project, error) {
	project, ok := a.Projects.Get(r.PathValue("project"))
	if !ok {
		return project, problem(http.StatusNotFound, CodeNotFound,
			fmt.Sprintf("project %q is not configured; there are %q", r.PathValue("project"), a.projectNames()))
	}
	return project, nil
}

func (a *API) projectNames() []string {
	var names []string
	for _, p := range a.Projects.All() {
		names = append(names, p.Name)
	}
	return names
}

func (a *API) submit(ctx context.Context, project imgd.Project, body Build) (Asked, error) {
	req, err := a.request(ctx, project, body)
	if err != nil {
		return Asked{}, err
	}
	delivery := "http/" + rand.Text() + "/" + project.Name
	var before imgd.Status
	if !req.Force && !req.Rebuild { // each of those is a request of its own
		if before, _, err = a.Statuses.Status(ctx, req.Hash()); err != nil {
			return Asked{}, fmt.Errorf("look for earlier asks: %w", err)
		}
	}
	if req, err = a.Queue.Submit(ctx, req, delivery); err != nil {
		return Asked{}, fmt.Errorf("put the request into the queue: %w", err)
	}
	return Asked{Request: req.ID, Project: req.Project, Ref: req.Ref, Commit: req.Commit, AskedAt: req.AskedAt, Before: before.State}, nil
}

// request resolves the ref, which a full one with its commit does not need.
func (a *API) request(ctx context.Context, project imgd.Project, b Build) (imgd.Request, error) {
	askedAt, err := b.check(a.Now())
	if err != nil {
		return imgd.Request{}, err
	}
	req := imgd.Request{Project: project.Name, Ref: b.Ref, Commit: b.Commit, By: caller, Reason: b.Reason, Force: b.Force,
		Rebuild: b.Rebuild, Compare: b.Compare, Args: b.Args, Target: b.Target, Platforms: b.Platforms, Event: b.Event, AskedAt: askedAt}
	if b.Commit == "" || !strings.HasPrefix(b.Ref, "refs/") {
		ref, commit, err := a.Git.Expand(ctx, project.Name, b.Ref)
		if err != nil {
			return req, fmt.Errorf("resolve %s of project %s: %w", b.Ref, project.Name, err)
		}
		req.Ref = ref
		if b.Commit == "" {
			req.Commit = commit
		}
	}
	if why := project.WhyNot(req.Ref); why != "" {
		return req, usage(why + "; its config says what may be built")
	}
	return req, nil
}

// check refuses what can never become a request, and answers when it was asked.
func (b Build) check(now time.Time) (time.Time, error) {
	if b.Schema != 0 && b.Schema != schema {
		return time.Time{}, usage(fmt.Sprintf("schema %d; this imgd reads %d", b.Schema, schema))
	}
	if b.Ref == "" {
		return time.Time{}, usage("ref is missing, as in \"ref\":\"main\"")
	}
	if b.Commit != "" {
		if err := version.ValidCommit(b.Commit); err != nil {
			return time.Time{}, usage(err.Error())
		}
	}
	if b.Event != "" && b.Event != imgd.EventSchedule {
		return time.Time{}, usage(fmt.Sprintf("event %q is not known; it is %s if a clock asks, and left out otherwise", b.Event, imgd.EventSchedule))
	}
	if b.Force && strings.TrimSpace(b.Reason) == "" {
		return time.Time{}, usage("force needs a reason, which the tag's history keeps")
	}
	if b.Compare && (!b.Rebuild || b.Force) {
		return time.Time{}, usage("compare needs rebuild: what is taken from the cache proves nothing; and it replaces nothing by force")
	}
	if b.AskedAt == "" {
		return time.Time{}, nil
	}
	at, err := time.Parse(time.RFC3339Nano, b.AskedAt)
	if err != nil {
		return at, usage(fmt.Sprintf("askedAt %q is not a time as 2026-11-21T10:00:00Z", b.AskedAt))
	}
	if at.After(now) {
		return at, usage("askedAt " + b.AskedAt + " lies in the future")
	}
	return at, nil
}
