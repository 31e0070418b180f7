package integration_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/crane"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"

	"github.com/imgd/imgd/integration/kit"
)

// newKeys makes a pair of keys for NATS.
func newKeys(t *testing.T, create func() (nkeys.KeyPair, error)) (nkeys.KeyPair, string) {
	t.Helper()
	pair, err := create()
	if err != nil {
		t.Fatal(err)
	}
	public, err := pair.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return pair, public
}

// lockedNATS is a NATS server whose operator has signed one account, and the credentials of a user of that.
func lockedNATS(t *testing.T) (address, creds string) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	operator, operatorID := newKeys(t, nkeys.CreateOperator)
	account, accountID := newKeys(t, nkeys.CreateAccount)
	_, systemID := newKeys(t, nkeys.CreateAccount)
	user, userID := newKeys(t, nkeys.CreateUser)
	trusted := jwt.NewOperatorClaims(operatorID)
	trusted.SystemAccount = systemID
	_, err := trusted.Encode(operator)
	must(err)
	resolver := &server.MemAccResolver{}
	for _, id := range []string{systemID, accountID} {
		claims := jwt.NewAccountClaims(id)
		if id == accountID {
			claims.Limits.JetStreamLimits = jwt.JetStreamLimits{DiskStorage: -1, MemoryStorage: -1, Streams: -1, Consumer: -1}
		}
		token, err := claims.Encode(operator)
		must(err)
		must(resolver.Store(id, token))
	}
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true,
		TrustedOperators: []*jwt.OperatorClaims{trusted}, AccountResolver: resolver, SystemAccount: systemID})
	must(err)
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	token, err := jwt.NewUserClaims(userID).Encode(account)
	must(err)
	seed, err := user.Seed()
	must(err)
	text, err := jwt.FormatUserConfig(token, seed)
	must(err)
	creds = filepath.Join(t.TempDir(), "imgd.creds")
	must(os.WriteFile(creds, text, 0o600))
	return s.ClientURL(), creds
}

// Everything that imgd speaks to wants a login, and has a certificate that no system knows: NATS with credentials, git and a
// registry with TLS and passwords. The image is built on one that only those who are logged in can pull.
func TestSecured(t *testing.T) {
	for name, tokens := range map[string]bool{"basic": false, "tokens": true} {
		t.Run(name, func(t *testing.T) { secured(t, tokens) })
	}
}

func secured(t *testing.T, tokens bool) {
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	registry, err := kit.LockedRegistry(t.TempDir(), tokens)
	must(err)
	t.Cleanup(registry.Close)
	plain, err := kit.ServeGit(t.Context(), t.TempDir())
	must(err)
	t.Cleanup(func() { plain.Close() })
	to, err := url.Parse(plain.URL)
	must(err)
	git, err := kit.LockedProxy(t.TempDir(), &httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) { p.SetURL(to) }})
	must(err)
	t.Cleanup(git.Close)

	docker := t.TempDir()
	login := base64.StdEncoding.EncodeToString([]byte(kit.LockedUser + ":" + kit.LockedPassword))
	config, err := json.Marshal(map[string]any{"auths": map[string]any{registry.Host: map[string]string{"auth": login}}})
	must(err)
	must(os.WriteFile(filepath.Join(docker, "config.json"), config, 0o600))

	repo, err := plain.Create(t.Context(), "demo/hello")
	must(err)
	base := pushBase(t, registry)
	_, err = repo.Commit(t.Context(), "begin", map[string]string{"Dockerfile": "FROM " + base + "\nCOPY Dockerfile /\n"})
	must(err)
	natsURL, creds := lockedNATS(t)
	gitURL := (&url.URL{Scheme: "https", Host: git.Host, Path: "/demo/hello.git", User: url.UserPassword(kit.LockedUser, kit.LockedPassword)}).String()
	cfg := kit.LocalConfig(kit.ProjectConfig{Name: "hello", Git: gitURL, Image: "demo/hello"})
	cfg.NATS = kit.NATSConfig{URL: natsURL, CredsFile: creds}
	cfg.Registry = kit.RegistryConfig{Address: registry.Host, CAFile: registry.CAFile, DockerConfig: docker}
	cfg.Git = kit.GitConfig{CAFile: git.CAFile}
	cfg.Log = kit.LogConfig{Level: "debug", Format: "json"}
	d := kit.RunDaemon(t, t.TempDir(), cfg)
	ctx, cancel := context.WithTimeout(t.Context(), buildTime)
	defer cancel()
	out, err := d.Imgctl(ctx, "build", "hello", "--ref", "main", "--wait", "-o", "digest")
	must(err)
	got, err := crane.Digest(registry.Host+"/demo/hello:main", lockedOptions()...)
	must(err)
	if want := registry.Host + "/demo/hello@" + got; !slices.Contains(strings.Fields(out), want) {
		t.Errorf("imgctl says %s, the registry %s", out, want)
	}
	if tokens && registry.Logins() == 0 {
		t.Error("nobody has logged in for a token")
	}
	noSecrets(t, d.Dir)
}

// lockedOptions are crane's, for a stranger who trusts every certificate.
func lockedOptions() []crane.Option {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig.InsecureSkipVerify = true
	return []crane.Option{crane.WithAuth(&authn.Basic{Username: kit.LockedUser, Password: kit.LockedPassword}), crane.WithTransport(transport)}
}

// pushBase is an image that only those who are logged in can pull.
func pushBase(t *testing.T, registry *kit.Locked) string {
	t.Helper()
	layer, err := crane.Layer(map[string][]byte{"base": []byte("base")})
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(mutate.MediaType(empty.Image, types.OCIManifestSchema1), layer)
	if err != nil {
		t.Fatal(err)
	}
	ref := registry.Host + "/private/base:v1"
	if err := crane.Push(img, ref, lockedOptions()...); err != nil {
		t.Fatal(err)
	}
	return ref
}

// noSecrets looks for the password in all that the daemon has written, but for the file it was given.
func noSecrets(t *testing.T, dir string) {
	t.Helper()
	login := base64.StdEncoding.EncodeToString([]byte(kit.LockedUser + ":" + kit.LockedPassword))
	secrets := []string{kit.LockedPassword, url.QueryEscape(kit.LockedPassword), url.PathEscape(kit.LockedPassword), login}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) { // gone meanwhile
			return nil
		}
		if err != nil || entry.IsDir() || entry.Name() == "imgd.yaml" {
			return err
		}
		text, _ := os.ReadFile(path)
		for _, secret := range secrets {
			if strings.Contains(string(text), secret) {
				t.Errorf("%s has the password", path)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
