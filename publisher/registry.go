package publisher

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgd/imgd"
)

// maxManifest bounds a manifest and an image config, in bytes. Registries take
// no larger manifests.
const maxManifest = 4 << 20

// maxRedirects is how often a registry may point elsewhere: storage behind a
// CDN takes two.
const maxRedirects = 5

// repository is one repository of a registry.
type repository struct {
	*Publisher
	named reference.Named
	host  docker.RegistryHost
}

func (p *Publisher) repository(name string) (repository, error) {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return repository{}, err
	}
	if !reference.IsNameOnly(named) {
		return repository{}, fmt.Errorf("%q: want registry/name without tag and digest", name)
	}
	hosts, err := p.hosts(reference.Domain(named))
	if err != nil {
		return repository{}, err
	}
	return repository{Publisher: p, named: named, host: hosts[0]}, nil
}

// at names ref, a tag or a digest, as people write it.
func (r repository) at(ref string) string {
	if strings.Contains(ref, ":") {
		return r.named.Name() + "@" + ref
	}
	return r.named.Name() + ":" + ref
}

// call is one request to a registry.
type call struct {
	host   docker.RegistryHost
	method string
	path   string // below /v2
	accept string

	mediaType string // of the body
	body      []byte
}

// get asks for kind (manifests or blobs) and answers the body, which is at most
// maxManifest bytes long, and the header.
func (r repository) get(ctx context.Context, kind, ref string) ([]byte, http.Header, error) {
	stream, header, err := r.open(ctx, kind, ref)
	if err != nil {
		return nil, nil, err
	}
	defer stream.Close()
	body, err := io.ReadAll(io.LimitReader(stream, maxManifest+1))
	if err != nil {
		return nil, nil, fmt.Errorf("read body: %w", err)
	}
	if len(body) > maxManifest {
		return nil, nil, fmt.Errorf("larger than %d bytes", maxManifest)
	}
	return body, header, nil
}

// open asks for kind; the caller closes the body.
func (r repository) open(ctx context.Context, kind, ref string) (io.ReadCloser, http.Header, error) {
	ctx = docker.WithScope(ctx, "repository:"+reference.Path(r.named)+":pull")
	accept := "*/*"
	if kind == "manifests" {
		accept = strings.Join(manifestTypes(), ", ")
	}
	resp, err := r.send(ctx, call{host: r.host, method: http.MethodGet, path: "/" + reference.Path(r.named) + "/" + kind + "/" + ref, accept: accept})
	if err != nil {
		return nil, nil, err
	}
	return resp.Body, resp.Header, nil
}

// manifest reads the manifest or index that ref names. The bytes are those of
// the digest in the answer, and of ref if it is a digest. A tag that names a
// placeholder is not there any more: imgd.ErrNotFound.
func (r repository) manifest(ctx context.Context, ref string) (ocispec.Descriptor, []byte, error) {
	desc, body, err := r.served(ctx, ref)
	if err == nil && r.replaced(ref, body) != "" {
		return ocispec.Descriptor{}, nil, fmt.Errorf("read %s: imgd is removing it: %w", r.at(ref), imgd.ErrNotFound)
	}
	return desc, body, err
}

// served is manifest, placeholders included.
func (r repository) served(ctx context.Context, ref string) (ocispec.Descriptor, []byte, error) {
	body, header, err := r.get(ctx, "manifests", ref)
	if err != nil {
		return ocispec.Descriptor{}, nil, fmt.Errorf("read %s: %w", r.at(ref), err)
	}
	desc, err := describe(body, header, ref)
	if err != nil {
		return ocispec.Descriptor{}, nil, fmt.Errorf("read %s: %w", r.at(ref), err)
	}
	return desc, body, nil
}

// describe is the descriptor of a manifest as the registry served it for ref.
func describe(body []byte, header http.Header, ref string) (ocispec.Descriptor, error) {
	dgst := digest.FromBytes(body)
	if want := digest.Digest(ref); want.Validate() == nil {
		if dgst = want.Algorithm().FromBytes(body); dgst != want {
			return ocispec.Descriptor{}, fmt.Errorf("the registry served bytes of %s: %w", dgst, errOtherBytes)
		}
	}
	said := digest.Digest(header.Get("Docker-Content-Digest"))
	if said.Validate() == nil && said.Algorithm() == dgst.Algorithm() && said != dgst {
		return ocispec.Descriptor{}, fmt.Errorf("the registry served bytes of %s and called them %s", dgst, said)
	}
	mediaType, err := mediaType(body, header.Get("Content-Type"))
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return ocispec.Descriptor{MediaType: mediaType, Digest: dgst, Size: int64(len(body))}, nil
}

