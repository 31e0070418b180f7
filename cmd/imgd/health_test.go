package main

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// health runs `imgd health` on a data directory whose endpoints.json has that
// text; none if it is empty.
func health(t *testing.T, text string) (stdout string, err error) {
	t.Helper()
	dir := t.TempDir()
	if text != "" {
		if err := os.WriteFile(filepath.Join(dir, "endpoints.json"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	err = run(t.Context(), []string{"health", "--data", dir}, &out, &out)
	return out.String(), err
}

func TestHealth(t *testing.T) {
	status := http.StatusOK
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/livez" {
			t.Errorf("asked for %s", r.URL)
		}
		http.Error(w, "said", status)
	}))
	defer server.Close()
	// Health never goes through a proxy.
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	at := `{"http":"` + server.URL + `"}`
	if said, err := health(t, at); err != nil || said != "ok\n" {
		t.Errorf("of a healthy one: %q, %v", said, err)
	}
	status = http.StatusServiceUnavailable
	if _, err := health(t, at); err == nil || !strings.Contains(err.Error(), "503") || exitCode(err) != 1 {
		t.Errorf("of one that says 503: %v", err)
	}
	server.Close()
	if _, err := health(t, at); err == nil || exitCode(err) != 1 {
		t.Errorf("of one that is gone, but left its endpoints: %v", err)
	}
	for _, text := range []string{"", "{", `{"http":""}`} {
		if _, err := health(t, text); err == nil || exitCode(err) != 1 {
			t.Errorf("with endpoints.json %q: %v", text, err)
		}
	}
}

// A daemon that does not answer is not healthy, and is not waited for.
func TestHealthInterrupted(t *testing.T) {
	asked, release := make(chan struct{}), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { close(asked); <-release }))
	defer server.Close()
	defer close(release)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "endpoints.json"), []byte(`{"http":"`+server.URL+`"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-asked; cancel() }()
	if err := askHealth(ctx, dir); err == nil {
		t.Error("no error")
	}
}
