package events

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/version"
)

// schema of the bodies in the queue.
const schema = 1

// maxBody bounds the body of a request, in bytes. Ref, args and reason of a
// real one are a few hundred.
const maxBody = 64 << 10

// maxRef is the longest ref: git stores it as a file under refs/.
const maxRef = 1024

// body is a request as it stands in the queue.
type body struct {
	Schema    int               `json:"schema"`
	Ref       string            `json:"ref"`
	Commit    string            `json:"commit"`
	By        string            `json:"by"`
	Reason    string            `json:"reason"`
	Force     bool              `json:"force"`
	Rebuild   bool              `json:"rebuild"`
	Compare   bool              `json:"compare,omitempty"` // an imgd that does not know it refuses it, where it is set
	Args      map[string]string `json:"args"`
	Target    string            `json:"target"`
	Platforms []string          `json:"platforms"`
	Event     string            `json:"event,omitempty"` // left out where it is none, as an imgd before it refuses the key
	Base      string            `json:"base,omitempty"`  // left out where there is none, as an imgd before it refuses the key
	AskedAt   string            `json:"askedAt"`
}

func encode(req imgd.Request) ([]byte, error) {
	b := body{Schema: schema, Ref: req.Ref, Commit: req.Commit, By: req.By, Reason: req.Reason, Force: req.Force,
		Rebuild: req.Rebuild, Compare: req.Compare, Args: req.Args, Target: req.Target, Platforms: req.Platforms, Event: req.Event, Base: req.Base}
	if !req.AskedAt.IsZero() {
		b.AskedAt = stamp(req.AskedAt).Format(time.RFC3339Nano)
	}
	return json.Marshal(b)
}

// subject is where req is put into the queue. The class is a hint for whoever
// looks at the queue.
func subject(req imgd.Request) string {
	class := "sweep"
	switch {
	case strings.HasPrefix(req.Ref, "refs/tags/"):
		class = "release"
	case strings.HasPrefix(req.Ref, "refs/heads/"):
		class = "branch"
	case strings.HasPrefix(req.Ref, "refs/pull/"), strings.HasPrefix(req.Ref, "refs/merge-requests/"):
		class = "pr"
	}
	return requestsPrefix + req.Project + "." + class
}

// A Message is what the queue holds of a request.
type Message struct {
	Subject string    // imgd.requests.<project>.<class>
	MsgID   string    // header Nats-Msg-Id, may be empty
	Nonce   string    // header Imgd-Nonce, may be empty; it goes before MsgID
	Seq     uint64    // in the stream
	Time    time.Time // when the stream stored it
	Body    []byte
}

// Decode reads a request, whose ID is then that of the commit it names, or of
// no commit. Whatever it refuses can never become a request; its errors are
// imgd.ErrInvalid. Whether project and ref may be built is the Handler's
// business.
func Decode(m Message) (imgd.Request, error) {
	req, err := decode(m)
	if err != nil {
		return imgd.Request{}, fmt.Errorf("read request: %w: %w", err, imgd.ErrInvalid)
	}
	return req, nil
}

func decode(m Message) (imgd.Request, error) {
	project, err := projectOf(m.Subject)
	if err != nil {
		return imgd.Request{}, err
	}
	b, err := unmarshal(m.Body)
	if err != nil {
		return imgd.Request{}, err
	}
	if err := b.check(); err != nil {
		return imgd.Request{}, err
	}
	if err := errors.Join(checkID(jetstream.MsgIDHeader, m.MsgID), checkID(nonceHeader, m.Nonce)); err != nil {
		return imgd.Request{}, err
	}
	req := imgd.Request{Project: project, Ref: b.Ref, Commit: b.Commit, By: b.By, Reason: b.Reason, Force: b.Force,
		Rebuild: b.Rebuild, Compare: b.Compare, Args: b.Args, Target: b.Target, Platforms: b.Platforms, Event: b.Event, Base: b.Base}
	if req.AskedAt, err = askedAt(b.AskedAt, m.Time); err != nil {
		return imgd.Request{}, err
	}
	if req.Force || req.Rebuild {
		req.Nonce = cmp.Or(m.Nonce, m.MsgID, strconv.FormatUint(m.Seq, 10))
	}
	req.ID = req.Hash()
	return req, nil
}

