package events_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/package-url/packageurl-go"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/events"
	"github.com/imgd/imgd/version"
)

var update = flag.Bool("update", false, "write the golden files")

const indexID = "0123456789abcdef"

// untag is a release that removes tags.
func untag() imgd.Release {
	rel := release(7)
	rel.Root, rel.Platforms = ocispec.Descriptor{}, nil
	rel.Request.Ref, rel.Request.Commit, rel.Request.Version, rel.Request.Describe = "", "", "", ""
	rel.Request.Reason = "CVE-2026-4242 & others, fixed in v1.2.1"
	sum := func(c string) digest.Digest { return digest.Digest("sha256:" + strings.Repeat(c, 64)) }
	rel.Tags = []imgd.ReleaseTag{
		{Name: "latest", Kind: version.KindSeries, Generation: 4, Previous: sum("c")},
		{Name: "main", Kind: version.KindBranch, Reason: "not there"},
		{Name: "v1.2.0", Kind: version.KindVersion, Generation: 2, Previous: sum("f")},
	}
	return rel
}

// end is the state of a request that has ended so.
func end(state imgd.State) imgd.Status {
	asked := time.Date(2026, 11, 21, 9, 59, 0, 123000000, time.UTC)
	st := imgd.Status{Request: strings.Repeat("ab", 16), Project: "hello", Ref: "refs/heads/main", Commit: commit, State: state, Tries: 1,
		AskedAt: asked, StartedAt: asked.Add(time.Second), EndedAt: asked.Add(time.Minute), By: "ann"}
	switch state {
	case imgd.Failed:
		st.Error = &imgd.StatusError{Kind: "build", Message: "build Dockerfile:7: process \"/bin/sh -c go build ./...\" did not complete successfully: exit code: 1",
			File: "Dockerfile", Line: 7, ExitCode: 1}
		st.Reason, st.Rebuild, st.Nonce, st.Target = "a base image with a fix", true, "github/7c3f/hello", "server"
		st.Args, st.Platforms = map[string]string{"TAGS": "netgo", "CGO_ENABLED": "0"}, []string{"linux/arm64", "linux/amd64"}
	case imgd.Conflicted:
		st.Ref = "refs/tags/v1.2.0"
		st.Error = &imgd.StatusError{Kind: "conflict", Message: "admit: v1.2.0: names sha256:ffff of release 0001-1: conflict"}
	case imgd.Superseded:
		st.Release = st.Request + "-1"
		st.Error = &imgd.StatusError{Kind: "superseded", Message: "main: commit 0123456789ab is newer: superseded"}
	case imgd.Dead:
		st.Tries, st.EndedAt = 27, asked.Add(6*time.Hour)
		st.Reason, st.Force = "the pushed image was broken", true
		st.Error = &imgd.StatusError{Kind: "error", Message: "read app from registry.example.com: 500 Internal Server Error"}
	}
	return st
}

func drift() imgd.Drift {
	return imgd.Drift{Kind: imgd.DriftMoved, Image: "demo/hello", Repository: "registry.example.com:5000/demo/hello", Tag: "latest",
		Wanted: digest.Digest("sha256:" + strings.Repeat("f", 64)), Found: digest.Digest("sha256:" + strings.Repeat("e", 64)), Generation: 3}
}

// Of every kind of event: its subject, and its bytes as docs/events.md and the
// schemas have them.
func TestEnvelope(t *testing.T) {
	seen := time.Date(2026, 11, 21, 12, 0, 0, 5000000, time.UTC)
	tests := []struct {
		what    string
		subject string // without imgd.events.<what>
		write   func() (string, []byte, error)
	}{
		{"published", "ZGVtby9oZWxsbw.00000000000000000000000000000001-1", func() (string, []byte, error) { return events.Envelope(release(1), indexID) }},
		{"deleted", "ZGVtby9oZWxsbw.00000000000000000000000000000007-1", func() (string, []byte, error) { return events.Envelope(untag(), indexID) }},
		{"failed", "ZGVtby9oZWxsbw.abababababababababababababababab-1795255140123", func() (string, []byte, error) { return events.EndEnvelope(end(imgd.Failed), "demo/hello", indexID) }},
		{"conflict", "ZGVtby9oZWxsbw.abababababababababababababababab-1795255140123", func() (string, []byte, error) {
			return events.EndEnvelope(end(imgd.Conflicted), "demo/hello", indexID)
		}},
		{"superseded", "ZGVtby9oZWxsbw.abababababababababababababababab-1795255140123", func() (string, []byte, error) {
			return events.EndEnvelope(end(imgd.Superseded), "demo/hello", indexID)
		}},
		{"dead", "_.abababababababababababababababab-1795255140123", func() (string, []byte, error) { return events.EndEnvelope(end(imgd.Dead), "", indexID) }},
		{"drift", "ZGVtby9oZWxsbw." + driftID(`["demo/hello","latest","sha256:`+strings.Repeat("f", 64)+`","sha256:`+strings.Repeat("e", 64)+`",3]`),
			func() (string, []byte, error) { return events.DriftEnvelope(drift(), seen, indexID) }},
	}
	if len(tests) != len(events.Types()) {
		t.Errorf("%d kinds of %d are tested", len(tests), len(events.Types()))
	}
	for _, test := range tests {
		t.Run(test.what, func(t *testing.T) {
			subject, body, err := test.write()
			if err != nil {
				t.Fatal(err)
			}
			if want := "imgd.events." + test.what + "." + test.subject; subject != want {
				t.Errorf("got subject  %s\nwant subject %s", subject, want)
			}
			golden(t, test.what, body)
			var e struct{ ID, Type string }
			if err := json.Unmarshal(body, &e); err != nil || !strings.HasSuffix(subject, "."+e.ID) || e.Type != events.Types()[test.what] {
				t.Errorf("on %s: error %v, ID %s, type %s; want type %s", subject, err, e.ID, e.Type, events.Types()[test.what])
			}
			if _, again, _ := test.write(); !bytes.Equal(again, body) {
				t.Errorf("got  %s\nthen %s", body, again)
			}
		})
	}
}

