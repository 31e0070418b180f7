package check_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/imgd/imgd/integration/check"
	"github.com/imgd/imgd/integration/kit"
)

// asked are the acknowledged ones of the good world.
func asked() []check.Asked {
	var all []check.Asked
	for _, r := range []check.Request{first, second, tagged, moved, broken, late, hopeless, running} {
		all = append(all, check.Asked{Request: r.ID, AskedAt: r.AskedAt})
	}
	return append(all, check.Asked{Delivery: "junk", NoGood: true}, check.Asked{Project: "hello", Ref: "refs/heads/broken", AskedAt: broken.AskedAt})
}

func TestGoodWorlds(t *testing.T) {
	w := good()
	if wrong := w.Violations(check.Expectation{Asked: asked()}); len(wrong) > 0 {
		t.Errorf("while it works: %s", strings.Join(wrong, "\n"))
	}
	endRunning(w)
	if wrong := w.Violations(check.Expectation{Asked: asked(), Ended: true}); len(wrong) > 0 {
		t.Errorf("when it has ended: %s", strings.Join(wrong, "\n"))
	}
}

const other = "sha256:0000000000000000000000000000000000000000000000000000000000000000"

// Places in the good world.
const (
	relOne, relTwo, relTag, relOpen                         = 0, 1, 2, 3
	tagOne, tagTwo, tagOpen, tagLatest, tagMain, tagVersion = 0, 1, 2, 3, 4, 5
	evOne, evTwo, evTag, evConflict                         = 0, 1, 2, 3
)

