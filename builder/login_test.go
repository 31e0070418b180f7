package builder_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/builder"
)

// A guarded registry is the shared one behind a guard that knows one user.
type guarded struct {
	host string

	mu     sync.Mutex
	tokens map[string]bool // guarded by mu
}

func newGuarded(t *testing.T, scheme, password string) *guarded {
	t.Helper()
	g := &guarded{tokens: map[string]bool{}}
	pass := &httputil.ReverseProxy{ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0), Rewrite: func(p *httputil.ProxyRequest) {
		p.SetURL(&url.URL{Scheme: "http", Host: world.registry})
		p.Out.Host = p.In.Host
	}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, said, _ := r.BasicAuth()
		known := user == "robot" && said == password
		token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		g.mu.Lock()
		lets := scheme == "Bearer" && g.tokens[token] || scheme == "Basic" && known
		g.mu.Unlock()
		switch {
		case lets:
			pass.ServeHTTP(w, r)
		case r.URL.Path == "/token" && r.Method == http.MethodPost:
			w.WriteHeader(http.StatusNotFound)
		case r.URL.Path == "/token" && known:
			token := rand.Text()
			g.mu.Lock()
			g.tokens[token] = true
			g.mu.Unlock()
			fmt.Fprintf(w, `{"token":%q,"expires_in":300}`, token)
		default:
			challenge := `Basic realm="registry"`
			if scheme == "Bearer" {
				challenge = fmt.Sprintf(`Bearer realm="http://%s/token",service="test"`, r.Host)
			}
			w.Header().Set("WWW-Authenticate", challenge)
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	t.Cleanup(server.Close)
	g.host = strings.TrimPrefix(server.URL, "http://")
	return g
}

// The credentials are used to pull what the Dockerfile builds on, and to push.
func TestLogin(t *testing.T) {
	t.Parallel()
	const password = "r3gistry/pw"
	for _, scheme := range []string{"Basic", "Bearer"} {
		t.Run(scheme, func(t *testing.T) {
			t.Parallel()
			var asked sync.Map
			secret := password
			b := newBuilder(t, func(c *builder.Config) {
				c.Credentials = func(_ context.Context, host string) (string, string, error) {
					asked.Store(host, true)
					return "robot", secret, nil
				}
			})
			g := newGuarded(t, scheme, password)
			base, req := newRepo(t, map[string]string{"Dockerfile": "FROM scratch\nCOPY Dockerfile /base\n"}).ask()
			base.Repositories = []string{g.host + "/login/base-" + strings.ToLower(scheme)}
			root, err := b.Build(t.Context(), base, req)
			if err != nil {
				t.Fatal(err)
			}
			p, req := newRepo(t, map[string]string{"Dockerfile": "FROM " + base.Repositories[0] + "@" + root.Digest.String() + "\nCOPY Dockerfile /above\n"}).ask()
			p.Repositories = []string{g.host + "/login/above-" + strings.ToLower(scheme)}
			if root, err = b.Build(t.Context(), p, req); err != nil {
				t.Fatal(err)
			}
			if _, ok := asked.Load(g.host); !ok {
				t.Error("nobody asked for credentials")
			}
			fetch(t, "manifests", "login/above-"+strings.ToLower(scheme), root.Digest)

			secret = "wr0ng-pw"
			p.Repositories = []string{newGuarded(t, scheme, password).host + "/login/refused"}
			var fault *imgd.BuildError
			if _, err := b.Build(t.Context(), p, req); err == nil || errors.As(err, &fault) || strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), password) {
				t.Errorf("wrong password: got %v, want an error worth another try, without the password", err)
			}
		})
	}
}

// The registry may have another name for buildkitd; its credentials are kept
// under its own.
func TestLoginByRegistryAddress(t *testing.T) {
	t.Parallel()
	g := new(guarded)
	b := newBuilder(t, func(c *builder.Config) {
		g = newGuarded(t, "Basic", "pw")
		c.Registry, c.RegistryAddress = "registry.invalid", g.host
		c.Credentials = func(_ context.Context, host string) (string, string, error) {
			if host != "registry.invalid" {
				return "", "", fmt.Errorf("nobody logs in to %s", host)
			}
			return "robot", "pw", nil
		}
	})
	p, req := newRepo(t, map[string]string{"Dockerfile": "FROM scratch\nCOPY Dockerfile /\n"}).ask()
	p.Repositories = []string{"registry.invalid/login/otherwise"}
	if _, err := b.Build(t.Context(), p, req); err != nil {
		t.Fatal(err)
	}
	p.Repositories = []string{newGuarded(t, "Basic", "pw").host + "/login/stranger"}
	if _, err := b.Build(t.Context(), p, req); err == nil || !strings.Contains(err.Error(), "nobody logs in to") {
		t.Errorf("got %v, want what the credentials say", err)
	}
}

// A Dockerfile, which in a pull request is anybody's, mounts what secrets it
// can name: the credentials of git are not among them.
func TestDockerfileGetsNoCredentials(t *testing.T) {
	t.Parallel()
	b := newBuilder(t)
	r := newRepo(t, map[string]string{"busybox": "busybox", "sub/Dockerfile": "", "sub/f": "there"})
	r.auth = "robot:s3cr3t/word"
	host := strings.TrimSuffix(strings.TrimPrefix(r.url, "http://"), "/hello.git")
	var mounts string
	for i, id := range []string{"GIT_AUTH_HEADER." + host, "GIT_AUTH_HEADER", "GIT_AUTH_TOKEN." + host, "GIT_AUTH_TOKEN", "GIT_AUTH_HEADER.127.0.0.1"} {
		mounts += fmt.Sprintf(" --mount=type=secret,id=%s,target=/run/secrets/%d", id, i)
	}
	r.write(map[string]string{"sub/Dockerfile": shell + "COPY f /f\nRUN" + mounts + " [ -f /f ] && for s in /run/secrets/*; do [ ! -e $s ] || exit 9; done\n", "sub/busybox": "busybox"})
	p, req := r.ask()
	p.Context = "sub"
	p.Git = strings.Replace(r.url, "http://", "http://robot:s3cr3t%2Fword@", 1)
	if _, err := b.Build(t.Context(), p, req); err != nil {
		t.Errorf("the Dockerfile sees credentials, or nothing: %v", err)
	}
}
