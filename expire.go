package imgd

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/imgd/imgd/version"
)

// Holdings are what the tags of the index name. Safe for concurrent use.
type Holdings interface {
	// Images are the images of which a tag names something, sorted.
	Images() []string
	// Holds are the tags of the image that name something, each with the
	// published release that it names, and the admitted one that claims it.
	Holds(image string) []Hold
	// Missed are the tags that published releases of the image which do not expire
	// asked for and did not get, each with one of those. It looks at all releases.
	Missed(image string) map[string]string
}

// An Expirer removes the tags whose time is over, each by a command of its own.
// All but Weigher must be set. Its methods are safe for concurrent use.
type Expirer struct {
	Pipeline *Pipeline
	Index    Holdings
	Weigher  Weigher    // default: nothing is weighed
	Share    func() int // percent of an image's tags that may go at once
}

// An Expire is an ask for the tags whose time is over.
type Expire struct {
	Image  string // "": all
	DryRun bool   // only say what would go
	Yes    bool   // whatever share of an image's tags that is
	Stays  bool   // say also what stays, and why
	Weigh  bool   // say how much the registry could free, too
	By     string

	weighUntil time.Time
}

// weighTime bounds how long it takes to say how much could be freed, of all images
// together: it is only said, and what is to be removed waits for it.
const weighTime = 30 * time.Second

// An ExpireState is what becomes of a tag whose time is over.
type ExpireState string

// The states.
const (
	ExpireStays   ExpireState = "stays"   // its time is not over, or it is held, or something newer is there by now
	ExpireGoes    ExpireState = "goes"    // it is to go: nothing is done yet
	ExpireHeld    ExpireState = "held"    // it is to go with too many others at once
	ExpireGone    ExpireState = "gone"    // it is removed
	ExpireLeft    ExpireState = "left"    // it is on its way, and imgd goes on by itself, or there was an error
	ExpireRefused ExpireState = "refused" // the registry does not remove it; it is asked again after a day
)

// An Expiring is a tag whose time is over, or was looked at.
type Expiring struct {
	Image       string        `json:"image"`
	Tag         string        `json:"tag"`
	Kind        version.Kind  `json:"kind"`
	Generation  uint64        `json:"generation"`
	Root        digest.Digest `json:"root"`
	Release     string        `json:"release"` // that it names
	PublishedAt time.Time     `json:"publishedAt"`
	ExpiresAt   time.Time     `json:"expiresAt,omitzero"`
	State       ExpireState   `json:"state"`
	Why         string        `json:"why"`
	Error       string        `json:"error,omitempty"`   // of left and refused
	Removed     string        `json:"removed,omitempty"` // release that removed it
}

// An Expiry is what was done about the tags whose time is over, or what would be.
type Expiry struct {
	DryRun bool       `json:"dryRun"`
	Items  []Expiring `json:"items"` // by image and tag
	Held   []string   `json:"held"`  // images of which too many tags would go at once: none goes
	// Bytes is how much the registry could free at most, in one repository of each
	// image, once its garbage is collected: what no tag names then any more.
	// Nothing that a tag which stays is known to consist of is counted.
	Bytes     int64 `json:"bytes"`
	Unweighed int   `json:"unweighed,omitempty"` // roots whose size is not in it
	More      bool  `json:"more,omitempty"`      // time was over before all was looked at: ask again
}

// Count is how many tags are in that state.
func (e Expiry) Count(state ExpireState) (n int) {
	for _, item := range e.Items {
		if item.State == state {
			n++
		}
	}
	return n
}

// Expire removes the tags whose time is over, or says which they are. A tag that
// the registry refuses to remove does not keep the others; after any other error
// the rest of the image is left to the next run. The error that it answers is that
// of ctx: the rest was not looked at. ErrNotFound of an image that has no tags.
//
// Safe to repeat, to interrupt, and to run in several daemons at a time: what is
// removed by one is removed for all.
func (e *Expirer) Expire(ctx context.Context, ask Expire) (Expiry, error) {
	images := e.Index.Images()
	if ask.Image != "" {
		if !slices.Contains(images, ask.Image) {
			return Expiry{}, fmt.Errorf("nothing is published as %s: %w", ask.Image, ErrNotFound)
		}
		images = []string{ask.Image}
	}
	done := Expiry{DryRun: ask.DryRun, Items: []Expiring{}, Held: []string{}}
	ask.weighUntil = time.Now().Add(weighTime) // not of the Pipeline's clock: a context ends then
	for _, image := range images {
		verdicts := e.spare(image, e.retention(image).Decide(e.holds(image), e.Pipeline.now()))
		if err := e.expire(ctx, image, verdicts, ask, &done); err != nil {
			done.More = true
			return done, err
		}
	}
	return done, nil
}

// Close removes the tags that a pull request alone has, as it was closed, whatever
// share of the image's that is. ref is one of its refs. Errors as of Expire, and
// ErrInvalid of what is no pull request of a project.
func (e *Expirer) Close(ctx context.Context, project, ref, by string) (Expiry, error) {
	p, err := e.Pipeline.project(project)
	if err != nil {
		return Expiry{}, err
	}
	number := version.PullRequest(ref)
	if number == "" {
		return Expiry{}, fmt.Errorf("ref %.*q is no pull request's: %w", shownInput, ref, ErrInvalid)
	}
	holds := slices.DeleteFunc(e.holds(p.Image), func(h Hold) bool {
		of := h.Release.Request
		return of.Project != project || version.PullRequest(of.Ref) != number || h.Release.Command != "" || h.Release.ExpiresAt.IsZero()
	})
	verdicts := p.Retention.Decide(holds, e.Pipeline.now())
	for i, v := range verdicts {
		if _, never := matching(p.Retention.Never, v.Tag.Name); !never && v.Frozen == "" {
			verdicts[i].Goes, verdicts[i].Why = true, ref+" was closed"
		}
	}
	verdicts = e.spare(p.Image, verdicts)
	done := Expiry{Items: []Expiring{}, Held: []string{}}
	err = e.expire(ctx, p.Image, verdicts, Expire{Yes: true, By: by}, &done)
	return done, err
}

