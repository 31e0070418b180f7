package integration_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/imgd/imgd/integration/kit"
)

// A stranger reads a registry by go-containerregistry.
type stranger struct {
	host    string
	naming  []name.Option
	options []remote.Option
}

func (s stranger) ref(t *testing.T, repository, tag string) name.Reference {
	t.Helper()
	ref, err := name.ParseReference(s.host+"/"+repository+":"+tag, s.naming...)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

// names is what the tag names there, "" for nothing.
func (s stranger) names(t *testing.T, repository, tag string) string {
	t.Helper()
	desc, err := remote.Head(s.ref(t, repository, tag), s.options...)
	var status *transport.Error
	if errors.As(err, &status) && status.StatusCode == http.StatusNotFound {
		return ""
	}
	if err != nil {
		t.Fatal(err)
	}
	return desc.Digest.String()
}

// mustAgree holds that the records of a tag are what the stranger reads: the root, each platform's manifest with its size, and all
// layers, whose bytes have the digests that they are said to have.
func (s stranger) mustAgree(t *testing.T, repository string, records []kit.Record) {
	t.Helper()
	index, err := remote.Index(s.ref(t, repository, records[0].Tag), s.options...)
	if err != nil {
		t.Fatal(err)
	}
	root, err := index.Digest()
	if err != nil || s.names(t, repository, records[0].Tag) != root.String() {
		t.Errorf("%s:%s is %s, HEAD says %s; %v", repository, records[0].Tag, root, s.names(t, repository, records[0].Tag), err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range manifest.Manifests {
		if m.Platform.OS == "unknown" { // an attestation
			continue
		}
		got = append(got, fmt.Sprintln(m.Platform, m.Digest, m.MediaType, m.Size, root))
		s.mustBeWhole(t, index, m)
	}
	var want []string
	for _, r := range records {
		want = append(want, fmt.Sprintln(r.Platform, r.Digest, r.MediaType, r.Size, r.IndexDigest))
	}
	slices.Sort(got)
	if slices.Sort(want); !slices.Equal(got, want) {
		t.Errorf("%s:%s: go-containerregistry reads\n%sthe records say\n%s", repository, records[0].Tag, got, want)
	}
}

func (s stranger) mustBeWhole(t *testing.T, index v1.ImageIndex, m v1.Descriptor) {
	t.Helper()
	img, err := index.Image(m.Digest)
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil || config.Platform().String() != m.Platform.String() {
		t.Errorf("%s is of %s, its index says %s; %v", m.Digest, config.Platform(), m.Platform, err)
	}
	layers, err := img.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("%d layers, %v", len(layers), err)
	}
	body, err := layers[0].Uncompressed() // it hashes what it reads
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if _, err := io.Copy(io.Discard, body); err != nil {
		t.Error(err)
	}
}

// An independent site has two registries that know nothing of imgd: Debian's docker-registry, behind a gate, and a distribution with
// tokens and an authority of its own. One imgd has a project for each, and one for both.
type independents struct {
	*site
	gate   *kit.HTTPGate
	locked *kit.Locked
	old    stranger
	new    stranger
}

func newIndependents(t *testing.T) *independents {
	t.Helper()
	i := &independents{site: bareSite(t, scratchFiles(t.Name()))}
	old, err := kit.StartOldRegistry(t.Context(), t.TempDir())
	i.must(err)
	t.Cleanup(func() {
		if err := old.Close(); err != nil {
			t.Error(err)
		}
	})
	i.gate = httpGate(t, old.Addr)
	i.locked, err = kit.LockedRegistry(t.TempDir(), true)
	i.must(err)
	t.Cleanup(i.locked.Close)
	i.old = stranger{host: i.gate.Addr, naming: []name.Option{name.Insecure}}
	i.new = stranger{host: i.locked.Host, options: trusting(t, i.locked)}
	i.must(i.repo.PullRequest(t.Context(), 7, i.commit("of the pull request", scratchFiles("pull request 7"))))
	i.start()
	return i
}

// trusting are the options of one who is logged in and trusts the registry's authority alone.
func trusting(t *testing.T, l *kit.Locked) []remote.Option {
	t.Helper()
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(readFile(t, l.CAFile)) {
		t.Fatal("no certificate in " + l.CAFile)
	}
	trust := http.DefaultTransport.(*http.Transport).Clone()
	trust.TLSClientConfig = &tls.Config{RootCAs: roots}
	t.Cleanup(trust.CloseIdleConnections)
	return []remote.Option{remote.WithTransport(trust), remote.WithAuth(&authn.Basic{Username: kit.LockedUser, Password: kit.LockedPassword})}
}

func (i *independents) start() {
	i.Helper()
	docker := i.TempDir()
	login := base64.StdEncoding.EncodeToString([]byte(kit.LockedUser + ":" + kit.LockedPassword))
	config, err := json.Marshal(map[string]any{"auths": map[string]any{i.locked.Host: map[string]string{"auth": login}}})
	i.must(err)
	i.must(os.WriteFile(filepath.Join(docker, "config.json"), config, 0o600))
	cfg := kit.LocalConfig()
	for project, hosts := range map[string][]string{"old": {i.gate.Addr}, "new": {i.locked.Host}, "both": {i.gate.Addr, i.locked.Host}} {
		p := kit.ProjectConfig{Name: project, Git: i.repo.URL, Image: "demo/" + project, Platforms: []string{"linux/amd64", "linux/arm64"},
			Refs:      []string{"refs/heads/*", "refs/tags/*", "refs/pull/*"},
			Retention: &kit.Retention{Rules: []kit.RetentionRule{{Tags: []string{"pr-*"}, TTL: "1s"}}}}
		for _, host := range hosts {
			p.Repositories = append(p.Repositories, host+"/demo/"+project)
		}
		cfg.Projects = append(cfg.Projects, p)
	}
	cfg.Registry = kit.RegistryConfig{Address: i.locked.Host, CAFile: i.locked.CAFile, DockerConfig: docker, UntagByPlaceholder: []string{i.gate.Addr}}
	cfg.Expire = &kit.ExpireConfig{Every: "0s"}
	i.daemon = kit.RunDaemon(i.T, i.TempDir(), cfg)
}

// built are the records of a build of the project.
func (i *independents) built(t *testing.T, project, ref string) []kit.Record {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), buildTime)
	defer cancel()
	out, err := i.daemon.Imgctl(ctx, "build", project, "--ref", ref, "--wait", "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	var records []kit.Record
	if err := json.Unmarshal([]byte(out), &records); err != nil || len(records) == 0 {
		t.Fatalf("got %s, %v", out, err)
	}
	tag := records[0].Tag
	return slices.DeleteFunc(records, func(r kit.Record) bool { return r.Tag != tag })
}

// On registries that are not imgd's: build, push, verify, expire and publish again, and what the records say is what is there. Then
// an image with a repository in each.
func TestIndependentRegistries(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: buildkitd needs root")
	}
	i := newIndependents(t)
	t.Run("docker-registry 2.8", func(t *testing.T) { i.cycle(t, "old", i.old) })
	t.Run("distribution 3 with tokens", func(t *testing.T) {
		i.cycle(t, "new", i.new)
		if i.locked.Logins() == 0 {
			t.Error("nobody has logged in for a token")
		}
		if _, err := remote.Head(i.new.ref(t, "others/image", "v1"), i.new.options...); err == nil || !strings.Contains(err.Error(), "401") {
			t.Errorf("a repository of others: got %v, want no token for it", err)
		}
	})
	t.Run("both", i.both)
	noSecrets(t, i.daemon.Dir)
}

