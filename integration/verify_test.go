package integration_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/crane"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/imgd/imgd/integration/kit"
)

const kept = "tools/kept"

// A keeping is a site whose registry holds what another CI has pushed and recorded, and loses it.
type keeping struct{ *site }

func (k keeping) ref(tag string) string { return k.daemon.Registry + "/" + kept + ":" + tag }

// push pushes an image and records it.
func (k keeping) push(tag string) v1.Image {
	k.Helper()
	img, err := imageFor("amd64")
	k.must(err)
	k.must(crane.Push(img, k.ref(tag), crane.Insecure, crane.WithContext(k.Context())))
	d, err := img.Digest()
	k.must(err)
	k.imgctl("publish", "--image", kept, "--tag", tag, "--digest", d.String(), "--source", "https://git.example.com/"+kept+"@"+sourceCommit)
	return img
}

// blob is the file of the image's layer in the registry's storage.
func (k keeping) blob(img v1.Image) string {
	k.Helper()
	layers, err := img.Layers()
	k.must(err)
	d, err := layers[0].Digest()
	k.must(err)
	found, err := filepath.Glob(filepath.Join(k.daemon.Data(), "registry", "docker/registry/v2/blobs/sha256", d.Hex[:2], d.Hex, "data"))
	if err != nil || len(found) != 1 {
		k.Fatalf("the layer %s is in %q: %v", d, found, err)
	}
	return found[0]
}

// mustFind holds that imgctl verify ends so and finds these tags to differ, and how.
func (k keeping) mustFind(code int, want map[string]string, args ...string) {
	k.Helper()
	if code != 0 {
		k.exit(code, append([]string{"verify"}, args...)...)
	}
	var found []struct {
		Tag          string
		Repositories []struct{ Kind string }
	}
	out, err := k.daemon.Imgctl(k.Context(), append([]string{"verify", "-o", "json"}, args...)...)
	if (err != nil) != (code != 0) {
		k.Fatalf("imgctl verify %s: %v", strings.Join(args, " "), err)
	}
	k.must(json.Unmarshal([]byte(out), &found))
	got := map[string]string{}
	for _, v := range found {
		if kind := v.Repositories[0].Kind; kind != "" {
			got[v.Tag] = kind
		}
	}
	if !maps.Equal(got, want) {
		k.Errorf("imgctl verify %s: got %v, want %v", strings.Join(args, " "), got, want)
	}
}

// What the registry has lost, changed or been given by another hand is told apart, by the daemon and without one: a tag moved
// and removed, an image that became an index, a layer deleted and one damaged on the disk.
func TestVerify(t *testing.T) {
	t.Parallel()
	buildkitd := sharedBuildkitd(t)
	config := kit.LocalConfig()
	config.BuildKit = kit.BuildKitConfig{Address: buildkitd.Addr}
	k := keeping{&site{T: t}}
	k.daemon = kit.RunDaemon(t, t.TempDir(), config)
	images := map[string]v1.Image{}
	for _, tag := range []string{"v1", "v2", "v3", "v4", "v5", "v6"} {
		images[tag] = k.push(tag)
	}
	index := filepath.Join(k.daemon.Data(), "index")
	none := map[string]string{}
	for _, depth := range []string{"tag", "parts", "bytes"} {
		k.mustFind(0, none, "--all", "--depth", depth)
		k.mustFind(0, none, "--all", "--depth", depth, "--index", index)
	}

	stranger, err := imageFor("amd64")
	k.must(err)
	k.must(crane.Push(stranger, k.ref("v1"), crane.Insecure))
	list, err := random.Index(256, 1, 2)
	k.must(err)
	tag, err := name.NewTag(k.ref("v2"), name.Insecure)
	k.must(err)
	k.must(remote.WriteIndex(tag, list))
	k.must(os.Remove(k.blob(images["v3"])))
	damaged, err := os.ReadFile(k.blob(images["v4"]))
	k.must(err)
	k.must(os.WriteFile(k.blob(images["v4"]), bytes.Repeat([]byte("x"), len(damaged)), 0o644))
	k.must(crane.Delete(k.ref("v5"), crane.Insecure))

	atTag := map[string]string{"v1": "moved", "v2": "became-index", "v5": "missing"}
	parts := maps.Clone(atTag)
	parts["v3"] = "blob-missing"
	all := maps.Clone(parts)
	all["v4"] = "blob-missing"
	for _, way := range [][]string{{"--all"}, {kept}, {"--all", "--index", index}, {kept, "--index", index, "--registry", k.daemon.Registry}} {
		k.mustFind(3, atTag, way...)
		k.mustFind(3, parts, append(way, "--depth", "parts")...)
		k.mustFind(3, all, append(way, "--deep")...)
	}
	k.mustFind(0, none, kept+":v6", "--deep")
	k.mustFind(3, map[string]string{"v4": "blob-missing"}, kept+":v4", "--deep")
	k.exit(6, "verify", kept+":v7")

	// without an index: the digest says what is right
	was, err := images["v4"].Digest()
	k.must(err)
	k.mustFind(0, none, k.ref("v4"), "--digest", was.String())
	k.mustFind(3, map[string]string{"v4": "blob-missing"}, k.ref("v4"), "--digest", was.String(), "--deep")
	k.mustFind(3, map[string]string{"v2": "became-index"}, k.ref("v2"), "--digest", was.String())

	k.must(k.daemon.Terminate(t.Context())) // and without imgd, whose registry this was
	k.exit(1, "verify", kept+":v6", "--index", index)
}
