package integration_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"go.yaml.in/yaml/v4"

	"github.com/imgd/imgd/integration/kit"
)

// A store is a hoard that nothing is built into: others push, and record what they have pushed.
type store struct {
	hoard
	config kit.Config
	made   *rand.Rand // what images are made of
}

// newStore starts imgd with its own registry and a project of image, which is how it is kept.
func newStore(t *testing.T, seed uint64, adapt func(*kit.Config)) *store {
	t.Helper()
	buildkitd := sharedBuildkitd(t)
	s := bareSite(t, scratchFiles(t.Name()))
	config := s.config()
	config.Registry.Listen = freePort(t)
	config.BuildKit = kit.BuildKitConfig{Address: buildkitd.Addr}
	config.Expire = &kit.ExpireConfig{Every: "0s"}
	adapt(&config)
	return &store{startHoard(s, config), config, rand.New(rand.NewPCG(seed, 3))}
}

// again starts it once more.
func (s *store) again() { s.start(s.daemon.Dir, s.config) }

// An artifact is what is pushed: an image, or an image index.
type artifact struct {
	image v1.Image
	index v1.ImageIndex
	parts []artifact // of an index
}

func (a artifact) digest() string {
	var d v1.Hash
	var err error
	if a.index != nil {
		d, err = a.index.Digest()
	} else {
		d, err = a.image.Digest()
	}
	if err != nil {
		panic("unreachable: it is all in memory: " + err.Error())
	}
	return d.String()
}

// blobs are the config and the layers of an image.
func (a artifact) blobs() (all []string) {
	if a.image == nil {
		return nil
	}
	m, err := a.image.Manifest()
	if err != nil {
		panic("unreachable: it is all in memory: " + err.Error())
	}
	for _, d := range append(m.Layers, m.Config) {
		all = append(all, d.Digest.String())
	}
	return all
}

// anImage has layers of a few, and one of its own.
func (s *store) anImage(arch string) artifact {
	s.Helper()
	layers := []v1.Layer{static.NewLayer(fmt.Appendf(nil, "layer %d", s.made.Uint64()), types.OCILayer)}
	for range s.made.IntN(3) {
		layers = append(layers, static.NewLayer(fmt.Appendf(nil, "common %d", s.made.IntN(6)), types.OCILayer))
	}
	img, err := mutate.AppendLayers(mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON), layers...)
	s.must(err)
	config, err := img.ConfigFile()
	s.must(err)
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", arch
	img, err = mutate.ConfigFile(img, config)
	s.must(err)
	return artifact{image: img}
}

// anIndex is of these images, each for a platform of its own.
func (s *store) anIndex(images ...artifact) artifact {
	s.Helper()
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, a := range images {
		config, err := a.image.ConfigFile()
		s.must(err)
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: a.image, Descriptor: v1.Descriptor{
			MediaType: types.OCIManifestSchema1, Platform: &v1.Platform{OS: config.OS, Architecture: config.Architecture}}})
	}
	return artifact{index: index, parts: images}
}

// push pushes it under the tag, or by its digest.
func (s *store) push(a artifact, tag string) error {
	at := s.daemon.Registry + "/" + image
	if at += ":" + tag; tag == "" {
		at = strings.TrimSuffix(at, ":") + "@" + a.digest()
	}
	ref, err := name.ParseReference(at, name.Insecure)
	if err != nil {
		return err
	}
	if a.index != nil {
		return remote.WriteIndex(ref, a.index, remote.WithContext(s.Context()))
	}
	return remote.Write(ref, a.image, remote.WithContext(s.Context()))
}

// sign pushes what refers to it, in the way of registries without a referrers API.
func (s *store) sign(subject string) (signature artifact) {
	s.Helper()
	signature = s.anImage("signature")
	s.must(s.push(signature, ""))
	s.must(s.push(s.anIndex(signature), "sha256-"+strings.TrimPrefix(subject, "sha256:")))
	return signature
}

// publish pushes it under the tag, and records that.
func (s *store) publish(a artifact, tag string, more ...string) error {
	if err := s.push(a, tag); err != nil {
		return err
	}
	args := []string{"publish", "--image", image, "--tag", tag, "--digest", a.digest(), "--source", "https://git.example.com/tools/lint.git@" + sourceCommit}
	_, err := s.daemon.Imgctl(s.Context(), append(args, more...)...)
	return err
}

