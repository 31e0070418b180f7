// Package publisher is imgd's side of the registry protocol: it reads back what
// was pushed (capture), makes a tag name it, removes a tag, and asks what a
// reference names. Nothing a registry says is believed: bytes are hashed, and
// what was written is read again. It does not push layers, which buildkitd
// does, and knows nothing of git, versions or the index.
package publisher

import (
	"bytes"
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgd/imgd"
)

// callTime bounds what one call does in one repository, tries and waits
// included: a handful of small requests, of which a slow registry answers each
// within seconds. Whoever called tries again later.
const callTime = time.Minute

// pingTime bounds Ping: it is asked to know whether the registry answers now.
const pingTime = 5 * time.Second

// Config says how registries are spoken to. The zero value speaks HTTPS to all
// but those on loopback addresses, without credentials.
type Config struct {
	PlainHTTP   []string         // registries (host or host:port) without TLS; those on loopback are anyway,
	TLS         []string         // but for these
	RootCAs     *x509.CertPool   // default: the system's
	Credentials Credentials      // read anew every few minutes, and after a refusal; default: none
	Now         func() time.Time // default time.Now
	Log         *slog.Logger     // default: none

	// UntagByPlaceholder are registries (host or host:port) that delete manifests
	// and no tags, of which tags are removed all the same: see replace.
	UntagByPlaceholder []string
}

// Publisher speaks to registries. Its methods are safe for concurrent use, and
// all but Tag and Untag change nothing.
type Publisher struct {
	hosts  docker.RegistryHosts
	client *http.Client
	recent *recent
	pace   *pace // of a Paced one

	untagByPlaceholder []string
}

