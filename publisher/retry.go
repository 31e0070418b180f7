package publisher

import (
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net/http"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/hashicorp/go-retryablehttp"

	"github.com/imgd/imgd"
)

// idlePerHost is how many connections are kept for the next request: as many as
// tags are verified at once. By net/http's own two, the others would connect anew
// each time.
const idlePerHost = imgd.MaxVerifyParallel

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
	transport := docker.DefaultHTTPTransport(&tls.Config{RootCAs: roots})
	transport.MaxIdleConns, transport.MaxIdleConnsPerHost = 2*idlePerHost, idlePerHost
	c.HTTPClient = &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	c.RetryMax, c.RetryWaitMin, c.RetryWaitMax = retries, firstWait, 2*firstWait
	c.CheckRetry, c.Backoff = askAgain, backoff
	c.ErrorHandler = func(resp *http.Response, err error, _ int) (*http.Response, error) {
		if resp != nil {
			return resp, nil
		}
		return nil, err
	}
	return finalTransport{&retryablehttp.RoundTripper{Client: c}}
}

// finalTransport makes the answers that were given up on errors. It hides
// GetBody from the client below, which on a redirect asks for a body and drops
// it: containerd's pusher would write into that pipe, and wait for ever.
type finalTransport struct{ next http.RoundTripper }

func (t finalTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	once := *req
	once.GetBody = nil
	resp, err := t.next.RoundTrip(&once)
	if err == nil && answerOf("", resp.StatusCode, nil).again {
		return nil, newStatusError(resp)
	}
	return resp, err
}
