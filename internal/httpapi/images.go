package httpapi

import (
	"bytes"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/imgd/imgd"
)

// An Image is one line of the list of images.
type Image struct {
	Image       string    `json:"image"`
	Tags        int       `json:"tags"`        // how many it has
	PublishedAt time.Time `json:"publishedAt"` // of its newest record
}

// An ImageAnswer is a page of an image's records, and where its bytes are.
type ImageAnswer struct {
	Image        string   `json:"image"`
	Repositories []string `json:"repositories"` // registry/name; all hold the same
	List[imgd.Record]
}

// A TagAnswer is what a tag names.
type TagAnswer struct {
	Image        string        `json:"image"`
	Tag          string        `json:"tag"`
	Root         digest.Digest `json:"root"`         // what a registry answers for the tag
	Repositories []string      `json:"repositories"` // registry/name; all hold the root
	Items        []imgd.Record `json:"items"`        // one a platform
	Seq          uint64        `json:"seq"`
}

func (a *API) listImages(w http.ResponseWriter, r *http.Request) error {
	q, err := parse(r, knownWith()...)
	if err != nil {
		return err
	}
	f, err := q.find("", a.Now())
	if err != nil {
		return err
	}
	if _, err := a.seq(r.Context(), q); err != nil { // once seq= is folded
		return err
	}
	sort := f.Sort
	f.Sort = imgd.ByName
	records, _, seq := a.Index.Find(f)
	all, key := images(records), func(i Image) string { return i.Image }
	switch sort {
	case imgd.ByVersion:
		return usage("images have no version to sort by; sort their records, GET /v1/records?sort=version")
	case imgd.ByPublished:
		key = func(i Image) string { return fmt.Sprintf("%020d %s", math.MaxInt64-i.PublishedAt.UnixMilli(), i.Image) }
		slices.SortFunc(all, func(x, y Image) int { return strings.Compare(key(x), key(y)) })
	}
	list, err := page(q, all, seq, key)
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, list)
}

// images sums up the sorted records.
func images(records []imgd.Record) []Image {
	var all []Image
	tag := ""
	for _, rec := range records {
		if len(all) == 0 || all[len(all)-1].Image != rec.Image {
			all, tag = append(all, Image{Image: rec.Image}), ""
		}
		last := &all[len(all)-1]
		if rec.Tag != tag {
			last.Tags, tag = last.Tags+1, rec.Tag
		}
		if rec.PublishedAt.After(last.PublishedAt) {
			last.PublishedAt = rec.PublishedAt
		}
	}
	return all
}

func (a *API) getImage(w http.ResponseWriter, r *http.Request) error {
	switch image, tag, action := splitImage(r.PathValue("rest")); {
	case tag == "":
		return a.getTags(w, r, image)
	case action == "":
		return a.getTag(w, r, image, tag)
	case action == "history":
		return a.history(w, r, image, tag)
	case action == "why":
		return a.why(w, r, image, tag)
	default:
		w.Header().Set("Allow", http.MethodPost)
		return problem(http.StatusMethodNotAllowed, CodeUsage, r.URL.Path+" takes POST, not "+r.Method)
	}
}

func (a *API) postImage(w http.ResponseWriter, r *http.Request) error {
	image, tag, action := splitImage(r.PathValue("rest"))
	switch {
	case tag != "" && action == "":
		return a.publish(w, r, image, tag)
	case action == "verify":
		return a.verify(w, r, image, tag)
	case action != "" && action != "history" && action != "why":
		return a.commandTag(w, r, image, tag, imgd.CommandName(action))
	}
	w.Header().Set("Allow", http.MethodGet)
	return problem(http.StatusMethodNotAllowed, CodeUsage,
		"POST goes to /v1/images/{image}/tags/{tag} or to its /verify, /rollback, /tag or /untag, not to "+r.URL.Path)
}

func (a *API) getTags(w http.ResponseWriter, r *http.Request, image string) error {
	q, err := parse(r, knownWith()...)
	if err != nil {
		return err
	}
	list, err := a.found(r, q, image)
	if err != nil {
		return err
	}
	first, _, _ := a.Index.Find(imgd.Find{Image: image, Limit: 1})
	if len(first) == 0 {
		return a.unknown(image, "")
	}
	return answer(w, http.StatusOK, ImageAnswer{Image: image, Repositories: a.repositories(image, first[0].Release), List: list})
}

func (a *API) getTag(w http.ResponseWriter, r *http.Request, image, tag string) error {
	q, err := parse(r, "seq")
	if err != nil {
		return err
	}
	seq, err := a.seq(r.Context(), q)
	if err != nil {
		return err
	}
	root, repositories, lines := a.Index.Held(image, tag)
	if len(lines) == 0 {
		return a.unknown(image, tag)
	}
	if configured := a.Projects.Repositories(image); len(configured) > 0 {
		repositories = configured
	}
	writeJSON(w, http.StatusOK, "application/json", tagAnswer(TagAnswer{Image: image, Tag: tag, Root: root, Repositories: repositories, Seq: seq}, lines))
	return nil
}

// tagAnswer is what has these lines as its items, in JSON. They are not read and
// written again: this is what is asked for most.
func tagAnswer(t TagAnswer, lines []string) []byte {
	const items = `"items":[`
	t.Items = []imgd.Record{}
	b := marshal(t)
	at := bytes.LastIndex(b, []byte(items)) + len(items) // behind it there is a number
	rest := string(b[at:])
	b = b[:at]
	for i, line := range lines {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, line...)
	}
	return append(b, rest...)
}

// unknown says what is not in the index.
func (a *API) unknown(image, tag string) error {
	detail := fmt.Sprintf("nothing is published as %s:%s; GET /v1/images/%s has the image's tags", image, tag, image)
	if first, _, _ := a.Index.Find(imgd.Find{Image: image, Limit: 1}); len(first) == 0 {
		detail = fmt.Sprintf("nothing is published of an image %s; GET /v1/images has those there are", image)
	}
	owner, claimed := a.Index.Wanted(image, tag)
	switch {
	case !claimed || tag == "":
	case owner.Root.Digest == "":
		detail = fmt.Sprintf("%s:%s was removed, by release %s; GET /v1/images/%s/tags/%s/history says who and why", image, tag, owner.ID, image, tag)
	default:
		detail = fmt.Sprintf("%s:%s is being published, and not in the index yet", image, tag)
	}
	return problem(http.StatusNotFound, CodeNotFound, detail)
}

// repositories are those that the image is in, in the order of the config.
func (a *API) repositories(image, release string) []string {
	return a.verifier().Repositories(image, release)
}

func (a *API) getVersion(w http.ResponseWriter, r *http.Request) error {
	if _, err := parse(r); err != nil {
		return err
	}
	return answer(w, http.StatusOK, a.Version)
}
