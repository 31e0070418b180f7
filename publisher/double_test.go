package publisher_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/publisher"
)

// The ends of a call, as the table of answers has them.
const (
	done     = "done"
	waits    = "passes" // an error after which the queue comes back
	notThere = "not there"
	noForNow = "refused"
)

func endOf(err error) string {
	switch {
	case err == nil:
		return done
	case errors.Is(err, imgd.ErrNotFound):
		return notThere
	case errors.Is(err, imgd.ErrRefused):
		return noForNow
	}
	return waits
}

// A double is the real registry, which misbehaves on order. Its repository has image, under v1 and by digest, and other, by digest alone.
type double struct {
	*registry
	image, other ocispec.Descriptor
	*publisher.Publisher
	hits atomic.Int64 // of the row's misbehaviour
}

// calls are what imgd asks, and what has to be so when they are done. All are about tag latest, which is there before untag alone.
var calls = map[string]struct {
	ask  func(ctx context.Context, d *double) error
	want func(d *double) digest.Digest // under latest
}{
	"tag": {func(ctx context.Context, d *double) error {
		return d.Tag(ctx, d.addr+"/demo/hello", "latest", d.image)
	}, func(d *double) digest.Digest { return d.image.Digest }},
	"untag": {func(ctx context.Context, d *double) error {
		return d.Untag(ctx, d.addr+"/demo/hello", "latest", func(digest.Digest) bool { return true })
	}, func(*double) digest.Digest { return gone }},
	"resolve": {func(ctx context.Context, d *double) error {
		got, err := d.Resolve(ctx, d.addr+"/demo/hello", "v1")
		if err == nil && got.Digest != d.image.Digest {
			err = fmt.Errorf("v1 is read as %s", got.Digest)
		}
		return err
	}, func(*double) digest.Digest { return gone }},
	"capture": {func(ctx context.Context, d *double) error {
		_, _, err := d.Capture(ctx, []string{d.addr + "/demo/hello"}, d.image.Digest)
		return err
	}, func(*double) digest.Digest { return gone }},
	"push": {func(ctx context.Context, d *double) error {
		return d.CanPush(ctx, d.addr+"/demo/hello")
	}, func(*double) digest.Digest { return gone }},
}

// A disorder is one row: a call, what the registry does meanwhile, and how the call ends.
type disorder struct {
	call, name string
	broken     func(d *double) http.HandlerFunc
	end        string
	says       string // the error, too
	asked      int    // times, with the method on latest; 0: it does not matter
}

func on(method string, answer func(w http.ResponseWriter, r *http.Request)) func(*double) http.HandlerFunc {
	return func(d *double) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.Method == method {
				d.hits.Add(1)
				answer(w, r)
			}
		}
	}
}

// status answers a method with a status, and with a code as registries say it. For a 503 or 429 they want a day.
func status(method string, code int, said, message string) func(*double) http.HandlerFunc {
	return func(d *double) http.HandlerFunc {
		refuse := refusing(method, code, said, message)
		return func(w http.ResponseWriter, r *http.Request) {
			if refuse(w, r); w.(*answered).done {
				d.hits.Add(1)
			}
		}
	}
}

// once has the first request of the method take effect, in what it does or does not, before the answer.
func once(method string, effect func(d *double), answer func(w http.ResponseWriter, r *http.Request, d *double)) func(*double) http.HandlerFunc {
	return func(d *double) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.Method == method && d.hits.Add(1) == 1 {
				effect(d)
				answer(w, r, d)
			}
		}
	}
}

func nothing(*double)                                  {}
func tagged(d *double)                                 { d.retag("demo/hello", "latest", d.image) }
func untagged(d *double)                               { d.direct("DELETE", "demo/hello/manifests/latest", "", nil) }
func moved(d *double)                                  { d.retag("demo/hello", "latest", d.other) }
func lost(http.ResponseWriter, *http.Request, *double) { panic(http.ErrAbortHandler) }

func slow(_ http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body) // else the server does not notice that the client is gone
	<-r.Context().Done()
}

func says(code int) func(http.ResponseWriter, *http.Request, *double) {
	return func(w http.ResponseWriter, _ *http.Request, _ *double) { w.WriteHeader(code) }
}

// serves answers reads of a manifest by what another path has, with the header changed.
func serves(suffix string, path func(d *double) string, change func(d *double, h http.Header)) func(*double) http.HandlerFunc {
	return func(d *double) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.Method != "GET" || !strings.Contains(r.URL.Path, suffix) {
				return
			}
			d.hits.Add(1)
			_, header, body := d.direct("GET", path(d), "", nil)
			for _, name := range []string{"Content-Type", "Docker-Content-Digest", "Content-Length"} {
				w.Header().Set(name, header.Get(name))
			}
			change(d, w.Header())
			w.Write(body[:len(body)*3/4])
			if w.Header().Get("Docker-Content-Digest") != "cut" {
				w.Write(body[len(body)*3/4:])
			}
		}
	}
}