// serves reports whether the registry has the manifest or the blob.
func (s *store) serves(what, d string) bool {
	s.Helper()
	req, err := http.NewRequestWithContext(s.Context(), http.MethodGet, "http://"+s.daemon.Registry+"/v2/"+image+"/"+what+"/"+d, nil)
	s.must(err)
	req.Header.Set("Accept", string(types.OCIManifestSchema1+", "+types.OCIImageIndex))
	resp, err := http.DefaultClient.Do(req)
	s.must(err)
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// mustServe holds that all that it consists of is there, with the right bytes.
func (s *store) mustServe(a artifact) {
	s.Helper()
	s.pull(image, "manifests", a.digest())
	for _, part := range a.parts {
		s.mustServe(part)
	}
	for _, blob := range a.blobs() {
		s.pull(image, "blobs", blob)
	}
}

// mustBeFromAbove holds that what is served has all that it consists of.
func (s *store) mustBeFromAbove(a artifact) {
	s.Helper()
	if s.serves("manifests", a.digest()) {
		s.mustServe(a)
		return
	}
	for _, part := range a.parts {
		s.mustBeFromAbove(part)
	}
}

// blobDir is where the registry keeps it.
func blobDir(d string) string { return filepath.Join("blobs/sha256", d[7:9], d[7:]) }

// revision and layerLink are where the registry notes that the repository has it.
func revision(d string) string {
	return filepath.Join("repositories", image, "_manifests/revisions/sha256", d[7:])
}

func layerLink(d string) string { return filepath.Join("repositories", image, "_layers/sha256", d[7:]) }

// A lastCall is one after which a collection does nothing any more.
type lastCall struct {
	step       int // those of one step come in any order
	name, call string
	file       func(dead, signature artifact) string
}

// lastCalls are the steps of a collection, in their order.
var lastCalls = []lastCall{
	{0, "begin", "openat", func(artifact, artifact) string { return "repositories" }},
	{0, "mark", "openat", func(artifact, artifact) string {
		return filepath.Join("repositories", image, "_manifests/tags/kept/current/link")
	}},
	{0, "plan", "openat", func(dead, _ artifact) string { return filepath.Join(blobDir(dead.digest()), "data") }},
	{1, "index", "unlinkat", func(dead, _ artifact) string { return filepath.Join(revision(dead.digest()), "link") }},
	{2, "index, its directory", "unlinkat", func(dead, _ artifact) string { return revision(dead.digest()) }},
	{3, "tag of the referrers", "unlinkat", func(dead, _ artifact) string {
		return filepath.Join("repositories", image, "_manifests/tags", "sha256-"+dead.digest()[7:])
	}},
	{4, "manifest in the index", "unlinkat", func(dead, _ artifact) string { return filepath.Join(revision(dead.parts[1].digest()), "link") }},
	{4, "signature", "unlinkat", func(_, signature artifact) string { return filepath.Join(revision(signature.digest()), "link") }},
	{5, "between manifests and blobs", "unlinkat", func(dead, _ artifact) string { return filepath.Join(layerLink(dead.parts[0].blobs()[0]), "link") }},
	{6, "blob", "unlinkat", func(dead, _ artifact) string { return filepath.Join(blobDir(dead.digest()), "data") }},
	{6, "blob, its directory", "unlinkat", func(dead, _ artifact) string { return blobDir(dead.parts[0].blobs()[0]) }},
}

// imgd is killed at each step of a collection: all that is needed is whole, what is served has all that it names, and the next
// collection ends the work.
func TestKilledAtEachStepOfACollection(t *testing.T) {
	t.Parallel()
	s := newStore(t, 1, func(*kit.Config) {})
	single, multi := s.anImage("amd64"), s.anIndex(s.anImage("amd64"), s.anImage("arm64"))
	s.must(s.publish(single, "kept", "--moving"))
	s.must(s.publish(multi, "v1.0.0"))
	signed := s.sign(multi.parts[1].digest())
	for _, last := range lastCalls {
		t.Run(last.name, func(t *testing.T) {
			dead := s.anIndex(s.anImage("amd64"), s.anImage("arm64"))
			s.must(s.push(dead, ""))
			signature := s.sign(dead.digest())
			s.age()
			stop := s.injectAt(filepath.Join(s.registry(), "docker/registry/v2"), last.call+":signal=KILL", last.file(dead, signature))
			ended := make(chan error, 1)
			go func() {
				_, err := s.daemon.Imgctl(s.Context(), "usage", "--collect")
				ended <- err
			}()
			if err := <-ended; err == nil {
				t.Fatal("the collection has ended before its last step")
			}
			<-s.daemon.Done()
			stop()
			for _, other := range lastCalls {
				_, err := os.Lstat(filepath.Join(s.registry(), "docker/registry/v2", other.file(dead, signature)))
				if gone := err != nil; other.step > 0 && other.step != last.step && gone != (other.step < last.step) {
					t.Errorf("at the kill %q is done: %t", other.name, gone)
				}
			}
			s.again()
			s.mustEnd()
			s.pullAll()
			s.mustServe(signed)
			s.mustBeFromAbove(dead)
			s.mustBeFromAbove(signature)
			s.age()
			s.imgctl("usage", "--collect")
			for _, gone := range slices.Concat([]artifact{dead, signature}, dead.parts) {
				if s.serves("manifests", gone.digest()) || !s.gone(gone.digest()) {
					t.Errorf("%s is there still", gone.digest())
				}
				if blob := gone.blobs(); len(blob) > 0 && !s.gone(blob[0]) {
					t.Errorf("layer %s, which it alone had, is there still", blob[0])
				}
			}
			s.pullAll()
			s.mustServe(signed)
		})
	}
}

// What an operator holds stays: the tag, whatever would remove it, and the bytes, also when nothing names them.
func TestHeld(t *testing.T) {
	t.Parallel()
	s := newStore(t, 2, func(c *kit.Config) {
		c.Projects[0].Retention = &kit.Retention{Rules: []kit.RetentionRule{{Tags: []string{"old-*"}, TTL: "1ms"}}}
	})
	single, multi := s.anImage("amd64"), s.anIndex(s.anImage("amd64"), s.anImage("arm64"))
	s.must(s.publish(single, "old-1", "--moving"))
	s.must(s.publish(multi, "old-2", "--moving"))
	loose := s.anImage("amd64")
	s.must(s.push(loose, ""))
	signed := s.sign(loose.digest())
	s.config.Holds = []kit.HoldConfig{{Digest: single.digest(), Reason: "incident 7"}, {Digest: multi.parts[1].digest(), Reason: "incident 7"}, {Digest: loose.digest(), Reason: "incident 7"}}
	s.reload()
	if out := s.imgctl("expire", "--dry-run", "--stays", "--jq", ".items[] | .tag + \" \" + .state + \" \" + .why"); !strings.Contains(out, "old-1 stays held: incident 7") || !strings.Contains(out, "old-2 stays held: incident 7") {
		t.Errorf("got %s", out)
	}
	s.imgctl("expire", "--yes")
	for _, tag := range []string{"old-1", "old-2"} {
		if said := s.exit(5, "untag", image+":"+tag, "--force", "--reason", "a test"); !strings.Contains(said, "which is held: incident 7") {
			t.Errorf("untag: %s", said)
		}
	}
	s.must(s.publish(s.anImage("amd64"), "old-1", "--moving", "--force", "--reason", "a test")) // a tag may move on
	s.age()
	s.imgctl("usage", "--collect")
	for _, a := range []artifact{single, multi, loose, signed} {
		s.mustServe(a)
	}
	s.config.Holds = nil
	s.reload()
	s.imgctl("expire", "--yes")
	if tags := s.tags(); len(tags) > 0 {
		t.Errorf("without the holds there are still %v", tags)
	}
	s.age()
	s.imgctl("usage", "--collect")
	for _, a := range []artifact{single, multi.parts[1], loose, signed} {
		if !s.gone(a.digest()) {
			t.Errorf("without the holds %s is there still", a.digest())
		}
	}
}

// reload writes the config and has imgd read it.
func (s *store) reload() {
	s.Helper()
	text, err := yaml.Marshal(s.config)
	s.must(err)
	s.must(os.WriteFile(filepath.Join(s.daemon.Dir, "imgd.yaml"), text, 0o644))
	s.imgctl("reload")
}
