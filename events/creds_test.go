package events_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/events"
)

// An operator is who signs accounts, as nsc does; its server takes only users
// with credentials.
type operator struct {
	t       *testing.T
	account nkeys.KeyPair
	url     string
}

func newKeys(t *testing.T, make func() (nkeys.KeyPair, error)) (nkeys.KeyPair, string) {
	t.Helper()
	pair, err := make()
	if err != nil {
		t.Fatal(err)
	}
	public, err := pair.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return pair, public
}

func newOperator(t *testing.T) *operator {
	t.Helper()
	key, id := newKeys(t, nkeys.CreateOperator)
	_, system := newKeys(t, nkeys.CreateAccount)
	account, accountID := newKeys(t, nkeys.CreateAccount)
	claims := jwt.NewOperatorClaims(id)
	claims.SystemAccount = system
	resolver := &server.MemAccResolver{}
	for _, public := range []string{system, accountID} {
		c := jwt.NewAccountClaims(public)
		if public == accountID {
			c.Limits.JetStreamLimits = jwt.JetStreamLimits{DiskStorage: -1, MemoryStorage: -1, Streams: -1, Consumer: -1}
		}
		token, err := c.Encode(key)
		if err != nil {
			t.Fatal(err)
		}
		if err := resolver.Store(public, token); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := claims.Encode(key); err != nil {
		t.Fatal(err)
	}
	srv, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true,
		TrustedOperators: []*jwt.OperatorClaims{claims}, AccountResolver: resolver, SystemAccount: system,
	})
	if err != nil {
		t.Fatal(err)
	}
	go srv.Start()
	if !srv.ReadyForConnections(patience) {
		t.Fatal("nats server is not ready")
	}
	t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
	return &operator{t: t, account: account, url: srv.ClientURL()}
}

// creds is the file of a new user, signed by signer.
func (o *operator) creds(signer nkeys.KeyPair) (file, seed string) {
	o.t.Helper()
	user, public := newKeys(o.t, nkeys.CreateUser)
	token, err := jwt.NewUserClaims(public).Encode(signer)
	if err != nil {
		o.t.Fatal(err)
	}
	secret, err := user.Seed()
	if err != nil {
		o.t.Fatal(err)
	}
	text, err := jwt.FormatUserConfig(token, secret)
	if err != nil {
		o.t.Fatal(err)
	}
	file = filepath.Join(o.t.TempDir(), "imgd.creds")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		o.t.Fatal(err)
	}
	return file, string(secret)
}

func TestCredentials(t *testing.T) {
	o := newOperator(t)
	good, _ := o.creds(o.account)
	b := connect(t, events.Config{URL: o.url, Creds: good})
	if err := b.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	req := imgd.Request{Project: "hello", Ref: "refs/heads/main", Commit: strings.Repeat("a", 40)}
	if _, err := b.Enqueue(t.Context(), req, "delivery"); err != nil {
		t.Error(err)
	}

	stranger, _ := newKeys(t, nkeys.CreateAccount)
	wrong, seed := o.creds(stranger)
	for name, file := range map[string]string{"none": "", "another account's": wrong, "missing": wrong + "-missing"} {
		b, err := events.Connect(t.Context(), events.Config{URL: o.url, Creds: file})
		if err == nil {
			b.Close()
			t.Fatalf("%s: connected", name)
		}
		if strings.Contains(err.Error(), seed) || !strings.Contains(err.Error(), "connect to nats") || errors.Is(err, events.ErrAway) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