// New returns a Publisher. It contacts nobody.
func New(cfg Config) *Publisher {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Credentials == nil {
		cfg.Credentials = func(context.Context, string) (string, string, error) { return "", "", nil }
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	client := &http.Client{Transport: newTransport(cfg.RootCAs, cfg.Log), CheckRedirect: checkRedirect}
	plain := func(host string) (bool, error) {
		if slices.Contains(cfg.PlainHTTP, host) {
			return true, nil
		}
		local, err := docker.MatchLocalhost(host)
		return local && !slices.Contains(cfg.TLS, host), err
	}
	hosts := docker.ConfigureDefaultRegistries(
		docker.WithClient(client),
		docker.WithPlainHTTP(plain),
		docker.WithAuthorizer(bodyCloser{&renewed{credentials: cfg.Credentials, client: client, now: cfg.Now}}),
	)
	return &Publisher{hosts: hosts, client: client, recent: &recent{now: cfg.Now}, untagByPlaceholder: cfg.UntagByPlaceholder}
}

// Tag makes tag name root, whose bytes the repository has: it reads them by
// digest, unless Capture has within the last minute, puts the same bytes under
// the tag unless it names them already, and reads the tag back. imgd.ErrNotFound
// if the repository does not have root, or not what root is made of;
// imgd.ErrRefused if the registry will never take the tag. Repeating it puts the
// same bytes.
func (p *Publisher) Tag(ctx context.Context, repository, tag string, root ocispec.Descriptor) error {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	r, err := p.tagged(repository, tag)
	if err != nil {
		return fmt.Errorf("tag %s:%s: %w", repository, tag, err)
	}
	desc, body, err := r.root(ctx, root.Digest)
	if err != nil {
		return fmt.Errorf("tag %s: %w", r.at(tag), err)
	}
	if err := explain(r.put(ctx, tag, desc, body)); refuses(err) {
		return r.refused(ctx, tag, desc, body, err)
	} else if err != nil {
		return fmt.Errorf("tag %s: put %s: %w", r.at(tag), desc.Digest, err)
	}
	now, _, err := r.served(ctx, tag)
	if err != nil {
		return fmt.Errorf("tag %s: read it back: %w", r.at(tag), err)
	}
	if now.Digest != desc.Digest {
		return fmt.Errorf("tag %s: it names %s right after %s was put: another hand moves it", r.at(tag), now.Digest, desc.Digest)
	}
	return nil
}

// refused looks at a tag that the registry refused to make name root. It may
// name root all the same: of two daemons that put the same tag, a registry that
// keeps tags from changing refuses the second. Its word is final only if it
// takes root by digest: else it is read-only for a while, or its rights or
// credentials are to be mended.
func (r repository) refused(ctx context.Context, tag string, root ocispec.Descriptor, body []byte, refused error) error {
	now, _, err := r.manifest(ctx, tag)
	names := now.Digest.String()
	switch {
	case err == nil && now.Digest == root.Digest:
		return nil
	case errors.Is(err, imgd.ErrNotFound):
		names = "nothing"
	case errors.Is(err, errNotImage):
		names = "something that is no image"
	case err != nil:
		return fmt.Errorf("tag %s: put %s: %w; read what it names: %w", r.at(tag), root.Digest, refused, err)
	}
	if err := r.writable(ctx, root, body); err != nil {
		return fmt.Errorf("tag %s: put %s: %w; and nothing else is taken there: %w", r.at(tag), root.Digest, refused, err)
	}
	return fmt.Errorf("tag %s: put %s: %w", r.at(tag), root.Digest,
		refusal(refused, names, "look there for a rule that keeps tags from changing, for a quota, and for imgd's rights"))
}

// put writes the manifest under the tag. The resolver is new for each call, as
// its tracker knows pushes by digest alone: with a shared one a second tag, or
// a second repository, would be taken for done without a request.
func (r repository) put(ctx context.Context, tag string, desc ocispec.Descriptor, body []byte) error {
	resolver := docker.NewResolver(docker.ResolverOptions{Hosts: r.hosts})
	pusher, err := resolver.Pusher(ctx, r.at(tag)+"@"+desc.Digest.String())
	if err != nil {
		return err
	}
	w, err := pusher.Push(ctx, desc)
	if errdefs.IsAlreadyExists(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer w.Close()
	return content.Copy(ctx, w, bytes.NewReader(body), desc.Size, desc.Digest)
}

// Untag removes tag if ours says that what it names is imgd's. It is no error
// if the tag is gone or another's. imgd.ErrRefused if the registry will never
// remove it. The protocol has no compare-and-delete: a tag that another hand
// moves between the look and the removal is removed.
func (p *Publisher) Untag(ctx context.Context, repository, tag string, ours func(digest.Digest) bool) error {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	r, err := p.tagged(repository, tag)
	if err != nil {
		return fmt.Errorf("untag %s:%s: %w", repository, tag, err)
	}
	there, err := r.names(ctx, tag, ours)
	if err != nil {
		return fmt.Errorf("untag %s: %w", r.at(tag), err)
	}
	if there.root == "" {
		return nil
	}
	removed := r.remove(ctx, tag)
	if means(removed) == undeletable && (r.replaces() || there.names != there.root) {
		removed = r.replace(ctx, tag, there, ours)
	}
	if removed != nil && !refuses(removed) && !errors.Is(removed, imgd.ErrNotFound) && !errors.Is(removed, errAnotherHand) {
		return fmt.Errorf("untag %s: %w", r.at(tag), removed)
	}
	there, err = r.names(ctx, tag, ours) // gone is gone, whoever removed it
	switch {
	case err != nil:
		return fmt.Errorf("untag %s: read it back: %w", r.at(tag), err)
	case there.root == "":
		return nil
	case refuses(removed):
		if err := r.rewritable(ctx, there.names); err != nil {
			return fmt.Errorf("untag %s: %w; and nothing else is taken there: %w", r.at(tag), removed, err)
		}
		return fmt.Errorf("untag %s: %w", r.at(tag),
			refusal(removed, there.names.String(), "allow imgd to delete tags there, or delete it by hand"))
	case errors.Is(removed, errAnotherHand):
		return fmt.Errorf("untag %s: it names %s: %w", r.at(tag), there.names, removed)
	}
	return fmt.Errorf("untag %s: the registry accepted the removal and still serves the tag", r.at(tag))
}

// replaces reports whether the tags of the registry are removed by a
// placeholder where it does not delete them.
func (r repository) replaces() bool {
	return slices.Contains(r.untagByPlaceholder, reference.Domain(r.named))
}

// rewritable is writable with what the repository has by that digest.
func (r repository) rewritable(ctx context.Context, there digest.Digest) error {
	desc, body, err := r.manifest(ctx, there.String())
	if err != nil {
		return err
	}
	return r.writable(ctx, desc, body)
}

// A holding is what of ours a tag names: root, or the placeholder of root.
type holding struct{ names, root digest.Digest }

// names is what of ours the tag names, empty if nothing.
func (r repository) names(ctx context.Context, tag string, ours func(digest.Digest) bool) (holding, error) {
	desc, body, err := r.served(ctx, tag)
	if errors.Is(err, imgd.ErrNotFound) || errors.Is(err, errNotImage) {
		return holding{}, nil
	}
	if err != nil {
		return holding{}, err
	}
	there := holding{desc.Digest, cmp.Or(r.replaced(tag, body), desc.Digest)}
	if !ours(there.root) {
		return holding{}, nil
	}
	return there, nil
}

// Resolve answers what ref, a tag or a digest, names in the repository, by
// hashing what the registry serves under it. imgd.ErrNotFound if there is none.
func (p *Publisher) Resolve(ctx context.Context, repository, ref string) (ocispec.Descriptor, error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	r, err := p.repository(repository)
	if err == nil && digest.Digest(ref).Validate() != nil {
		_, err = reference.WithTag(r.named, ref)
	}
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("resolve %s in %s: %w", ref, repository, err)
	}
	desc, _, err := r.manifest(ctx, ref)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("resolve: %w", err)
	}
	return desc, nil
}

// Ping asks the registry on host (host or host:port) whether it serves the
// registry API to imgd.
func (p *Publisher) Ping(ctx context.Context, host string) error {
	ctx, cancel := context.WithTimeout(ctx, pingTime)
	defer cancel()
	hosts, err := p.hosts(host)
	if err != nil {
		return fmt.Errorf("ping registry %s: %w", host, err)
	}
	resp, err := p.send(ctx, call{host: hosts[0], method: http.MethodGet, path: "/"})
	if err != nil {
		return fmt.Errorf("ping registry %s: %w", host, err)
	}
	return resp.Body.Close()
}

// tagged is repository, after a check that tag can be one.
func (p *Publisher) tagged(name, tag string) (repository, error) {
	r, err := p.repository(name)
	if err != nil {
		return r, err
	}
	_, err = reference.WithTag(r.named, tag)
	return r, err
}
