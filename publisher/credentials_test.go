package publisher_test

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/imgd/imgd/publisher"
)

const password = "s3cr3t/pass word"

// A locked registry is the real one behind TLS and a guard that knows one user.
type locked struct {
	*registry
	host, caFile string
	scheme       string // Basic or Bearer

	mu       sync.Mutex
	password string          // guarded by mu, as those below
	tokens   map[string]bool // those that are good
	logins   int             // with the right password
	down     bool            // gives no tokens
}

func newLocked(t *testing.T, scheme string) *locked {
	t.Helper()
	l := &locked{registry: newRegistry(t), scheme: scheme, password: password, tokens: map[string]bool{}}
	pass := &httputil.ReverseProxy{ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0), Rewrite: func(p *httputil.ProxyRequest) {
		p.SetURL(&url.URL{Scheme: "http", Host: l.addr})
		p.Out.Host = p.In.Host
		p.SetXForwarded()
	}}
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/token":
			l.giveToken(w, r)
		case l.lets(r):
			pass.ServeHTTP(w, r)
		default:
			challenge := `Basic realm="registry"`
			if scheme == "Bearer" {
				challenge = fmt.Sprintf(`Bearer realm="https://%s/token",service="test",scope="repository:demo/hello:pull,push"`, r.Host)
			}
			w.Header().Set("WWW-Authenticate", challenge)
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	t.Cleanup(server.Close)
	l.host = strings.TrimPrefix(server.URL, "https://")
	l.caFile = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(l.caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return l
}

// lets reports whether the request may pass.
func (l *locked) lets(r *http.Request) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.scheme == "Bearer" {
		return l.tokens[strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")]
	}
	_, said, _ := r.BasicAuth()
	return said == l.password
}

// giveToken answers as the token servers do that know GET alone.
func (l *locked) giveToken(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	user, said, _ := r.BasicAuth()
	switch {
	case l.down:
		w.WriteHeader(http.StatusServiceUnavailable)
	case r.Method != http.MethodGet:
		w.WriteHeader(http.StatusNotFound)
	case user != "robot" || said != l.password:
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprintf(w, `{"errors":[{"code":"UNAUTHORIZED","message":"who is %s?"}]}`, user)
	default:
		l.logins++
		token := rand.Text()
		l.tokens[token] = true
		fmt.Fprintf(w, `{"token":%q,"expires_in":300}`, token)
	}
}

// change gives the user another password, and takes back what the old one gave.
func (l *locked) change(password string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.password = password
	clear(l.tokens)
}

// dockerConfig is a directory with a config.json that has the password.
func (l *locked) dockerConfig(password string) string {
	l.t.Helper()
	dir := l.t.TempDir()
	writeConfig(l.t, dir, map[string]any{"auths": map[string]any{
		l.host: map[string]string{"auth": base64.StdEncoding.EncodeToString([]byte("robot:" + password))}}})
	return dir
}

