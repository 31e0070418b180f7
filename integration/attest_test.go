package integration_test

import (
	"testing"

	"github.com/google/go-containerregistry/pkg/crane"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"

	"github.com/imgd/imgd/integration/kit"
	"github.com/imgd/imgd/publisher"
)

// An image index with an attestation manifest is unwrapped to the manifest of
// its platform.
func TestCaptureUnwrapsAttestations(t *testing.T) {
	s := newSite(t, scratchFiles("attested"))
	name := s.daemon.Registry + "/demo/attested"
	_, err := kit.Buildctl(t.Context(), s.daemon.BuildKit, "build", "--frontend", "dockerfile.v0",
		"--opt", "context="+s.repo.URL+"#main", "--opt", "attest:provenance=mode=min",
		"--output", "type=image,name="+name+":v1,push=true")
	s.must(err)
	raw, err := crane.Manifest(name+":v1", crane.Insecure)
	s.must(err)
	root, platforms, err := publisher.New(publisher.Config{}).Capture(t.Context(), []string{name}, digest.FromBytes(raw))
	s.must(err)
	want, err := crane.Digest(name+":v1", crane.Insecure, crane.WithPlatform(&v1.Platform{OS: "linux", Architecture: "amd64"}))
	s.must(err)
	if root.Digest != digest.FromBytes(raw) || len(platforms) != 1 || platforms[0].Digest.String() != want || platforms[0].Digest == root.Digest {
		t.Errorf("root %s, platforms %v; want the one manifest %s", root.Digest, platforms, want)
	}
}
