package check_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"github.com/imgd/imgd/integration/check"
	"github.com/imgd/imgd/integration/kit"
)

const (
	image      = "demo/hello"
	repository = "registry.example/demo/hello"
	indexID    = "0123456789abcdef0123456789abcdef"
)

var monday = time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)

func sha(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

func digest(text string) string { return "sha256:" + sha(text) }

func commit(name string) string { return sha(name)[:40] }

// request is one without args, platforms, target and nonce.
func request(ref, of string, asked int) check.Request {
	r := check.Request{Project: "hello", Ref: ref, Commit: commit(of), AskedAt: monday.Add(time.Duration(asked) * time.Second), Version: "v0.0.0-" + of}
	r.ID = sha(fmt.Sprintf(`["hello",%q,%q,[],{},"",""]`, ref, r.Commit))[:32]
	return r
}

// release is number n of the request, and has the tags.
func release(r check.Request, n int, state string, seq uint64, tags ...check.ReleaseTag) check.Release {
	rel := check.Release{ID: fmt.Sprintf("%s-%d", r.ID, n), Image: image, Repositories: []string{repository}, State: state, Request: r, Tags: tags,
		Source: "https://git.example/demo/hello", Labels: map[string]string{"env": "test"}}
	rel.Root = check.Descriptor{MediaType: "application/vnd.oci.image.manifest.v1+json", Digest: digest(r.ID + fmt.Sprint(n)), Size: 479}
	manifest := rel.Root
	manifest.Platform.OS, manifest.Platform.Architecture = "linux", "amd64"
	rel.Platforms = []check.Descriptor{manifest}
	if state == check.Published {
		rel.Seq, rel.PublishedAt = seq, monday.Add(time.Duration(seq)*time.Minute)
	}
	return rel
}

func took(tag, kind string, generation uint64) check.ReleaseTag {
	return check.ReleaseTag{Tag: tag, Kind: kind, Generation: generation}
}

// The requests of the good world.
var (
	first    = request("refs/heads/main", "one", 1)
	second   = request("refs/heads/main", "two", 2)
	tagged   = request("refs/tags/v1.0.0", "one", 3)
	moved    = request("refs/tags/v1.0.0", "two", 4) // a conflict
	broken   = request("refs/heads/broken", "three", 5)
	late     = request("refs/heads/main", "zero", 6) // superseded
	hopeless = request("refs/heads/main", "dead", 7)
	running  = request("refs/heads/main", "four", 8)
)

// good is a world in which all holds, with something of each kind. Two commits of main, a version, every end that has an
// event, and one request that is being built.
func good() *check.World {
	tagged.Version = "v1.0.0"
	a := release(first, 1, check.Published, 2, took("aaa", "commit", 1), took("main", "branch", 1))
	b := release(second, 1, check.Published, 4, took("bbb", "commit", 1), took("main", "branch", 2))
	v := release(tagged, 1, check.Published, 6, took("v1.0.0", "version", 1), took("latest", "series", 1))
	open := release(running, 1, check.Admitted, 0, took("ddd", "commit", 0), took("main", "branch", 0))
	b.Tags[1].Previous = a.Root.Digest
	w := &check.World{
		Index: check.Index{ID: indexID, Seq: 9, Told: 6, Releases: []check.Release{a, b, v, open}},
		Roots: map[string][]string{}, Gone: map[string]bool{}, States: map[string]check.State{},
		Tags: map[string]map[string]string{repository: {"aaa": a.Root.Digest, "bbb": b.Root.Digest, "main": b.Root.Digest,
			"v1.0.0": v.Root.Digest, "latest": v.Root.Digest, "ddd": open.Root.Digest}},
		Queue: []check.Queued{{Seq: 9, Delivery: "github/9/hello", Request: running.ID, Project: "hello", Ref: running.Ref, Commit: running.Commit}},
		Dead:  []check.Letter{{Delivery: "github/7/hello", Request: hopeless.ID, Project: "hello", Reason: "tried too often"}, {Delivery: "junk", Project: "hello", Reason: "no JSON"}},
	}
	w.Index.Tags = []check.Tag{
		{Image: image, Tag: "aaa", Kind: "commit", Generation: 1, Holder: a.ID},
		{Image: image, Tag: "bbb", Kind: "commit", Generation: 1, Holder: b.ID},
		{Image: image, Tag: "ddd", Kind: "commit", Claim: open.ID},
		{Image: image, Tag: "latest", Kind: "series", Generation: 1, Holder: v.ID, Mark: check.Mark{Version: "v1.0.0", Commit: tagged.Commit, AskedAt: tagged.AskedAt}},
		{Image: image, Tag: "main", Kind: "branch", Ref: "refs/heads/main", Generation: 2, Holder: b.ID, Claim: open.ID,
			Mark: check.Mark{Version: second.Version, Commit: second.Commit, AskedAt: second.AskedAt}},
		{Image: image, Tag: "v1.0.0", Kind: "version", Generation: 1, Holder: v.ID},
	}
	for _, r := range w.Index.Releases {
		w.Roots[r.Root.Digest] = []string{r.Platforms[0].Digest}
	}
	for _, r := range []check.Release{a, b, v} {
		w.Events = append(w.Events, event(r))
		setState(w, r.Request, check.Published, r.ID)
	}
	w.Index.Records = slices.Concat(records(a)[:1], records(b), records(v)) // b has main
	for _, end := range []struct {
		r     check.Request
		state string
	}{{moved, check.Conflict}, {broken, check.Failed}, {late, check.Superseded}, {hopeless, check.Dead}} {
		setState(w, end.r, end.state, "")
		w.Events = append(w.Events, check.Event{What: end.state, Image: image, ID: eventID(end.r), Source: "urn:imgd:" + indexID, End: w.States[end.r.ID]})
	}
	setState(w, running, "publishing", "")
	for i := range w.Events {
		w.Events[i].StreamSeq = uint64(i + 1)
	}
	return w
}

func event(r check.Release) check.Event {
	return check.Event{What: check.Published, Image: r.Image, ID: r.ID, Source: "urn:imgd:" + indexID, Request: r.Request.ID, Seq: r.Seq, Root: r.Root.Digest, Records: records(r)}
}

func records(r check.Release) []kit.Record {
	var all []kit.Record
	for _, t := range r.Tags {
		all = append(all, kit.Record{Image: r.Image, Tag: t.Tag, Digest: r.Root.Digest, Platform: "linux/amd64", MediaType: r.Root.MediaType, Size: r.Root.Size,
			PublishedAt: r.PublishedAt, SourceRef: r.Source + "@" + r.Request.Commit, Version: r.Request.Version, Labels: r.Labels,
			Generation: int(t.Generation), Release: r.ID, Previous: t.Previous})
	}
	return all
}

func setState(w *check.World, r check.Request, state, release string) {
	w.States[r.ID] = check.State{Request: r.ID, Project: r.Project, Ref: r.Ref, Commit: r.Commit, State: state, Tries: 1, Release: release, AskedAt: r.AskedAt}
}

// endRunning brings the running request to its end.
func endRunning(w *check.World) {
	w.Queue, w.Index.Seq, w.Index.Told = nil, 11, 10
	r := &w.Index.Releases[3]
	r.State, r.Seq, r.PublishedAt = check.Published, 10, monday.Add(time.Hour)
	r.Tags[0].Generation, r.Tags[1].Generation, r.Tags[1].Previous = 1, 3, w.Index.Releases[1].Root.Digest
	w.Index.Tags[2].Claim, w.Index.Tags[2].Holder, w.Index.Tags[2].Generation = "", r.ID, 1
	main := &w.Index.Tags[4]
	main.Claim, main.Holder, main.Generation, main.Mark = "", r.ID, 3, check.Mark{Commit: running.Commit, AskedAt: running.AskedAt}
	w.Tags[repository]["main"] = r.Root.Digest
	w.Index.Records = slices.DeleteFunc(w.Index.Records, func(rec kit.Record) bool { return rec.Tag == "main" })
	w.Index.Records = append(w.Index.Records, records(*r)...)
	e := event(*r)
	e.StreamSeq = uint64(len(w.Events) + 1)
	w.Events = append(w.Events, e)
	setState(w, running, check.Published, r.ID)
}

func eventID(r check.Request) string { return fmt.Sprintf("%s-%d", r.ID, r.AskedAt.UnixMilli()) }
