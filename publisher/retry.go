package publisher

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/hashicorp/go-retryablehttp"
)

const (
	// retries of one request, with waits that grow linearly from firstWait and
	// about 4 s in all: a registry that restarts, or a hiccup of what is before
	// it. Longer outages are the queue's business.
	retries   = 4
	firstWait = 250 * time.Millisecond
	// longestWait is the longest Retry-After that is waited for here. A registry
	// that asks for more is not asked again before the queue comes back.
	longestWait = 10 * time.Second
)

// newTransport is the one layer that retries: it repeats small requests after
// failures that pass. Bodies are kept in memory, so it is not for layers. It
// follows no redirects, that is left to the client above it, which knows what
// to do with credentials. An answer that it gives up on is an error, as
// containerd would repeat some of them at once, four more times.
func newTransport(roots *x509.CertPool, log *slog.Logger) http.RoundTripper {
	c := retryablehttp.NewClient()
	c.Logger = nil // its own logging calls every retry an error
	c.RequestLogHook = func(_ retryablehttp.Logger, req *http.Request, n int) {
		if n > 0 {
			log.Warn("asking the registry again", "method", req.Method, "host", req.URL.Host, "path", req.URL.Path, "retry", n)
		}
	}
	c.HTTPClient = &http.Client{
		Transport:     docker.DefaultHTTPTransport(&tls.Config{RootCAs: roots}),
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	c.RetryMax, c.RetryWaitMin, c.RetryWaitMax = retries, firstWait, 2*firstWait
	c.CheckRetry, c.Backoff = again, backoff
	c.ErrorHandler = func(resp *http.Response, err error, _ int) (*http.Response, error) {
		if resp != nil {
			return resp, nil
		}
		return nil, err
	}
	return finalTransport{&retryablehttp.RoundTripper{Client: c}}
}

// again decides about another try. It answers no error for a status, as the
// response would be lost.
func again(ctx context.Context, resp *http.Response, err error) (bool, error) {
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	if err != nil {
		return retryablehttp.ErrorPropagatedRetryPolicy(ctx, nil, err)
	}
	asked := retryablehttp.DefaultBackoff(0, 0, 0, resp) // Retry-After, else 0; negative if it is absurd
	return passing(resp.StatusCode) && asked >= 0 && asked <= longestWait, nil
}

// passing reports whether the status may be another one next time. 401 is not:
// the authorizer above answers it.
func passing(status int) bool {
	return slices.Contains([]int{
		http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout,
	}, status)
}

func backoff(lo, hi time.Duration, n int, resp *http.Response) time.Duration {
	return min(retryablehttp.RateLimitLinearJitterBackoff(lo, hi, n, resp), longestWait)
}

// finalTransport makes the answers that were given up on errors. It hides
// GetBody from the client below, which on a redirect asks for a body and drops
// it: containerd's pusher would write into that pipe, and wait for ever.
type finalTransport struct{ next http.RoundTripper }

func (t finalTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	once := *req
	once.GetBody = nil
	resp, err := t.next.RoundTrip(&once)
	if err == nil && passing(resp.StatusCode) {
		return nil, newStatusError(resp)
	}
	return resp, err
}
