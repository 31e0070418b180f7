// Package check says whether imgd's invariants hold, I1 to I7 of its design, by what can be seen from outside: images.json,
// the registry, and the streams. It knows nothing of how imgd keeps them and asks imgd nothing, so it can be asked while
// imgd is dead.
package check

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/imgd/imgd/integration/kit"
)

// A World is what can be seen at one moment. While imgd runs it changes under the look, so what Violations says of it then
// need not be so.
type World struct {
	Index  Index
	Tags   map[string]map[string]string // of the registry: repository, as imgd names it -> tag -> digest
	Roots  map[string][]string          // root that a repository serves under a tag -> the manifests of its platforms, sorted
	Gone   map[string]bool              // roots of the index that no repository serves any more, of those that were looked for
	Events []Event                      // of IMGD_EVENTS, in its order
	States map[string]State             // of IMGD_STATUS, by request
	Queue  []Queued                     // of IMGD_REQUESTS
	Dead   []Letter                     // of IMGD_DEAD
	Bad    []string                     // what was read and is not what it should be, with its invariant
}

// Index is what images.json says.
type Index struct {
	ID       string
	Seq      uint64
	Told     uint64
	Records  []kit.Record
	Tags     []Tag
	Releases []Release
}

// States of releases and requests.
const (
	Admitted  = "admitted"
	Published = "published"
	Abandoned = "abandoned"

	Unchanged  = "unchanged"
	Superseded = "superseded"
	Cancelled  = "cancelled"
	Conflict   = "conflict"
	Failed     = "failed"
	Dead       = "dead"
)

// Tag is one of images.json.
type Tag struct {
	Image      string `json:"image"`
	Tag        string `json:"tag"`
	Kind       string `json:"kind"`
	Ref        string `json:"ref"`
	Generation uint64 `json:"generation"`
	Mark       Mark   `json:"mark"`
	Holder     string `json:"holder"`
	Claim      string `json:"claim"`
}

// Mark is that of a moving tag.
type Mark struct {
	Version string    `json:"version"`
	Commit  string    `json:"commit"`
	AskedAt time.Time `json:"askedAt"`
}

// Release is one of images.json.
type Release struct {
	ID           string            `json:"id"`
	Image        string            `json:"image"`
	Repositories []string          `json:"repositories"`
	State        string            `json:"state"`
	Request      Request           `json:"request"`
	Root         Descriptor        `json:"root"`
	Platforms    []Descriptor      `json:"platforms"`
	Tags         []ReleaseTag      `json:"tags"`
	Source       string            `json:"source"`
	Labels       map[string]string `json:"labels"`
	Pushed       bool              `json:"pushed"`  // by another CI: imgd only reads its tags
	Command      string            `json:"command"` // of an operator: rollback, tag or untag; expire of the clean-up
	Removes      string            `json:"removes"` // of untag and expire: the release that held the tag
	ExpiresAt    time.Time         `json:"expiresAt"`
	PublishedAt  time.Time         `json:"publishedAt"`
	Seq          uint64            `json:"seq"`
	Why          string            `json:"why"`
	Lapsed       []string          `json:"lapsed"`
}

// Request is what a release was made for.
type Request struct {
	ID        string            `json:"id"`
	Project   string            `json:"project"`
	Ref       string            `json:"ref"`
	Commit    string            `json:"commit"`
	Reason    string            `json:"reason"`
	Force     bool              `json:"force"`
	Nonce     string            `json:"nonce"`
	Args      map[string]string `json:"args"`
	Target    string            `json:"target"`
	Platforms []string          `json:"platforms"`
	AskedAt   time.Time         `json:"askedAt"`
	Version   string            `json:"version"`
}

// Descriptor is one of OCI.
type Descriptor struct {
	MediaType string `json:"mediaType"`
	Digest    string `json:"digest"`
	Size      int64  `json:"size"`
	Platform  struct {
		OS           string `json:"os"`
		Architecture string `json:"architecture"`
		Variant      string `json:"variant"`
	} `json:"platform"`
}

