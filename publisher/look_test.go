package publisher_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/publisher"
)

var _ imgd.Inspector = newPublisher()

// asked answers what is asked by that method of paths that end so.
func asked(method, suffix string, answer http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method == method && strings.HasSuffix(r.URL.Path, suffix) {
			answer(w, r)
		}
	}
}

func ends(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

// claims answers a HEAD of a manifest.
func claims(mediaType string, d digest.Digest) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", mediaType)
		if d != "" {
			w.Header().Set("Docker-Content-Digest", d.String())
		}
		w.WriteHeader(http.StatusOK)
	}
}

func TestLook(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	image := reg.image("demo/hello", "one", amd64())
	other := reg.image("demo/hello", "two", amd64())
	reg.retag("demo/hello", "v1", image)
	p := newPublisher()
	const path = "/manifests/v1"
	for _, test := range []struct {
		name   string
		tag    string
		want   digest.Digest
		broken http.HandlerFunc

		found       digest.Digest
		fails       string
		is          error
		heads, gets int
	}{
		{name: "the registry's word", want: image.Digest, found: image.Digest, heads: 1},
		{name: "another is read", want: other.Digest, found: image.Digest, heads: 1, gets: 1},
		{name: "a lie about another is found out", want: other.Digest, found: image.Digest, heads: 1, gets: 1,
			broken: asked("HEAD", path, claims(ocispec.MediaTypeImageManifest, digest.FromString("lie")))},
		{name: "no digest said", want: image.Digest, found: image.Digest, heads: 1, gets: 1, broken: asked("HEAD", path, claims(ocispec.MediaTypeImageManifest, ""))},
		{name: "no media type of an image said", want: image.Digest, found: image.Digest, heads: 1, gets: 1, broken: asked("HEAD", path, claims("text/html", image.Digest))},
		{name: "no HEAD", want: image.Digest, found: image.Digest, heads: 1, gets: 1, broken: asked("HEAD", path, ends(http.StatusMethodNotAllowed))},
		{name: "a HEAD that says it is gone", want: image.Digest, found: image.Digest, heads: 1, gets: 1, broken: asked("HEAD", path, ends(http.StatusNotFound))},
		{name: "gone", tag: "v9", want: image.Digest, is: imgd.ErrNotFound, fails: "v9", heads: 1, gets: 1},
		{name: "no image", want: image.Digest, is: imgd.ErrInvalid, fails: "it is no image", heads: 1, gets: 1, broken: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/vnd.example")
			w.Write([]byte(`{"mediaType":"application/vnd.example"}`))
		}},
		{name: "forbidden, with the reason", want: image.Digest, fails: "pull access denied", heads: 1, gets: 1, broken: func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusForbidden)
			w.Write([]byte(`{"errors":[{"code":"DENIED","message":"pull access denied"}]}`))
		}},
		{name: "too often asked is not asked again", want: image.Digest, fails: "429", heads: 1, broken: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "86400")
			w.WriteHeader(http.StatusTooManyRequests)
		}},
		{name: "no tag", tag: "-", want: image.Digest, fails: "look at"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.tag == "" {
				test.tag = "v1"
			}
			reg.misbehave(test.broken)
			got, err := p.Look(t.Context(), reg.addr+"/demo/hello", test.tag, test.want)
			if got.Digest != test.found || (err != nil) != (test.fails != "") || err != nil && !strings.Contains(err.Error(), test.fails) {
				t.Errorf("got %s, %v; want %s, an error with %q", got.Digest, err, test.found, test.fails)
			}
			for _, known := range []error{imgd.ErrNotFound, imgd.ErrInvalid} {
				if errors.Is(err, known) != errors.Is(test.is, known) {
					t.Errorf("got %v, which is %v", err, known)
				}
			}
			if heads, gets := reg.count("HEAD"), reg.count("GET"); heads != test.heads || gets != test.gets {
				t.Errorf("%d HEAD, %d GET; want %d, %d", heads, gets, test.heads, test.gets)
			}
		})
	}
}

