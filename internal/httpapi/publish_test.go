package httpapi_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgd/imgd/internal/httpapi"
)

const linter = "tools/lint"

// push is another CI's: an image with one platform a letter.
func (w *world) push(repository, tag, letters string) (root digest.Digest) {
	var platforms []ocispec.Descriptor
	for i, letter := range strings.Split(letters, "") {
		platforms = append(platforms, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString(letter), Size: 479,
			Platform: &ocispec.Platform{OS: "linux", Architecture: []string{"amd64", "arm64"}[i]}})
	}
	root = digest.FromString(letters)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.pushed == nil {
		w.pushed = map[digest.Digest][]ocispec.Descriptor{}
	}
	w.pushed[root], w.served[repository+":"+tag] = platforms, root
	return root
}

// record posts the body with the digest and the source.
func (w *world) record(path string, d digest.Digest, more string) answer {
	w.t.Helper()
	return w.do(http.MethodPost, path, fmt.Sprintf(`{"digest":%q,"source":"https://git.test/lint@%s"%s}`, d, commit("a"), more))
}

func TestPublish(t *testing.T) {
	w := newWorld(t)
	const path = "/v1/images/tools/lint/tags/v1.0.0"
	root := w.push("registry.test/tools/lint", "v1.0.0", "AB")
	arm := digest.FromString("B")
	more := `,"labels":{"env":"prod"},"ttl":"7d","platform":"linux/arm64"`
	for _, want := range []struct {
		status  int
		outcome string
	}{{http.StatusCreated, httpapi.OutcomeNew}, {http.StatusOK, httpapi.OutcomeSame}} {
		got := w.record(path, arm, more)
		var r httpapi.Recorded
		if err := json.Unmarshal([]byte(got.body), &r); err != nil || got.status != want.status || r.Outcome != want.outcome {
			t.Fatalf("got %d %s, want %d %s", got.status, got.body, want.status, want.outcome)
		}
		if r.Image != linter || r.Tag != "v1.0.0" || r.Digest != arm || r.Platform != "linux/arm64" || r.IndexDigest != root || r.Version != "v1.0.0" ||
			r.Labels["env"] != "prod" || !r.ExpiresAt.Equal(epoch.Add(7*24*time.Hour)) || len(r.Records) != 2 || r.Seq != 2 || r.Repositories[0] != "registry.test/tools/lint" {
			t.Errorf("got %+v", r)
		}
	}
	if !strings.Contains(w.get(path).body, root.String()) {
		t.Error("the tag is not there")
	}
	other := w.push("registry.test/tools/lint", "v1.0.0", "C")
	conflict := w.record(path, other, "")
	var p httpapi.Problem
	if err := json.Unmarshal([]byte(conflict.body), &p); err != nil || conflict.status != http.StatusConflict || p.Code != httpapi.CodeConflict ||
		p.Wanted != other || p.Found != root || !strings.Contains(p.Detail, other.String()) || !strings.Contains(p.Detail, root.String()) {
		t.Errorf("got %d %s", conflict.status, conflict.body)
	}
	if len(w.drifts) != 1 || w.drifts[0].Found != other || w.drifts[0].Generation != 1 {
		t.Errorf("drifts %+v", w.drifts)
	}
	differs := w.record(path, arm, "")
	if err := json.Unmarshal([]byte(differs.body), &p); err != nil || differs.status != http.StatusConflict || p.Code != httpapi.CodeDiffers || p.Wanted != arm || p.Found != other {
		t.Errorf("got %d %s", differs.status, differs.body)
	}
	if forced := w.record(path, other, `,"force":true,"reason":"the first was wrong"`); forced.status != http.StatusCreated || !strings.Contains(forced.body, `"generation":2`) {
		t.Errorf("got %d %s", forced.status, forced.body)
	}
	w.check(w.record("/v1/images/tools/lint/tags/stable", other, `,"moving":true,"noVerify":true,"registry":"registry.test"`), http.StatusCreated, `"mediaType":"","size":0`)
	if got := w.do(http.MethodPost, "/v1/images/tools/lint/tags/stable/verify", ""); got.status != http.StatusConflict { // it was never pushed
		t.Errorf("got %d %s", got.status, got.body)
	}
}

