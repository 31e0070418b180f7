package publisher_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgd/imgd"
)

// refusing answers a method on a tag with the status and what registries say
// with it; of method "WRITE" every write, by digest too.
func refusing(method string, status int, code, message string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		write := method == "WRITE" && (r.Method == "PUT" || r.Method == "DELETE")
		if write || r.Method == method && !strings.Contains(r.URL.Path, "/sha256:") {
			w.Header().Set("Retry-After", "86400") // else what passes is repeated at once
			w.WriteHeader(status)
			fmt.Fprintf(w, `{"errors":[{"code":%q,"message":%q}]}`, code, message)
		}
	}
}

// What neither another try nor other credentials can change is a refusal, of
// putting a tag as of removing one.
func TestRefused(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	image := reg.image("demo/hello", "one", amd64())
	other := reg.image("demo/hello", "two", amd64())
	for status, want := range map[int]bool{
		400: true, 401: false, 403: true, 404: false, 405: true, 407: false, 408: false, 409: false, 412: true, 413: true,
		421: false, 422: true, 423: false, 425: false, 429: false, 500: false, 501: false, 503: false, 507: false,
	} {
		t.Run(fmt.Sprint("put/", status), func(t *testing.T) {
			reg.retag("demo/hello", "v1", other)
			reg.misbehave(refusing("PUT", status, "DENIED", "v1 is configured as immutable"))
			err := newPublisher().Tag(t.Context(), reg.addr+"/demo/hello", "v1", image)
			if err == nil || errors.Is(err, imgd.ErrRefused) != want {
				t.Fatalf("got %v, want refused: %t", err, want)
			}
			for _, says := range []string{"v1 is configured as immutable", "names " + other.Digest.String() + " now", "rule", reg.addr + "/demo/hello:v1"} {
				if want && !strings.Contains(err.Error(), says) {
					t.Errorf("%q does not say %q", err, says)
				}
			}
		})
		if status == http.StatusNotFound {
			continue // a registry that says so and serves the tag is broken, and may be mended
		}
		t.Run(fmt.Sprint("delete/", status), func(t *testing.T) {
			reg.retag("demo/hello", "v2", image)
			reg.misbehave(refusing("DELETE", status, "UNSUPPORTED", "not here"))
			err := newPublisher().Untag(t.Context(), reg.addr+"/demo/hello", "v2", func(digest.Digest) bool { return true })
			if err == nil || errors.Is(err, imgd.ErrRefused) != want {
				t.Fatalf("got %v, want refused: %t", err, want)
			}
			for _, says := range []string{"not here", "names " + image.Digest.String() + " now", "by hand"} {
				if want && !strings.Contains(err.Error(), says) {
					t.Errorf("%q does not say %q", err, says)
				}
			}
		})
	}
}

// A refusal ends only what it is about: not if the tag is as it was to be, not
// if something is missing that can be pushed again, and not if a read failed.
func TestNoRefusal(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	image := reg.image("demo/hello", "one", amd64())
	put := false
	rows := []struct {
		name   string
		there  bool // the tag names the image already
		broken http.HandlerFunc
		done   bool
	}{
		{"another daemon put it", false, func(w http.ResponseWriter, r *http.Request) {
			if r.Method == "PUT" {
				reg.retag("demo/hello", "v1", image)
				w.WriteHeader(http.StatusPreconditionFailed)
			}
		}, true},
		{"it names it already", true, refusing("PUT", http.StatusForbidden, "DENIED", ""), true},
		{"a layer is missing", false, refusing("PUT", http.StatusBadRequest, "MANIFEST_BLOB_UNKNOWN", ""), false},
		{"it is read-only for a while", false, refusing("WRITE", http.StatusMethodNotAllowed, "UNSUPPORTED", "The operation is unsupported."), false},
		{"the token has expired", false, refusing("WRITE", http.StatusForbidden, "DENIED", "Your authorization token has expired."), false},
		{"too many requests", false, refusing("PUT", http.StatusForbidden, "TOOMANYREQUESTS", "rate exceeded"), false},
		{"unauthorized in another word", false, refusing("PUT", http.StatusForbidden, "UNAUTHORIZED", ""), false},
		{"HEAD is forbidden", false, refusing("HEAD", http.StatusForbidden, "DENIED", ""), false},
		{"GET is forbidden", false, refusing("GET", http.StatusForbidden, "DENIED", ""), false},
		{"it cannot be read any more", false, func(w http.ResponseWriter, r *http.Request) {
			if r.Method == "PUT" || put {
				put = true
				w.WriteHeader(http.StatusForbidden)
			}
		}, false},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			reg.direct("DELETE", "demo/hello/manifests/v1", "", nil)
			if row.there {
				reg.retag("demo/hello", "v1", image)
			}
			put = false
			reg.misbehave(row.broken)
			err := newPublisher().Tag(t.Context(), reg.addr+"/demo/hello", "v1", image)
			if (err == nil) != row.done || errors.Is(err, imgd.ErrRefused) {
				t.Errorf("got %v, want done: %t and no refusal", err, row.done)
			}
		})
	}
	t.Run("read-only while removing", func(t *testing.T) {
		reg.retag("demo/hello", "v2", image)
		reg.misbehave(refusing("WRITE", http.StatusMethodNotAllowed, "UNSUPPORTED", "The operation is unsupported."))
		err := newPublisher().Untag(t.Context(), reg.addr+"/demo/hello", "v2", func(digest.Digest) bool { return true })
		if err == nil || errors.Is(err, imgd.ErrRefused) {
			t.Errorf("got %v, want an error that passes", err)
		}
	})
	t.Run("removed all the same", func(t *testing.T) {
		reg.retag("demo/hello", "v2", image)
		reg.misbehave(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == "DELETE" {
				reg.direct("DELETE", "demo/hello/manifests/v2", "", nil)
				w.WriteHeader(http.StatusForbidden)
			}
		})
		if err := newPublisher().Untag(t.Context(), reg.addr+"/demo/hello", "v2", func(digest.Digest) bool { return true }); err != nil {
			t.Error(err)
		}
	})
}

// A tag that names something else than an image is another's.
func TestUntagOfNoImage(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	reg.misbehave(func(w http.ResponseWriter, r *http.Request) {
		switch r.Method {
		case "GET":
			w.Header().Set("Content-Type", "application/vnd.example.chart")
			w.Write([]byte(`{"mediaType":"application/vnd.example.chart"}`))
		case "DELETE":
			t.Error("it was removed")
		}
	})
	if err := newPublisher().Untag(t.Context(), reg.addr+"/demo/hello", "chart", func(digest.Digest) bool { return true }); err != nil {
		t.Error(err)
	}
	image := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("x"), Size: 1}
	if err := newPublisher().Tag(t.Context(), reg.addr+"/demo/hello", "chart", image); errors.Is(err, imgd.ErrRefused) {
		t.Errorf("got %v, want no refusal", err)
	}
}
