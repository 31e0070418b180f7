package imgd

import (
	"context"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
)

// A DriftKind is how a registry and the index disagree about a tag.
type DriftKind string

// The kinds.
const (
	DriftMissing     DriftKind = "missing"      // the tag is not there
	DriftMoved       DriftKind = "moved"        // it names something else, which may be no image
	DriftBecameIndex DriftKind = "became-index" // it names an image index, and a single image in the index
	DriftBlobMissing DriftKind = "blob-missing" // it names what it should, of which a part is gone or has other bytes
	DriftUnreachable DriftKind = "unreachable"  // the registry does not say: no drift is told of
	DriftUnknownTag  DriftKind = "unknown-tag"  // the index knows no such tag
)

// DriftKinds are all of them.
func DriftKinds() []DriftKind {
	return []DriftKind{DriftMissing, DriftMoved, DriftBecameIndex, DriftBlobMissing, DriftUnknownTag, DriftUnreachable}
}

// A Drift is a tag that names in a registry what the index does not want there, or
// an image of which that has lost a part.
type Drift struct {
	Kind       DriftKind     `json:"kind"`
	Image      string        `json:"image"`
	Repository string        `json:"repository"` // registry/name
	Tag        string        `json:"tag"`
	Wanted     digest.Digest `json:"wanted,omitempty"` // root, empty: nothing of imgd's
	Found      digest.Digest `json:"found,omitempty"`  // empty: the tag is not there, or names no image
	Generation uint64        `json:"generation"`       // of the tag in the index
	Lack       *Lack         `json:"lack,omitempty"`   // of blob-missing: the first part that is
}

// Drifts takes reports.
type Drifts interface {
	// ReportDrift tells the world of the drift, durably before it returns. Safe
	// to repeat: the same drift is told once.
	ReportDrift(ctx context.Context, d Drift) error
}

// reportTime bounds the telling of what was found at once.
const reportTime = 10 * time.Second

// ReportDrifts tells of each, even if ctx is over: who found it may be gone by
// then. The error names those that could not be told.
func ReportDrifts(ctx context.Context, to Drifts, found ...Drift) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), reportTime)
	defer cancel()
	var untold error
	for _, d := range found {
		err := to.ReportDrift(ctx, d)
		if err == nil {
			continue
		}
		err = fmt.Errorf("%s:%s: %w", d.Repository, d.Tag, err)
		if untold != nil { // on one line: people read it in an answer
			err = fmt.Errorf("%w; %w", untold, err)
		}
		untold = err
	}
	return untold
}
