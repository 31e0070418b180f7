package httpapi

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/version"
)

// chooses are the parameters that choose records.
var chooses = []string{"digest", "commit", "label", "version", "since", "until", "project", "expires-within"}

// known are the parameters of a list of records.
func knownWith(more ...string) []string {
	return slices.Concat(chooses, []string{"sort", "limit", "cursor", "seq"}, more)
}

// A RecordsAnswer is a page of records of all images, and where their bytes are.
type RecordsAnswer struct {
	Repositories map[string][]string `json:"repositories"` // registry/name of each image on the page
	List[imgd.Record]
}

// listRecords finds records in all images.
func (a *API) listRecords(w http.ResponseWriter, r *http.Request) error {
	q, err := parse(r, knownWith("image")...)
	if err != nil {
		return err
	}
	list, err := a.found(r, q, q.values.Get("image"))
	if err != nil {
		return err
	}
	repositories := map[string][]string{}
	for _, rec := range list.Items {
		if _, known := repositories[rec.Image]; !known {
			repositories[rec.Image] = append([]string{}, a.repositories(rec.Image, rec.Release)...)
		}
	}
	return answer(w, http.StatusOK, RecordsAnswer{Repositories: repositories, List: list})
}

// found is the page of records that the query asks for, of one image if it is not
// empty.
func (a *API) found(r *http.Request, q query, image string) (list List[imgd.Record], err error) {
	f, err := q.find(image, a.Now())
	if err != nil {
		return list, err
	}
	limit, err := q.limit()
	if err != nil {
		return list, err
	}
	f.Limit = int(limit)
	if f.After, err = q.after(f.Sort); err != nil {
		return list, err
	}
	if _, err := a.seq(r.Context(), q); err != nil { // once seq= is folded
		return list, err
	}
	items, more, seq := a.Index.Find(f)
	list = List[imgd.Record]{Items: items, Seq: seq}
	if items == nil {
		list.Items = []imgd.Record{}
	}
	if more {
		list.Next = cursorOf(f.Sort, items[len(items)-1])
	}
	return list, nil
}

// find is what the query chooses. imgd.ErrInvalid or a problem if it is wrong.
func (q query) find(image string, now time.Time) (f imgd.Find, err error) {
	f = imgd.Find{Image: image, Project: q.values.Get("project"), Digest: digest.Digest(q.values.Get("digest")), Commit: q.values.Get("commit"),
		Sort: imgd.Order(q.values.Get("sort"))}
	if f.Since, err = q.ago("since", now); err != nil {
		return f, err
	}
	if f.Until, err = q.ago("until", now); err != nil {
		return f, err
	}
	if q.values.Has("expires-within") {
		within, err := parseTTL(q.values.Get("expires-within"))
		if err != nil || within == 0 {
			return f, usage(fmt.Sprintf("parameter expires-within=%.40q is no duration as 12h or 7d", q.values.Get("expires-within")))
		}
		f.ExpiresBy = now.Add(within)
	}
	if q.values.Has("version") {
		if f.Version, err = version.ParseRange(q.values.Get("version")); err != nil {
			return f, usage(err.Error())
		}
	}
	if f.Labels, err = imgd.ParseLabels(q.values["label"]); err != nil {
		return f, err
	}
	return f, f.Check()
}

// ago is a moment, or a duration before now as 12h or 7d.
func (q query) ago(name string, now time.Time) (time.Time, error) {
	if ago, err := parseTTL(q.values.Get(name)); err == nil && ago > 0 {
		return now.Add(-ago), nil
	}
	t, err := q.moment(name)
	if err != nil {
		return t, usage(fmt.Sprintf("parameter %s=%.40q is neither a time as 2026-11-21T10:00:00Z nor so long ago, as 12h or 7d", name, q.values.Get(name)))
	}
	return t, nil
}

// A place is what a cursor names: the last record of a page, by all that its
// order looks at. So what comes or goes meanwhile neither repeats nor skips
// another.
type place struct {
	Sort        imgd.Order `json:"sort,omitempty"`
	Image       string     `json:"image"`
	Tag         string     `json:"tag"`
	Platform    string     `json:"platform"`
	Version     string     `json:"version,omitempty"`
	PublishedAt time.Time  `json:"publishedAt,omitzero"`
}

func cursorOf(sort imgd.Order, r imgd.Record) string {
	p := place{Sort: sort, Image: r.Image, Tag: r.Tag, Platform: r.Platform}
	switch sort {
	case imgd.ByVersion:
		p.Version = r.Version
	case imgd.ByPublished:
		p.PublishedAt = r.PublishedAt
	}
	b, err := json.Marshal(p)
	if err != nil {
		panic("unreachable: a place always marshals: " + err.Error())
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// after is the record that cursor= names, nil if it is not there.
func (q query) after(sort imgd.Order) (*imgd.Record, error) {
	if !q.values.Has("cursor") {
		return nil, nil //nolint:nilnil // no record is an answer
	}
	var p place
	b, err := base64.RawURLEncoding.DecodeString(q.values.Get("cursor"))
	if err == nil {
		err = json.Unmarshal(b, &p)
	}
	if err != nil || p.Sort != sort {
		return nil, usage("parameter cursor is not one that this list, so sorted, has answered")
	}
	return &imgd.Record{Image: p.Image, Tag: p.Tag, Platform: p.Platform, Version: p.Version, PublishedAt: p.PublishedAt}, nil
}