// doctored are lies, each in a world that is true otherwise, and what must be said of them.
var doctored = []struct {
	name  string
	ended bool // the world after endRunning
	forge func(*check.World)
	want  string
}{
	// I1
	{"an event of no release", false, func(w *check.World) { w.Events[evTag].ID = "x-1" }, `I1: event x-1 is out`},
	{"an event before its release is published", false, func(w *check.World) { w.Events = append(w.Events, event(w.Index.Releases[relOpen])) }, "I1: event " + running.ID + "-1 is out"},
	{"an event of another root", false, func(w *check.World) { w.Events[evOne].Root = other }, "I1: event " + first.ID + "-1 tells of " + other},
	{"an event of another entry", false, func(w *check.World) { w.Events[evOne].Seq++ }, "I1: event " + first.ID + "-1 tells of"},
	{"an event of another image", false, func(w *check.World) { w.Events[evOne].Image = "demo/other" }, "I1: event " + first.ID + "-1 tells of"},
	{"an event of another index", false, func(w *check.World) { w.Events[evOne].Source = "urn:imgd:other" }, "I1: event " + first.ID + "-1 tells of"},
	{"an event with another record", false, func(w *check.World) { w.Events[evOne].Records[0].Digest = other }, "I1: event " + first.ID + "-1 has the records"},
	{"an event with a record less", false, func(w *check.World) { w.Events[evOne].Records = nil }, "I1: event " + first.ID + "-1 has the records"},
	{"an event of a removal that was none", false, func(w *check.World) { w.Events[evOne].What = "deleted" }, "I1: event " + first.ID + "-1 is out as deleted"},
	{"a removal that is told as published", false, func(w *check.World) { untag(w); w.Events[len(w.Events)-1].What = check.Published }, "-1 is out as published"},
	{"an event of a removal of no release", false, func(w *check.World) { untag(w); w.Events[len(w.Events)-1].ID = "x-1" }, "I1: event x-1 is out as deleted"},
	{"an event of no kind", false, func(w *check.World) { w.Events[evConflict].What = "odd" }, `is of no kind: "odd"`},
	{"two releases of one entry", false, func(w *check.World) { w.Index.Releases[relOne].Seq = 4 }, "were both published in entry 4"},
	{"what was read is wrong", false, func(w *check.World) { w.Bad = []string{"I1: event on x: no JSON"} }, "I1: event on x"},
	{"a published release without entry", false, func(w *check.World) { w.Index.Releases[relOne].Seq = 0 }, "I1: release " + first.ID + "-1 was published in entry 0"},
	{"an entry of the future", false, func(w *check.World) { w.Index.Seq = 5 }, "I1: release " + tagged.ID + "-1 was published in entry 6"},
	{"an open release with an entry", false, func(w *check.World) { w.Index.Releases[relOpen].Seq = 8 }, "I1: release " + running.ID + "-1 is admitted and has entry 8"},
	{"a record of no holder", false, func(w *check.World) { w.Index.Tags[tagLatest].Holder = "" }, `"tag":"latest"`},
	{"a record too few", false, func(w *check.World) { w.Index.Records = w.Index.Records[1:] }, `I1: record {"image":"demo/hello","tag":"aaa"`},
	{"a record of another digest", false, func(w *check.World) { w.Index.Records[0].Digest = other }, "is not what a holder makes"},
	{"a record of an open release", false, func(w *check.World) { w.Index.Records = append(w.Index.Records, records(w.Index.Releases[relOpen])...) }, "is not what a holder makes"},
	// I2
	{"an event twice", false, func(w *check.World) { w.Events = append(w.Events, w.Events[evOne]) }, "I2: event " + first.ID + "-1 of published stands twice"},
	{"an event of an end twice", false, func(w *check.World) { w.Events = append(w.Events, w.Events[evConflict]) }, "of conflict stands twice"},
	{"events in another order", false, func(w *check.World) { w.Events[0], w.Events[1] = w.Events[1], w.Events[0] }, "I2: event " + first.ID + "-1 of entry 2 comes after"},
	{"told and not out", false, func(w *check.World) { w.Events = slices.Delete(w.Events, evTag, evTag+1) }, "I2: release " + tagged.ID + "-1 of entry 6 has no event"},
	{"published and not out at the end", true, func(w *check.World) { w.Events = w.Events[:len(w.Events)-1]; w.Index.Told = 6 }, "I2: release " + running.ID + "-1 has no event"},
	{"out and not told at the end", true, func(w *check.World) { w.Index.Told = 6 }, "I2: all up to entry 10 is published"},
	// I3
	{"an ask that nobody knows", false, func(w *check.World) { delete(w.States, first.ID) }, "I3: request " + first.ID},
	{"an ask that is queued still at the end", true, func(w *check.World) { w.Queue = good().Queue }, "I3: 1 requests are in the queue still"},
	{"an ask that left the queue without an end", false, func(w *check.World) { w.Queue = nil }, "I3: request " + running.ID + " stands as publishing, and is not in the queue"},
	{"an end for an earlier ask only", false, func(w *check.World) { setAskedAt(w, first.ID, first.AskedAt.Add(-time.Second)) }, "I3: request " + first.ID},
	{"an ask without an ID that has not ended", false, func(w *check.World) { delete(w.States, broken.ID) }, "I3: request  hello refs/heads/broken"},
	{"an end that nobody was told of", false, func(w *check.World) { w.Events = slices.Delete(w.Events, evConflict, evConflict+1) }, "I3: request " + moved.ID + " has ended conflict, and no event"},
	{"an event of another end", false, func(w *check.World) { w.Events[evConflict].What = check.Failed }, "I3: request " + moved.ID + " has ended conflict, and no event"},
	{"an event of an end, and it is published", false, func(w *check.World) {
		e := w.Events[evConflict]
		e.ID = strings.Replace(e.ID, moved.ID, first.ID, 1)
		e.ID = strings.Replace(e.ID, millis(moved), millis(first), 1)
		w.Events = append(w.Events, e)
	}, "I3: event " + first.ID + "-" + millis(first) + " says conflict, and its request is published"},
	{"an event of an end without a state", false, func(w *check.World) { delete(w.States, moved.ID) }, "of conflict is out, and its request has no state"},
	{"an event that tells of another end", false, func(w *check.World) { w.Events[evConflict].End.State = check.Failed }, "of conflict tells of " + eventID(moved)},
	{"an event that tells of another ask", false, func(w *check.World) { w.Events[evConflict].End.AskedAt = monday }, "of conflict tells of " + moved.ID},
	{"an event of an end in another index", false, func(w *check.World) { w.Events[evConflict].Source = "urn:imgd:other" }, "of conflict tells of " + eventID(moved)},
	{"cancelled by nobody", false, func(w *check.World) { end(w, broken, check.Cancelled) }, "I3: request " + broken.ID + " is cancelled"},
	{"unchanged, and nothing is there", false, func(w *check.World) { end(w, broken, check.Unchanged) }, "I3: request " + broken.ID + " has ended unchanged"},
	{"failed, and it is published", false, func(w *check.World) { endTold(w, first, check.Failed) }, "I3: request " + first.ID + " stands as failed"},
	{"superseded, and it is published", false, func(w *check.World) { endTold(w, first, check.Superseded) }, "I3: request " + first.ID + " stands as superseded"},
	{"published by no release", false, func(w *check.World) { setRelease(w, first.ID, "x-1") }, "I3: request " + first.ID + ` is published by release "x-1"`},
	{"published by an open release", false, func(w *check.World) { w.Queue = nil; setPublished(w, running.ID, running.ID+"-1") }, "I3: request " + running.ID + " is published by release"},
	{"published by another's release", false, func(w *check.World) { setRelease(w, first.ID, second.ID+"-1") }, "I3: request " + first.ID + " is published by release"},
	{"dead without a letter", false, func(w *check.World) { w.Dead = w.Dead[1:] }, "I3: request " + hopeless.ID + " is dead, and IMGD_DEAD"},
	{"junk without a letter", false, func(w *check.World) { w.Dead = w.Dead[:1] }, `(delivery "junk"`},
	{"junk without a reason", false, func(w *check.World) { w.Dead[1].Reason = "" }, `(delivery "junk"`},
	// I4
	{"a generation used twice", false, func(w *check.World) { w.Index.Releases[relTwo].Tags[1].Generation = 1 }, "I4: demo/hello:main: generation 1 is that of"},
	{"a generation that goes down", false, func(w *check.World) { w.Index.Releases[relOne].Tags[1].Generation = 7 }, "I4: demo/hello:main: generation 7 in release"},
	{"a generation of another than the holder", false, func(w *check.World) { w.Index.Tags[tagLatest].Generation = 2 }, "I4: demo/hello:latest has generation 2"},
	{"an immutable tag that moved", false, func(w *check.World) { moveVersion(w, false) }, "I4: demo/hello:v1.0.0: from "},
	{"a commit tag that moved", false, func(w *check.World) { w.Index.Releases[relTwo].Tags[0].Tag = "aaa" }, "I4: demo/hello:aaa: from "},
	{"a tag of two kinds", false, func(w *check.World) { w.Index.Releases[relTwo].Tags[1].Kind = "other" }, "I4: demo/hello:main: a branch tag in release"},
	{"no generation", false, func(w *check.World) {
		w.Index.Releases[relTag].Tags[1].Generation, w.Index.Tags[tagLatest].Generation = 0, 0
		tell(w, evTag, "latest", func(r *kit.Record) { r.Generation = 0 })
	}, "I4: demo/hello:latest: release " + tagged.ID + "-1 has generation 0"},
	{"another root before", false, func(w *check.World) {
		w.Index.Releases[relTwo].Tags[1].Previous = other
		tell(w, evTwo, "main", func(r *kit.Record) { r.Previous = other })
	}, "I4: demo/hello:main: release " + second.ID + `-1 has generation 2, after "` + other},
	{"an immutable tag that expires with another release", false, func(w *check.World) { expireVersion(w, relOpen) }, "v1.0.0: from "},
	{"a forced release without reason", false, func(w *check.World) { moveVersion(w, true); w.Index.Releases[relOpen+1].Request.Reason = " " }, "-1 is forced, and nobody says why"},
	{"a tag twice", false, func(w *check.World) { w.Index.Tags = append(w.Index.Tags, w.Index.Tags[tagOne]) }, "I4: demo/hello:aaa stands twice"},
	{"a tag that is forgotten", false, func(w *check.World) {
		w.Index.Tags = slices.Delete(w.Index.Tags, tagLatest, tagLatest+1)
		forget(w, "latest")
	}, `I4: demo/hello:latest is held by ""`},
	{"a holder that is forgotten", false, func(w *check.World) { w.Index.Tags[tagLatest].Holder = ""; forget(w, "latest") }, `I4: demo/hello:latest is held by ""`},
	{"an older release holds it", false, func(w *check.World) { w.Index.Tags[tagMain].Holder = first.ID + "-1" }, "I4: demo/hello:main is held by \"" + first.ID},
	// I5
	{"a tag that nobody asked for", false, func(w *check.World) { w.Tags[repository]["v6.6.6"] = other }, "I5: " + repository + ":v6.6.6 names"},
	{"a tag with what was built and not admitted", false, func(w *check.World) { w.Tags[repository]["ddd"] = other }, "I5: " + repository + ":ddd names"},
	{"a tag for a release that did not take it", false, func(w *check.World) {
		w.Index.Releases[relTwo].Tags = append(w.Index.Releases[relTwo].Tags, check.ReleaseTag{Tag: "latest", Kind: "series", Reason: "has named v2"})
		w.Tags[repository]["latest"] = w.Index.Releases[relTwo].Root.Digest
	}, "I5: " + repository + ":latest names"},
	{"a claim of a published release", false, func(w *check.World) { w.Index.Tags[tagMain].Claim = second.ID + "-1" }, "I5: demo/hello:main (branch) belongs to release " + second.ID},
	{"a hold of an open release", false, func(w *check.World) { w.Index.Tags[tagMain].Holder = running.ID + "-1" }, "I5: demo/hello:main (branch) belongs to release " + running.ID},
	{"a hold of no release", false, func(w *check.World) { w.Index.Tags[tagOne].Holder = "x-1" }, "I5: demo/hello:aaa (commit) belongs to release x-1"},
	{"a hold of another image's", false, func(w *check.World) { w.Index.Releases[relOne].Image = "demo/other" }, "I5: demo/hello:aaa (commit) belongs to release"},
	{"no mark", false, func(w *check.World) { w.Index.Tags[tagLatest].Mark = check.Mark{} }, "I5: demo/hello:latest names v1.0.0"},
	{"a mark of a lower version", false, func(w *check.World) { w.Index.Tags[tagLatest].Mark.Version = "v0.9.0" }, "I5: demo/hello:latest names v1.0.0"},
	{"a mark of an earlier ask", false, func(w *check.World) { w.Index.Tags[tagMain].Mark.AskedAt = first.AskedAt }, "I5: demo/hello:main names"},
	// I6
	{"a root of other manifests", false, func(w *check.World) {
		w.Index.Releases[relTag].Platforms[0].Digest = other
		for _, tag := range []string{"latest", "v1.0.0"} {
			tell(w, evTag, tag, func(r *kit.Record) { r.Digest, r.IndexDigest = other, w.Index.Releases[relTag].Root.Digest })
		}
	}, "I6: root " + digest(tagged.ID+"1") + " has the manifests"},
	{"a tag that is missing", false, func(w *check.World) { delete(w.Tags[repository], "v1.0.0") }, "I6: " + repository + ":v1.0.0 is not there"},
	{"a tag that names what it named before", false, func(w *check.World) {
		w.Tags[repository]["main"] = w.Index.Releases[relOne].Root.Digest
	}, "I6: " + repository + ":main names"},
	{"a repository that is empty", false, func(w *check.World) { w.Tags[repository] = nil }, "I6: " + repository + ":aaa is not there"},
	{"a repository that nobody looked into", false, func(w *check.World) { delete(w.Tags, repository) }, "I6: nobody has looked into " + repository},
	{"a lost claim's root at the end", true, func(w *check.World) { abandonedRoot(w, true) }, "I6: " + repository + ":main names"},
	{"an abandoned release that nobody settles back", false, func(w *check.World) { abandonedRoot(w, true); w.Index.Tags[tagMain].Claim = "" }, "I6: " + repository + ":main names"},
	{"a claim at the end", true, func(w *check.World) { w.Index.Tags[tagMain].Claim = running.ID + "-1" }, "I6: demo/hello:main is claimed by"},
	{"what another CI pushed is moved, and nobody says so", false, func(w *check.World) { pushedBy(w); w.Tags[repository]["v1.0.0"] = other }, "and no drift was told"},
	{"another drift than the one that was told", false, func(w *check.World) {
		pushedBy(w)
		w.Tags[repository]["v1.0.0"] = other
		drift(w, "v1.0.0", digest("something else"))
	}, "and no drift was told"},
	// I7
	{"two open releases of a request", false, func(w *check.World) {
		w.Index.Releases = append(w.Index.Releases, release(running, 2, check.Admitted, 0, took("x", "other", 0)))
	}, "I7: releases " + running.ID + "-1 and " + running.ID + "-2 of one request are both open"},
	{"a release twice", false, func(w *check.World) { w.Index.Releases = append(w.Index.Releases, w.Index.Releases[relOne]) }, "I7: release " + first.ID + "-1 stands twice"},
	{"an open release at the end", true, func(w *check.World) {
		w.Index.Releases = append(w.Index.Releases, release(request("refs/heads/x", "x", 9), 1, check.Admitted, 0))
	}, "is open still"},
	{"a release of another request", false, func(w *check.World) { w.Index.Releases[relOne].ID = "x-1" }, "I7: release x-1 is of request"},
	{"a request with another ID", false, func(w *check.World) { w.Index.Releases[relOne].Request.Commit = commit("six") }, "I7: request " + first.ID},
	{"a release in no state", false, func(w *check.World) { w.Index.Releases[relOpen].State = "odd" }, `is "odd"`},
}

