package httpapi

import (
	"net/http"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/version"
)

// A Why says why a tag names what it names.
type Why struct {
	Image   string           `json:"image"`
	Tag     string           `json:"tag"`
	Release string           `json:"release"` // that holds it
	Ref     string           `json:"ref,omitempty"`
	Commit  string           `json:"commit"`
	Command imgd.CommandName `json:"command,omitempty"` // an operator's, that made the release of what was there
	Pushed  bool             `json:"pushed,omitempty"`  // by another CI
	By      string           `json:"by,omitempty"`
	Reason  string           `json:"reason,omitempty"` // that was given
	Rules   []version.Step   `json:"rules,omitempty"`  // of a build: what each gave, or why nothing

	// What a build was asked for beside its ref.
	Args      map[string]string `json:"args,omitempty"`
	Target    string            `json:"target,omitempty"`
	Platforms []string          `json:"platforms,omitempty"`

	Tags []Outcome `json:"tags"` // of the release
	Seq  uint64    `json:"seq"`
}

func (a *API) why(w http.ResponseWriter, r *http.Request, image, tag string) error {
	q, err := parse(r, "seq")
	if err != nil {
		return err
	}
	seq, err := a.seq(r.Context(), q)
	if err != nil {
		return err
	}
	records := a.Index.Tag(image, tag)
	if len(records) == 0 {
		return a.unknown(image, tag)
	}
	rel, _ := a.Index.Release(records[0].Release)
	return answer(w, http.StatusOK, Why{
		Image: image, Tag: tag, Release: rel.ID, Ref: rel.Request.Ref, Commit: rel.Request.Commit, Command: rel.Command, Pushed: rel.Pushed,
		By: rel.Request.By, Reason: rel.Request.Reason, Rules: rel.Steps,
		Args: rel.Request.Args, Target: rel.Request.Target, Platforms: rel.Request.Platforms, Tags: outcomes(rel), Seq: seq,
	})
}
