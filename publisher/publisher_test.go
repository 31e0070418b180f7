package publisher_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/publisher"
)

var _ imgd.Tagger = newPublisher()

// Tracking by digest alone, as a shared containerd resolver does, would write
// the first of these only.
func TestTagWritesEach(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	image := reg.image("demo/hello", "one", amd64())
	reg.image("demo/copy", "one", amd64())
	p := newPublisher()
	reg.misbehave(nil)
	for _, repository := range []string{"demo/hello", "demo/copy"} {
		for _, tag := range []string{"v1.2.0", "1.2", "latest"} {
			if err := p.Tag(t.Context(), reg.addr+"/"+repository, tag, image); err != nil {
				t.Fatal(err)
			}
			if got := reg.tag(repository, tag); got != image.Digest {
				t.Errorf("%s:%s names %s, want %s", repository, tag, got, image.Digest)
			}
		}
	}
	if got := reg.count("PUT"); got != 6 {
		t.Errorf("%d manifests put, want 6", got)
	}
	reg.misbehave(nil)
	if err := p.Tag(t.Context(), reg.addr+"/demo/hello", "latest", image); err != nil {
		t.Fatal(err)
	}
	if puts, gets := reg.count("PUT"), reg.count("GET"); puts != 0 || gets < 2 {
		t.Errorf("repeated: %d puts, %d gets; want no put, and the tag read still", puts, gets)
	}
}

func TestTagMovesAndTakesIndex(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	index, amd, _ := indexOf(reg, "demo/hello")
	for _, root := range []ocispec.Descriptor{amd, index, amd} {
		if err := newPublisher().Tag(t.Context(), reg.addr+"/demo/hello", "latest", root); err != nil {
			t.Fatal(err)
		}
		status, header, _ := reg.direct("GET", "demo/hello/manifests/latest", "", nil)
		if got := reg.tag("demo/hello", "latest"); got != root.Digest || header.Get("Content-Type") != root.MediaType {
			t.Errorf("%d: tag names %s (%s), want %s", status, got, header.Get("Content-Type"), root.Digest)
		}
	}
}

// retag puts a manifest under a tag, past the front. It may be called by any
// goroutine.
func (r *registry) retag(repository, tag string, desc ocispec.Descriptor) {
	_, _, body := r.direct("GET", repository+"/manifests/"+desc.Digest.String(), "", nil)
	r.direct("PUT", repository+"/manifests/"+tag, desc.MediaType, body)
}

func TestTagWithoutRoot(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	reg.image("demo/hello", "one", amd64())
	missing := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("no"), Size: 2}
	for _, repository := range []string{"demo/hello", "demo/unknown"} {
		if err := newPublisher().Tag(t.Context(), reg.addr+"/"+repository, "latest", missing); !errors.Is(err, imgd.ErrNotFound) {
			t.Errorf("%s: %v, want ErrNotFound", repository, err)
		}
	}
	if err := newPublisher().Tag(t.Context(), reg.addr+"/demo/hello", "no/tag", missing); err == nil || errors.Is(err, imgd.ErrNotFound) {
		t.Errorf("got %v, want the tag refused", err)
	}
}

func TestTagInterrupted(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	image := reg.image("demo/hello", "one", amd64())
	ctx, cancel := context.WithCancel(t.Context())
	reg.misbehave(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "PUT" {
			reg.retag("demo/hello", "latest", image) // and yet it took effect
			cancel()
			io.Copy(io.Discard, r.Body) // else the server does not notice that the client is gone
			<-r.Context().Done()
		}
	})
	if err := newPublisher().Tag(ctx, reg.addr+"/demo/hello", "latest", image); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
	reg.misbehave(nil)
	if err := newPublisher().Tag(t.Context(), reg.addr+"/demo/hello", "latest", image); err != nil {
		t.Errorf("repeated: %v", err)
	}
}

func TestUntag(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	image := reg.image("demo/hello", "one", amd64())
	theirs := reg.image("demo/hello", "two", amd64())
	ours := func(d digest.Digest) bool { return d == image.Digest }
	p := newPublisher()
	untag := func(tag string) error { return p.Untag(t.Context(), reg.addr+"/demo/hello", tag, ours) }

	if err := untag("absent"); err != nil {
		t.Errorf("absent: %v", err)
	}
	reg.retag("demo/hello", "theirs", theirs)
	if err := untag("theirs"); err != nil || reg.tag("demo/hello", "theirs") != theirs.Digest {
		t.Errorf("another's: %v, tag names %s", err, reg.tag("demo/hello", "theirs"))
	}
	reg.retag("demo/hello", "latest", image)
	reg.retag("demo/hello", "v1", image)
	for range 2 {
		if err := untag("latest"); err != nil || reg.tag("demo/hello", "latest") != "404" {
			t.Errorf("ours: %v, tag names %s", err, reg.tag("demo/hello", "latest"))
		}
	}
	if got := reg.tag("demo/hello", "v1"); got != image.Digest {
		t.Errorf("the other tag of the manifest names %s", got)
	}
}