// pushedBy makes v1.0.0 one that another CI has pushed, by a command.
func pushedBy(w *check.World) { w.Index.Releases[relTag].Pushed = true }

func drift(w *check.World, tag, found string) {
	w.Events = append(w.Events, check.Event{StreamSeq: 99, What: "drift", Image: image, ID: digest(tag + found)[7:39],
		Drift: check.Drift{Image: image, Repository: repository, Tag: tag, Wanted: w.Index.Releases[relTag].Root.Digest, Found: found}})
}

func millis(r check.Request) string { return strings.TrimPrefix(eventID(r), r.ID+"-") }

func setAskedAt(w *check.World, id string, at time.Time) {
	s := w.States[id]
	s.AskedAt = at
	w.States[id] = s
}

func setRelease(w *check.World, id, release string) {
	s := w.States[id]
	s.Release = release
	w.States[id] = s
}

func setPublished(w *check.World, id, release string) {
	s := w.States[id]
	s.State, s.Release = check.Published, release
	w.States[id] = s
}

// moveVersion publishes v1.0.0 again, of another commit, for a later ask than that which was a conflict.
func moveVersion(w *check.World, force bool) {
	r := moved
	r.AskedAt = r.AskedAt.Add(time.Minute)
	if r.Force = force; force {
		r.Reason = "it was broken"
	}
	again := release(r, 1, check.Published, 8, took("v1.0.0", "version", 2))
	again.Tags[0].Previous = w.Index.Releases[relTag].Root.Digest
	w.Index.Releases = append(w.Index.Releases, again)
	w.Index.Tags[tagVersion].Holder, w.Index.Tags[tagVersion].Generation = again.ID, 2
	w.Tags[repository]["v1.0.0"] = again.Root.Digest
	w.Index.Records[3] = records(again)[0]
}