func asIs(*double, http.Header)            {}
func isCut(_ *double, h http.Header)       { h.Set("Docker-Content-Digest", "cut") }
func noDigest(_ *double, h http.Header)    { h.Del("Docker-Content-Digest") }
func wrongDigest(d *double, h http.Header) { h.Set("Docker-Content-Digest", d.other.Digest.String()) }
func v1(*double) string                    { return "demo/hello/manifests/v1" }
func otherOne(d *double) string            { return "demo/hello/manifests/" + d.other.Digest.String() }

var disorders = []disorder{
	{"tag", "the token runs out before the put", func(d *double) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/token" {
				fmt.Fprint(w, `{"token":"new","expires_in":60}`)
			} else if r.Method == "PUT" && d.hits.Add(1) == 1 {
				w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+d.addr+`/token",service="test",error="invalid_token"`)
				w.WriteHeader(http.StatusUnauthorized)
			}
		}
	}, done, "", 2},
	{"tag", "401", status("PUT", 401, "UNAUTHORIZED", "who are you"), waits, "check credentials", 0},
	{"untag", "401", status("DELETE", 401, "UNAUTHORIZED", "who are you"), waits, "check credentials", 0},
	{"resolve", "401", status("GET", 401, "UNAUTHORIZED", "who are you"), waits, "check credentials", 0},
	{"tag", "429 for a day", status("PUT", 429, "TOOMANYREQUESTS", "slow down"), waits, "it asks to wait 86400", 1},
	{"untag", "429 for a day", status("DELETE", 429, "TOOMANYREQUESTS", "slow down"), waits, "it asks to wait 86400", 1},
	{"resolve", "429 for a day", status("GET", 429, "TOOMANYREQUESTS", "slow down"), waits, "it asks to wait 86400", 1},
	{"tag", "500", status("PUT", 500, "UNKNOWN", "boom"), waits, "500 Internal Server Error: boom", 5},
	{"tag", "500 twice", func(d *double) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.Method == "PUT" && d.hits.Add(1) < 3 {
				w.WriteHeader(http.StatusInternalServerError)
			}
		}
	}, done, "", 3},
	{"tag", "503", on("PUT", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }), waits, "503", 5},
	{"untag", "503 for a day", status("DELETE", 503, "UNAVAILABLE", ""), waits, "it asks to wait 86400", 1},
	{"tag", "507", status("PUT", 507, "", "no space"), waits, "no space", 1},
	{"tag", "slow", on("PUT", slow), waits, "deadline", 0},
	{"resolve", "slow", on("GET", slow), waits, "deadline", 0},
	{"resolve", "half a body", serves("/v1", v1, isCut), waits, "unexpected EOF", 0},
	{"tag", "half a body is read back", serves("/latest", v1, isCut), waits, "read it back", 0},
	{"capture", "other bytes", serves("/sha256:", otherOne, asIs), waits, "the registry served bytes of", 0},
	{"resolve", "another digest in the header", serves("/v1", v1, wrongDigest), waits, "and called them", 0},
	{"resolve", "no digest in the header", serves("/v1", v1, noDigest), done, "", 0},
	{"tag", "put answers another digest", func(d *double) http.HandlerFunc {
		return on("PUT", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Docker-Content-Digest", d.other.Digest.String())
			w.WriteHeader(http.StatusCreated)
		})(d)
	}, waits, "got digest", 0},
	{"push", "403 on mount", status("POST", 403, "DENIED", "quota"), waits, "give imgd an account", 0},
	{"push", "429 for a day", status("POST", 429, "TOOMANYREQUESTS", ""), waits, "it asks to wait 86400", 0},
	{"tag", "403", status("PUT", 403, "DENIED", "tags are immutable"), noForNow, "403 Forbidden: tags are immutable", 1},
	{"tag", "403 on every write", status("WRITE", 403, "DENIED", "no"), waits, "nothing else is taken", 0},
	{"tag", "an immutable tag", status("PUT", 400, "TAG_INVALID", "the tag is immutable"), noForNow, "a rule that keeps tags", 1},
	{"tag", "413", status("PUT", 413, "SIZE_INVALID", ""), noForNow, "limits the size", 1},
	{"untag", "tags are not deleted, 405", status("DELETE", 405, "UNSUPPORTED", "no"), noForNow, "does not delete tags", 1},
	{"untag", "tags are not deleted, 400", status("DELETE", 400, "DIGEST_INVALID", "no"), noForNow, "does not delete tags", 1},
	{"untag", "tags are not deleted, by the code", status("DELETE", 422, "UNSUPPORTED", "no"), noForNow, "does not delete tags", 1},
	{"untag", "403", status("DELETE", 403, "DENIED", ""), noForNow, "403", 1},
	{"untag", "404 of what is there", status("DELETE", 404, "NAME_UNKNOWN", ""), waits, "still serves", 0},
	{"untag", "accepted and not done", on("DELETE", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(202) }), waits, "still serves", 0},
	{"tag", "accepted and not done", on("PUT", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(201) }), notThere, "read it back", 0},
	{"tag", "another hand moves it before it is read back", func(d *double) http.HandlerFunc {
		return func(_ http.ResponseWriter, r *http.Request) {
			if r.Method == "GET" && strings.HasSuffix(r.URL.Path, "/latest") && d.hits.Add(1) == 1 {
				moved(d)
			}
		}
	}, waits, "another hand", 0},
	{"tag", "HEAD lies", func(d *double) http.HandlerFunc {
		return on("HEAD", func(w http.ResponseWriter, _ *http.Request) {
			moved(d)
			w.Header().Set("Docker-Content-Digest", d.image.Digest.String())
			w.WriteHeader(http.StatusOK)
		})(d)
	}, waits, "another hand", 0},
	{"tag", "layers are gone", status("PUT", 400, "MANIFEST_BLOB_UNKNOWN", "blob unknown to registry"), notThere, "blob unknown", 1},
	{"tag", "done, and 502", once("PUT", tagged, says(http.StatusBadGateway)), done, "", 0},
	{"tag", "done, and the answer is lost", once("PUT", tagged, lost), done, "", 0},
	{"tag", "not done, and the answer is lost", once("PUT", nothing, lost), done, "", 2},
	{"untag", "done, and 500", once("DELETE", untagged, says(http.StatusInternalServerError)), done, "", 0},
	{"untag", "done, and the answer is lost", once("DELETE", untagged, lost), done, "", 0},
	{"untag", "not done, and the answer is lost", once("DELETE", nothing, lost), done, "", 2},
	{"tag", "put redirected as GET", on("PUT", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/v2/", http.StatusFound) }), waits, "redirects a PUT as GET", 0},
	{"tag", "put redirected as it is", on("PUT", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.RawQuery == "" {
			http.Redirect(w, r, r.URL.Path+"?again", http.StatusTemporaryRedirect)
		}
	}), done, "", 0},
}

