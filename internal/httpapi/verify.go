package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/opencontainers/go-digest"

	"github.com/imgd/imgd"
)

// A Verify is the body of a verification. It may be missing.
type Verify struct {
	Digest digest.Digest `json:"digest,omitempty"` // that the tag must name: its root or a platform's
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
	ctx, cancel := context.WithTimeout(r.Context(), answerTime)
	defer cancel()
	if _, err := a.seq(ctx, q); err != nil {
		return err
	}
	v, err := a.verifier().Verify(ctx, image, tag, imgd.DepthTag, nil)
	if errors.Is(err, imgd.ErrNotFound) && len(v.Records) == 0 {
		return a.unknown(image, tag)
	}
	if err != nil {
		return err
	}
	if v.Unreported != "" {
		a.Log.Error("drift is not reported", "image", v.Image, "tag", v.Tag, "wanted", v.Want, "error", v.Unreported)
	}
	v.Digest = body.Digest
	complaint := v.Complaint()
	if v.OK = complaint == ""; v.OK {
		return answer(w, http.StatusOK, v)
	}
	if v.Unknown() {
		return errors.New(complaint)
	}
	p := problem(http.StatusConflict, CodeDiffers, complaint)
	p.Verification = &v
	return p
}

func (a *API) verifier() *imgd.Verifier {
	return &imgd.Verifier{Index: a.Index, Registry: a.Registry, Projects: a.Projects, Drifts: a.Drifts}
}
