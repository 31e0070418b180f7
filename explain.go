package imgd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/imgd/imgd/version"
)

// Previewer says what admission would decide.
type Previewer interface {
	// Preview says of each of rel's tags, as if it stood alone, whether Admit
	// would take it at this moment. rel may have no root: it is not built yet.
	// Nothing is entered. Safe for concurrent use.
	Preview(ctx context.Context, rel Release) ([]Preview, error)
}

// Planner says what a build would be given.
type Planner interface {
	// Plan answers what Build would give to the build of req's commit.
	// ErrInvalid for values that cannot be injected. It asks nobody.
	Plan(p Project, req Request) (Plan, error)
}

// A Preview is what admission would say of one tag at this moment.
type Preview struct {
	Tag     string        `json:"tag"`
	Kind    version.Kind  `json:"kind"`
	Taken   bool          `json:"taken"`             // it would be
	Reason  string        `json:"reason,omitempty"`  // why it would not
	Ends    State         `json:"ends,omitempty"`    // how that would end the request, whatever becomes of its other tags: conflict or unchanged
	Release string        `json:"release,omitempty"` // that has the tag now, claimed or held
	Root    digest.Digest `json:"root,omitempty"`    // what the tag names now
}

// A Plan is what a build is given.
type Plan struct {
	Platforms   []string          `json:"platforms"`
	Dockerfile  string            `json:"dockerfile"` // seen from the repository's root
	Target      string            `json:"target,omitempty"`
	Args        map[string]string `json:"args"` // build args, LDFLAGS among them
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// An Explanation says what a build of a commit would be called, and why.
type Explanation struct {
	Request    string         `json:"request"` // ID that it would have
	Project    string         `json:"project"`
	Image      string         `json:"image"`
	Ref        string         `json:"ref"`
	Commit     string         `json:"commit"`
	CommitTime time.Time      `json:"commitTime"`
	Describe   string         `json:"describe,omitempty"`
	Version    string         `json:"version"`
	Release    string         `json:"release,omitempty"` // of the same request, that stands already: it is not built again
	End        State          `json:"end"`               // how the request would end
	Why        string         `json:"why,omitempty"`     // of an end that rests on no tag: nothing that the project watches has changed
	Rules      []version.Step `json:"rules"`             // what each rule gives, or why nothing; the defaults are rules too
	Tags       []Preview      `json:"tags"`
	Plan
}

// An Explainer says what would become of a request. All its fields must be set.
type Explainer struct {
	Pipeline *Pipeline
	Index    Previewer
	Builder  Planner
}

// Explain resolves req and says what it would come to at this moment. Nothing is
// built or written. Errors as of Pipeline.Resolve, but that there is no tag is
// explained.
func (e *Explainer) Explain(ctx context.Context, req Request) (Explanation, error) {
	err := e.Pipeline.Resolve(ctx, &req)
	if nameless := len(req.Named.Tags) == 0 && errors.Is(err, ErrUnchanged); err != nil && !nameless {
		return Explanation{}, err
	}
	project, err := e.Pipeline.project(req.Project)
	if err != nil {
		return Explanation{}, err
	}
	plan, err := e.Builder.Plan(project, req)
	if err != nil {
		return Explanation{}, fmt.Errorf("plan the build of %s: %w", req.Commit, err)
	}
	rel := Release{Image: project.Image, Repositories: project.Repositories, Request: req, Tags: wanted(req.Named.Tags)}
	known, ok := e.Pipeline.Lookup.Newest(req.ID)
	stands := ""
	if ok && known.Why != RootLost {
		stands = known.ID
		rel.Root, rel.Platforms, rel.Request.Version = known.Root, known.Platforms, known.Request.Version // see reuse
	}
	tags, err := e.Index.Preview(ctx, rel)
	if err != nil {
		return Explanation{}, fmt.Errorf("ask what the tags name: %w", err)
	}
	end, why := endOf(tags, rel.Root.Digest), ""
	if err := e.Pipeline.unwatched(ctx, req, known); errors.Is(err, ErrUnchanged) {
		end, why = Unchanged, err.Error()
	} else if err != nil {
		return Explanation{}, err
	}
	return Explanation{
		Request: req.ID, Project: req.Project, Image: project.Image, Ref: req.Ref, Commit: req.Commit, CommitTime: req.CommitTime,
		Describe: req.Describe, Version: req.Version, Release: stands, End: end, Why: why, Tags: tags, Plan: plan, Rules: req.Named.Steps,
	}, nil
}

// endOf is how a request ends for whose root admission says that of its tags.
func endOf(tags []Preview, root digest.Digest) State {
	end, taken, named := State(""), 0, 0
	for _, t := range tags {
		end = cmp.Or(end, t.Ends) // the first ends it
		if t.Taken {
			taken++
		}
		if root != "" && t.Root == root {
			named++
		}
	}
	switch {
	case end != "":
		return end
	case taken > 0:
		return Published
	case named == len(tags):
		return Unchanged
	}
	return Superseded
}