// mediaType is what the bytes say they are, else what the registry says. The
// two must agree with each other and with the fields that are there: bytes that
// are one thing to one reader and something else to the next are refused.
func mediaType(body []byte, contentType string) (string, error) {
	var m struct {
		MediaType string          `json:"mediaType"`
		Manifests json.RawMessage `json:"manifests"`
		Config    json.RawMessage `json:"config"`
		Layers    json.RawMessage `json:"layers"`
	}
	if err := json.Unmarshal(body, &m); err != nil {
		return "", fmt.Errorf("decode manifest: %w", err)
	}
	said, _, _ := mime.ParseMediaType(contentType)
	if m.MediaType == "" {
		m.MediaType = said
	}
	if said != "" && said != m.MediaType {
		return "", fmt.Errorf("it is %s and was served as %s", m.MediaType, said)
	}
	isIndex, isManifest := images.IsIndexType(m.MediaType), images.IsManifestType(m.MediaType)
	if !isIndex && !isManifest {
		return "", fmt.Errorf("media type %q is neither an image manifest nor an index: %w", m.MediaType, errNotImage)
	}
	if (m.Manifests != nil) != isIndex || (m.Config != nil || m.Layers != nil) != isManifest {
		return "", fmt.Errorf("it says %s and has other fields", m.MediaType)
	}
	return m.MediaType, nil
}

func manifestTypes() []string {
	return []string{
		ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex,
		images.MediaTypeDockerSchema2Manifest, images.MediaTypeDockerSchema2ManifestList,
	}
}

// remove deletes what ref names: of a tag the tag and not the manifest, of a
// digest the manifest with all its tags.
func (r repository) remove(ctx context.Context, ref string) error {
	ctx = docker.WithScope(ctx, "repository:"+reference.Path(r.named)+":delete,pull")
	resp, err := r.send(ctx, call{host: r.host, method: http.MethodDelete, path: "/" + reference.Path(r.named) + "/manifests/" + ref, accept: "*/*"})
	if means(err) == undeletable {
		what := "tags"
		if digest.Digest(ref).Validate() == nil {
			what = "manifests"
		}
		return fmt.Errorf("the registry does not delete %s: %w", what, err)
	}
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// writable puts a manifest that is there once more, by its digest, which
// changes nothing. So it tells whether the repository takes writes from imgd at
// this moment.
func (r repository) writable(ctx context.Context, desc ocispec.Descriptor, body []byte) error {
	ctx = docker.WithScope(ctx, "repository:"+reference.Path(r.named)+":pull,push")
	resp, err := r.send(ctx, call{host: r.host, method: http.MethodPut, path: "/" + reference.Path(r.named) + "/manifests/" + desc.Digest.String(),
		accept: "*/*", mediaType: desc.MediaType, body: body})
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// authTries is how often a request is made that is answered by a challenge: to
// hear it, with what is known of it from before, and with credentials read anew.
const authTries = 3

// send makes one request, and others if it is answered by a challenge that the
// authorizer can take. What is not answered by 2xx is an error; otherwise the
// caller closes the body.
func (p *Publisher) send(ctx context.Context, c call) (*http.Response, error) {
	var seen []*http.Response
	for {
		resp, err := p.once(ctx, c)
		if err != nil {
			return nil, err
		}
		if resp.StatusCode/100 == 2 {
			return resp, nil
		}
		seen = append(seen, resp)
		refused := newStatusError(resp)
		if resp.StatusCode != http.StatusUnauthorized || len(seen) == authTries {
			return nil, refused
		}
		if err := c.host.Authorizer.AddResponses(ctx, seen); err != nil && !errdefs.IsNotImplemented(err) {
			return nil, fmt.Errorf("%w: %w", refused, err)
		} else if err != nil {
			return nil, refused
		}
	}
}

func (p *Publisher) once(ctx context.Context, c call) (*http.Response, error) {
	if err := p.pace.wait(ctx, c.host.Host); err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, c.method, c.host.Scheme+"://"+c.host.Host+c.host.Path+c.path, bytes.NewReader(c.body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", c.accept)
	if c.body != nil {
		req.Header.Set("Content-Type", c.mediaType)
	}
	if err := c.host.Authorizer.Authorize(ctx, req); err != nil {
		return nil, fmt.Errorf("authorize: %w", err)
	}
	resp, err := p.client.Do(req)
	return resp, explain(err)
}

// checkRedirect is asked by the outer client only (see newTransport).
func checkRedirect(req *http.Request, via []*http.Request) error {
	first := via[0]
	if len(via) > maxRedirects {
		return fmt.Errorf("stopped after %d redirects", maxRedirects)
	}
	if req.Method != first.Method {
		return fmt.Errorf("the registry redirects a %s as %s", first.Method, req.Method)
	}
	if first.URL.Scheme == "https" && req.URL.Scheme != "https" {
		return fmt.Errorf("the registry redirects away from https to %s", (&url.URL{Scheme: req.URL.Scheme, Host: req.URL.Host}).String())
	}
	return nil
}

// bodyCloser is an authorizer that closes the request's body when it fails.
// containerd's pusher writes into a pipe that nobody reads then, and would
// wait for ever.
type bodyCloser struct{ docker.Authorizer }

func (a bodyCloser) Authorize(ctx context.Context, req *http.Request) error {
	err := a.Authorizer.Authorize(ctx, req)
	if err != nil && req.Body != nil {
		err = errors.Join(err, req.Body.Close())
	}
	return err
}
