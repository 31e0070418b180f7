package events

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/package-url/packageurl-go"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/version"
)

// What the envelope of a published release says of itself: CloudEvents 1.0 in
// structured JSON around a CDEvent of spec 0.5.1.
const (
	cloudEvents     = "1.0"
	cdEvents        = "0.5.1"
	publishedType   = "dev.cdevents.artifact.published.0.3.0"
	contentType     = "application/cloudevents+json"
	dataContentType = "application/json"
)

// cloudEvent is a CloudEvent. Its datacontenttype is application/json, as
// CDEvents' own SDK writes it: CloudEvents' Go SDK refuses an object as data
// under the application/cdevents+json of the binding's text.
type cloudEvent struct {
	SpecVersion     string    `json:"specversion"`
	ID              string    `json:"id"`
	Source          string    `json:"source"`
	Type            string    `json:"type"`
	Subject         string    `json:"subject"`
	Time            time.Time `json:"time"`
	DataContentType string    `json:"datacontenttype"`
	Data            cdEvent   `json:"data"`
}

type cdEvent struct {
	Context struct {
		SpecVersion string    `json:"specversion"` // was version before spec 0.5
		ID          string    `json:"id"`
		Source      string    `json:"source"`
		Type        string    `json:"type"`
		Timestamp   time.Time `json:"timestamp"`
	} `json:"context"`
	Subject struct {
		ID      string   `json:"id"` // purl
		Source  string   `json:"source"`
		Content struct{} `json:"content"` // the schema takes sbom and user, nothing else
	} `json:"subject"`
	CustomData            publishedData `json:"customData"`
	CustomDataContentType string        `json:"customDataContentType"`
}

// publishedData is what imgd itself tells of a published release.
type publishedData struct {
	Release string         `json:"release"`
	Request string         `json:"request"`
	Seq     uint64         `json:"seq"` // of the index
	Records []imgd.Record  `json:"records"`
	Tags    []publishedTag `json:"tags"`
}

type publishedTag struct {
	Tag        string       `json:"tag"`
	Kind       version.Kind `json:"kind"`
	Ref        string       `json:"ref"`
	Generation uint64       `json:"generation"`
	AskedAt    time.Time    `json:"askedAt"`
}

// Envelope is the event of a published release: the subject it goes to and its
// bytes, which are the same for the same release. indexID is that of the index
// that published it.
func Envelope(rel imgd.Release, indexID string) (subject string, body []byte, err error) {
	rel.PublishedAt = rel.PublishedAt.UTC() // also in its records
	purl, err := packageURL(rel)
	if err != nil {
		return "", nil, fmt.Errorf("name release %s as purl: %w", rel.ID, err)
	}
	e := cloudEvent{SpecVersion: cloudEvents, ID: rel.ID, Source: "urn:imgd:" + indexID, Type: publishedType,
		Subject: purl, Time: rel.PublishedAt, DataContentType: dataContentType}
	c := &e.Data
	c.Context.SpecVersion, c.Context.ID, c.Context.Source = cdEvents, e.ID, e.Source
	c.Context.Type, c.Context.Timestamp = e.Type, e.Time
	c.Subject.ID, c.Subject.Source = purl, e.Source
	c.CustomData, c.CustomDataContentType = customData(rel), dataContentType
	if body, err = marshal(e); err != nil {
		return "", nil, fmt.Errorf("write event of release %s: %w", rel.ID, err)
	}
	return eventSubject("published", rel.Image, rel.ID), body, nil
}

// eventSubject has the image as base64url, because names have slashes and dots.
func eventSubject(what, image, id string) string {
	return eventsPrefix + what + "." + base64.RawURLEncoding.EncodeToString([]byte(image)) + "." + id
}

func customData(rel imgd.Release) publishedData {
	data := publishedData{Release: rel.ID, Request: rel.Request.ID, Seq: rel.Seq, Records: rel.Records(), Tags: []publishedTag{}}
	if data.Records == nil {
		data.Records = []imgd.Record{}
	}
	for _, t := range rel.Taken() {
		data.Tags = append(data.Tags, publishedTag{Tag: t.Name, Kind: t.Kind, Ref: rel.Request.Ref,
			Generation: t.Generation, AskedAt: rel.Request.AskedAt.UTC()})
	}
	return data
}

// marshal leaves & and the like as they are: purls have them.
func marshal(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimRight(buf.Bytes(), "\n"), nil
}

// packageURL is the release as pkg:oci/<last name part>@<root>, where it lies
// first and under which tag.
func packageURL(rel imgd.Release) (string, error) {
	if rel.Root.Digest == "" || rel.Image == "" {
		return "", errors.New("it has no root or no image")
	}
	var q packageurl.Qualifiers
	if len(rel.Repositories) > 0 {
		q = append(q, packageurl.Qualifier{Key: "repository_url", Value: rel.Repositories[0]})
	}
	if tag := mainTag(rel); tag != "" {
		q = append(q, packageurl.Qualifier{Key: "tag", Value: tag})
	}
	digest := rel.Root.Digest.String()
	p := packageurl.NewPackageURL(packageurl.TypeOCI, "", strings.ToLower(path.Base(rel.Image)), digest, q, "")
	if err := p.Normalize(); err != nil {
		return "", err
	}
	// packageurl-go follows ECMA-427, which leaves the colon. FORMATS.md and the
	// examples of the oci type have it encoded; both are read as the same.
	return strings.Replace(p.ToString(), "@"+digest, "@"+strings.Replace(digest, ":", "%3A", 1), 1), nil
}

// mainTag is the version tag, else the first taken.
func mainTag(rel imgd.Release) string {
	taken := rel.Taken()
	for _, t := range taken {
		if t.Kind == version.KindVersion {
			return t.Name
		}
	}
	if len(taken) == 0 {
		return ""
	}
	return taken[0].Name
}

// EndEnvelope is the event of a request's end: the subject it goes to and its
// bytes, which are the same for the same state. image is the project's.
func EndEnvelope(st imgd.Status, image, indexID string) (subject string, body []byte, err error) {
	body, err = marshal(st)
	return eventSubject(string(st.State), image, fmt.Sprintf("%s-%d", st.Request, st.AskedAt.UnixMilli())), body, err
}
