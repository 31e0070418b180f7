package publisher_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/publisher"
)

// An aged registry deletes no tags, as distribution 2. Its repository has an index under the tag pr-7, and under kept too.
type aged struct {
	*registry
	root, other ocispec.Descriptor
}

func newAged(t *testing.T) *aged {
	t.Helper()
	a := &aged{registry: newRegistry(t)}
	a.root, _, _ = indexOf(a.registry, "demo/hello")
	a.other = a.image("demo/hello", "of another hand", amd64())
	a.age(nil)
	a.begin()
	return a
}

// begin has the tags as they were.
func (a *aged) begin() {
	a.t.Helper()
	for _, tag := range []string{"pr-7", "kept"} {
		a.retag("demo/hello", tag, a.root)
	}
}

// age has the registry refuse to delete tags, after also.
func (a *aged) age(also http.HandlerFunc) {
	old := refusing("DELETE", http.StatusBadRequest, "DIGEST_INVALID", "provided digest did not match uploaded content")
	a.misbehave(func(w http.ResponseWriter, r *http.Request) {
		if also != nil {
			if also(w, r); w.(*answered).done {
				return
			}
		}
		old(w, r)
	})
}

// untag is what settle does to pr-7.
func (a *aged) untag(ctx context.Context) error {
	p := publisher.New(publisher.Config{UntagByPlaceholder: []string{a.addr}})
	return p.Untag(ctx, a.addr+"/demo/hello", "pr-7", func(d digest.Digest) bool { return d == a.root.Digest })
}

// mustNames holds what pr-7 names, and that nothing else was touched.
func (a *aged) mustName(want digest.Digest) {
	a.t.Helper()
	if got := a.tag("demo/hello", "pr-7"); got != want {
		a.t.Errorf("pr-7 names %s, want %s", got, want)
	}
	if got := a.tag("demo/hello", "kept"); got != a.root.Digest {
		a.t.Errorf("the sibling names %s, want %s", got, a.root.Digest)
	}
	for _, d := range []digest.Digest{a.root.Digest, a.other.Digest} {
		if status, _, _ := a.direct("GET", "demo/hello/manifests/"+d.String(), "", nil); status != http.StatusOK {
			a.t.Errorf("%s is %d", d, status)
		}
	}
}

// isTag and isDigest tell requests for pr-7 from those by digest.
func isTag(r *http.Request, method string) bool {
	return r.Method == method && strings.HasSuffix(r.URL.Path, "/manifests/pr-7")
}

func isDigest(r *http.Request, method string) bool {
	return r.Method == method && strings.Contains(r.URL.Path, "/manifests/sha256:")
}

const gone = digest.Digest("404")

// Where the host is named, a tag goes without the registry's deleting it; the digest that is deleted is no image's.
func TestUntagByPlaceholder(t *testing.T) {
	t.Parallel()
	a := newAged(t)
	if err := newPublisher().Untag(t.Context(), a.addr+"/demo/hello", "pr-7", func(digest.Digest) bool { return true }); !errors.Is(err, imgd.ErrRefused) {
		t.Errorf("the host is not named: %v, want it refused", err)
	}
	a.mustName(a.root.Digest)
	for range 2 { // and repeated
		if err := a.untag(t.Context()); err != nil {
			t.Fatal(err)
		}
		a.mustName(gone)
	}
	if err := newPublisher().Tag(t.Context(), a.addr+"/demo/hello", "pr-7", a.root); err != nil {
		t.Error(err)
	}
	a.mustName(a.root.Digest)
	a.retag("demo/hello", "pr-7", a.other)
	if err := a.untag(t.Context()); err != nil {
		t.Error(err)
	}
	a.mustName(a.other.Digest)
}

// steps are what replace asks of the registry, in their order, after the tag was not deleted.
var steps = []struct {
	name string
	is   func(r *http.Request, nth int) bool // nth is how many such calls by digest there were
}{
	{"look whether manifests are deleted", func(r *http.Request, nth int) bool { return isDigest(r, "DELETE") && nth == 1 }},
	{"put the placeholder", func(r *http.Request, _ int) bool { return isTag(r, "PUT") }},
	{"delete the placeholder", func(r *http.Request, nth int) bool { return isDigest(r, "DELETE") && nth == 2 }},
}