// Those who look at the same time do not connect anew for each tag.
func TestLookKeepsConnections(t *testing.T) {
	t.Parallel()
	const lookers, times = 16, 20
	image := digest.FromString("image")
	together := make(chan struct{}) // the last who asks lets the others go
	var asked, connections atomic.Int32
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1)%lookers == 0 {
			for range lookers - 1 {
				together <- struct{}{}
			}
		} else {
			<-together
		}
		claims(ocispec.MediaTypeImageManifest, image)(w, r)
	}))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	server.Start()
	defer server.Close()
	p := newPublisher()
	for range times {
		var all sync.WaitGroup
		for range lookers {
			all.Go(func() {
				if _, err := p.Look(t.Context(), strings.TrimPrefix(server.URL, "http://")+"/demo/hello", "v1", image); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
	}
	if n := connections.Load(); n > 3*lookers { // net/http may connect while another is given back
		t.Errorf("%d connections for %d who look %d times", n, lookers, times)
	}
}

// A made image is one whose parts are at hand: its manifest lists its config, its
// own layer, a layer that all have, and a foreign one.
type made struct{ manifest, config, own, shared, foreign ocispec.Descriptor }

func (r *registry) made(repository, content string) (m made) {
	r.t.Helper()
	m.config = r.blob(repository, ocispec.MediaTypeImageConfig, []byte(`{"author":"`+content+`","os":"linux","architecture":"amd64"}`))
	m.own = r.blob(repository, ocispec.MediaTypeImageLayerGzip, []byte("layer of "+content))
	m.shared = r.blob(repository, ocispec.MediaTypeImageLayerGzip, []byte("a layer that all images have"))
	m.foreign = r.blob(repository, "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", []byte("foreign"))
	m.manifest = r.manifest(repository, "", ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: m.config,
		Layers: []ocispec.Descriptor{m.own, m.shared, m.foreign},
	})
	return m
}

// attested is an index of two images and what BuildKit says of the first.
func (r *registry) attested(repository string) (root ocispec.Descriptor, amd, arm, attestation made) {
	r.t.Helper()
	amd, arm = r.made(repository, "amd64"), r.made(repository, "arm64")
	statement := r.blob(repository, "application/vnd.in-toto+json", []byte(`{"predicateType":"https://slsa.dev/provenance/v1"}`))
	attestation = made{own: statement, config: r.blob(repository, ocispec.MediaTypeImageConfig, []byte(`{"os":"unknown","architecture":"unknown"}`))}
	attestation.manifest = r.manifest(repository, "", ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: attestation.config, Layers: []ocispec.Descriptor{statement}})
	amd.manifest.Platform = &ocispec.Platform{OS: "linux", Architecture: "amd64"}
	arm.manifest.Platform = &ocispec.Platform{OS: "linux", Architecture: "arm64"}
	listed := attestation.manifest
	listed.Platform = &ocispec.Platform{OS: "unknown", Architecture: "unknown"}
	return r.index(repository, amd.manifest, arm.manifest, listed), amd, arm, attestation
}

func lacks(all []imgd.Lack) string {
	var said []string
	for _, l := range all {
		said = append(said, fmt.Sprintf("%s %s %s", l.Part, l.Digest, l.Why))
	}
	return strings.Join(said, "\n")
}

// served answers with other bytes than there are.
func served(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		if r.Method == http.MethodGet {
			w.Write([]byte(body))
			return
		}
		w.WriteHeader(http.StatusOK)
	}
}

// of is asked for both methods.
func of(d digest.Digest, answer http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/"+d.String()) {
			answer(w, r)
		}
	}
}