func TestResolve(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	image := reg.image("demo/hello", "one", amd64())
	reg.retag("demo/hello", "latest", image)
	p := newPublisher()
	for _, ref := range []string{"latest", image.Digest.String()} {
		got, err := p.Resolve(t.Context(), reg.addr+"/demo/hello", ref)
		if err != nil || got.Digest != image.Digest || got.Size != image.Size || got.MediaType != image.MediaType {
			t.Errorf("%s: %+v %v, want %+v", ref, got, err, image)
		}
	}
	for _, ref := range []string{"absent", digest.FromString("no").String()} {
		if _, err := p.Resolve(t.Context(), reg.addr+"/demo/hello", ref); !errors.Is(err, imgd.ErrNotFound) {
			t.Errorf("%s: %v, want ErrNotFound", ref, err)
		}
	}
	if _, err := p.Resolve(t.Context(), reg.addr+"/demo/hello", "../../x"); err == nil {
		t.Error("a ref that is none must not reach the registry")
	}
	reg.misbehave(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.RawQuery == "" {
			http.Redirect(w, r, r.URL.Path+"?signature=secret", http.StatusTemporaryRedirect)
		}
	})
	if got, err := p.Resolve(t.Context(), reg.addr+"/demo/hello", "latest"); err != nil || got.Digest != image.Digest {
		t.Errorf("redirected: %v %v", got, err)
	}
	reg.misbehave(func(w http.ResponseWriter, r *http.Request) {
		if http.Redirect(w, r, r.URL.Path+"?signature=secret", http.StatusTemporaryRedirect); r.URL.RawQuery != "" {
			panic(http.ErrAbortHandler)
		}
	})
	if _, err := p.Resolve(t.Context(), reg.addr+"/demo/hello", "latest"); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("redirected for ever: %v; want an error without the signature", err)
	}
}

func TestPing(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	if err := newPublisher().Ping(t.Context(), reg.addr); err != nil {
		t.Error(err)
	}
	reg.misbehave(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusUnauthorized) })
	if err := newPublisher().Ping(t.Context(), reg.addr); err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("got %v, want 401", err)
	}
	gone := httptest.NewServer(nil)
	gone.Close()
	if err := newPublisher().Ping(t.Context(), strings.TrimPrefix(gone.URL, "http://")); err == nil {
		t.Error("a registry that is not there answered")
	}
}

func TestPlainHTTP(t *testing.T) {
	t.Parallel()
	p := publisher.New(publisher.Config{PlainHTTP: []string{"registry.invalid:5000"}})
	if err := p.Ping(t.Context(), "registry.invalid:5000"); err == nil || !strings.Contains(err.Error(), "http://registry.invalid:5000/v2/") {
		t.Errorf("got %v, want it asked by http", err)
	}
	if err := p.Ping(t.Context(), "other.invalid"); err == nil || !strings.Contains(err.Error(), "https://other.invalid/v2/") {
		t.Errorf("got %v, want it asked by https", err)
	}
}

// An anonymous token is fetched when the registry asks for one; and a token
// server that fails between the pusher's HEAD and its PUT ends the call.
func TestToken(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	image := reg.image("demo/hello", "one", amd64())
	var scopes []string
	failing := false
	auth := func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			if failing && strings.Contains(r.URL.Query().Get("scope"), "push") {
				w.WriteHeader(http.StatusForbidden)
				return
			}
			scopes = append(scopes, r.URL.Query()["scope"]...)
			json.NewEncoder(w).Encode(map[string]any{"token": "t", "expires_in": 60})
			return
		}
		if r.Header.Get("Authorization") != "Bearer t" {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="test"`, reg.addr))
			w.WriteHeader(http.StatusUnauthorized)
		}
	}
	reg.misbehave(auth)
	p := newPublisher()
	if err := p.Tag(t.Context(), reg.addr+"/demo/hello", "latest", image); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(scopes, " "); !strings.Contains(got, "repository:demo/hello:pull,push") {
		t.Errorf("scopes %q", got)
	}
	if err := p.Untag(t.Context(), reg.addr+"/demo/hello", "latest", func(digest.Digest) bool { return true }); err != nil {
		t.Error(err)
	}
	expired := false
	reg.misbehave(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "PUT" && !expired {
			expired = true
			r.Header.Del("Authorization")
		}
		auth(w, r)
	})
	if err := p.Tag(t.Context(), reg.addr+"/demo/hello", "again", image); err != nil || reg.tag("demo/hello", "again") != image.Digest {
		t.Errorf("the token expires between HEAD and PUT: %v", err)
	}
	// And if there is no new one, the body that the pusher began to write has no
	// reader.
	reg.misbehave(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "PUT" {
			failing = true
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="test",error="invalid_token"`, reg.addr))
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		auth(w, r)
	})
	ended := make(chan error, 1)
	go func() { ended <- p.Tag(t.Context(), reg.addr+"/demo/hello", "never", image) }()
	select {
	case err := <-ended:
		if err == nil || !strings.Contains(err.Error(), "403") {
			t.Errorf("got %v, want the token server's refusal", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the put hangs")
	}
	reg.misbehave(auth)
	if err := newPublisher().Tag(t.Context(), reg.addr+"/demo/hello", "latest", image); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the token server's refusal", err)
	}
}

// On a redirect net/http takes another copy of the body, and of a pusher's it
// must be the one that is sent: or the write waits for a reader that never
// comes. It did so about once in twenty.
func TestTagRedirected(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	image := reg.image("demo/hello", "one", amd64())
	reg.misbehave(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "PUT" && r.URL.RawQuery == "" {
			http.Redirect(w, r, r.URL.Path+"?again", http.StatusTemporaryRedirect)
		}
	})
	ended := make(chan error)
	for i := range 60 {
		tag := fmt.Sprintf("v%d", i)
		go func() { ended <- newPublisher().Tag(t.Context(), reg.addr+"/demo/hello", tag, image) }()
		select {
		case err := <-ended:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("put %d hangs", i)
		}
	}
}
