package integration_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"path"
	"strings"
	"testing"

	"github.com/imgd/imgd/integration/kit"
)

// kills are the steps of a request from the push of its image to its ack. At each, imgd is killed while its call is held.
var kills = []struct {
	name string
	arm  func(*rig) *kit.Hold
	late bool  // the call arrives after the kill, as one that was on its way
	want scene // when imgd is dead
}{
	{name: "pushed, not captured", arm: call(kit.Before, http.MethodGet, "sha256:"),
		want: scene{release: "none", tags: "none", state: "building", queue: "full"}},
	{name: "captured, not admitted", arm: call(kit.Before, http.MethodGet, gitTag),
		want: scene{release: "none", tags: "none", state: "building", queue: "full"}},
	{name: "admitted, no tag put", arm: call(kit.Before, http.MethodPut, gitTag),
		want: scene{release: "admitted", tags: "none", state: "publishing", queue: "full"}},
	{name: "admitted, first tag arrives late", arm: call(kit.Before, http.MethodPut, gitTag), late: true,
		want: scene{release: "admitted", tags: gitTag, state: "publishing", queue: "full"}},
	{name: "first tag put, answer lost", arm: call(kit.Answered, http.MethodPut, gitTag),
		want: scene{release: "admitted", tags: gitTag, state: "publishing", queue: "full"}},
	{name: "last tag not put", arm: call(kit.Before, http.MethodPut, "latest"),
		want: scene{release: "admitted", tags: "1.2 v1.2.3", state: "publishing", queue: "full"}},
	{name: "all tags put, not published", arm: call(kit.Answered, http.MethodGet, "latest"),
		want: scene{release: "admitted", tags: wholeSet, state: "publishing", queue: "full"}},
	{name: "published, not announced", arm: line(kit.Before, isEvent),
		want: scene{release: "published", tags: wholeSet}},
	{name: "published, event arrives late", arm: line(kit.Before, isEvent), late: true,
		want: scene{release: "published", tags: wholeSet, events: 1}},
	{name: "announced, answer lost", arm: line(kit.Answered, isEvent),
		want: scene{release: "published", tags: wholeSet, events: 1}},
	{name: "published, state not written", arm: line(kit.Before, isPublishedState),
		want: scene{release: "published", tags: wholeSet, events: -1, state: "publishing", queue: "full"}},
	{name: "state written, not acked", arm: line(kit.Before, isAck),
		want: scene{release: "published", tags: wholeSet, events: -1, state: "published", queue: "full"}},
	{name: "acked, answer lost", arm: line(kit.Answered, isAck),
		want: scene{release: "published", tags: wholeSet, events: -1, state: "published", queue: "empty"}},
}

// call holds the first call about a manifest whose reference begins so.
func call(side kit.Side, method, reference string) func(*rig) *kit.Hold {
	return func(r *rig) *kit.Hold {
		return r.calls.Arm(side, func(req *http.Request) bool {
			dir, name := path.Split(req.URL.Path)
			return req.Method == method && dir == "/v2/"+image+"/manifests/" && strings.HasPrefix(name, reference)
		})
	}
}

func line(side kit.Side, match func(kit.Line) bool) func(*rig) *kit.Hold {
	return func(r *rig) *kit.Hold { return r.lines.Arm(side, match) }
}

func isEvent(l kit.Line) bool {
	return strings.HasSuffix(l.Op, "PUB") && strings.HasPrefix(l.Subject, "imgd.events.published.")
}

func isPublishedState(l kit.Line) bool {
	return strings.HasSuffix(l.Op, "PUB") && strings.HasPrefix(l.Subject, "imgd.status.") && bytes.Contains(l.Payload, []byte(`"state":"published"`))
}

func isAck(l kit.Line) bool {
	return strings.HasSuffix(l.Op, "PUB") && strings.HasPrefix(l.Subject, "$JS.ACK.IMGD_REQUESTS.") && string(l.Payload) == "+ACK"
}

