package imgd

import (
	"context"
	"errors"
)

// A Stage is a part of a request's way of which Pipeline.Observe is told.
type Stage string

// The stages.
const (
	StageResolve Stage = "resolve" // git says what the ref names
	StageBuild   Stage = "build"   // BuildKit builds and pushes by digest
	StageCapture Stage = "capture" // what was pushed is read back
	StageAdmit   Stage = "admit"   // the index decides about the tags
	StageTag     Stage = "tag"     // all tags of a release are settled
	StagePublish Stage = "publish" // the index writes the release as true
)

// Stages are all of them, in the order of the way.
func Stages() []Stage {
	return []Stage{StageResolve, StageBuild, StageCapture, StageAdmit, StageTag, StagePublish}
}

// An Observer is told as a stage of req begins, and by the function it answers,
// once, how that has ended. The stage runs in the context it answers. It decides
// nothing and must not block; it may be called from any goroutine.
type Observer func(ctx context.Context, stage Stage, req Request) (_ context.Context, ended func(error))

// errPanicked is how a stage ends that does not return.
var errPanicked = errors.New("panicked")

// observed does one stage under the eyes of p.Observe.
func (p *Pipeline) observed(ctx context.Context, stage Stage, req Request, do func(ctx context.Context) error) error {
	if p.Observe == nil {
		return do(ctx)
	}
	ctx, ended := p.Observe(ctx, stage, req)
	err := errPanicked
	defer func() { ended(err) }()
	err = do(ctx)
	return err
}