func unmarshal(data []byte) (b body, err error) {
	if len(data) > maxBody {
		return b, fmt.Errorf("body has %d bytes, at most %d are read", len(data), maxBody)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&b); err != nil {
		return b, fmt.Errorf("body: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return b, errors.New("body: more than one JSON value")
	}
	return b, nil
}

func (b body) check() error {
	if b.Schema != schema {
		return fmt.Errorf("schema %d, this imgd reads %d", b.Schema, schema)
	}
	if err := checkRef(b.Ref); err != nil {
		return err
	}
	if b.Commit != "" {
		if err := version.ValidCommit(b.Commit); err != nil {
			return err
		}
	}
	if b.Event != "" && b.Event != imgd.EventSchedule {
		return fmt.Errorf("event %.40q: want %s, or none", b.Event, imgd.EventSchedule)
	}
	if len(b.Base) > maxRef || strings.ContainsFunc(b.Base, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '\uFFFD' }) {
		return fmt.Errorf("base %.40q: want the name of a branch", b.Base)
	}
	if b.Force && strings.TrimSpace(b.Reason) == "" {
		return errors.New("force needs a reason")
	}
	if b.Compare && (!b.Rebuild || b.Force) {
		return errors.New("compare needs rebuild, and replaces nothing by force")
	}
	return nil
}

// nonceHeader is the nonce of a force or rebuild that is asked for once more:
// it makes it the same request, whatever the message's own ID.
const nonceHeader = "Imgd-Nonce"

// maxID is far above <forge>/<delivery ID>/<project>.
const maxID = 256

// checkID wants printable ASCII: the ID may become a request's nonce, which is
// kept.
func checkID(header, id string) error {
	if len(id) > maxID || strings.ContainsFunc(id, func(r rune) bool { return r < ' ' || r > '~' }) {
		return fmt.Errorf("header %s %.40q: want at most %d printable ASCII characters", header, id, maxID)
	}
	return nil
}

// checkRef wants a full ref of printable characters. What else git refuses is
// git's to say.
func checkRef(ref string) error {
	if len(ref) > maxRef {
		return fmt.Errorf("ref of %d bytes, at most %d", len(ref), maxRef)
	}
	rest, full := strings.CutPrefix(ref, "refs/")
	kind, name, named := strings.Cut(rest, "/")
	if !full || !named || kind == "" || name == "" {
		return fmt.Errorf("ref %q is not a full one as refs/heads/main", ref)
	}
	for _, r := range ref {
		if r <= ' ' || r == 0x7f || r == '\uFFFD' {
			return fmt.Errorf("ref %q has a character no ref may have", ref)
		}
	}
	return nil
}

func projectOf(subject string) (string, error) {
	rest, ok := strings.CutPrefix(subject, requestsPrefix)
	project, class, two := strings.Cut(rest, ".")
	if !ok || !two || class == "" || strings.Contains(class, ".") {
		return "", fmt.Errorf("subject %q is not %s<project>.<class>", subject, requestsPrefix)
	}
	if !validProject(project) {
		return "", fmt.Errorf("project %q: want 1 to 63 lower-case letters, digits and '-', not starting with '-'", project)
	}
	return project, nil
}

// askedAt is the time of the ask: as given, or when the stream stored it. A
// later one is refused: it would win over every ask until that time has come.
func askedAt(given string, stored time.Time) (time.Time, error) {
	if given == "" {
		return stamp(stored), nil
	}
	t, err := time.Parse(time.RFC3339Nano, given)
	if err != nil {
		return time.Time{}, fmt.Errorf("askedAt: %w", err)
	}
	if t = stamp(t); t.After(stored) {
		return time.Time{}, fmt.Errorf("askedAt %s is later than %s, when the queue took it", given, stored.UTC().Format(time.RFC3339Nano))
	}
	return t, nil
}

// stamp is t as requests and states carry it.
func stamp(t time.Time) time.Time { return t.UTC().Truncate(time.Millisecond) }

// validProject is the config's rule, [a-z0-9][a-z0-9-]{0,62}: nothing else can
// have come from it.
func validProject(name string) bool {
	if len(name) == 0 || len(name) > 63 || name[0] == '-' {
		return false
	}
	return strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}
