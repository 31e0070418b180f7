package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/imgd/imgd"
)

// Bounds of verifications that look into images. Who asks ends one by going away.
const (
	lookTime    = time.Hour      // of one tag: 100 GB at 30 MB a second
	lookAllTime = 24 * time.Hour // of many: whoever looks each night is through before the next
)

// A Verify is the body of a verification. It may be missing.
type Verify struct {
	Digest digest.Digest    `json:"digest,omitempty"` // that the tag must name: its root or a platform's
	Depth  imgd.VerifyDepth `json:"depth,omitempty"`  // default: tag
}

func (a *API) verify(w http.ResponseWriter, r *http.Request, image, tag string) error {
	q, err := parse(r, "seq")
	if err != nil {
		return err
	}
	var body Verify
	if err := read(w, r, &body, true); err != nil {
		return err
	}
	if err := body.Digest.Validate(); body.Digest != "" && err != nil {
		return usage(fmt.Sprintf("digest %q: %v", body.Digest, err))
	}
	depth, err := depthOf(body.Depth)
	if err != nil {
		return err
	}
	bound := answerTime
	if depth != imgd.DepthTag {
		bound = lookTime
	}
	ctx, cancel := context.WithTimeout(r.Context(), bound)
	defer cancel()
	ctx, stop := a.waits.until(ctx)
	defer stop()
	if _, err := a.seq(ctx, q); err != nil {
		return err
	}
	v, err := a.verifier().Verify(ctx, image, tag, depth, nil)
	if errors.Is(err, imgd.ErrNotFound) && len(v.Records) == 0 {
		return a.unknown(image, tag)
	}
	if err != nil {
		return err
	}
	a.logUnreported(v)
	v.Expect(body.Digest)
	if v.OK {
		return answer(w, http.StatusOK, v)
	}
	if v.Unknown() {
		return errors.New(v.Complaint())
	}
	p := problem(http.StatusConflict, CodeDiffers, v.Complaint())
	p.Verification = &v
	return p
}

// depthOf is the depth that is asked for.
func depthOf(asked imgd.VerifyDepth) (imgd.VerifyDepth, error) {
	if asked == "" {
		return imgd.DepthTag, nil
	}
	if !slices.Contains(imgd.VerifyDepths(), asked) {
		return "", usage(fmt.Sprintf("depth %.40q is none of %q", asked, imgd.VerifyDepths()))
	}
	return asked, nil
}

func (a *API) verifier() *imgd.Verifier {
	return &imgd.Verifier{Index: a.Index, Registry: a.Registry, Projects: a.Projects, Drifts: a.Drifts}
}

func (a *API) logUnreported(v imgd.Verification) {
	if v.Unreported != "" {
		a.Log.Error("drift is not reported", "image", v.Image, "tag", v.Tag, "wanted", v.Want, "error", v.Unreported)
	}
}

// A VerifyAll is the body of a verification of many tags. It may be missing.
type VerifyAll struct {
	Depth    imgd.VerifyDepth `json:"depth,omitempty"`    // default: tag
	Parallel int              `json:"parallel,omitempty"` // how many tags at once; default: imgd.VerifyParallel
}

// verifyAll streams what is found of each tag that the query chooses, as it is
// found. Each message is a Verification; those named progress tell how far it has
// come, and end does so at last.
func (a *API) verifyAll(w http.ResponseWriter, r *http.Request) error {
	q, err := parse(r, slices.Concat(chooses, []string{"image", "tag", "seq"})...)
	if err != nil {
		return err
	}
	var body VerifyAll
	if err := read(w, r, &body, true); err != nil {
		return err
	}
	ask := imgd.VerifyAll{Parallel: body.Parallel}
	if ask.Depth, err = depthOf(body.Depth); err != nil {
		return err
	}
	if body.Parallel < 0 || body.Parallel > imgd.MaxVerifyParallel {
		return usage(fmt.Sprintf("parallel %d is not from 1 to %d", body.Parallel, imgd.MaxVerifyParallel))
	}
	if _, err := a.seq(r.Context(), q); err != nil {
		return err
	}
	if ask.Tags, err = a.chosen(q); err != nil {
		return err
	}
	return a.stream(w, r, func(ctx context.Context, send send) error {
		ctx, cancel := context.WithTimeout(ctx, lookAllTime)
		defer cancel()
		ask.Each = func(v imgd.Verification) error {
			a.logUnreported(v)
			return send(event("", v))
		}
		var last imgd.VerifyProgress
		ask.Progress = func(p imgd.VerifyProgress) error {
			last = p
			return send(event("progress", p))
		}
		if err := a.verifier().VerifyAll(ctx, ask); err != nil {
			return err
		}
		return send(event("end", last))
	})
}

// chosen are the tags that the query chooses. That there are none is an error if
// it asks for something: nobody would see that it was misspelt.
func (a *API) chosen(q query) ([]imgd.TagName, error) {
	image, tag := q.values.Get("image"), q.values.Get("tag")
	filtered := slices.ContainsFunc(chooses, q.values.Has)
	if tag != "" && (image == "" || filtered) {
		return nil, usage("parameter tag wants the parameter image, and no other")
	}
	if tag != "" {
		if len(a.Index.Tag(image, tag)) == 0 {
			return nil, a.unknown(image, tag)
		}
		return []imgd.TagName{{Image: image, Tag: tag}}, nil
	}
	f, err := q.find(image, a.Now())
	if err != nil {
		return nil, err
	}
	tags := imgd.TagsOf(a.Index, f)
	switch {
	case len(tags) == 0 && filtered:
		return nil, problem(http.StatusNotFound, CodeNotFound, "no tag in the index is what was asked for, so there is nothing to verify")
	case len(tags) == 0 && image != "":
		return nil, a.unknown(image, "")
	}
	return tags, nil
}