// expireVersion removes v1.0.0 without force, as the time of that release was over.
func expireVersion(w *check.World, of int) {
	before := w.Index.Releases[relTag]
	r := release(request("refs/tags/none", "none", 9), 1, check.Published, 8, took("v1.0.0", "version", 1))
	r.Tags[0].Previous = before.Root.Digest
	r.Root, r.Platforms = check.Descriptor{}, nil
	r.Command, r.Removes = "expire", w.Index.Releases[of].ID
	r.Request.ID = strings.Repeat("e", 32)
	r.ID = r.Request.ID + "-1"
	w.Index.Releases = append(w.Index.Releases, r)
	w.Index.Tags[tagVersion].Holder = r.ID
	delete(w.Tags[repository], "v1.0.0")
	w.Index.Records = slices.DeleteFunc(w.Index.Records, func(rec kit.Record) bool { return rec.Tag == "v1.0.0" })
}

// removing is expireVersion before its end: the tag is claimed, and may be there still.
func removing(w *check.World) {
	before, holder, records := w.Tags[repository]["v1.0.0"], w.Index.Tags[tagVersion].Holder, slices.Clone(w.Index.Records)
	expireVersion(w, relTag)
	last := &w.Index.Releases[len(w.Index.Releases)-1]
	last.State, last.Seq, last.PublishedAt, last.Tags[0].Generation, last.Tags[0].Previous = check.Admitted, 0, time.Time{}, 0, ""
	w.Index.Tags[tagVersion].Holder, w.Index.Tags[tagVersion].Claim = holder, last.ID
	w.Tags[repository]["v1.0.0"], w.Index.Records = before, records
}

