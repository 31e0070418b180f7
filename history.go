package imgd

import (
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/imgd/imgd/version"
)

// A Step is one line of a tag's history: what it named, since when, who made it
// so and why, and what ended it. HTTP API and CLI carry these names.
type Step struct {
	Image       string        `json:"image"`
	Tag         string        `json:"tag"`
	Kind        version.Kind  `json:"kind"`
	Generation  uint64        `json:"generation"`
	Root        digest.Digest `json:"root,omitempty"` // empty: it was removed, and named nothing
	Platforms   []string      `json:"platforms,omitempty"`
	Release     string        `json:"release"`
	PublishedAt time.Time     `json:"publishedAt"`
	By          string        `json:"by,omitempty"`
	Reason      string        `json:"reason,omitempty"`
	Forced      bool          `json:"forced"`
	Command     CommandName   `json:"command,omitempty"` // that made it so; empty: a build, or what another CI pushed
	Pushed      bool          `json:"pushed,omitempty"`
	SourceRef   string        `json:"sourceRef,omitempty"`
	Version     string        `json:"version,omitempty"`
	Seq         uint64        `json:"seq"`             // entry of the index that published it
	Ended       *StepEnd      `json:"ended,omitempty"` // nil: it is so still
}

// A StepEnd is what ended a step.
type StepEnd struct {
	How     string    `json:"how"` // replaced or removed
	At      time.Time `json:"at"`
	Release string    `json:"release"`
	By      string    `json:"by,omitempty"`
	Reason  string    `json:"reason,omitempty"`
}

// How a step ended.
const (
	StepReplaced = "replaced"
	StepRemoved  = "removed"
)

// Steps is the history of a tag, newest first, made of the published releases
// that took it, oldest first.
func Steps(tag string, past []Release) []Step {
	steps := []Step{}
	for i, rel := range past {
		step := stepOf(tag, rel)
		if i+1 < len(past) {
			step.Ended = endBy(past[i+1])
		}
		steps = append(steps, step)
	}
	slices.Reverse(steps)
	return steps
}

func stepOf(tag string, rel Release) Step {
	took, _ := rel.took(tag)
	step := Step{Image: rel.Image, Tag: tag, Kind: took.Kind, Generation: took.Generation, Root: rel.Root.Digest,
		Release: rel.ID, PublishedAt: rel.PublishedAt, By: rel.Request.By, Reason: rel.Request.Reason, Forced: rel.Request.Force,
		Command: rel.Command, Pushed: rel.Pushed, Seq: rel.Seq}
	if rel.Root.Digest != "" {
		step.SourceRef, step.Version = rel.Source+"@"+rel.Request.Commit, rel.Request.Version
	}
	for _, platform := range rel.Platforms {
		step.Platforms = append(step.Platforms, PlatformName(platform.Platform)+"@"+platform.Digest.String())
	}
	return step
}

func endBy(next Release) *StepEnd {
	end := &StepEnd{How: StepReplaced, At: next.PublishedAt, Release: next.ID, By: next.Request.By, Reason: next.Request.Reason}
	if next.Root.Digest == "" {
		end.How = StepRemoved
	}
	return end
}