func TestLacks(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	root, amd, arm, attestation := reg.attested("demo/hello")
	gone := ends(http.StatusNotFound)
	for _, test := range []struct {
		name   string
		broken http.HandlerFunc
		parts  string // what is lacking by imgd.DepthParts, "" is nothing; all as lines "part digest why"
		bytes  string // by imgd.DepthBytes; default: the same
	}{
		{name: "whole"},
		{name: "a foreign layer is elsewhere", broken: of(arm.foreign.Digest, gone)},
		{name: "a layer is gone", broken: of(arm.own.Digest, gone), parts: "layer " + arm.own.Digest.String() + " it is not there"},
		{name: "a shared layer is gone, and told once", broken: of(amd.shared.Digest, gone), parts: "layer " + amd.shared.Digest.String() + " it is not there"},
		{name: "a config is gone", broken: of(amd.config.Digest, gone), parts: "config " + amd.config.Digest.String() + " it is not there"},
		{name: "a platform's manifest is gone", broken: of(arm.manifest.Digest, gone), parts: "manifest " + arm.manifest.Digest.String() + " it is not there"},
		{name: "the root is gone", broken: of(root.Digest, gone), parts: "manifest " + root.Digest.String() + " it is not there"},
		{name: "an attestation is gone", broken: of(attestation.own.Digest, gone), parts: "layer " + attestation.own.Digest.String() + " it is not there"},
		{name: "a manifest of other bytes", broken: of(arm.manifest.Digest, served("{}")), parts: "manifest " + arm.manifest.Digest.String() + " read "},
		{name: "a layer of other size", broken: of(arm.own.Digest, served("short")), parts: "layer " + arm.own.Digest.String() + " it has 5 bytes there, and 14 by its manifest"},
		{name: "a layer that is longer", broken: of(arm.own.Digest, served("longer than it was")), parts: "layer " + arm.own.Digest.String() + " it has 18 bytes there, and 14",
			bytes: "layer " + arm.own.Digest.String() + " it has more bytes there, and 14"},
		{name: "a layer of other bytes", broken: of(arm.own.Digest, served("layer of ARM64")),
			bytes: "layer " + arm.own.Digest.String() + " the registry served 14 bytes of " + digest.FromString("layer of ARM64").String()},
		{name: "no HEAD of blobs", broken: asked("HEAD", "/blobs/"+amd.own.Digest.String(), ends(http.StatusMethodNotAllowed))},
		{name: "storage that signs a GET alone", broken: asked("HEAD", "/blobs/"+amd.own.Digest.String(), ends(http.StatusForbidden))},
		{name: "no HEAD of a layer that is shorter", parts: "layer " + amd.own.Digest.String() + " it has 5 bytes", broken: of(amd.own.Digest, func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodHead {
				w.WriteHeader(http.StatusMethodNotAllowed)
				return
			}
			served("short")(w, r)
		})},
	} {
		for _, depth := range []imgd.VerifyDepth{imgd.DepthParts, imgd.DepthBytes} {
			t.Run(test.name+"/"+string(depth), func(t *testing.T) {
				want := test.parts
				if depth == imgd.DepthBytes && test.bytes != "" {
					want = test.bytes
				}
				reg.misbehave(test.broken)
				known := &imgd.Known{}
				got, err := newPublisher().Lacks(t.Context(), reg.addr+"/demo/hello", root.Digest, depth, known)
				if err != nil || (len(got) == 0) != (want == "") || len(got) > 1 || !strings.HasPrefix(lacks(got), want) {
					t.Errorf("got %v\n%s\nwant\n%s", err, lacks(got), want)
				}
				again, err := newPublisher().Lacks(t.Context(), reg.addr+"/demo/hello", root.Digest, depth, known)
				if err != nil || lacks(again) != lacks(got) {
					t.Errorf("by what is known: got %v\n%s\nwant\n%s", err, lacks(again), lacks(got))
				}
			})
		}
	}
}

// What does not answer is not known to be gone.
func TestLacksOfNobodyKnows(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	root, amd, arm, _ := reg.attested("demo/hello")
	for _, test := range []struct {
		name, want string
		broken     http.HandlerFunc
	}{
		{"the registry limits in the middle", "429", of(arm.own.Digest, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "86400")
			w.WriteHeader(http.StatusTooManyRequests)
		})},
		{"forbidden", "403", of(arm.config.Digest, ends(http.StatusForbidden))},
		{"a truncated manifest", "unexpected EOF", of(arm.manifest.Digest, truncated)},
		{"a truncated layer", "unexpected EOF", of(arm.own.Digest, truncated)},
	} {
		t.Run(test.name, func(t *testing.T) {
			reg.misbehave(test.broken)
			known := &imgd.Known{}
			got, err := newPublisher().Lacks(t.Context(), reg.addr+"/demo/hello", root.Digest, imgd.DepthBytes, known)
			if err == nil || !strings.Contains(err.Error(), test.want) || len(got) > 0 {
				t.Fatalf("got %v, %v; want an error with %q", got, err, test.want)
			}
			reg.misbehave(nil) // what was not read is read then
			got, err = newPublisher().Lacks(t.Context(), reg.addr+"/demo/hello", root.Digest, imgd.DepthBytes, known)
			if err != nil || len(got) > 0 || !known.Whole(imgd.Part{Repository: reg.addr + "/demo/hello", Digest: amd.manifest.Digest, Size: -1}) {
				t.Errorf("later: got %v, %v; amd64 is known: %v", got, err, known.Whole(imgd.Part{Repository: reg.addr + "/demo/hello", Digest: amd.manifest.Digest, Size: -1}))
			}
			if n := reg.count("GET"); n == 0 {
				t.Error("nothing was read again")
			}
		})
	}
}