// untag removes latest, by a release without root.
func untag(w *check.World) {
	r := release(request("refs/tags/none", "none", 9), 1, check.Published, 7, took("latest", "series", 2))
	r.Tags[0].Previous = w.Index.Releases[relTag].Root.Digest
	r.Root, r.Platforms = check.Descriptor{}, nil
	w.Index.Releases = append(w.Index.Releases, r)
	w.Index.Told = 7
	w.Events = append(w.Events, check.Event{StreamSeq: 99, What: "deleted", Image: image, ID: r.ID, Source: "urn:imgd:" + indexID})
	forget(w, "latest")
	w.Index.Tags[tagLatest].Holder, w.Index.Tags[tagLatest].Generation = "", 2
}

// forget removes what the registry and the records say of the tag.
func forget(w *check.World, tag string) {
	delete(w.Tags[repository], tag)
	w.Index.Records = slices.DeleteFunc(w.Index.Records, func(r kit.Record) bool { return r.Tag == tag })
}

// end makes the state another end, without an event.
func end(w *check.World, r check.Request, state string) {
	setState(w, r, state, "")
	w.Events = slices.DeleteFunc(w.Events, func(e check.Event) bool { return e.ID == eventID(r) })
}

// endTold makes the state another end, with its event.
func endTold(w *check.World, r check.Request, state string) {
	end(w, r, state)
	w.Events = append(w.Events, check.Event{StreamSeq: 99, What: state, Image: image, ID: eventID(r), Source: "urn:imgd:" + indexID, End: w.States[r.ID]})
}

