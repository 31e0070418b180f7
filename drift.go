package imgd

import (
	"context"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
)

// A Drift is a tag that names in a registry what the index does not want there.
type Drift struct {
	Image      string        `json:"image"`
	Repository string        `json:"repository"` // registry/name
	Tag        string        `json:"tag"`
	Wanted     digest.Digest `json:"wanted,omitempty"` // root, empty: nothing of imgd's
	Found      digest.Digest `json:"found,omitempty"`  // empty: the tag is not there, or names no image
	Generation uint64        `json:"generation"`       // of the tag in the index
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