// driftID is a drift's as FORMATS.md has it.
func driftID(array string) string {
	sum := sha256.Sum256([]byte(array))
	return hex.EncodeToString(sum[:])[:32]
}

// golden compares the event with testdata/<what>.json, which is indented.
func golden(t *testing.T, what string, body []byte) {
	t.Helper()
	var got bytes.Buffer
	if err := json.Indent(&got, body, "", "  "); err != nil {
		t.Fatal(err)
	}
	got.WriteByte('\n')
	name := filepath.Join("testdata", what+".json")
	if *update {
		if err := os.WriteFile(name, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("got %s\nwant %s", got.Bytes(), want)
	}
}

// The bytes are the same after the release was written to the index and read
// again, in whatever time zone.
func TestEnvelopeSameBytes(t *testing.T) {
	rel := release(1)
	_, want, err := events.Envelope(rel, "id")
	if err != nil {
		t.Fatal(err)
	}
	rel.PublishedAt = rel.PublishedAt.In(time.FixedZone("CET", 3600))
	stored, err := json.Marshal(rel)
	if err != nil {
		t.Fatal(err)
	}
	var read imgd.Release
	if err := json.Unmarshal(stored, &read); err != nil {
		t.Fatal(err)
	}
	for name, rel := range map[string]imgd.Release{"read again": read, "other zone": rel} {
		if _, got, err := events.Envelope(rel, "id"); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: error %v, got %s", name, err, got)
		}
	}
}

// The same for the state of an end, which the stream keeps.
func TestEndEnvelopeSameBytes(t *testing.T) {
	st := end(imgd.Failed)
	_, want, err := events.EndEnvelope(st, "demo/hello", "id")
	if err != nil {
		t.Fatal(err)
	}
	cet := time.FixedZone("CET", 3600)
	st.AskedAt, st.StartedAt, st.EndedAt = st.AskedAt.In(cet), st.StartedAt.In(cet), st.EndedAt.In(cet)
	stored, err := json.Marshal(st)
	if err != nil {
		t.Fatal(err)
	}
	var read imgd.Status
	if err := json.Unmarshal(stored, &read); err != nil {
		t.Fatal(err)
	}
	for name, st := range map[string]imgd.Status{"read again": read, "other zone": st} {
		if _, got, err := events.EndEnvelope(st, "demo/hello", "id"); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: error %v, got %s", name, err, got)
		}
	}
	st.AskedAt = st.AskedAt.Add(time.Millisecond)
	a, _, _ := events.EndEnvelope(read, "demo/hello", "id")
	if b, _, err := events.EndEnvelope(st, "demo/hello", "id"); err != nil || a == b {
		t.Errorf("error %v: asked again, it ends in the same event %s", err, b)
	}
}

// What is no end that is told, or names nothing, is no event.
func TestEnvelopeRefuses(t *testing.T) {
	running, nameless, early := end(imgd.Failed), end(imgd.Failed), end(imgd.Failed)
	running.State, nameless.Request, early.EndedAt = imgd.Building, "", time.Time{}
	for _, st := range []imgd.Status{end(imgd.Published), end(imgd.Unchanged), end(imgd.Cancelled), end(""), running, nameless, early} {
		if subject, _, err := events.EndEnvelope(st, "demo/hello", "id"); err == nil {
			t.Errorf("%s of %s is told on %s", st.State, st.Request, subject)
		}
	}
	noImage, noTag, rel := drift(), drift(), release(1)
	noImage.Image, noTag.Tag, rel.Image = "", "", ""
	for _, d := range []imgd.Drift{noImage, noTag} {
		if subject, _, err := events.DriftEnvelope(d, time.Now(), "id"); err == nil {
			t.Errorf("%+v is told on %s", d, subject)
		}
	}
	if subject, _, err := events.Envelope(rel, "id"); err == nil {
		t.Errorf("a release without image is told on %s", subject)
	}
}