// spare lets commit tags stay that a release which stays asked for too: of a pull
// request's commit that became a branch's as it was. The first who made an image of
// a commit has its tag, and nobody would ask for it again.
func (e *Expirer) spare(image string, verdicts []Verdict) []Verdict {
	goes := func(v Verdict) bool { return v.Goes && v.Tag.Kind == version.KindCommit }
	if !slices.ContainsFunc(verdicts, goes) {
		return verdicts
	}
	missed := e.Index.Missed(image)
	for i, v := range verdicts {
		if by := missed[v.Tag.Name]; by != "" && goes(v) && !v.Release.ExpiresAt.IsZero() {
			verdicts[i].Goes, verdicts[i].Why = false, "release "+by+", which stays, asked for it too"
		}
	}
	return verdicts
}

// holds are the tags of the image that name something, with what operators hold.
func (e *Expirer) holds(image string) []Hold {
	holds := e.Index.Holds(image)
	for i, h := range holds {
		holds[i].Frozen = e.Pipeline.AuditHolds.Why(h.Release)
	}
	return holds
}

// retention is what the config says of the image.
func (e *Expirer) retention(image string) Retention {
	for _, project := range e.Pipeline.Projects.All() {
		if project.Image == image {
			return project.Retention
		}
	}
	return Retention{}
}

// expire does to one image what the verdicts say.
func (e *Expirer) expire(ctx context.Context, image string, verdicts []Verdict, ask Expire, done *Expiry) error {
	going := slices.DeleteFunc(slices.Clone(verdicts), func(v Verdict) bool { return !v.Goes })
	held := tooMany(len(going), len(verdicts), e.Share()) && !ask.Yes
	if held {
		done.Held = append(done.Held, image)
	}
	if ask.Weigh { // before anything is removed
		bound, cancel := context.WithDeadline(ctx, ask.weighUntil)
		e.weigh(bound, verdicts, done)
		cancel()
	}
	stuck := false
	for _, v := range verdicts {
		item := v.item()
		switch {
		case !v.Goes && !ask.Stays:
			continue
		case v.Goes && held:
			item.State = ExpireHeld
		case v.Goes && !ask.DryRun && !stuck:
			if err := ctx.Err(); err != nil {
				return err
			}
			e.remove(ctx, v, ask.By, &item)
			stuck = item.State == ExpireLeft
		}
		done.Items = append(done.Items, item)
	}
	return nil
}

func (v Verdict) item() Expiring {
	item := Expiring{Image: v.Release.Image, Tag: v.Tag.Name, Kind: v.Tag.Kind, Generation: v.Tag.Generation, Root: v.Release.Root.Digest,
		Release: v.Release.ID, PublishedAt: v.Release.PublishedAt, ExpiresAt: v.Release.ExpiresAt, State: ExpireStays, Why: v.Why}
	if v.Goes {
		item.State = ExpireGoes
	}
	return item
}

// remove takes the tag from the release, if that has it still.
func (e *Expirer) remove(ctx context.Context, v Verdict, by string, item *Expiring) {
	c := Command{Name: CommandExpire, Image: item.Image, Tag: item.Tag, Release: item.Release, By: by, Reason: v.Why}
	c.ID, item.Removed = e.id(c)
	if item.Removed != "" {
		rel, _ := e.Pipeline.Lookup.Release(item.Removed)
		item.State, item.Error = ExpireRefused, rel.Why
		return
	}
	rel, _, err := e.Pipeline.Command(ctx, c)
	item.Removed = rel.ID
	switch {
	case err == nil:
		item.State = ExpireGone
	case errors.Is(err, ErrRefused):
		item.State, item.Error = ExpireRefused, err.Error()
	case errors.Is(err, ErrSuperseded), errors.Is(err, ErrConflict): // something newer is there, or it is held by now
		item.State, item.Why = ExpireStays, err.Error()
	default:
		item.State, item.Error = ExpireLeft, err.Error()
	}
}

// refusedFor is how long a registry that has refused to remove a tag is not asked
// again: each ask makes a release.
const refusedFor = 24 * time.Hour

// id is that of the command: the same whoever gives it, and however often, until
// the registry has refused it and is to be asked anew. Where it was refused not
// long ago, it is the release that was.
func (e *Expirer) id(c Command) (id, refused string) {
	for n := 0; ; n++ {
		b, err := json.Marshal([]any{c.Name, c.Image, c.Tag, c.Release, n})
		if err != nil {
			panic("unreachable: strings always marshal: " + err.Error())
		}
		sum := sha256.Sum256(b)
		id = hex.EncodeToString(sum[:16])
		given, ok := e.Pipeline.Lookup.Newest(id)
		switch {
		case !ok || given.State != ReleaseAbandoned:
			return id, ""
		case e.Pipeline.now().Sub(given.AdmittedAt) < refusedFor:
			return id, given.ID
		}
	}
}

// Summary says in one line what was done.
func (e Expiry) Summary() string {
	var words []string
	for _, state := range []ExpireState{ExpireGone, ExpireGoes, ExpireHeld, ExpireRefused, ExpireLeft} {
		if n := e.Count(state); n > 0 {
			words = append(words, fmt.Sprintf("%d %s", n, state))
		}
	}
	if len(words) == 0 {
		return "nothing is to go"
	}
	return "tags: " + strings.Join(words, ", ")
}
