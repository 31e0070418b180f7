package integration_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/crane"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/imgd/imgd/integration/kit"
)

// A scene is how the world looks from outside: images.json, registry and streams. As an expectation, what is empty
// (events: -1) may be anything.
type scene struct {
	release string // none, or the state of the request's one release
	tags    string // in the registry, sorted; none
	events  int    // published ones
	state   string // of the request in IMGD_STATUS
	queue   string // empty, or full
}

func (want scene) differs(got scene) []string {
	var wrong []string
	differ := func(what, got, want string) {
		if want != "" && got != want {
			wrong = append(wrong, fmt.Sprintf("%s: got %q, want %q", what, got, want))
		}
	}
	differ("release", got.release, want.release)
	differ("tags", got.tags, want.tags)
	differ("state", got.state, want.state)
	differ("queue", got.queue, want.queue)
	if want.events >= 0 && got.events != want.events {
		wrong = append(wrong, fmt.Sprintf("events: got %d, want %d", got.events, want.events))
	}
	return wrong
}

// A view is what can be seen at one moment, imgd running or not.
type view struct {
	images *kit.Images
	events []kit.Message     // of IMGD_EVENTS
	states []kit.Message     // of IMGD_STATUS
	queued uint64            // in IMGD_REQUESTS
	tags   map[string]string // of the registry's repository: tag -> digest
	lies   []string          // what the gates saw
}

// release and tag are those of images.json, status is of IMGD_STATUS.
type (
	release struct {
		ID, State string
		Seq       uint64
		Request   struct{ ID string }
		Root      struct{ Digest string }
	}
	tag    struct{ Image, Tag, Holder, Claim string }
	status struct{ Request, State, Release string }
)

// look reads past the gates.
func (r *rig) look() view {
	r.Helper()
	ctx, cancel := context.WithTimeout(r.Context(), endTime)
	defer cancel()
	v, err := r.see(ctx)
	r.must(err)
	return v
}

// see is look while imgd runs, when what is read may not be whole yet.
func (r *rig) see(ctx context.Context) (v view, err error) {
	if v.images, err = kit.ReadImages(r.data); err != nil {
		return v, err
	}
	if v.events, err = kit.ReadStream(ctx, r.nats, "IMGD_EVENTS", "imgd.events.>", 0); err != nil {
		return v, err
	}
	if v.states, err = kit.ReadStream(ctx, r.nats, "IMGD_STATUS", "imgd.status.>", 0); err != nil {
		return v, err
	}
	queue, err := r.js.Stream(ctx, "IMGD_REQUESTS")
	if err != nil {
		return v, err
	}
	v.queued = queue.CachedInfo().State.Msgs
	r.mu.Lock()
	v.lies = slices.Clone(r.lies)
	r.mu.Unlock()
	v.tags, err = registryTags(ctx, r.registry+"/"+image)
	return v, err
}

// registryTags are a repository's tags with what they name.
func registryTags(ctx context.Context, repository string) (map[string]string, error) {
	names, err := crane.ListTags(repository, crane.Insecure, crane.WithContext(ctx))
	var refused *transport.Error
	if errors.As(err, &refused) && refused.StatusCode == http.StatusNotFound { // nothing was tagged yet
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	tags := map[string]string{}
	for _, name := range names {
		if tags[name], err = crane.Digest(repository+":"+name, crane.Insecure, crane.WithContext(ctx)); err != nil {
			return nil, err
		}
	}
	return tags, nil
}

func parse[T any](raw []json.RawMessage) []T {
	all := make([]T, len(raw))
	for i := range raw {
		if err := json.Unmarshal(raw[i], &all[i]); err != nil {
			panic("unreachable: kit.ReadImages has read it: " + err.Error())
		}
	}
	return all
}

func releasesOf(images *kit.Images) map[string]release {
	all := map[string]release{}
	for _, r := range parse[release](images.Releases) {
		all[r.ID] = r
	}
	return all
}

// tagsOf are those of the one image.
func tagsOf(images *kit.Images) map[string]tag {
	all := map[string]tag{}
	for _, t := range parse[tag](images.Tags) {
		all[t.Tag] = t
	}
	return all
}

func (v view) scene(request string) scene {
	s := scene{release: "none", tags: "none", events: len(v.events), queue: "empty"}
	for _, r := range releasesOf(v.images) {
		if s.release = r.State; r.Request.ID != request {
			s.release = "another's"
		}
	}
	if len(v.tags) > 0 {
		s.tags = strings.Join(slices.Sorted(maps.Keys(v.tags)), " ")
	}
	for _, m := range v.states {
		var status status
		if err := json.Unmarshal(m.Data, &status); err == nil && status.Request == request {
			s.state = status.State
		}
	}
	if v.queued > 0 {
		s.queue = "full"
	}
	return s
}

// untruths are what must not be at any moment: an event without its release in images.json or twice, a registry tag that
// names what nobody claims or holds, more than one open or published release of a request.
func (v view) untruths() []string {
	wrong := slices.Clone(v.lies)
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	releases, tags := releasesOf(v.images), tagsOf(v.images)
	seen := map[string]bool{}
	for _, m := range v.events {
		event, err := kit.ParsePublished(m)
		if err != nil {
			say("event on %s: %v", m.Subject, err)
			continue
		}
		if r := releases[event.ID]; r.State != "published" || r.Seq != event.Custom.Seq || r.Root.Digest != event.Purl.Version {
			say("event %s of %s in entry %d, where images.json has %+v", event.ID, event.Purl.Version, event.Custom.Seq, r)
		}
		if seen[event.ID] {
			say("event %s stands twice in IMGD_EVENTS", event.ID)
		}
		seen[event.ID] = true
	}
	for name, digest := range v.tags {
		t := tags[name]
		claim, holder := releases[t.Claim].Root.Digest, releases[t.Holder].Root.Digest
		if digest != claim && digest != holder {
			say("the registry has %s as %s, images.json claim %q and holder %q", name, digest, claim, holder)
		}
	}
	for _, record := range v.images.Records {
		if r := releases[record.Release]; r.State != "published" || tags[record.Tag].Holder != record.Release {
			say("record %s of release %s, which is %q, where the holder is %q", record.Tag, record.Release, r.State, tags[record.Tag].Holder)
		}
	}
	live := map[string]string{}
	for _, id := range slices.Sorted(maps.Keys(releases)) {
		r := releases[id]
		if other := live[r.Request.ID]; other != "" && r.State != "abandoned" {
			say("releases %s and %s of one request", other, id)
		}
		if r.State != "abandoned" {
			live[r.Request.ID] = id
		}
	}
	return wrong
}

func (v view) mustBeTrue(t *testing.T) {
	t.Helper()
	for _, wrong := range v.untruths() {
		t.Error(wrong)
	}
}
