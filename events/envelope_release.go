package events

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/package-url/packageurl-go"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/version"
)

// The CDEvents that tell of releases, of spec 0.5.1.
const (
	cdEvents      = "0.5.1"
	publishedType = "dev.cdevents.artifact.published.0.3.0"
	deletedType   = "dev.cdevents.artifact.deleted.0.2.0"
)

type cdEvent struct {
	Context struct {
		SpecVersion string    `json:"specversion"` // was version before spec 0.5
		ID          string    `json:"id"`
		Source      string    `json:"source"`
		Type        string    `json:"type"`
		Timestamp   time.Time `json:"timestamp"`
	} `json:"context"`
	Subject struct {
		ID      string `json:"id"` // purl
		Source  string `json:"source"`
		Content struct {
			User string `json:"user,omitempty"` // who removed it
		} `json:"content"` // the schemas take little more
	} `json:"subject"`
	CustomData            releaseData `json:"customData"`
	CustomDataContentType string      `json:"customDataContentType"`
}

// releaseData is what imgd itself tells of a published release.
type releaseData struct {
	Release string        `json:"release"`
	Request string        `json:"request"`
	Seq     uint64        `json:"seq"`     // of the index
	Records []imgd.Record `json:"records"` // none of tags that were removed
	Tags    []releaseTag  `json:"tags"`
	Reason  string        `json:"reason,omitempty"` // why they were removed
	Stored  string        `json:"stored"`           // the release as a line of images.json, for an index that has lost it
}

type releaseTag struct {
	Tag        string        `json:"tag"`
	Kind       version.Kind  `json:"kind"`
	Ref        string        `json:"ref"`
	Generation uint64        `json:"generation"`
	AskedAt    time.Time     `json:"askedAt"`
	Previous   digest.Digest `json:"previous,omitempty"` // what a removed tag named; else the records have it
}

// Envelope is the event of a published release: the subject it goes to and its
// bytes, which are the same for the same release. indexID is that of the index
// that published it. A release without root, an untag, is told as deleted.
func Envelope(rel imgd.Release, indexID string) (subject string, body []byte, err error) {
	rel.PublishedAt = rel.PublishedAt.UTC() // also in its records
	what, typ := tellPublished, publishedType
	if rel.Root.Digest == "" {
		what, typ = tellDeleted, deletedType
	}
	purl, err := packageURL(rel)
	if err != nil {
		return "", nil, fmt.Errorf("name release %s as purl: %w", rel.ID, err)
	}
	e := newEvent(rel.ID, typ, rel.PublishedAt, indexID)
	e.Subject = purl
	var c cdEvent
	c.Context.SpecVersion, c.Context.ID, c.Context.Source = cdEvents, e.ID, e.Source
	c.Context.Type, c.Context.Timestamp = e.Type, e.Time
	c.Subject.ID, c.Subject.Source = purl, e.Source
	if c.CustomData, err = customData(rel); err != nil {
		return "", nil, fmt.Errorf("write event of release %s: %w", rel.ID, err)
	}
	c.CustomDataContentType = dataContentType
	if what == tellDeleted {
		c.Subject.Content.User = rel.Request.By
	}
	e.Data = c
	if body, err = marshal(e); err != nil {
		return "", nil, fmt.Errorf("write event of release %s: %w", rel.ID, err)
	}
	return eventSubject(what, rel.Image, rel.ID), body, nil
}

func customData(rel imgd.Release) (releaseData, error) {
	removes := rel.Root.Digest == ""
	line, err := marshal(rel)
	data := releaseData{Release: rel.ID, Request: rel.Request.ID, Seq: rel.Seq, Records: []imgd.Record{}, Tags: []releaseTag{}, Stored: string(line)}
	for _, t := range rel.Taken() {
		tag := releaseTag{Tag: t.Name, Kind: t.Kind, Ref: rel.Request.Ref, Generation: t.Generation, AskedAt: rel.Request.AskedAt.UTC()}
		if removes {
			tag.Previous = t.Previous
		} else {
			data.Records = append(data.Records, rel.RecordsOf(t)...)
		}
		data.Tags = append(data.Tags, tag)
	}
	if removes {
		data.Reason = rel.Request.Reason
	}
	return data, err
}

// packageURL is the release as pkg:oci/<last name part>@<root>, where it lies
// first and under which tag. Of an untag it is what the tag named; it has no
// version if that is not known, as an event must not wait for ever.
func packageURL(rel imgd.Release) (string, error) {
	if rel.Image == "" {
		return "", errors.New("it has no image")
	}
	tag := mainTag(rel)
	root := cmp.Or(rel.Root.Digest, tag.Previous).String()
	var q packageurl.Qualifiers
	if len(rel.Repositories) > 0 {
		q = append(q, packageurl.Qualifier{Key: "repository_url", Value: rel.Repositories[0]})
	}
	if tag.Name != "" {
		q = append(q, packageurl.Qualifier{Key: "tag", Value: tag.Name})
	}
	p := packageurl.NewPackageURL(packageurl.TypeOCI, "", strings.ToLower(path.Base(rel.Image)), root, q, "")
	if err := p.Normalize(); err != nil {
		return "", err
	}
	// packageurl-go follows ECMA-427, which leaves the colon. FORMATS.md and the
	// examples of the oci type have it encoded; both are read as the same.
	return strings.Replace(p.ToString(), "@"+root, "@"+strings.Replace(root, ":", "%3A", 1), 1), nil
}

// mainTag is the version tag, else the first taken.
func mainTag(rel imgd.Release) imgd.ReleaseTag {
	taken := rel.Taken()
	for _, t := range taken {
		if t.Kind == version.KindVersion {
			return t
		}
	}
	if len(taken) == 0 {
		return imgd.ReleaseTag{}
	}
	return taken[0]
}
