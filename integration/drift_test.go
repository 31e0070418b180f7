package integration_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/imgd/imgd/integration/kit"
)

// A finding is one tag of what `imgctl drift -o json` shows.
type finding struct{ Tag, Kind, Wanted, Found, Repair, Why, Since string }

// drift runs imgctl drift, which must end with that code, and answers what it shows, by tag.
func (c otherCI) drift(code int, args ...string) map[string]finding {
	c.Helper()
	imgctl, err := kit.Bin("imgctl")
	c.must(err)
	got := c.run(exec.CommandContext(c.Context(), imgctl, append([]string{"drift", "-o", "json"}, args...)...))
	var found struct{ Items []finding }
	if got.code != code || json.Unmarshal([]byte(got.stdout), &found) != nil {
		c.Fatalf("imgctl drift %s exits with %d, want %d\n%s%s", args, got.code, code, got.stdout, got.stderr)
	}
	all := map[string]finding{}
	for _, f := range found.Items {
		all[f.Tag] = f
	}
	return all
}

// mustFind holds that these tags differ, each so.
func (c otherCI) mustFind(found map[string]finding, want map[string]string) {
	c.Helper()
	got := map[string]string{}
	for tag, f := range found {
		got[tag] = strings.TrimSpace(f.Kind + " " + f.Repair)
	}
	if !maps.Equal(got, want) {
		c.Errorf("got %v\nwant %v; all: %+v", got, want, found)
	}
}

// lose removes the blob's bytes from the storage of the test's registries.
func (r *rig) lose(digest string) {
	r.Helper()
	hex := strings.TrimPrefix(digest, "sha256:")
	files, err := filepath.Glob(filepath.Join(filepath.Dir(r.dir), "*/docker/registry/v2/blobs/sha256", hex[:2], hex, "data"))
	r.must(err)
	if len(files) == 0 {
		r.Fatalf("no registry under %s has %s", filepath.Dir(r.dir), digest)
	}
	for _, file := range files {
		r.must(os.Remove(file))
	}
}

// A registry that other hands write to, and that loses a blob: each way to differ is shown, told and counted, what imgd has made
// is put back when it is told to, also after a kill in the middle, and the rest when it is built anew.
func TestDrift(t *testing.T) {
	t.Parallel()
	r := bareRig(t, sharedBuildkitd(t))
	r.site.repo = r.addProject("hello", image, scratchFiles(t.Name()))
	r.config.Audit = &kit.AuditConfig{Every: "0s", Rate: 200}
	r.watch()
	r.start()
	ci := otherCI{r}
	version := r.build(gitTag)
	r.commit("the next", scratchFiles("the next"))
	branch := r.build("main")
	if found := ci.drift(0, "--now"); len(found) > 0 {
		t.Fatalf("nothing was touched, and it finds %v", found)
	}

	ci.push(image, "latest")
	ci.pushList(image, "1")
	ci.push(image, "stray")
	r.must(remote.Delete(ci.tag(image, "1.2"), remote.WithContext(t.Context())))
	img, err := remote.Image(ci.tag(image, "main"), remote.WithContext(t.Context()))
	r.must(err)
	layers, err := img.Layers()
	r.must(err)
	layer, err := layers[len(layers)-1].Digest()
	r.must(err)
	r.lose(layer.String())
	want := map[string]string{"latest": "moved", "1": "became-index", "stray": "unknown-tag", "1.2": "missing"}
	for _, rec := range branch {
		want[rec.Tag] = "blob-missing"
	}
	ci.mustFind(ci.drift(3, "--now"), want)
	ci.mustFind(ci.drift(3), want)
	told := map[string]string{}
	for _, m := range r.drifted() {
		var event struct {
			Data struct{ Tag, Kind string }
		}
		r.must(json.Unmarshal(m.Data, &event))
		told[event.Data.Tag] = event.Data.Kind
	}
	if !maps.Equal(told, want) {
		t.Errorf("told %v, want %v", told, want)
	}
	mustBeDocumented(t, r.drifted())
	scrape, err := kit.Get(t.Context(), r.daemon.HTTP+"/metrics")
	r.must(err)
	for _, line := range []string{`imgd_drift_tags{kind="moved"} 1`, fmt.Sprintf(`imgd_drift_tags{kind="blob-missing"} %d`, len(branch)), `imgd_audits_total{result="complete"} 2`} {
		if !strings.Contains(string(scrape), "\n"+line+"\n") {
			t.Errorf("/metrics has no %s", line)
		}
	}

	// The registry is away: that is no drift.
	r.must(r.calls.Down())
	for tag, f := range ci.drift(1, image, "--now") {
		if f.Kind != "unreachable" {
			t.Errorf("the registry is away, and %q is %s", tag, f.Kind)
		}
	}
	r.must(r.calls.Up())

	// Killed while it writes a tag, and again.
	hold := r.calls.Arm(kit.Before, about(http.MethodPut, "latest"))
	repairing, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	go func() {
		_, err := r.daemon.Imgctl(repairing, "drift", "--repair")
		ended <- err
	}()
	r.waitHeld(hold)
	r.daemon.Kill9()
	hold.Drop()
	r.must(remote.Delete(ci.tag(image, "stray"), remote.WithContext(t.Context()))) // nobody else does
	if err := <-ended; err == nil {
		t.Error("imgctl drift --repair has lost its daemon, and says nothing")
	}
	r.start()
	found := ci.drift(3, "--repair")
	if found["latest"].Repair != "repaired" || found["main"].Repair != "left" {
		t.Errorf("got %+v", found)
	}
	for _, tag := range []string{"latest", "1", "1.2"} {
		if got := ci.serves(image, tag); got != version[0].Digest {
			t.Errorf("%s names %s, want %s", tag, got, version[0].Digest)
		}
	}

	// What is lost is built anew, as it says.
	hint, ok := strings.CutPrefix(found["main"].Why, "build it anew: imgctl ")
	if !ok {
		t.Fatalf("of what is lost it says %q", found["main"].Why)
	}
	r.imgctl(append(strings.Fields(hint), "--wait")...)
	if left := ci.drift(0, "--now", "--deep"); len(left) > 0 {
		t.Errorf("in the end %v", slices.Collect(maps.Values(left)))
	}

	// By itself, where the config says so.
	r.must(r.daemon.Terminate(t.Context()))
	r.config.Audit = &kit.AuditConfig{Every: "1s", Rate: 200, Repair: true}
	r.start()
	strange := ci.push(image, "latest")
	r.must(kit.Wait(t.Context(), func(context.Context) error {
		if ci.serves(image, "latest") == strange {
			return errors.New("latest is still another hand's")
		}
		return nil
	}))
	r.mustEnd()
}
