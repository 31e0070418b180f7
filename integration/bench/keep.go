package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/index"
	"github.com/imgd/imgd/integration/kit"
	"github.com/imgd/imgd/version"
)

const (
	// keepTags are the tags of each image that is verified, each of a release of its
	// own; keepImages how many images there are, which are audited.
	keepTags   = 1_000
	keepImages = 10
	// keepLine is how far away the far registry is: half of what a question to it and
	// its answer take on the way, as between regions of one continent.
	keepLine = 5 * time.Millisecond

	// keepRate lets an audit ask as fast as it can.
	keepRate = 1_000_000

	keepRounds = 7
	keepConns  = 8 // of the peer

	verifyGoal = 1.0
	retagGoal  = 1.0
	// auditGoal: ten times the records may need little more memory.
	auditGoal = 1.5

	keepStop = 30 * time.Second
	// keepTime bounds all of it.
	keepTime = 10 * time.Minute
)

// A keeping is an imgd whose index and registry have many tags, and the way to
// that registry over a slow line.
type keeping struct {
	dir    string
	daemon *kit.Daemon
	line   *kit.Link
	client *http.Client
	next   int // number of a tag that is new
}

// keep measures what it takes to hold the index against the registry, and to give
// an image that is there more names.
func keep(ctx context.Context, progress io.Writer) (figures []figure, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, keepTime, errors.New("the registry was not looked through in time"))
	defer cancel()
	dir, err := os.MkdirTemp("", "imgd-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	k := &keeping{dir: dir, client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: keepConns}}}
	defer func() { err = errors.Join(err, k.close()) }()
	if err := k.start(ctx); err != nil {
		return nil, err
	}
	for _, measure := range []func(context.Context, io.Writer) ([]figure, error){k.verify, k.audit, k.retag} {
		found, err := measure(ctx, progress)
		if err != nil {
			return nil, fmt.Errorf("%w\n%s", err, k.daemon.LogTail())
		}
		figures = append(figures, found...)
	}
	return figures, nil
}

func (k *keeping) close() error {
	k.client.CloseIdleConnections()
	if k.line != nil {
		k.line.Close()
	}
	if k.daemon == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), keepStop)
	defer cancel()
	return k.daemon.Terminate(ctx)
}

// start fills registry and index, and starts imgd over them.
func (k *keeping) start(ctx context.Context) (err error) {
	config := kit.LocalConfig()
	config.Audit = &kit.AuditConfig{Every: "0s", Rate: keepRate}
	if k.daemon, err = kit.StartDaemon(ctx, k.dir, config); err != nil {
		return err
	}
	registry := k.daemon.Registry
	if k.line, err = kit.StartLink(registry); err != nil {
		return err
	}
	var releases []imgd.Release
	for i := range keepImages {
		host := registry
		if keptImage(i) == farImage {
			host = k.line.Addr
		}
		pushed, err := k.push(ctx, registry, keptImage(i))
		if err != nil {
			return err
		}
		releases = append(releases, keptReleases(len(releases), host+"/"+keptImage(i), keptImage(i), pushed)...)
	}
	if err := k.daemon.Terminate(ctx); err != nil {
		return err
	}
	if err := publishAll(ctx, filepath.Join(k.daemon.Data(), "index"), releases); err != nil {
		return err
	}
	config.Registry.Listen = registry
	if k.daemon, err = kit.StartDaemon(ctx, k.dir, config); err != nil {
		return err
	}
	return k.line.Slow(keepLine)
}

// The images that are verified; the others are only audited.
const (
	nearImage = "bench/service-0"
	farImage  = "bench/service-1"
)

func keptImage(i int) string { return fmt.Sprintf("bench/service-%d", i) }

func keptTag(i int) string { return fmt.Sprintf("v1.%d.0", keepTags+i) }

// A kept image, whose manifest stands under many tags.
type keptManifest struct {
	ocispec.Descriptor
	bytes []byte
}