// ReleaseTag is one tag that a release asked for.
type ReleaseTag struct {
	Tag        string `json:"tag"`
	Kind       string `json:"kind"`
	Reason     string `json:"reason"`
	Generation uint64 `json:"generation"`
	Previous   string `json:"previous"`
}

// Event is one of IMGD_EVENTS. End is what the end of a request tells, what follows it is of a published one.
type Event struct {
	StreamSeq       uint64
	What, Image, ID string

	Source  string
	End     State
	Request string
	Seq     uint64 // of the index
	Root    string
	Records []kit.Record

	Drift Drift // of a drift
}

// Drift is what one says.
type Drift struct {
	Image      string `json:"image"`
	Repository string `json:"repository"`
	Tag        string `json:"tag"`
	Wanted     string `json:"wanted"`
	Found      string `json:"found"`
}

// State is where a request stands.
type State struct {
	Request string    `json:"request"`
	Project string    `json:"project"`
	Ref     string    `json:"ref"`
	Commit  string    `json:"commit"`
	State   string    `json:"state"`
	Tries   int       `json:"tries"`
	Release string    `json:"release"`
	AskedAt time.Time `json:"askedAt"`
	EndedAt time.Time `json:"endedAt"`
	Error   *struct {
		Kind    string `json:"kind"`
		Message string `json:"message"`
	} `json:"error"`
}

// Final reports whether it is an end.
func (s State) Final() bool {
	switch s.State {
	case Published, Unchanged, Superseded, Cancelled, Conflict, Failed, Dead:
		return true
	}
	return false
}

// Queued is a message of IMGD_REQUESTS.
type Queued struct {
	Seq      uint64
	Delivery string // its Nats-Msg-Id
	Request  string // its ID, by its bytes alone; empty if they are no request
	Project  string
	Ref      string
	Commit   string
}

// Letter is a message of IMGD_DEAD. Request is empty if its bytes are none.
type Letter struct {
	Delivery, Request, Project, Reason string
}

// An Asked is a request that imgd, or the queue itself, has acknowledged.
type Asked struct {
	Request  string // its ID; empty: it is known by project and ref, or by its delivery
	Project  string
	Ref      string
	Delivery string    // its Nats-Msg-Id, if known
	AskedAt  time.Time // as it was answered, or not later; zero: any end counts
	NoGood   bool      // it is no request: it must become a dead letter
}

func (a Asked) String() string {
	return fmt.Sprintf("request %s %s %s (delivery %q, asked at %s)", a.Request, a.Project, a.Ref, a.Delivery, a.AskedAt.Format(time.RFC3339Nano))
}

// An Expectation is what the one who looks knows.
type Expectation struct {
	// Asked are all that was acknowledged.
	Asked []Asked
	// Cancelled are the requests that somebody has cancelled, or dropped when they were dead.
	Cancelled []string
	// Ended says that nothing should be left to do: what may be true for a while is wrong then.
	Ended bool
}

// Violations says what is not as it must be, each with its invariant. imgd must be dead, stopped or idle.
func (w *World) Violations(want Expectation) []string {
	c := &checker{World: w, ended: want.Ended, releases: map[string]Release{}, tags: map[tagKey]Tag{}, wrong: append([]string{}, w.Bad...)}
	c.index()
	c.tagsOverTime()
	c.events()
	c.ends()
	c.states(want.Cancelled)
	c.asked(want.Asked)
	c.registry()
	return c.wrong
}

type tagKey struct{ image, tag string }

func (k tagKey) String() string { return k.image + ":" + k.tag }

// A checker is one run of Violations.
type checker struct {
	*World
	ended    bool
	releases map[string]Release
	tags     map[tagKey]Tag
	wrong    []string
}

func (c *checker) say(invariant, format string, args ...any) {
	c.wrong = append(c.wrong, invariant+": "+fmt.Sprintf(format, args...))
}

// JSON is the world, for whoever has to find out how it came to this.
func (w *World) JSON() []byte {
	b, err := json.MarshalIndent(w, "", " ")
	if err != nil {
		panic("unreachable: worlds marshal: " + err.Error())
	}
	return b
}