func writeConfig(t testing.TB, dir string, v any) {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func (l *locked) publisher(dockerConfig string, change ...func(*publisher.Config)) *publisher.Publisher {
	l.t.Helper()
	roots, err := publisher.RootCAs(l.caFile)
	if err != nil {
		l.t.Fatal(err)
	}
	cfg := publisher.Config{RootCAs: roots, TLS: []string{l.host}, Credentials: publisher.DockerCredentials(dockerConfig)}
	for _, f := range change {
		f(&cfg)
	}
	return publisher.New(cfg)
}

func TestLogin(t *testing.T) {
	t.Parallel()
	for _, scheme := range []string{"Basic", "Bearer"} {
		t.Run(scheme, func(t *testing.T) {
			t.Parallel()
			l := newLocked(t, scheme)
			image := l.image("demo/hello", "one", amd64())
			p := l.publisher(l.dockerConfig(password))
			if err := p.Ping(t.Context(), l.host); err != nil {
				t.Error(err)
			}
			if err := p.Tag(t.Context(), l.host+"/demo/hello", "v1.0.0", image); err != nil {
				t.Fatal(err)
			}
			if got := l.tag("demo/hello", "v1.0.0"); got != image.Digest {
				t.Errorf("got %s, want %s", got, image.Digest)
			}
			if root, _, err := p.Capture(t.Context(), []string{l.host + "/demo/hello"}, image.Digest); err != nil || root.Digest != image.Digest {
				t.Errorf("capture: got %v, %v", root, err)
			}
		})
	}
}

// A wrong or a missing password is refused, and stands in no error and no log.
func TestLoginFails(t *testing.T) {
	t.Parallel()
	for _, scheme := range []string{"Basic", "Bearer"} {
		l := newLocked(t, scheme)
		image := l.image("demo/hello", "one", amd64())
		empty := t.TempDir()
		writeConfig(t, empty, map[string]any{})
		broken := l.dockerConfig(password)
		if err := os.WriteFile(filepath.Join(broken, "config.json"), []byte(`{"auths":{"`+l.host+`":{"auth":"`+password+`"}}`), 0o600); err != nil {
			t.Fatal(err)
		}
		for name, dir := range map[string]string{"wrong": l.dockerConfig("wr0ng/pass word"), "none": empty, "no file": t.TempDir(), "broken file": broken} {
			log := &strings.Builder{}
			p := l.publisher(dir, func(c *publisher.Config) {
				c.Log = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
			})
			err := p.Tag(t.Context(), l.host+"/demo/hello", "v1.0.0", image)
			if err == nil {
				t.Fatalf("%s, %s: got no error", scheme, name)
			}
			said := err.Error() + log.String()
			for _, secret := range []string{"pass", "wr0ng", base64.StdEncoding.EncodeToString([]byte("robot:wr0ng"))[:12]} {
				if strings.Contains(strings.ReplaceAll(said, "password", ""), secret) {
					t.Errorf("%s, %s: the error shows %s: %s", scheme, name, secret, said)
				}
			}
			if !strings.Contains(said, "401") && !strings.Contains(said, "credentials") {
				t.Errorf("%s, %s: got %s", scheme, name, said)
			}
		}
	}
}

// A password that changes is read anew as soon as the old one is of no use, or
// after a few minutes at the latest: helpers' secrets run out.
func TestCredentialsAreReadAnew(t *testing.T) {
	t.Parallel()
	for _, scheme := range []string{"Basic", "Bearer"} {
		l := newLocked(t, scheme)
		image := l.image("demo/hello", "one", amd64())
		dir := l.dockerConfig(password)
		p := l.publisher(dir)
		tag := func(name string) error { return p.Tag(t.Context(), l.host+"/demo/hello", name, image) }
		if err := tag("v1.0.0"); err != nil {
			t.Fatal(err)
		}
		l.change("another")
		if err := tag("v1.0.1"); err == nil {
			t.Errorf("%s: the old password is taken", scheme)
		}
		writeConfig(t, dir, map[string]any{"auths": map[string]any{l.host: map[string]string{"username": "robot", "password": "another"}}})
		if err := tag("v1.0.1"); err != nil {
			t.Errorf("%s: the new password is not taken: %v", scheme, err)
		}
	}
}

func TestCredentialsGrowOld(t *testing.T) {
	t.Parallel()
	l := newLocked(t, "Bearer")
	image := l.image("demo/hello", "one", amd64())
	now, asked := time.Now(), 0
	p := l.publisher("", func(c *publisher.Config) {
		c.Now = func() time.Time { return now }
		c.Credentials = func(_ context.Context, host string) (string, string, error) {
			asked++
			return "robot", password, nil
		}
	})
	for _, tt := range []struct {
		after time.Duration
		want  int
	}{{0, 1}, {4 * time.Minute, 1}, {time.Minute, 2}, {time.Minute, 2}} {
		now = now.Add(tt.after)
		if err := p.Tag(t.Context(), l.host+"/demo/hello", "v1.0.0", image); err != nil || asked != tt.want {
			t.Errorf("after %s: credentials were read %d times, want %d; %v", tt.after, asked, tt.want, err)
		}
	}
}

// An outage of the token server, and a caller who goes away while a token is
// fetched, do not outlast themselves.
func TestTokensAfterAnOutage(t *testing.T) {
	t.Parallel()
	l := newLocked(t, "Bearer")
	image := l.image("demo/hello", "one", amd64())
	p := l.publisher(l.dockerConfig(password))
	l.mu.Lock()
	l.down = true
	l.mu.Unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := p.Tag(ctx, l.host+"/demo/hello", "v1.0.0", image); err == nil {
		t.Error("got no error while there are no tokens")
	}
	l.mu.Lock()
	l.down = false
	l.mu.Unlock()
	if err := p.Tag(t.Context(), l.host+"/demo/hello", "v1.0.0", image); err != nil {
		t.Errorf("after the outage: %v", err)
	}
}

func TestUnknownAuthority(t *testing.T) {
	t.Parallel()
	l := newLocked(t, "Basic")
	p := l.publisher(l.dockerConfig(password), func(c *publisher.Config) { c.RootCAs = nil })
	if err := p.Ping(t.Context(), l.host); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("got %v, want an error about the certificate", err)
	}
	nothing := filepath.Join(t.TempDir(), "nothing.pem")
	if err := os.WriteFile(nothing, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{nothing, nothing + "-missing"} {
		if _, err := publisher.RootCAs(file); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: got %v", file, err)
		}
	}
}

