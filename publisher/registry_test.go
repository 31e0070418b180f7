package publisher_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgd/imgd/internal/embedded"
	"github.com/imgd/imgd/publisher"
)

// registry is the real registry behind a front that can misbehave.
type registry struct {
	t    testing.TB
	addr string // of the front
	real string

	mu     sync.Mutex
	broken http.HandlerFunc // guarded by mu: called first; what it writes is the answer
	seen   []string         // guarded by mu: "PUT /v2/…"
}

func newRegistry(t testing.TB) *registry {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	reg, err := embedded.StartRegistry(t.Context(), embedded.RegistryConfig{Dir: t.TempDir(), Listen: "127.0.0.1:0", Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		if err := reg.Close(t.Context()); err != nil && t.Context().Err() == nil {
			t.Error(err)
		}
	})
	r := &registry{t: t, real: reg.Address()}
	pass := &httputil.ReverseProxy{ErrorLog: slog.NewLogLogger(log.Handler(), 0), Rewrite: func(p *httputil.ProxyRequest) {
		p.SetURL(&url.URL{Scheme: "http", Host: reg.Address()})
		p.Out.Host = p.In.Host
	}}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		r.seen = append(r.seen, req.Method+" "+req.URL.Path)
		broken := r.broken
		r.mu.Unlock()
		if broken != nil {
			answer := &answered{ResponseWriter: w}
			if broken(answer, req); answer.done {
				return
			}
		}
		pass.ServeHTTP(w, req)
	}))
	t.Cleanup(front.Close)
	r.addr = strings.TrimPrefix(front.URL, "http://")
	return r
}

type answered struct {
	http.ResponseWriter
	done bool
}

func (a *answered) WriteHeader(code int) { a.done = true; a.ResponseWriter.WriteHeader(code) }

func (a *answered) Write(b []byte) (int, error) { a.done = true; return a.ResponseWriter.Write(b) }

func (a *answered) Flush() { a.ResponseWriter.(http.Flusher).Flush() }

// misbehave makes h answer the requests from now on; what it does not answer
// goes to the registry. It forgets what was seen.
func (r *registry) misbehave(h http.HandlerFunc) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.broken, r.seen = h, nil
}

// count says how many requests of a method were seen since misbehave.
func (r *registry) count(method string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, s := range r.seen {
		if strings.HasPrefix(s, method+" ") {
			n++
		}
	}
	return n
}

// direct asks the registry itself.
func (r *registry) direct(method, path, contentType string, body []byte) (int, http.Header, []byte) {
	r.t.Helper()
	req, err := http.NewRequest(method, "http://"+r.real+"/v2/"+path, bytes.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	req.Header.Set("Accept", ocispec.MediaTypeImageManifest+", "+ocispec.MediaTypeImageIndex)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, got
}

func (r *registry) blob(repository, mediaType string, body []byte) ocispec.Descriptor {
	r.t.Helper()
	status, header, _ := r.direct("POST", repository+"/blobs/uploads/", "", nil)
	u, err := url.Parse(header.Get("Location"))
	if err != nil || status != http.StatusAccepted {
		r.t.Fatal(status, err)
	}
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(body), Size: int64(len(body))}
	q := u.Query()
	q.Set("digest", desc.Digest.String())
	path := strings.TrimPrefix(u.Path, "/v2/") + "?" + q.Encode()
	if status, _, said := r.direct("PUT", path, "application/octet-stream", body); status != http.StatusCreated {
		r.t.Fatalf("put blob: %d %s", status, said)
	}
	return desc
}

// manifest puts v under ref, "" for its digest.
func (r *registry) manifest(repository, ref, mediaType string, v any) ocispec.Descriptor {
	r.t.Helper()
	body, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		r.t.Fatal(err)
	}
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(body), Size: int64(len(body))}
	if ref == "" {
		ref = desc.Digest.String()
	}
	if status, _, said := r.direct("PUT", repository+"/manifests/"+ref, mediaType, body); status != http.StatusCreated {
		r.t.Fatalf("put manifest: %d %s", status, said)
	}
	return desc
}

// image pushes an image without tag. Images with the same content and platform
// have the same digest.
func (r *registry) image(repository, content string, platform ocispec.Platform) ocispec.Descriptor {
	r.t.Helper()
	config, err := json.Marshal(ocispec.Image{Platform: platform, Author: content})
	if err != nil {
		r.t.Fatal(err)
	}
	return r.manifest(repository, "", ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: r.blob(repository, ocispec.MediaTypeImageConfig, config),
		Layers: []ocispec.Descriptor{r.blob(repository, ocispec.MediaTypeImageLayer, []byte(content))},
	})
}

func (r *registry) index(repository string, manifests ...ocispec.Descriptor) ocispec.Descriptor {
	r.t.Helper()
	return r.manifest(repository, "", ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: manifests,
	})
}

// tag is what the registry itself says the tag names.
func (r *registry) tag(repository, tag string) digest.Digest {
	r.t.Helper()
	status, _, body := r.direct("GET", repository+"/manifests/"+tag, "", nil)
	if status != http.StatusOK {
		return digest.Digest(fmt.Sprint(status))
	}
	return digest.FromBytes(body)
}

func newPublisher() *publisher.Publisher { return publisher.New(publisher.Config{}) }

func amd64() ocispec.Platform { return ocispec.Platform{OS: "linux", Architecture: "amd64"} }