// Another drift has another ID, the same one seen later or elsewhere has not.
func TestDriftID(t *testing.T) {
	id := func(change func(*imgd.Drift), at time.Time) string {
		d := drift()
		change(&d)
		subject, _, err := events.DriftEnvelope(d, at, "id")
		if err != nil {
			t.Fatal(err)
		}
		return subject[strings.LastIndexByte(subject, '.')+1:]
	}
	now := time.Now()
	first := id(func(*imgd.Drift) {}, now)
	for what, change := range map[string]func(*imgd.Drift){
		"image": func(d *imgd.Drift) { d.Image = "demo/other" }, "tag": func(d *imgd.Drift) { d.Tag = "v1" },
		"wanted": func(d *imgd.Drift) { d.Wanted = "" }, "found": func(d *imgd.Drift) { d.Found = "" },
		"generation": func(d *imgd.Drift) { d.Generation = 4 },
	} {
		if id(change, now) == first {
			t.Errorf("another %s, the same ID %s", what, first)
		}
	}
	if got := id(func(d *imgd.Drift) { d.Repository = "elsewhere" }, now.Add(time.Hour)); got != first {
		t.Errorf("the same drift has ID %s, then %s", first, got)
	}
}

func TestEnvelopePURL(t *testing.T) {
	tags := func(tt ...imgd.ReleaseTag) []imgd.ReleaseTag { return tt }
	tests := []struct {
		name, image  string
		repositories []string
		tags         []imgd.ReleaseTag
		wantName     string
		wantTag      string
	}{
		{"version tag", "demo/hello", []string{"r:5000/demo/hello"}, tags(imgd.ReleaseTag{Name: "latest", Kind: version.KindSeries}, imgd.ReleaseTag{Name: "v1", Kind: version.KindVersion}), "hello", "v1"},
		{"first taken", "a/b/c", []string{"r/c"}, tags(imgd.ReleaseTag{Name: "v1", Kind: version.KindVersion, Reason: "held"}, imgd.ReleaseTag{Name: "main", Kind: version.KindBranch}), "c", "main"},
		{"no tag, no repository", "c", nil, nil, "c", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			rel := release(1)
			rel.Image, rel.Repositories, rel.Tags = test.image, test.repositories, test.tags
			_, body, err := events.Envelope(rel, "id")
			if err != nil {
				t.Fatal(err)
			}
			var e struct {
				Subject string `json:"subject"`
			}
			if err := json.Unmarshal(body, &e); err != nil {
				t.Fatal(err)
			}
			digest := rel.Root.Digest.String()
			if want := "pkg:oci/" + test.wantName + "@sha256%3A" + strings.TrimPrefix(digest, "sha256:"); !strings.HasPrefix(e.Subject, want) {
				t.Errorf("got %s, want it to start with %s", e.Subject, want)
			}
			p, err := packageurl.FromString(e.Subject)
			if err != nil {
				t.Fatal(err)
			}
			q := p.Qualifiers.Map()
			repository := strings.Join(test.repositories, "")
			if p.Type != "oci" || p.Namespace != "" || p.Name != test.wantName || p.Version != digest || q["tag"] != test.wantTag || q["repository_url"] != repository {
				t.Errorf("%s reads as %+v", e.Subject, p)
			}
		})
	}
}

// The event of an untag says which image the tag named, as far as that is known:
// the relay cannot wait until it is.
func TestEnvelopeOfAnUntag(t *testing.T) {
	rel := untag()
	rel.Tags = rel.Tags[:1]
	for _, previous := range []digest.Digest{rel.Tags[0].Previous, ""} {
		rel.Tags[0].Previous = previous
		_, body, err := events.Envelope(rel, "id")
		if err != nil {
			t.Fatal(err)
		}
		var e struct{ Subject string }
		if err := json.Unmarshal(body, &e); err != nil {
			t.Fatal(err)
		}
		p, err := packageurl.FromString(e.Subject)
		if err != nil || p.Version != previous.String() || p.Name != "hello" || p.Qualifiers.Map()["tag"] != "latest" {
			t.Errorf("%s reads as %+v, error %v; want version %q", e.Subject, p, err, previous)
		}
	}
}
