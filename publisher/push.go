package publisher

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/distribution/reference"
)

// CanPush reports whether the registry lets imgd push to the repository: it
// starts the upload of a blob and cancels it, which leaves nothing behind. Where
// a registry does not cancel uploads, or the answer to either step is lost, it
// clears the empty upload away in its own time. Safe to repeat.
func (p *Publisher) CanPush(ctx context.Context, repository string) error {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	r, err := p.repository(repository)
	if err != nil {
		return fmt.Errorf("push to %s: %w", repository, err)
	}
	ctx = docker.WithScope(ctx, "repository:"+reference.Path(r.named)+":pull,push")
	upload, err := r.startUpload(ctx)
	if err != nil {
		return fmt.Errorf("push to %s: %w", repository, r.lacking(err))
	}
	if err := r.cancelUpload(ctx, upload); err != nil {
		return fmt.Errorf("cancel the upload to %s: %w", repository, err)
	}
	return nil
}

// lacking adds to a refusal which account it takes.
func (r repository) lacking(err error) error {
	err = explain(err) // a token server's refusal, too
	if means(err) != locked {
		return err
	}
	host := reference.Domain(r.named)
	return fmt.Errorf("%w; give imgd an account of %s that may pull from and push to %s", err, host, reference.Path(r.named))
}

// startUpload answers where the registry wants the upload.
func (r repository) startUpload(ctx context.Context) (*url.URL, error) {
	c := call{host: r.host, method: http.MethodPost, path: "/" + reference.Path(r.named) + "/blobs/uploads/", accept: "*/*"}
	resp, err := r.send(ctx, c)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	location, err := resp.Location()
	if err != nil {
		return nil, fmt.Errorf("POST %s: %d without a place for the upload: %w", bare(resp.Request.URL), resp.StatusCode, err)
	}
	return location, nil
}

// cancelUpload takes any answer of the registry: its right to refuse this does
// not keep anybody from pushing. The place may be on another host, which the
// authorizer knows nothing for.
func (r repository) cancelUpload(ctx context.Context, upload *url.URL) error {
	if r.host.Scheme == "https" && upload.Scheme != "https" {
		return fmt.Errorf("the registry wants uploads without TLS, at %s", bare(upload))
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodDelete, upload.String(), nil)
	if err != nil {
		return fmt.Errorf("DELETE %s: it is no URL", bare(upload)) // whose query may hold a signature
	}
	if err := r.host.Authorizer.Authorize(ctx, req); err != nil {
		return fmt.Errorf("authorize: %w", err)
	}
	resp, err := r.client.Do(req)
	var refused *statusError
	if err = explain(err); errors.As(err, &refused) {
		return nil
	}
	if err != nil {
		return err
	}
	return resp.Body.Close()
}