// push pushes an image, and puts it under all its tags.
func (k *keeping) push(ctx context.Context, registry, image string) (m keptManifest, err error) {
	made, err := random.Image(10<<10, 3)
	if err == nil {
		made, err = mutate.ConfigFile(made, &v1.ConfigFile{OS: "linux", Architecture: "amd64"})
	}
	if err != nil {
		return m, err
	}
	ref, err := name.ParseReference(registry + "/" + image + ":first")
	if err != nil {
		return m, err
	}
	if err := remote.Write(ref, made, remote.WithContext(ctx)); err != nil {
		return m, err
	}
	if m, err = manifestOf(made); err != nil {
		return m, err
	}
	all, ctx := errgroup.WithContext(ctx)
	all.SetLimit(keepConns)
	for i := range keepTags {
		all.Go(func() error { return k.put(ctx, registry, image, keptTag(i), m) })
	}
	return m, all.Wait()
}

func manifestOf(image v1.Image) (m keptManifest, err error) {
	if m.bytes, err = image.RawManifest(); err != nil {
		return m, err
	}
	mediaType, err := image.MediaType()
	m.Descriptor = ocispec.Descriptor{MediaType: string(mediaType), Digest: digest.FromBytes(m.bytes), Size: int64(len(m.bytes))}
	return m, err
}

func (k *keeping) put(ctx context.Context, registry, image, tag string, m keptManifest) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://"+registry+"/v2/"+image+"/manifests/"+tag, bytes.NewReader(m.bytes))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", m.MediaType)
	return k.do(req, http.StatusCreated)
}

func (k *keeping) do(req *http.Request, want int) error {
	resp, err := k.client.Do(req)
	if err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != want {
		return fmt.Errorf("%s %s: %s", req.Method, req.URL, resp.Status)
	}
	return resp.Body.Close()
}

// keptReleases are those of one image, one a tag, as another CI would have pushed
// them: so nobody has to be asked whether they are right.
func keptReleases(first int, repository, image string, m keptManifest) (all []imgd.Release) {
	platform := m.Descriptor
	platform.Platform = &ocispec.Platform{OS: "linux", Architecture: "amd64"}
	for i := range keepTags {
		r := newRelease(first + i)
		r.Image, r.Repositories, r.Root, r.Platforms = image, []string{repository}, m.Descriptor, []ocispec.Descriptor{platform}
		r.Tags = []imgd.ReleaseTag{{Name: keptTag(i), Kind: version.KindVersion}}
		all = append(all, r)
	}
	return all
}

// publishAll publishes the releases in the index that imgd has left in dir, and
// lets nobody be told of them.
func publishAll(ctx context.Context, dir string, releases []imgd.Release) error {
	x, err := index.Open(index.Config{Dir: dir})
	if err != nil {
		return err
	}
	all, each := errgroup.WithContext(ctx)
	all.SetLimit(writers)
	for _, rel := range releases {
		all.Go(func() error {
			admitted, err := x.Admit(each, rel, "")
			if err == nil {
				_, err = x.Publish(each, admitted.ID)
			}
			return err
		})
	}
	return errors.Join(all.Wait(), x.SetTold(ctx, x.Seq()), x.Close())
}

// retag gives an image that is there more names: by one command of imgd, which
// settles, publishes and tells of it, and by crane, one command a name.
func (k *keeping) retag(ctx context.Context, progress io.Writer) (figures []figure, err error) {
	crane, err := kit.Bin("crane")
	if err != nil {
		return nil, err
	}
	for _, n := range []int{1, 5, 20} {
		from := nearImage + ":" + keptTag(0)
		ours := func(int) error {
			_, err := k.daemon.Imgctl(ctx, append([]string{"tag", from}, k.names(n)...)...)
			return err
		}
		theirs := func(int) error {
			for _, tag := range k.names(n) {
				if out, err := exec.CommandContext(ctx, crane, "tag", k.daemon.Registry+"/"+from, tag).CombinedOutput(); err != nil {
					return fmt.Errorf("crane tag: %w: %s", err, out)
				}
			}
			return nil
		}
		took, peer, ratio, err := duel(keepRounds, func() error { return nil }, [2]func(int) error{ours, theirs})
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(progress, "%d tags: imgctl tag %.0f ms, crane tag %.0f ms\n", n, took, peer)
		f := figure{Name: fmt.Sprintf("retag/%d", n), Value: ratio, Unit: "ratio", Peer: "crane tag, a command each"}
		if n > 1 {
			f = f.atMost(retagGoal)
		}
		figures = append(figures, f)
	}
	return figures, nil
}

// names are n tags that nobody has.
func (k *keeping) names(n int) (tags []string) {
	for range n {
		k.next++
		tags = append(tags, fmt.Sprintf("stable-%d", k.next))
	}
	return tags
}
