package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/imgd/imgd"
)

// pendingTime bounds how long verify waits for a release that is just being
// published: between its tags and its entry in the index lie moments.
const pendingTime = 10 * time.Second

// A Verify is the body of a verification. It may be missing.
type Verify struct {
	Digest digest.Digest `json:"digest,omitempty"` // that the tag must name: its root or a platform's
}

// A Verification compares what the index says of a tag with the registry.
type Verification struct {
	Image        string        `json:"image"`
	Tag          string        `json:"tag"`
	Want         digest.Digest `json:"want"` // root in the index
	Digest       digest.Digest `json:"digest,omitempty"`
	Pending      string        `json:"pending,omitempty"`    // release that is to take the tag, and may have written it
	Unreported   string        `json:"unreported,omitempty"` // why there is no event of the drift that was found
	Repositories []Verified    `json:"repositories"`
	Records      []imgd.Record `json:"records"`
	OK           bool          `json:"ok"`
	Seq          uint64        `json:"seq"`
}

// Verified is what one repository has.
type Verified struct {
	Repository string        `json:"repository"`
	Found      digest.Digest `json:"found,omitempty"` // "" if the tag is not there, or names no image
	Same       bool          `json:"same"`
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
	v, err := a.settled(ctx, q, image, tag)
	if err != nil {
		return err
	}
	a.report(ctx, v)
	return v.answer(w, body.Digest)
}

// report tells the world of each repository that has something else, unless a
// release that is to take the tag has put it there: its end will tell. Of what
// nobody has read it is not known what would be right.
func (a *API) report(ctx context.Context, v *Verification) {
	if v.unread() {
		return
	}
	var found []imgd.Drift
	pending, _ := a.Index.Release(v.Pending)
	for _, r := range v.Repositories {
		if r.Same || v.Pending != "" && r.Found == pending.Root.Digest {
			continue
		}
		found = append(found, imgd.Drift{Image: v.Image, Repository: r.Repository, Tag: v.Tag, Wanted: v.Want, Found: r.Found, Generation: v.Records[0].Generation})
	}
	if err := imgd.ReportDrifts(ctx, a.Drifts, found...); err != nil {
		a.Log.Error("drift is not reported", "image", v.Image, "tag", v.Tag, "wanted", v.Want, "error", err)
		v.Unreported = err.Error()
	}
}

// answer says whether all is as it should be, and the digest is the tag's.
func (v *Verification) answer(w http.ResponseWriter, want digest.Digest) error {
	v.Digest = want
	complaint := v.complaint()
	if complaint == "" {
		v.OK = true
		return answer(w, http.StatusOK, v)
	}
	p := problem(http.StatusConflict, CodeDiffers, complaint)
	p.Verification = v
	return p
}

func (v *Verification) complaint() string {
	var all []string
	if v.Digest != "" && v.Digest != v.Want && !v.has(v.Digest) {
		all = append(all, fmt.Sprintf("%s:%s names %s, not %s", v.Image, v.Tag, v.Want, v.Digest))
	}
	for _, r := range v.Repositories {
		switch {
		case r.Same:
		case r.Found == "":
			all = append(all, fmt.Sprintf("%s:%s is not there, or no image, the index says %s", r.Repository, v.Tag, v.Want))
		default:
			all = append(all, fmt.Sprintf("%s:%s is %s, the index says %s", r.Repository, v.Tag, r.Found, v.Want))
		}
	}
	if len(all) > 0 && v.unread() {
		all = append(all, "the index has what was said of it, which nobody has read in a registry")
	}
	if len(all) > 0 && v.Pending != "" {
		all = append(all, "release "+v.Pending+" is to take the tag")
	}
	if v.Unreported != "" {
		all = append(all, "drift not reported: "+v.Unreported)
	}
	return strings.Join(all, "; ")
}

// unread reports whether another CI has pushed it and nobody has looked.
func (v *Verification) unread() bool { return len(v.Records) > 0 && v.Records[0].MediaType == "" }

// has reports whether d is one of the platforms' manifests.
func (v *Verification) has(d digest.Digest) bool {
	for _, rec := range v.Records {
		if rec.Digest == d {
			return true
		}
	}
	return false
}

// settled compares until what differs is not the doing of a release that is
// just being published: that one has written the tag, and the index says so in
// a moment.
func (a *API) settled(ctx context.Context, q query, image, tag string) (*Verification, error) {
	patience, cancel := context.WithTimeout(ctx, pendingTime)
	defer cancel()
	for {
		v, err := a.compare(ctx, q, image, tag)
		if err != nil || v.same() {
			return v, err
		}
		claim, _ := a.Index.Wanted(image, tag)
		seq := a.Index.Seq()
		if records := a.Index.Tag(image, tag); len(records) == 0 || records[0].Root() != v.Want {
			continue // the tag names something else since
		}
		if claim.Root.Digest == v.Want {
			return v, nil
		}
		v.Pending = claim.ID
		if !v.writtenBy(claim) || a.Index.Wait(patience, seq+1) != nil {
			return v, nil
		}
	}
}

// writtenBy reports whether whatever differs names rel's root.
func (v *Verification) writtenBy(rel imgd.Release) bool {
	for _, r := range v.Repositories {
		if !r.Same && r.Found != rel.Root.Digest {
			return false
		}
	}
	return true
}

func (v *Verification) same() bool {
	for _, r := range v.Repositories {
		if !r.Same {
			return false
		}
	}
	return true
}

// compare looks at the index first and then at every repository.
func (a *API) compare(ctx context.Context, q query, image, tag string) (*Verification, error) {
	seq, err := a.seq(ctx, q)
	if err != nil {
		return nil, err
	}
	records := a.Index.Tag(image, tag)
	if len(records) == 0 {
		return nil, a.unknown(image, tag)
	}
	v := &Verification{Image: image, Tag: tag, Want: records[0].Root(), Records: records, Seq: seq}
	repositories := a.repositories(image, records[0].Release)
	if len(repositories) == 0 {
		return nil, problem(http.StatusNotFound, CodeNotFound,
			fmt.Sprintf("no repository of %s is known: %s was recorded unseen, so there is nothing to compare with", image, tag))
	}
	for _, repository := range repositories {
		found, err := a.Registry.Resolve(ctx, repository, tag)
		if err != nil && !errors.Is(err, imgd.ErrNotFound) && !errors.Is(err, imgd.ErrInvalid) {
			return nil, fmt.Errorf("read %s:%s: %w", repository, tag, err)
		}
		v.Repositories = append(v.Repositories, Verified{Repository: repository, Found: found.Digest, Same: found.Digest == v.Want})
	}
	return v, nil
}