// No event without its record at any kill between push and announce, and after the restart the request is published
// once, whatever it was killed at.
func TestKilledAtEachStep(t *testing.T) {
	buildkitd := sharedBuildkitd(t)
	for _, kill := range kills {
		t.Run(kill.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, buildkitd)
			hold := kill.arm(r)
			request := r.ask(gitTag)
			r.waitHeld(hold)
			r.daemon.Kill9()
			if kill.late {
				hold.Pass()
			} else {
				hold.Drop()
			}
			r.mustIdle()
			dead := r.look()
			dead.mustBeTrue(t)
			for _, wrong := range kill.want.differs(dead.scene(request)) {
				t.Errorf("at the kill %s", wrong)
			}
			r.start()
			r.waitEnd(request)
			r.mustHaveEnded(request, dead)
		})
	}
}

// The checker of TestKilledAtEachStep finds what it is there for.
func TestUntruthsAreFound(t *testing.T) {
	r := newRig(t, sharedBuildkitd(t))
	request := r.ask(gitTag)
	r.waitEnd(request)
	r.look().mustBeTrue(t)
	if t.Failed() {
		return
	}
	const other = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
	for _, test := range []struct {
		name  string
		forge func(*view)
		want  string
	}{
		{"a lie that a gate saw", func(v *view) { v.lies = append(v.lies, "a lie") }, "a lie"},
		{"an event twice", func(v *view) { v.events = append(v.events, v.events[0]) }, "stands twice"},
		{"an event of nothing", func(v *view) { v.images.Releases, v.images.Records, v.tags = nil, nil, nil }, "event " + request},
		{"an event before its release", func(v *view) { v.admittedOnly() }, "event " + request},
		{"an event of another root", func(v *view) { replace(v.images.Releases, v.tags[gitTag], other) }, "event " + request},
		{"an event that is none", func(v *view) { v.events[0].Data = []byte("{}") }, "event on "},
		{"a tag that nobody asked for", func(v *view) { v.tags["v6.6.6"] = v.tags[gitTag] }, "the registry has v6.6.6"},
		{"a tag that names something else", func(v *view) { v.tags[gitTag] = other }, "the registry has v1.2.3"},
		{"a record before its release", func(v *view) { v.events = nil; v.admittedOnly() }, "record v1.2.3"},
		{"a record of no holder", func(v *view) { v.images.Tags = nil }, "record v1.2.3"},
		{"a second release", func(v *view) {
			second := bytes.Replace(v.images.Releases[0], []byte(request+"-1"), []byte(request+"-2"), 1)
			v.images.Releases = append(v.images.Releases, second)
		}, "of one request"},
	} {
		v := r.look()
		test.forge(&v)
		if wrong := strings.Join(v.untruths(), "\n"); !strings.Contains(wrong, test.want) {
			t.Errorf("%s: got %q, want %q in it", test.name, wrong, test.want)
		}
	}
}

func TestScenesDiffer(t *testing.T) {
	want := scene{release: "published", tags: wholeSet, events: 1, state: "published", queue: "empty"}
	if wrong := want.differs(want); len(wrong) > 0 {
		t.Errorf("it differs from itself: %q", wrong)
	}
	for _, change := range []func(*scene){
		func(s *scene) { s.release = "admitted" }, func(s *scene) { s.tags = gitTag }, func(s *scene) { s.events = 2 },
		func(s *scene) { s.state = "queued" }, func(s *scene) { s.queue = "full" },
	} {
		got := want
		change(&got)
		if wrong := want.differs(got); len(wrong) != 1 {
			t.Errorf("%+v differs from %+v in %q", got, want, wrong)
		}
		if wrong := (scene{events: -1}).differs(got); len(wrong) > 0 {
			t.Errorf("%+v is not anything: %q", got, wrong)
		}
	}
}

// admittedOnly makes the releases look as before they were published.
func (v *view) admittedOnly() { replace(v.images.Releases, `"published"`, `"admitted"`) }

func replace(raw []json.RawMessage, old, with string) {
	for i := range raw {
		raw[i] = bytes.ReplaceAll(raw[i], []byte(old), []byte(with))
	}
}