// cycle is the life of a pull request's tag.
func (i *independents) cycle(t *testing.T, project string, s stranger) {
	image := "demo/" + project
	ctx, cancel := context.WithTimeout(t.Context(), buildTime)
	defer cancel()
	imgctl := func(args ...string) {
		t.Helper()
		if out, err := i.daemon.Imgctl(ctx, args...); err != nil {
			t.Fatalf("%s %v", out, err)
		}
	}
	s.mustAgree(t, image, i.built(t, project, "main"))
	pull := i.built(t, project, pullRef)
	root := pull[0].IndexDigest
	s.mustAgree(t, image, pull)
	imgctl("verify", image+":"+pull[0].Tag, "--digest", root)
	imgctl("tag", image+":pr-7", "kept")

	err := kit.Wait(ctx, func(ctx context.Context) error { // a second has passed
		if _, err := i.daemon.Imgctl(ctx, "expire", image, "--yes"); err != nil {
			return err
		}
		_, err := i.daemon.Imgctl(ctx, "get", image+":pr-7")
		if err == nil {
			return errors.New("pr-7 is still there")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for tag, want := range map[string]string{"pr-7": "", pull[0].Tag: "", "kept": root} {
		if got := s.names(t, image, tag); got != want {
			t.Errorf("after the time of pr-7 %s names %q, want %q", tag, got, want)
		}
	}
	imgctl("verify", image+":kept")
	imgctl("verify", image+":main")

	again := i.built(t, project, pullRef)
	if again[0].IndexDigest != root || again[0].Generation != 2 || s.names(t, image, "pr-7") != root {
		t.Errorf("published again as %+v, pr-7 is %s, want %s", again[0], s.names(t, image, "pr-7"), root)
	}
	s.mustAgree(t, image, again)
}

// both holds that an image with two repositories is in both or nowhere.
func (i *independents) both(t *testing.T) {
	const image = "demo/both"
	mustNotBe := func(why string) {
		t.Helper()
		images, err := kit.ReadImages(i.daemon.Data())
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range images.Records {
			if r.Image == image {
				t.Errorf("while %s %s:%s is published", why, image, r.Tag)
			}
		}
		for _, s := range []stranger{i.old, i.new} {
			if got := s.names(t, image, "main"); got != "" {
				t.Errorf("while %s main names %s in %s", why, got, s.host)
			}
		}
	}
	i.locked.Forbid(image, "push", "delete")
	request, err := i.submit("both", "main")
	if err != nil {
		t.Fatal(err)
	}
	i.waitTry(t, request, "insufficient_scope")
	mustNotBe("one registry takes no push")
	found := i.gate.Fault(func(req *http.Request) *kit.Fault { // what was pushed there is not there any more
		if req.Method == http.MethodGet && strings.HasPrefix(req.URL.Path, "/v2/"+image+"/manifests/sha256:") {
			return &kit.Fault{Status: http.StatusNotFound, Body: `{"errors":[{"code":"MANIFEST_UNKNOWN"}]}`}
		}
		return nil
	})
	i.locked.Forbid(image)
	i.waitTry(t, request, "404 Not Found")
	mustNotBe("the other has lost it")
	found()
	i.waitTry(t, request, `"state":"published"`)
	records := i.built(t, "both", "main")
	i.old.mustAgree(t, image, records)
	i.new.mustAgree(t, image, records)

	ref, err := name.ParseReference(i.old.host+"/"+image+"@"+records[0].IndexDigest, i.old.naming...)
	if err == nil {
		err = remote.Delete(ref, i.old.options...)
	}
	if err != nil {
		t.Fatal(err)
	}
	_, err = i.daemon.Imgctl(t.Context(), "verify", image+":main")
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 3 || !strings.Contains(err.Error(), i.old.host) {
		t.Errorf("one of two has lost it: %v, want exit code 3 and which", err)
	}
}

// waitTry waits until the request's status has the text.
func (i *independents) waitTry(t *testing.T, request, text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), endTime)
	defer cancel()
	err := kit.Wait(ctx, func(ctx context.Context) error {
		out, err := i.daemon.Imgctl(ctx, "requests", "show", request, "-o", "json")
		if err == nil && !strings.Contains(strings.ReplaceAll(out, `": `, `":`), text) {
			err = fmt.Errorf("no %s in %s", text, out)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
