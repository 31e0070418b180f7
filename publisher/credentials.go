package publisher

import (
	"context"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/docker/cli/cli/config"
)

// authTime is how long what was made of credentials is used, tokens of their
// own shorter time apart. A helper's last a few minutes more at least.
const authTime = 4*time.Minute + 50*time.Second

// Credentials answers how to log in to the registry on host (host or
// host:port). An empty user with a secret means that it is an identity token;
// both empty, that there are none.
type Credentials func(ctx context.Context, host string) (user, secret string, err error)

// DockerCredentials are those of config.json in dir, as docker login and the
// credential helpers keep them; an empty dir means DOCKER_CONFIG, else ~/.docker.
// The file is read, and a helper run, at each call, as their secrets change. No
// file means no credentials.
func DockerCredentials(dir string) Credentials {
	return func(_ context.Context, host string) (string, string, error) {
		file, err := config.Load(dir)
		if err != nil {
			return "", "", fmt.Errorf("read registry credentials: %w", err)
		}
		if host == "docker.io" || host == "registry-1.docker.io" {
			host = "https://index.docker.io/v1/" // docker's name for it
		}
		auth, err := file.GetAuthConfig(host)
		if err != nil {
			return "", "", fmt.Errorf("read registry credentials for %s from %s: %w", host, file.Filename, err)
		}
		if auth.IdentityToken != "" {
			return "", auth.IdentityToken, nil
		}
		return auth.Username, auth.Password, nil
	}
}

// CheckDockerConfig says what is wrong with config.json in dir, which must be
// there. It runs no helper.
func CheckDockerConfig(dir string) error {
	if _, err := os.Stat(filepath.Join(dir, config.ConfigFileName)); err != nil {
		return err
	}
	_, err := config.Load(dir)
	return err
}

// RootCAs are the system's certificate authorities and those in the PEM file.
func RootCAs(file string) (*x509.CertPool, error) {
	pool, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("read the system's certificates: %w", err)
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read certificates: %w", err)
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("read certificates: %s has none in PEM", file)
	}
	return pool, nil
}

// A renewed authorizer forgets what it has made of credentials after authTime,
// and when it was of no use: the next call reads them anew.
type renewed struct {
	credentials Credentials
	client      *http.Client
	now         func() time.Time

	// mu guards what follows.
	mu   sync.Mutex
	auth docker.Authorizer
	made time.Time
}

// current is the authorizer of this moment.
func (r *renewed) current(ctx context.Context) docker.Authorizer {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.auth != nil && r.now().Sub(r.made) < authTime {
		return r.auth
	}
	lasting := context.WithoutCancel(ctx)
	r.made = r.now()
	r.auth = docker.NewDockerAuthorizer(docker.WithAuthClient(r.client), docker.WithAuthCreds(func(host string) (string, string, error) {
		return r.credentials(lasting, host)
	}))
	return r.auth
}

// forget drops auth, unless another has taken its place.
func (r *renewed) forget(auth docker.Authorizer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.auth == auth {
		r.auth = nil
	}
}

// Authorize implements docker.Authorizer.
func (r *renewed) Authorize(ctx context.Context, req *http.Request) error {
	auth := r.current(ctx)
	err := auth.Authorize(ctx, req)
	if err != nil { // containerd's would give the same answer for ever, even where a caller had gone away
		r.forget(auth)
	}
	return err
}

// AddResponses implements docker.Authorizer. A request that was refused again
// was so with what was made of credentials that no longer hold.
func (r *renewed) AddResponses(ctx context.Context, responses []*http.Response) error {
	auth := r.current(ctx)
	if len(responses) > 1 {
		r.forget(auth)
		auth, responses = r.current(ctx), responses[len(responses)-1:]
	}
	err := auth.AddResponses(ctx, responses)
	if err != nil {
		r.forget(auth)
	}
	return err
}
