package kit

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
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

// Locked is a server with TLS, by a certificate that no system knows, and a login.
type Locked struct {
	// Host is host:port.
	Host string
	// CAFile has the certificate, in PEM.
	CAFile string

	server *httptest.Server
	logins atomic.Int64
}

// Logins is how often the right password was given for a token.
func (l *Locked) Logins() int { return int(l.logins.Load()) }

// Close ends the server.
func (l *Locked) Close() { l.server.Close() }

// LockedRegistry is a distribution registry that keeps its images in dir, and is logged in to by tokens or, without them, by
// name and password with every request.
func LockedRegistry(dir string, tokens bool) (*Locked, error) {
	l := &Locked{}
	var app atomic.Pointer[handlers.App]
	mux := http.NewServeMux()
	mux.Handle("/v2/", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { app.Load().ServeHTTP(w, r) }))
	if err := l.start(dir, mux); err != nil {
		return nil, err
	}
	config := &configuration.Configuration{Storage: configuration.Storage{"filesystem": {"rootdirectory": filepath.Join(dir, "images")}}}
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
	l.server = httptest.NewTLSServer(handler)
	l.Host = strings.TrimPrefix(l.server.URL, "https://")
	l.CAFile = filepath.Join(dir, "ca.pem")
	return os.WriteFile(l.CAFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: l.server.Certificate().Raw}), 0o644)
}

func (l *Locked) htpasswd(dir string) (configuration.Auth, error) {
	hash, err := bcrypt.GenerateFromPassword([]byte(LockedPassword), bcrypt.MinCost)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "htpasswd")
	return configuration.Auth{"htpasswd": {"realm": "locked", "path": file}}, os.WriteFile(file, []byte(LockedUser+":"+string(hash)+"\n"), 0o600)
}

// tokenServer serves tokens at /token, as the specification of distribution says, by GET alone.
func (l *Locked) tokenServer(dir string, mux *http.ServeMux) (configuration.Auth, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	point, err := key.PublicKey.Bytes() // 4, x, y
	if err != nil {
		return nil, err
	}
	encode := base64.RawURLEncoding.EncodeToString
	keys, err := json.Marshal(map[string]any{"keys": []any{map[string]string{"kty": "EC", "crv": "P-256", "kid": "kit", "alg": "ES256",
		"use": "sig", "x": encode(point[1:33]), "y": encode(point[33:])}}})
	if err != nil {
		return nil, err
	}
	mux.HandleFunc("GET /token", func(w http.ResponseWriter, r *http.Request) {
		if !known(r) {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		l.logins.Add(1)
		token, err := signed(key, r.URL.Query()["scope"])
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"token": token, "expires_in": 300})
	})
	file := filepath.Join(dir, "jwks.json")
	return configuration.Auth{"token": {"realm": l.server.URL + "/token", "issuer": "kit", "service": "kit", "jwks": file}}, os.WriteFile(file, keys, 0o600)
}

// signed is a token for the scopes, each type:name:action,action.
func signed(key *ecdsa.PrivateKey, scopes []string) (string, error) {
	var access []any
	for _, scope := range strings.Fields(strings.Join(scopes, " ")) {
		if parts := strings.Split(scope, ":"); len(parts) == 3 {
			access = append(access, map[string]any{"type": parts[0], "name": parts[1], "actions": strings.Split(parts[2], ",")})
		}
	}
	now := time.Now().Unix()
	claims, err := json.Marshal(map[string]any{"iss": "kit", "aud": "kit", "sub": LockedUser, "exp": now + 300, "nbf": now, "iat": now,
		"jti": rand.Text(), "access": access})
	if err != nil {
		return "", err
	}
	encode := base64.RawURLEncoding.EncodeToString
	text := encode([]byte(`{"alg":"ES256","kid":"kit","typ":"JWT"}`)) + "." + encode(claims)
	sum := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	signature := append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
	return text + "." + encode(signature), nil
}