// Each disorder of a registry ends the call as the table of answers says, in time; and when the registry behaves again, the same call
// of the same publisher is done.
func TestDisorders(t *testing.T) {
	t.Parallel()
	d := &double{registry: newRegistry(t), Publisher: newPublisher()}
	d.image = d.registry.image("demo/hello", "one", amd64())
	d.other = d.registry.image("demo/hello", "two", amd64())
	d.retag("demo/hello", "v1", d.image)
	for _, row := range disorders {
		t.Run(row.call+"/"+row.name, func(t *testing.T) { d.holds(t, row) })
	}
}

func (d *double) holds(t *testing.T, row disorder) {
	call := calls[row.call]
	if d.direct("DELETE", "demo/hello/manifests/latest", "", nil); row.call == "untag" {
		tagged(d)
	}
	d.hits.Store(0)
	d.misbehave(row.broken(d))
	limit := 20 * time.Second // 5 tries with 4 s between them, on a machine that does other things too
	if row.name == "slow" {
		limit = 300 * time.Millisecond
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	start := time.Now()
	err := call.ask(ctx, d)
	if end := endOf(err); end != row.end || d.hits.Load() == 0 {
		t.Errorf("met %d times, ended as %s, want %s: %v", d.hits.Load(), end, row.end, err)
	}
	if took := time.Since(start); strings.Contains(row.name, "day") && took > 5*time.Second {
		t.Errorf("it waited for %s", took)
	}
	if err != nil && (!strings.Contains(err.Error(), row.says) || !strings.Contains(err.Error(), d.addr)) {
		t.Errorf("%v does not say %q, and where", err, row.says)
	}
	method := map[string]string{"tag": "PUT /v2/demo/hello/manifests/latest", "untag": "DELETE /v2/demo/hello/manifests/latest", "resolve": "GET /v2/demo/hello/manifests/v1"}[row.call]
	if got := d.times(method); row.asked > 0 && got != row.asked {
		t.Errorf("asked %d times, want %d: layers of tries must not multiply", got, row.asked)
	}
	d.misbehave(nil)
	if err := call.ask(t.Context(), d); err != nil {
		t.Errorf("when it behaves again: %v", err)
	}
	if got := d.tag("demo/hello", "latest"); got != call.want(d) {
		t.Errorf("latest names %s, want %s", got, call.want(d))
	}
}