func (w *world) check(got answer, status int, words ...string) {
	w.t.Helper()
	for _, word := range words {
		if got.status != status || !strings.Contains(got.body, word) {
			w.t.Errorf("got %d %s, want %d %q", got.status, got.body, status, word)
		}
	}
}

func TestPublishRefuses(t *testing.T) {
	w := newWorld(t)
	const path = "/v1/images/tools/lint/tags/v1.0.0"
	d := w.push("registry.test/tools/lint", "v1.0.0", "A")
	for name, test := range map[string]struct {
		path, more string
		status     int
		want       string
	}{
		"unknown field": {path, `,"movng":true`, 400, "movng"},
		"ttl":           {path, `,"ttl":"soon"`, 400, "soon"},
		"ttl of days":   {path, `,"ttl":"-1d"`, 400, "-1d"},
		"ttl of ages":   {path, `,"ttl":"99999d"`, 400, "99999d"},
		"no ttl":        {path, `,"ttl":"0s"`, 400, "0s"},
		"force":         {path, `,"force":true`, 400, "reason"},
		"platform":      {path, `,"platform":"linux/arm64"`, 409, `"differs"`},
		"image":         {"/v1/images/Tools/tags/v1.0.0", "", 400, "lower case"},
		"not pushed":    {"/v1/images/tools/lint/tags/v1.0.1", "", 404, "push it first"},
		"registry":      {"/v1/images/demo/hello/tags/v9", `,"registry":"strange.test"`, 400, repo},
		"parameter":     {path + "?force=1", "", 400, "force"},
		"no tag":        {"/v1/images/tools/lint", "", 405, "/verify"},
		"history":       {path + "/history", "", 405, "/verify"},
	} {
		t.Run(name, func(t *testing.T) {
			w.check(w.record(test.path, d, test.more), test.status, test.want)
		})
	}
	w.check(w.do(http.MethodPost, path, ""), 400, "EOF")
	w.change(func() { w.broken = errors.New("the registry is away") })
	w.check(w.record(path, d, ""), 502, "the registry is away")
	w.change(func() { w.broken = nil })
	looks := 0
	w.resolved = func(string) {
		if looks++; looks == 2 { // after it is admitted
			w.change(func() { w.broken = errors.New("the registry is away") })
		}
	}
	w.check(w.record(path, d, ""), 502, "goes on with it by itself")
	if n := len(w.index.Open()); n != 1 {
		t.Errorf("%d releases are open, want 1", n)
	}
}

// There is nothing to compare what was recorded unseen and nowhere with.
func TestVerifyNowhere(t *testing.T) {
	w := newWorld(t)
	rel := w.release("refs/tags/v1.0.0", "a", "A")
	rel.Image, rel.Repositories, rel.Pushed = linter, nil, true
	w.publish(rel)
	w.check(w.do(http.MethodPost, "/v1/images/tools/lint/tags/v1.0.0/verify", ""), 404, "recorded unseen")
}

// Of what nobody has read one digest is known, which may be that of one of its
// platforms: what the tag names is neither right nor wrong.
func TestVerifyUnread(t *testing.T) {
	w := newWorld(t)
	const path = "/v1/images/tools/lint/tags/v1.0.0"
	w.push("registry.test/tools/lint", "v1.0.0", "AB")
	if got := w.record(path, digest.FromString("B"), `,"noVerify":true,"registry":"registry.test"`); got.status != http.StatusCreated {
		t.Fatalf("got %d %s", got.status, got.body)
	}
	checkProblem(t, w.do(http.MethodPost, path+"/verify", ""), 409, "differs", "nobody has read")
	if len(w.drifts) > 0 {
		t.Errorf("drifts %+v", w.drifts)
	}
}
