package events

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/imgd/imgd"
)

// What every event says of itself: CloudEvents 1.0 in structured JSON. There is
// no dataschema: it would have to be an address that never moves, and imgd has
// none. The type has the format's version, and docs/events a schema a type.
const (
	cloudEvents     = "1.0"
	contentType     = "application/cloudevents+json"
	dataContentType = "application/json"
)

// What an event tells, the third token of its subject. Ends of requests are
// called as their states are.
const (
	tellPublished = "published"
	tellDeleted   = "deleted"
	tellDrift     = "drift"
)

// Types are the CloudEvents types of the events, by what they tell.
func Types() map[string]string {
	types := map[string]string{tellPublished: publishedType, tellDeleted: deletedType, tellDrift: ownType(tellDrift)}
	for _, end := range toldEnds() {
		types[string(end)] = ownType(string(end))
	}
	return types
}

// toldEnds are the ends of requests that have events of their own.
func toldEnds() []imgd.State {
	return []imgd.State{imgd.Failed, imgd.Conflicted, imgd.Superseded, imgd.Dead}
}

// ownType is that of an event whose data is imgd's own.
func ownType(what string) string { return "dev.imgd." + what + ".v1" }

// A cloudEvent is a CloudEvent. Its datacontenttype is application/json, as
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
	Data            any       `json:"data"`
}

// urnPrefix makes a URN of an index's ID.
const urnPrefix = "urn:imgd:"

// newEvent is an event of the index with that ID, without subject and data.
func newEvent(id, typ string, at time.Time, indexID string) cloudEvent {
	return cloudEvent{SpecVersion: cloudEvents, ID: id, Source: urnPrefix + indexID, Type: typ,
		Time: at.UTC(), DataContentType: dataContentType}
}

// noImage stands in subjects for an image that is not known. It is never the
// base64 of a name.
const noImage = "_"

// eventSubject has the image as base64url, because names have slashes and dots.
func eventSubject(what, image, id string) string {
	return eventsPrefix + what + "." + imageToken(image) + "." + id
}

func imageToken(image string) string {
	if image == "" {
		return noImage
	}
	return base64.RawURLEncoding.EncodeToString([]byte(image))
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

// endData is what imgd tells of a request's end: its state and the image that
// was to be.
type endData struct {
	Image string `json:"image"` // empty: the project is not configured
	imgd.Status
}

// EndEnvelope is the event of a request's end: the subject it goes to and its
// bytes, which are the same for the same state. image is the project's, empty if
// nobody knows it. Superseded, conflict, failed and dead have such events; any
// other state is an error.
//
// Its ID is that of the ask, <request>-<askedAt in unix ms>: who asks again gets
// another event.
func EndEnvelope(st imgd.Status, image, indexID string) (subject string, body []byte, err error) {
	what := string(st.State)
	if !slices.Contains(toldEnds(), st.State) || st.Request == "" || st.EndedAt.IsZero() {
		return "", nil, fmt.Errorf("write event of request %q: state %q, ended %s, is no end that is told", st.Request, what, st.EndedAt)
	}
	st.AskedAt, st.StartedAt, st.EndedAt = st.AskedAt.UTC(), st.StartedAt.UTC(), st.EndedAt.UTC()
	e := newEvent(fmt.Sprintf("%s-%d", st.Request, st.AskedAt.UnixMilli()), ownType(what), st.EndedAt, indexID)
	e.Subject, e.Data = st.Project, endData{Image: image, Status: st}
	if body, err = marshal(e); err != nil {
		return "", nil, fmt.Errorf("write event of request %s: %w", st.Request, err)
	}
	return eventSubject(what, image, e.ID), body, nil
}

// DriftEnvelope is the event of a drift that was seen at that time: the subject
// it goes to and its bytes. The ID, and so the subject, is made of what drifted
// and how, not of when and in which repository: the first 32 hex digits of the
// sha256 of the JSON array [image, tag, wanted, found, generation], of a part that
// is missing with its digest at the end.
func DriftEnvelope(d imgd.Drift, at time.Time, indexID string) (subject string, body []byte, err error) {
	if d.Image == "" || d.Tag == "" {
		return "", nil, errors.New("write event of a drift: it names no image or no tag")
	}
	what := []any{d.Image, d.Tag, d.Wanted, d.Found, d.Generation}
	if d.Lack != nil {
		what = append(what, d.Lack.Digest)
	}
	key, err := marshal(what)
	if err != nil {
		return "", nil, fmt.Errorf("name drift of %s:%s: %w", d.Image, d.Tag, err)
	}
	sum := sha256.Sum256(key)
	e := newEvent(hex.EncodeToString(sum[:16]), ownType(tellDrift), at, indexID)
	e.Subject, e.Data = d.Repository+":"+d.Tag, d
	if body, err = marshal(e); err != nil {
		return "", nil, fmt.Errorf("write event of drift of %s:%s: %w", d.Image, d.Tag, err)
	}
	return eventSubject(tellDrift, d.Image, e.ID), body, nil
}