// What docker login writes, and what its helpers answer.
func TestDockerCredentials(t *testing.T) {
	bin, dir := t.TempDir(), t.TempDir()
	helper := "#!/bin/sh\nread host\ncase $host in\nhelped.test) echo '{\"Username\":\"h\",\"Secret\":\"from the helper\"}';;\n" +
		"token.test) echo '{\"Username\":\"<token>\",\"Secret\":\"an identity\"}';;\n*) echo 'credentials not found in native keychain'; exit 1;;\nesac\n"
	if err := os.WriteFile(filepath.Join(bin, "docker-credential-fake"), []byte(helper), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	writeConfig(t, dir, map[string]any{
		"auths": map[string]any{
			"https://index.docker.io/v1/": map[string]string{"auth": base64.StdEncoding.EncodeToString([]byte("hub:hubpw"))},
			"r.test:5000":                 map[string]string{"auth": base64.StdEncoding.EncodeToString([]byte("r:pw"))},
		},
		"credHelpers": map[string]string{"helped.test": "fake", "token.test": "fake", "unknown.test": "fake", "gone.test": "missing"},
	})
	get := publisher.DockerCredentials(dir)
	for host, want := range map[string][2]string{
		"registry-1.docker.io": {"hub", "hubpw"}, "docker.io": {"hub", "hubpw"}, "r.test:5000": {"r", "pw"}, "r.test": {},
		"helped.test": {"h", "from the helper"}, "token.test": {"", "an identity"}, "unknown.test": {},
	} {
		user, secret, err := get(t.Context(), host)
		if got := [2]string{user, secret}; err != nil || got != want {
			t.Errorf("%s: got %q, %v, want %q", host, got, err, want)
		}
	}
	if _, _, err := get(t.Context(), "gone.test"); err == nil || !strings.Contains(err.Error(), "docker-credential-missing") {
		t.Errorf("no helper: got %v", err)
	}
	if err := publisher.CheckDockerConfig(dir); err != nil {
		t.Error(err)
	}
	if err := publisher.CheckDockerConfig(t.TempDir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: got %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := publisher.CheckDockerConfig(dir); err == nil {
		t.Error("half a file: got no error")
	}
}
