package kit

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	_ "github.com/distribution/distribution/v3/registry/auth/htpasswd" // the ways in that Locked has
	_ "github.com/distribution/distribution/v3/registry/auth/token"
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
	"golang.org/x/crypto/bcrypt"
)

// The one user that Locked servers know.
const (
	LockedUser     = "robot"
	LockedPassword = "a s3cret/of the lock"
)

// Locked is a server with TLS, by an authority that no system knows, and a login.
type Locked struct {
	// Host is host:port.
	Host string
	// CAFile has the authority's certificate, in PEM.
	CAFile string

	server      *httptest.Server
	certificate tls.Certificate // the server's, with an RSA key
	logins      atomic.Int64

	mu        sync.Mutex
	forbidden map[string][]string // guarded by mu: actions, by repository
}

// Logins is how often the right password was given for a token.
func (l *Locked) Logins() int { return int(l.logins.Load()) }

// Close ends the server.
func (l *Locked) Close() { l.server.Close() }

// LockedRegistry is a distribution registry that keeps its images in dir, and is logged in to by tokens or, without them, by
// name and password with every request. With tokens the user has rights in repositories under demo/ and private/.
func LockedRegistry(dir string, tokens bool) (*Locked, error) {
	l := &Locked{}
	var app atomic.Pointer[handlers.App]
	mux := http.NewServeMux()
	mux.Handle("/v2/", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { app.Load().ServeHTTP(w, r) }))
	if err := l.start(dir, mux); err != nil {
		return nil, err
	}
	config := &configuration.Configuration{Storage: configuration.Storage{"filesystem": {"rootdirectory": filepath.Join(dir, "images")}, "delete": {"enabled": true}}}
	config.Catalog.MaxEntries, config.HTTP.Secret = 100, rand.Text()
	config.Log.Level = "error"
	auth := l.htpasswd
	if tokens {
		auth = func(dir string) (configuration.Auth, error) { return l.tokenServer(dir, mux) }
	}
	var err error
	if config.Auth, err = auth(dir); err != nil {
		l.Close()
		return nil, err
	}
	app.Store(handlers.NewApp(context.Background(), config))
	return l, nil
}

// LockedProxy lets those who log in through to next.
func LockedProxy(dir string, next http.Handler) (*Locked, error) {
	l := &Locked{}
	return l, l.start(dir, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !known(r) {
			w.Header().Set("WWW-Authenticate", `Basic realm="locked"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	}))
}

func known(r *http.Request) bool {
	user, password, _ := r.BasicAuth()
	return user == LockedUser && password == LockedPassword
}

func (l *Locked) start(dir string, handler http.Handler) error {
	authority, err := newAuthority()
	if err != nil {
		return fmt.Errorf("make certificates: %w", err)
	}
	l.CAFile = filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(l.CAFile, authority.pem, 0o644); err != nil {
		return err
	}
	l.certificate = authority.server
	l.server = httptest.NewUnstartedServer(handler)
	l.server.Config.ErrorLog = log.New(io.Discard, "", 0) // it tells of each client that does not trust it
	l.server.TLS = &tls.Config{Certificates: []tls.Certificate{l.certificate}}
	l.server.StartTLS()
	l.Host = strings.TrimPrefix(l.server.URL, "https://")
	return nil
}

func (l *Locked) htpasswd(dir string) (configuration.Auth, error) {
	hash, err := bcrypt.GenerateFromPassword([]byte(LockedPassword), bcrypt.MinCost)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "htpasswd")
	return configuration.Auth{"htpasswd": {"realm": "locked", "path": file}}, os.WriteFile(file, []byte(LockedUser+":"+string(hash)+"\n"), 0o600)
}

// tokenServer serves tokens at /token, as the specification of distribution says, by GET alone. They are signed with the server's own
// key, whose certificate they carry.
func (l *Locked) tokenServer(_ string, mux *http.ServeMux) (configuration.Auth, error) {
	mux.HandleFunc("GET /token", func(w http.ResponseWriter, r *http.Request) {
		if !known(r) {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		l.logins.Add(1)
		token, err := l.token(l.granted(r.URL.Query()["scope"]))
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"token": token, "expires_in": 300})
	})
	return configuration.Auth{"token": {"realm": l.server.URL + "/token", "issuer": "kit", "service": "kit", "rootcertbundle": l.CAFile}}, nil
}

// An access is what a token allows in one repository.
type access struct {
	Type    string   `json:"type"`
	Name    string   `json:"name"`
	Actions []string `json:"actions"`
}

// granted is what the user gets of the scopes that were asked for, each type:name:action,action.
func (l *Locked) granted(scopes []string) []access {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := []access{}
	for _, scope := range strings.Fields(strings.Join(scopes, " ")) {
		parts := strings.Split(scope, ":")
		if len(parts) != 3 || !strings.HasPrefix(parts[1], "demo/") && !strings.HasPrefix(parts[1], "private/") {
			continue
		}
		actions := slices.DeleteFunc(strings.Split(parts[2], ","), func(action string) bool { return slices.Contains(l.forbidden[parts[1]], action) })
		all = append(all, access{parts[0], parts[1], actions})
	}
	return all
}

// Forbid takes rights in a repository from the user, in place of those that were taken before. Tokens that are given out hold.
func (l *Locked) Forbid(repository string, actions ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.forbidden == nil {
		l.forbidden = map[string][]string{}
	}
	l.forbidden[repository] = actions
}

// token is signed as RS256 of JWT (RFC 7518), with the certificate as x5c.
func (l *Locked) token(allowed []access) (string, error) {
	header, err := json.Marshal(map[string]any{"alg": "RS256", "typ": "JWT", "x5c": []string{base64.StdEncoding.EncodeToString(l.certificate.Certificate[0])}})
	if err != nil {
		return "", err
	}
	now := time.Now().Unix()
	claims, err := json.Marshal(map[string]any{"iss": "kit", "aud": "kit", "sub": LockedUser, "exp": now + 300, "nbf": now, "iat": now,
		"jti": rand.Text(), "access": allowed})
	if err != nil {
		return "", err
	}
	encode := base64.RawURLEncoding.EncodeToString
	text := encode(header) + "." + encode(claims)
	sum := sha256.Sum256([]byte(text))
	signature, err := rsa.SignPKCS1v15(nil, l.certificate.PrivateKey.(*rsa.PrivateKey), crypto.SHA256, sum[:])
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	return text + "." + encode(signature), nil
}