// truncated breaks off in the middle of what it said it would send.
func truncated(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Length", "14")
	w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
	w.Write([]byte("layer"))
	w.(http.Flusher).Flush()
	panic(http.ErrAbortHandler)
}

// Whoever goes away ends the reading of a layer.
func TestLacksInterrupted(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	image := reg.made("demo/hello", "one")
	ctx, cancel := context.WithCancel(t.Context())
	reg.misbehave(of(image.own.Digest, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "14")
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		cancel()
		<-r.Context().Done()
	}))
	got, err := newPublisher().Lacks(ctx, reg.addr+"/demo/hello", image.manifest.Digest, imgd.DepthBytes, &imgd.Known{})
	if !errors.Is(err, context.Canceled) || len(got) > 0 {
		t.Errorf("got %v, %v", got, err)
	}
}

// A manifest whose layer was told of before, by another manifest, is not whole.
func TestLacksOfEach(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	root, amd, arm, _ := reg.attested("demo/hello")
	inner := reg.index("demo/hello", amd.manifest)
	outer := reg.index("demo/hello", amd.manifest, inner)
	reg.misbehave(of(amd.shared.Digest, ends(http.StatusNotFound)))
	known := &imgd.Known{}
	for _, d := range []digest.Digest{root.Digest, amd.manifest.Digest, arm.manifest.Digest, outer.Digest, inner.Digest} {
		got, err := newPublisher().Lacks(t.Context(), reg.addr+"/demo/hello", d, imgd.DepthParts, known)
		if err != nil || len(got) != 1 || got[0].Digest != amd.shared.Digest {
			t.Errorf("%s: got %v, %v; want its layer %s", d, got, err, amd.shared.Digest)
		}
	}
}

// What images share is read once, also by those that are looked into at the same
// time; in another repository it is read again.
func TestLacksReadsOnce(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	var images []made
	for i := range 8 {
		images = append(images, reg.made("demo/hello", "image "+strconv.Itoa(i)))
	}
	copied := reg.made("demo/copy", "image 0")
	var reads atomic.Int32
	reg.misbehave(of(copied.shared.Digest, func(http.ResponseWriter, *http.Request) { reads.Add(1) }))
	known, p := &imgd.Known{}, newPublisher()
	var all sync.WaitGroup
	for _, image := range images {
		all.Go(func() {
			if got, err := p.Lacks(t.Context(), reg.addr+"/demo/hello", image.manifest.Digest, imgd.DepthBytes, known); err != nil || len(got) > 0 {
				t.Errorf("got %v, %v", got, err)
			}
		})
	}
	all.Wait()
	if n := reads.Load(); n != 1 {
		t.Errorf("the shared layer was read %d times, want 1", n)
	}
	if parts, bytes := known.Read(); parts != 8*3+1 || bytes < 8*copied.manifest.Size {
		t.Errorf("%d parts of %d bytes are known, want %d", parts, bytes, 8*3+1)
	}
	if _, err := p.Lacks(t.Context(), reg.addr+"/demo/copy", copied.manifest.Digest, imgd.DepthBytes, known); err != nil || reads.Load() != 2 {
		t.Errorf("in another repository: %v, %d reads", err, reads.Load())
	}
}

// BenchmarkLook is the registry's word about a tag, by eight at once, beside the
// bare HEADs that this takes.
func BenchmarkLook(b *testing.B) {
	reg := newRegistry(b)
	image := reg.image("demo/hello", "one", amd64())
	reg.retag("demo/hello", "v1", image)
	eight := func(b *testing.B, look func() error) {
		b.ReportAllocs()
		b.SetParallelism(4) // of two processors
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if err := look(); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	b.Run("bare", func(b *testing.B) {
		client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}}
		defer client.CloseIdleConnections()
		eight(b, func() error {
			req, err := http.NewRequestWithContext(b.Context(), http.MethodHead, "http://"+reg.real+"/v2/demo/hello/manifests/v1", nil)
			if err != nil {
				return err
			}
			req.Header.Set("Accept", ocispec.MediaTypeImageManifest)
			resp, err := client.Do(req)
			if err != nil {
				return err
			}
			return resp.Body.Close()
		})
	})
	b.Run("look", func(b *testing.B) {
		p := publisher.New(publisher.Config{})
		eight(b, func() error {
			got, err := p.Look(b.Context(), reg.real+"/demo/hello", "v1", image.Digest)
			if err == nil && got.Digest != image.Digest {
				err = errors.New("found " + got.Digest.String())
			}
			return err
		})
	})
}
