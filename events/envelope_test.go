package events_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/package-url/packageurl-go"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/events"
	"github.com/imgd/imgd/version"
)

var update = flag.Bool("update", false, "write the golden files")

func TestEnvelope(t *testing.T) {
	subject, body, err := events.Envelope(release(1), "0123456789abcdef")
	if err != nil {
		t.Fatal(err)
	}
	if want := "imgd.events.published.ZGVtby9oZWxsbw.00000000000000000000000000000001-1"; subject != want {
		t.Errorf("got subject  %s\nwant subject %s", subject, want)
	}
	var got bytes.Buffer
	if err := json.Indent(&got, body, "", "  "); err != nil {
		t.Fatal(err)
	}
	got.WriteByte('\n')
	golden := filepath.Join("testdata", "published.json")
	if *update {
		if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
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

func TestEnvelopeWithoutRoot(t *testing.T) {
	rel := release(1)
	rel.Root.Digest = ""
	if _, _, err := events.Envelope(rel, "id"); err == nil {
		t.Error("no error")
	}
}
