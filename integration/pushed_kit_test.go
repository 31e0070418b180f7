package integration_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/google/go-containerregistry/pkg/crane"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/imgd/imgd/integration/kit"
)

const sourceCommit = "0123456789abcdef0123456789abcdef01234567"

// otherCI is a CI beside imgd: it pushes to the registry, past the gates, and records by a program.
type otherCI struct{ *rig }

// host is the registry's, where it can be reached past imgd's gate.
func (c otherCI) host() string { return c.place.Hosts[c.calls.Addr] }

func (c otherCI) tag(image, tag string) name.Tag {
	c.Helper()
	t, err := name.NewTag(c.host()+"/"+image+":"+tag, name.Insecure)
	c.must(err)
	return t
}

func (c otherCI) image(arch string) v1.Image {
	c.Helper()
	img, err := imageFor(arch)
	c.must(err)
	return img
}

// imageFor is an image of no use for linux on arch, another one each time.
func imageFor(arch string) (v1.Image, error) {
	img, err := random.Image(256, 1)
	if err != nil {
		return nil, err
	}
	return mutate.ConfigFile(img, &v1.ConfigFile{OS: "linux", Architecture: arch, RootFS: v1.RootFS{Type: "layers"}})
}

// pushImage pushes such an image to registry/name:tag and answers its digest.
func pushImage(ctx context.Context, ref string) (string, error) {
	img, err := imageFor("amd64")
	if err != nil {
		return "", err
	}
	digest, err := img.Digest()
	if err != nil {
		return "", err
	}
	return digest.String(), crane.Push(img, ref, crane.Insecure, crane.WithContext(ctx))
}

// push pushes an image of one platform under the tag, another one each time.
func (c otherCI) push(image, tag string) (digest string) {
	c.Helper()
	img := c.image("amd64")
	c.must(remote.Write(c.tag(image, tag), img, remote.WithContext(c.Context())))
	d, err := img.Digest()
	c.must(err)
	return d.String()
}

// pushList pushes an image of two platforms, and answers the digest of the list and of the second platform's image.
func (c otherCI) pushList(image, tag string) (list, arm string) {
	c.Helper()
	var index v1.ImageIndex = empty.Index
	for _, arch := range []string{"amd64", "arm64"} {
		img := c.image(arch)
		d, err := img.Digest()
		c.must(err)
		kind, err := img.MediaType()
		c.must(err)
		arm = d.String()
		listed := v1.Descriptor{MediaType: kind, Platform: &v1.Platform{OS: "linux", Architecture: arch}}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: listed})
	}
	c.must(remote.WriteIndex(c.tag(image, tag), index, remote.WithContext(c.Context())))
	d, err := index.Digest()
	c.must(err)
	return d.String(), arm
}

// serves is what the registry has under the tag.
func (c otherCI) serves(image, tag string) string {
	c.Helper()
	d, err := crane.Digest(c.tag(image, tag).String(), crane.Insecure)
	c.must(err)
	return d
}

// A told is how a program ended.
type told struct {
	code           int
	stdout, stderr string
}

// run runs a command of a shell's kind, with the programs of this checkout first in PATH.
func (c otherCI) run(cmd *exec.Cmd, env ...string) told {
	c.Helper()
	imgctl, err := kit.Bin("imgctl")
	c.must(err)
	path := "PATH=" + strings.TrimSuffix(imgctl, "/imgctl") + ":" + os.Getenv("PATH")
	cmd.Env = append(append(os.Environ(), path, "IMGD_SERVER=", "IMGD_DATA="+(&kit.Daemon{Dir: c.dir}).Data()), env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		c.Fatalf("%s: %v", cmd, err)
	}
	return told{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// args are publish's for what was pushed.
func (c otherCI) args(image, tag, digest string, more ...string) []string {
	return append([]string{"--image", image, "--tag", tag, "--digest", digest, "--source", "https://git.example.com/tools/lint.git@" + sourceCommit}, more...)
}

// record runs publish, which must end with the code, and answers what it said: on stdout if the code is 0.
func (c otherCI) record(code int, image, tag, digest string, more ...string) string {
	c.Helper()
	publish, err := kit.Bin("publish")
	c.must(err)
	got := c.run(exec.CommandContext(c.Context(), publish, c.args(image, tag, digest, more...)...))
	if got.code != code {
		c.Fatalf("publish %s:%s as %s exits with %d, want %d\n%s%s", image, tag, digest, got.code, code, got.stdout, got.stderr)
	}
	if code == 0 {
		return got.stdout
	}
	return got.stderr
}

// drifts are the drift events of the image's tag, as "wanted found".
func (c otherCI) drifts(image, tag string) []string {
	c.Helper()
	var all []string
	for _, e := range c.look().Events {
		if e.What == "drift" && e.Drift.Image == image && e.Drift.Tag == tag {
			all = append(all, fmt.Sprint(e.Drift.Wanted, " ", e.Drift.Found))
		}
	}
	return all
}

// mustSay holds that the text has all the words.
func (c otherCI) mustSay(text string, words ...string) {
	c.Helper()
	for _, word := range words {
		if !strings.Contains(text, word) {
			c.Errorf("%q does not say %q", text, word)
		}
	}
}