// At each step the daemon is cut off, before and after the effect, and with an answer that is lost: whoever comes next takes it to
// the same end, and what a half-removed tag names is meanwhile nobody's image.
func TestPlaceholderInterrupted(t *testing.T) {
	t.Parallel()
	a := newAged(t)
	p := newPublisher()
	for _, step := range steps {
		for _, took := range []bool{false, true} {
			for _, how := range []string{"cut off", "503"} {
				name := step.name + ", " + how
				if took {
					name += ", took effect"
				}
				t.Run(name, func(t *testing.T) {
					a.begin()
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					nth := 0
					a.age(func(w http.ResponseWriter, r *http.Request) {
						if isDigest(r, "DELETE") {
							nth++
						}
						if !step.is(r, nth) {
							return
						}
						body, _ := io.ReadAll(r.Body)
						if took {
							a.direct(r.Method, strings.TrimPrefix(r.URL.Path, "/v2/"), r.Header.Get("Content-Type"), body)
						}
						w.Header().Set("Retry-After", "86400")
						if how == "cut off" {
							cancel()
						}
						w.WriteHeader(http.StatusServiceUnavailable)
					})
					if err := a.untag(ctx); err == nil || errors.Is(err, imgd.ErrRefused) {
						t.Errorf("got %v, want an error that passes", err)
					}
					a.age(nil)
					if now, err := p.Resolve(t.Context(), a.addr+"/demo/hello", "pr-7"); err == nil && now.Digest != a.root.Digest || err != nil && !errors.Is(err, imgd.ErrNotFound) {
						t.Errorf("pr-7 is read as %s, %v", now.Digest, err)
					}
					if err := a.untag(t.Context()); err != nil {
						t.Errorf("next: %v", err)
					}
					a.mustName(gone)
				})
			}
		}
	}
}

