package main

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/imgd/imgd/internal/webhook"
)

// hook is a config with one webhook, whose secret file has that text.
func hook(t *testing.T, forge, secret string) Config {
	t.Helper()
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := load(t, project, nil, flagValues{})
	if err != nil {
		t.Fatal(err)
	}
	cfg.Projects[0].Webhook = WebhookConfig{Forge: forge, SecretFile: file}
	return cfg
}

func TestHooksRefuse(t *testing.T) {
	missing := hook(t, "github", "x")
	missing.Projects[0].Webhook.SecretFile += "-missing"
	for name, tt := range map[string]struct {
		cfg  Config
		want string
	}{
		"missing file":  {missing, "-missing"},
		"empty secret":  {hook(t, "github", ""), "empty"},
		"only newlines": {hook(t, "github", "\r\n\n"), "empty"},
		"unknown forge": {hook(t, "sourcehut", "x"), "sourcehut"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := newHooks(tt.cfg, tt.cfg.projects("r.test"), webhook.Config{Queue: intake{}})
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "hello") {
				t.Errorf("got %v, want an error that names the project and %q", err, tt.want)
			}
		})
	}
}

// The newline that an editor puts at the end of a secret file is no part of it.
func TestHooksSecret(t *testing.T) {
	cfg := hook(t, "github", "s3cret\n")
	hooks, secrets, err := newHooks(cfg, cfg.projects("r.test"), webhook.Config{Queue: intake{}})
	if err != nil {
		t.Fatal(err)
	}
	if got := string(secrets["hello"]); got != "s3cret" {
		t.Errorf("got the secret %q", got)
	}
	body := []byte(`{"zen":"Design for failure."}`)
	r := httptest.NewRequest(http.MethodPost, "/hooks/github/hello", bytes.NewReader(body))
	r.Header.Set("X-GitHub-Event", "ping")
	r.Header.Set("X-Hub-Signature-256", signature("s3cret", string(body)))
	w := httptest.NewRecorder()
	hooks.ServeHTTP(w, r)
	if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), "ignored") {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
}

func signature(secret, body string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(body))
	return "sha256=" + hex.EncodeToString(mac.Sum(nil))
}

func TestHeadRoom(t *testing.T) {
	for _, tt := range []struct {
		least int
		dir   string
		want  string // in the error, "" for none
	}{
		{0, "/nonexistent", ""},
		{1, t.TempDir(), ""},
		{math.MaxInt32, t.TempDir(), "disk.minFreeMB"},
		{1, "/nonexistent", "/nonexistent"},
	} {
		cfg := Config{Data: tt.dir, Disk: DiskConfig{MinFreeMB: tt.least}}
		d := &daemon{cfg: cfg, live: newLive(cfg, nil)}
		err := d.headRoom(t.Context())
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%d MiB in %s: got %v, want %q", tt.least, tt.dir, err, tt.want)
		}
	}
}