// tell changes the records of the tag, and so what was told of them.
func tell(w *check.World, event int, tag string, change func(*kit.Record)) {
	for _, records := range [][]kit.Record{w.Index.Records, w.Events[event].Records} {
		for i := range records {
			if records[i].Tag == tag {
				change(&records[i])
			}
		}
	}
}

// abandonedRoot leaves main at the root of a release that was abandoned.
func abandonedRoot(w *check.World, claimed bool) {
	tag := took("main", "branch", 0)
	if !claimed {
		tag.Reason = "stands for another"
	}
	r := release(late, 1, check.Abandoned, 0, tag)
	w.Index.Releases = append(w.Index.Releases, r)
	w.Tags[repository]["main"] = r.Root.Digest
}

func TestEachLieIsFound(t *testing.T) {
	for _, test := range doctored {
		w := good()
		if test.ended {
			endRunning(w)
		}
		test.forge(w)
		wrong := w.Violations(check.Expectation{Asked: asked(), Ended: test.ended})
		if !strings.Contains(strings.Join(wrong, "\n"), test.want) {
			t.Errorf("%s: got %q, want %q in it", test.name, wrong, test.want)
		}
	}
}

// What may be for a while is not wrong while imgd works on it.
func TestWhatMayBe(t *testing.T) {
	for _, test := range []struct {
		name  string
		forge func(*check.World)
	}{
		{"published, and neither announced nor settled in the queue", func(w *check.World) {
			endRunning(w)
			w.Queue, w.Events, w.Index.Told = good().Queue, w.Events[:len(w.Events)-1], 6
			setState(w, running, "publishing", "")
		}},
		{"ended, and not acknowledged yet", func(w *check.World) { endRunning(w); w.Queue = good().Queue }},
		{"a tag that was removed", func(w *check.World) { untag(w) }},
		{"a mark that was not lowered", func(w *check.World) { w.Index.Tags[tagLatest].Mark.Version = "v1.1.0" }},
		{"an ask that somebody has cancelled", func(w *check.World) { end(w, broken, check.Cancelled) }},
		{"an ask for what is published", func(w *check.World) {
			setAskedAt(w, first.ID, first.AskedAt.Add(time.Minute))
			s := w.States[first.ID]
			s.State = check.Unchanged
			w.States[first.ID] = s
		}},
		{"a record that expires", func(w *check.World) { w.Index.Records[0].ExpiresAt = monday }},
		{"a forced tag", func(w *check.World) { moveVersion(w, true) }},
		{"an immutable tag that has expired", func(w *check.World) { expireVersion(w, relTag) }},
		{"a tag that is being removed", func(w *check.World) { removing(w); delete(w.Tags[repository], "v1.0.0") }},
		{"a tag that is to be removed", func(w *check.World) { removing(w) }},
		{"a lost root", func(w *check.World) { moveVersion(w, false); w.Gone[w.Index.Releases[relTag].Root.Digest] = true }},
		{"what another CI pushed is moved, and drift was told", func(w *check.World) {
			pushedBy(w)
			w.Tags[repository]["v1.0.0"] = other
			drift(w, "v1.0.0", other)
		}},
		{"it is removed, and drift was told", func(w *check.World) {
			pushedBy(w)
			delete(w.Tags[repository], "v1.0.0")
			drift(w, "v1.0.0", "")
		}},
		{"nobody has read it", func(w *check.World) {
			pushedBy(w)
			w.Index.Releases[relTag].Root.MediaType = ""
			delete(w.Tags[repository], "v1.0.0")
		}},
		{"what refers to an image", func(w *check.World) { w.Tags[repository]["sha256-"+strings.Repeat("a1", 32)] = other }},
		{"a command's request", func(w *check.World) {
			pushedBy(w)
			w.Index.Releases[relTag].Request.Project = ""
		}},
		{"an abandoned release whose claim another has now", func(w *check.World) { abandonedRoot(w, true) }},
		{"an abandoned release whose request comes again", func(w *check.World) {
			w.Index.Tags[tagMain].Claim = ""
			w.Queue = append(w.Queue, check.Queued{Request: late.ID})
			abandonedRoot(w, true)
		}},
		{"a lost claim of a release that is open", func(w *check.World) {
			w.Index.Tags[tagMain].Claim = ""
			w.Index.Releases[relOpen].Tags[1].Reason = "lost to release " + second.ID + "-1"
			w.Tags[repository]["main"] = w.Index.Releases[relOpen].Root.Digest
		}},
		{"asked again after its end", func(w *check.World) {
			w.Queue = append(w.Queue, check.Queued{Request: moved.ID})
			setAskedAt(w, moved.ID, moved.AskedAt.Add(time.Minute))
			s := w.States[moved.ID]
			s.State = "queued"
			w.States[moved.ID] = s
		}},
		{"a message without commit, and its state under the ID of the one that was found", func(w *check.World) {
			w.Queue[0].Request, w.Queue[0].Commit = "x", ""
		}},
	} {
		w := good()
		test.forge(w)
		all := slices.DeleteFunc(asked(), func(a check.Asked) bool { return a.Request == running.ID })
		if wrong := w.Violations(check.Expectation{Asked: all, Cancelled: []string{broken.ID}}); len(wrong) > 0 {
			t.Errorf("%s: %s", test.name, strings.Join(wrong, "\n"))
		}
	}
}