// half leaves the placeholder under the tag.
func (a *aged) half() {
	a.t.Helper()
	a.begin()
	a.age(func(w http.ResponseWriter, r *http.Request) {
		if isDigest(r, "DELETE") && a.tag("demo/hello", "pr-7") != a.root.Digest {
			w.Header().Set("Retry-After", "86400")
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	if err := a.untag(a.t.Context()); err == nil {
		a.t.Fatal("want an error")
	}
	a.age(nil)
	if now := a.tag("demo/hello", "pr-7"); now == a.root.Digest || now == gone {
		a.t.Fatalf("pr-7 names %s", now)
	}
}

// A removal that was cut is ended although the host is not named any more, and a tag that is wanted again is taken.
func TestPlaceholderLeft(t *testing.T) {
	t.Parallel()
	a := newAged(t)
	p := newPublisher()
	a.half()
	if err := p.Untag(t.Context(), a.addr+"/demo/hello", "pr-7", func(d digest.Digest) bool { return d == a.root.Digest }); err != nil {
		t.Error(err)
	}
	a.mustName(gone)
	a.half()
	stands := a.tag("demo/hello", "pr-7")
	for _, want := range []digest.Digest{a.root.Digest, ""} {
		if now, err := p.Look(t.Context(), a.addr+"/demo/hello", "pr-7", want); !errors.Is(err, imgd.ErrNotFound) {
			t.Errorf("pr-7 looks like %s, %v", now.Digest, err)
		}
	}
	_, _, body := a.direct("GET", "demo/hello/manifests/pr-7", "", nil)
	if want := `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[],"annotations":{` +
		`"dev.imgd.placeholder.for":"demo/hello:pr-7","dev.imgd.placeholder.of":"` + a.root.Digest.String() + `",` +
		`"org.opencontainers.image.description":"imgd is removing this tag. It names no image any more."}}`; string(body) != want {
		t.Errorf("the bytes are a format:\n%s\nwant\n%s", body, want)
	}
	if err := p.Untag(t.Context(), a.addr+"/demo/hello", "pr-7", func(digest.Digest) bool { return false }); err != nil {
		t.Error(err)
	}
	a.mustName(stands)
	if err := p.Tag(t.Context(), a.addr+"/demo/hello", "pr-7", a.other); err != nil {
		t.Error(err)
	}
	a.mustName(a.other.Digest)
	a.retag("demo/hello", "elsewhere", ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: stands})
	if now, err := p.Resolve(t.Context(), a.addr+"/demo/hello", "elsewhere"); err != nil || now.Digest != stands {
		t.Errorf("another tag's placeholder is no placeholder there: got %s, %v", now.Digest, err)
	}
}

// A tag that another daemon is just removing is not lost when it was put: it is put again.
func TestTagUnderAPlaceholder(t *testing.T) {
	t.Parallel()
	a := newAged(t)
	a.half()
	_, header, body := a.direct("GET", "demo/hello/manifests/pr-7", "", nil)
	a.age(func(_ http.ResponseWriter, r *http.Request) {
		if isTag(r, "GET") && a.times("PUT /v2/demo/hello/manifests/pr-7") == 1 {
			a.direct("PUT", "demo/hello/manifests/pr-7", header.Get("Content-Type"), body)
		}
	})
	tag := func() error { return newPublisher().Tag(t.Context(), a.addr+"/demo/hello", "pr-7", a.root) }
	if err := tag(); err == nil || errors.Is(err, imgd.ErrNotFound) || !strings.Contains(err.Error(), "another hand") {
		t.Errorf("got %v, want another try", err)
	}
	if err := tag(); err != nil {
		t.Error(err)
	}
	a.mustName(a.root.Digest)
}

// A registry that deletes nothing says so before the tag is touched, or gets its image back.
func TestPlaceholderRefused(t *testing.T) {
	t.Parallel()
	a := newAged(t)
	nothing := refusing("WRITE", http.StatusMethodNotAllowed, "UNSUPPORTED", "The operation is unsupported.")
	deletes := func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "DELETE" {
			nothing(w, r)
		}
	}
	for _, row := range []struct {
		name    string
		broken  http.HandlerFunc
		refused bool
		puts    int // under pr-7
	}{
		{"deletes are off", deletes, true, 0},
		{"read-only for a while", nothing, false, 0},
		{"deletes are off, of what is there", func(w http.ResponseWriter, r *http.Request) {
			if a.tag("demo/hello", "pr-7") != a.root.Digest {
				deletes(w, r)
			}
		}, true, 2},
		{"it takes no empty index", func(w http.ResponseWriter, r *http.Request) {
			if isTag(r, "PUT") {
				refusing("PUT", http.StatusBadRequest, "MANIFEST_INVALID", "no manifests")(w, r)
			}
		}, true, 1},
		{"it says so and takes it", func(w http.ResponseWriter, r *http.Request) {
			if isTag(r, "PUT") && a.tag("demo/hello", "pr-7") == a.root.Digest {
				body, _ := io.ReadAll(r.Body)
				a.direct("PUT", "demo/hello/manifests/pr-7", r.Header.Get("Content-Type"), body)
				refusing("PUT", http.StatusForbidden, "DENIED", "no")(w, r)
			}
		}, true, 2},
	} {
		t.Run(row.name, func(t *testing.T) {
			a.begin()
			a.age(row.broken)
			err := a.untag(t.Context())
			if err == nil || errors.Is(err, imgd.ErrRefused) != row.refused {
				t.Errorf("got %v, want refused: %t", err, row.refused)
			}
			if got := a.times("PUT /v2/demo/hello/manifests/pr-7"); got != row.puts {
				t.Errorf("pr-7 was put %d times, want %d", got, row.puts)
			}
			a.mustName(a.root.Digest)
			a.age(nil)
			if err := a.untag(t.Context()); err != nil {
				t.Errorf("when it is mended: %v", err)
			}
			a.mustName(gone)
		})
	}
}

// times is how often the request was seen since misbehave.
func (r *registry) times(request string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(slices.DeleteFunc(slices.Clone(r.seen), func(s string) bool { return s != request }))
}

// What another hand puts under the tag meanwhile stays, at whatever step it comes.
func TestPlaceholderAndAnotherHand(t *testing.T) {
	t.Parallel()
	a := newAged(t)
	for _, row := range []struct {
		name    string
		at      func(r *http.Request, nth int) bool
		deletes int // by digest; distribution 2 looks for the tags of a digest before it removes them
	}{
		{"while it is asked whether manifests are deleted", steps[0].is, 1},
		{"before the placeholder is read back", func(r *http.Request, _ int) bool {
			return isTag(r, "GET") && a.times("PUT /v2/demo/hello/manifests/pr-7") > 0
		}, 1},
		{"before the placeholder is deleted", steps[2].is, 2},
	} {
		t.Run(row.name, func(t *testing.T) {
			a.begin()
			nth := 0
			a.age(func(w http.ResponseWriter, r *http.Request) {
				if isDigest(r, "DELETE") {
					nth++
				}
				if row.at(r, nth) {
					a.retag("demo/hello", "pr-7", a.other)
				}
			})
			if err := a.untag(t.Context()); err != nil {
				t.Errorf("got %v, want none: the tag is another's", err)
			}
			if nth != row.deletes {
				t.Errorf("%d digests were deleted, want %d", nth, row.deletes)
			}
			a.mustName(a.other.Digest)
		})
	}
	t.Run("imgd's own", func(t *testing.T) { // an older root of the tag, say
		a.begin()
		nth := 0
		a.age(func(w http.ResponseWriter, r *http.Request) {
			if isDigest(r, "DELETE") {
				nth++
			}
			if steps[0].is(r, nth) {
				a.retag("demo/hello", "pr-7", a.other)
			}
		})
		p := publisher.New(publisher.Config{UntagByPlaceholder: []string{a.addr}})
		untag := func() error {
			return p.Untag(t.Context(), a.addr+"/demo/hello", "pr-7", func(digest.Digest) bool { return true })
		}
		if err := untag(); err == nil || !strings.Contains(err.Error(), "another hand") {
			t.Errorf("got %v, want another try", err)
		}
		a.mustName(a.other.Digest)
		if err := untag(); err != nil {
			t.Error(err)
		}
		a.mustName(gone)
	})
}
