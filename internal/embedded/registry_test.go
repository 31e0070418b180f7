package embedded_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/imgd/imgd/internal/embedded"
)

const manifestType = "application/vnd.oci.image.manifest.v1+json"

func startRegistry(t *testing.T, dir string, log *slog.Logger) *embedded.Registry {
	t.Helper()
	r, err := embedded.StartRegistry(within(t), embedded.RegistryConfig{Dir: dir, Listen: "127.0.0.1:0", Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeRegistry(t, r) })
	return r
}

func closeRegistry(t *testing.T, r *embedded.Registry) {
	t.Helper()
	noFailure(t, r.Failed())
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
	defer cancel()
	if err := r.Close(ctx); err != nil {
		t.Error(err)
	}
}

// call does one request and checks the status.
func call(t *testing.T, method, url string, body []byte, status int) (http.Header, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(within(t), method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", manifestType)
	req.Header.Set("Content-Type", "application/octet-stream")
	if strings.Contains(url, "/manifests/") {
		req.Header.Set("Content-Type", manifestType)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != status {
		t.Fatalf("%s %s: got %s, want %d\n%s", method, url, resp.Status, status, text)
	}
	return resp.Header, text
}

func digestOf(data []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(data)) }

// pushImage pushes an image without layers and returns its manifest.
func pushImage(t *testing.T, base, tag string) []byte {
	t.Helper()
	config := []byte(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}`)
	header, _ := call(t, "POST", base+"/blobs/uploads/", nil, http.StatusAccepted)
	call(t, "PUT", header.Get("Location")+"&digest="+digestOf(config), config, http.StatusCreated)
	manifest := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":`+
		`"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},"layers":[]}`,
		manifestType, digestOf(config), len(config))
	call(t, "PUT", base+"/manifests/"+tag, manifest, http.StatusCreated)
	return manifest
}

func TestRegistryKeepsImagesOverRestart(t *testing.T) {
	dir := t.TempDir()
	first := startRegistry(t, dir, quiet())
	base := "http://" + first.Address() + "/v2/demo/app"
	manifest := pushImage(t, base, "v1")
	call(t, "PUT", base+"/manifests/v2", manifest, http.StatusCreated)
	closeRegistry(t, first)

	second := startRegistry(t, dir, quiet())
	base = "http://" + second.Address() + "/v2/demo/app"
	header, got := call(t, "GET", base+"/manifests/v1", nil, http.StatusOK)
	if !bytes.Equal(got, manifest) {
		t.Errorf("manifest: got %s, want %s", got, manifest)
	}
	if got, want := header.Get("Docker-Content-Digest"), digestOf(manifest); got != want {
		t.Errorf("digest: got %s, want %s", got, want)
	}
	if _, got := call(t, "GET", "http://"+second.Address()+"/v2/_catalog", nil, http.StatusOK); !bytes.Contains(got, []byte("demo/app")) {
		t.Errorf("catalog: got %s", got)
	}

	call(t, "DELETE", base+"/manifests/v1", nil, http.StatusAccepted)
	call(t, "GET", base+"/manifests/v1", nil, http.StatusNotFound)
	call(t, "GET", base+"/manifests/v2", nil, http.StatusOK)
	call(t, "DELETE", base+"/manifests/"+digestOf(manifest), nil, http.StatusAccepted)
	call(t, "GET", base+"/manifests/v2", nil, http.StatusNotFound)
}

func TestRegistryRefusesToStart(t *testing.T) {
	taken := t.TempDir()
	startRegistry(t, taken, quiet())
	for name, tc := range map[string]struct{ dir, listen, want string }{
		"directory locked": {taken, "127.0.0.1:0", fmt.Sprintf("in use by process %d", os.Getpid())},
		"port taken":       {t.TempDir(), busyPort(t), "address already in use"},
		"no directory":     {"/dev/null/registry", "127.0.0.1:0", "not a directory"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := embedded.RegistryConfig{Dir: tc.dir, Listen: tc.listen, Log: quiet()}
			r, err := embedded.StartRegistry(within(t), cfg)
			if err == nil {
				closeRegistry(t, r)
				t.Fatal("got no error")
			}
			if !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %q, want it to contain %q", err, tc.want)
			}
		})
	}
}

// TestRegistryLogsAtDebug: a "not found" is an error to the registry and an
// everyday answer to us.
func TestRegistryLogsAtDebug(t *testing.T) {
	var all lockedBuffer
	handler := slog.NewTextHandler(&all, &slog.HandlerOptions{Level: slog.LevelDebug})
	r := startRegistry(t, t.TempDir(), slog.New(handler))
	call(t, "GET", "http://"+r.Address()+"/v2/demo/app/manifests/none", nil, http.StatusNotFound)
	for line := range strings.Lines(all.String()) {
		if !strings.Contains(line, "level=DEBUG") {
			t.Errorf("above debug: %s", line)
		}
	}
	if want := "manifest unknown"; !strings.Contains(all.String(), want) {
		t.Errorf("got %s, want it to contain %q", all.String(), want)
	}
}

type lockedBuffer struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
