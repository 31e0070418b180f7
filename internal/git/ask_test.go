package git_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/http/httputil"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/internal/git"
)

// Calls are what came to a server, in order: "ask POST /path" where imgd asked
// itself, "git GET /path" where it had git ask.
type calls struct {
	mu   sync.Mutex // guards seen and ask
	seen []string
	ask  http.HandlerFunc
}

// handler lets answer, if it is set, answer what imgd asks itself; the rest goes
// to the server.
func (c *calls) handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who, answer := "git", http.HandlerFunc(next.ServeHTTP)
		c.mu.Lock()
		if strings.Contains(r.UserAgent(), "imgd") {
			who = "ask"
			if c.ask != nil {
				answer = c.ask
			}
		}
		c.seen = append(c.seen, who+" "+r.Method+" "+r.URL.Path)
		c.mu.Unlock()
		answer(w, r)
	})
}

// answer is what imgd is answered from now on, and forgets what came.
func (c *calls) answer(h http.HandlerFunc) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ask, c.seen = h, nil
}

// took are the calls since, which it forgets.
func (c *calls) took() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	seen := c.seen
	c.seen = nil
	return seen
}

// gitWasRun reports whether git came, after one ask.
func gitWasRun(seen []string) bool {
	return len(seen) > 1 && seen[0] == oneAsk && strings.HasPrefix(seen[1], "git ") && !slices.Contains(seen[1:], oneAsk)
}

const oneAsk = "ask POST /hello.git/git-upload-pack"

// A yes costs one request. Anything else is git's to say.
func TestAsk(t *testing.T) {
	t.Parallel()
	o := newOrigin(t)
	first, second := o.push("main"), o.push("main")
	o.set("refs/tags/v1.0.0", first)
	o.set("refs/tags/v1.0.0-rc.1", second) // the longer name comes in the same answer
	o.annotate("v1.1.0", second)
	o.annotate("nested", "v1.1.0")
	o.set("refs/tags/v2.0.0", second)
	o.set("refs/tags/v3.0.0-rc.1", first) // v3.0.0 itself is not there
	annotation := o.git("rev-parse", "refs/tags/v1.1.0")
	var came calls
	o.intercept(came.handler)
	r := open(t, o.config(t.TempDir()))
	for _, tt := range []struct {
		ref, commit string
		yes         bool
	}{
		{"refs/tags/v1.0.0", first, true},
		{"refs/tags/v1.0.0-rc.1", second, true},
		{"refs/tags/v1.1.0", second, true},
		{"refs/tags/nested", second, true},
		{"refs/heads/main", second, true},
		{"refs/tags/v1.0.0", second, false},
		{"refs/tags/v1.1.0", annotation, false},
		{"refs/tags/v2.0.0", first, false},
		{"refs/tags/v3.0.0", first, false},
		{"refs/tags/v9.9.9", first, false},
	} {
		err := r.Confirm(t.Context(), project, tt.ref, tt.commit)
		seen := came.took()
		if tt.yes && (err != nil || !slices.Equal(seen, []string{oneAsk})) {
			t.Errorf("%s is %s: got %v after %q, want a yes after one ask", tt.ref, tt.commit, err, seen)
		}
		if !tt.yes && (!errors.Is(err, imgd.ErrSuperseded) || !gitWasRun(seen)) {
			t.Errorf("%s is not %s: got %v after %q, want superseded, from git", tt.ref, tt.commit, err, seen)
		}
	}
	o.set("refs/tags/v1.0.0", second)
	if err := r.Confirm(t.Context(), project, "refs/tags/v1.0.0", first); !errors.Is(err, imgd.ErrSuperseded) {
		t.Errorf("moved: got %v", err)
	}
	o.remove("refs/tags/v2.0.0")
	if err := r.Confirm(t.Context(), project, "refs/tags/v2.0.0", second); !errors.Is(err, imgd.ErrSuperseded) {
		t.Errorf("gone: got %v", err)
	}
}

const askType = "application/x-git-upload-pack-result"

// Whatever else a server answers, git is asked, and knows.
func TestAskFallsBack(t *testing.T) {
	t.Parallel()
	o, elsewhere := newOrigin(t), newOrigin(t)
	first, second := o.push("main"), o.push("main")
	o.set("refs/tags/v1.0.0", first)
	var came, followed calls
	o.intercept(came.handler)
	elsewhere.intercept(followed.handler)
	r := open(t, o.config(t.TempDir()))
	line := func(s string) string { return fmt.Sprintf("%04x%s", len(s)+4, s) }
	yes, lie := line(first+" refs/tags/v1.0.0\n"), line(second+" refs/tags/v1.0.0\n")
	serve := func(status int, contentType, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", contentType)
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
		}
	}
	for name, answer := range map[string]http.HandlerFunc{
		"404": serve(404, "text/plain", "no such thing"),
		"401": serve(401, askType, lie+"0000"),
		"500": serve(500, askType, lie+"0000"),
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.url(), http.StatusTemporaryRedirect)
		},
		"v0":           serve(200, askType, line("# service=git-upload-pack\n")+"0000"+lie+"0000"),
		"a v0 error":   serve(200, askType, line("ERR upload-pack: not our ref")),
		"another type": serve(200, "text/html", lie+"0000"),
		"cut off":      func(w http.ResponseWriter, _ *http.Request) { cutOff(w, lie+"00") },
		"empty":        serve(200, askType, ""),
		"no flush":     serve(200, askType, lie),
		"half a line":  serve(200, askType, lie[:20]),
		"no length":    serve(200, askType, "zzzz"+lie+"0000"),
		"a sign":       serve(200, askType, "+03e"+lie[4:]+"0000"),
		"delimiter":    serve(200, askType, lie+"0001"+"0000"),
		"length 4":     serve(200, askType, lie+"0004"+"0000"),
		"no object":    serve(200, askType, lie+line("unborn refs/heads/main\n")+"0000"),
		"no ref":       serve(200, askType, lie+line(first)+"0000"),
		"more after":   serve(200, askType, lie+"0000"+"0"),
		"html":         serve(200, askType, "<html>sign in</html>"),
		"too much":     serve(200, askType, strings.Repeat(line(second+" refs/tags/v1.0.0-"+strings.Repeat("x", 200)+"\n"), 5000)+lie+"0000"),
		"another ref":  serve(200, askType, line(first+" refs/tags/v1.0.0-rc.1\n")+"0000"),
		"nothing":      serve(200, askType, "0000"),
		"a lie":        serve(200, askType, lie+"0000"),
	} {
		came.answer(answer)
		if err := r.Confirm(t.Context(), project, "refs/tags/v1.0.0", first); err != nil || !gitWasRun(came.took()) {
			t.Errorf("%s: got %v; want a yes, from git", name, err)
		}
		// The short way must not say yes for these: only what is answered to the letter counts.
		err := r.Confirm(t.Context(), project, "refs/tags/v1.0.0", second)
		if seen := came.took(); name != "a lie" && (!errors.Is(err, imgd.ErrSuperseded) || !gitWasRun(seen)) {
			t.Errorf("%s: got %v after %q, want superseded, from git", name, err, seen)
		}
	}
	came.answer(serve(200, askType, yes+"0000"))
	if err := r.Confirm(t.Context(), project, "refs/tags/v1.0.0", first); err != nil || gitWasRun(came.took()) {
		t.Errorf("an answer as these, but right: got %v", err)
	}
	if seen := followed.took(); seen != nil {
		t.Errorf("the redirect was followed: %q", seen)
	}
}

// cutOff promises more than it sends.
func cutOff(w http.ResponseWriter, body string) {
	w.Header().Set("Content-Type", askType)
	w.Header().Set("Content-Length", "9999")
	_, _ = w.Write([]byte(body))
	panic(http.ErrAbortHandler)
}

// Credentials go where git sends them, and nowhere else.
func TestAskCredentials(t *testing.T) {
	t.Parallel()
	o := newOrigin(t)
	head := o.push("main")
	var came calls
	o.intercept(func(next http.Handler) http.Handler { return came.handler(locked("robot", secret)(next)) })
	with := func(userinfo string) *git.Repos {
		c := o.config(t.TempDir())
		c.Projects = of(strings.Replace(o.url(), "://", "://"+userinfo+"@", 1))
		return open(t, c)
	}
	r := with("robot:" + secret)
	if err := r.Confirm(t.Context(), project, "refs/heads/main", head); err != nil || !slices.Equal(came.took(), []string{oneAsk}) {
		t.Errorf("got %v, want a yes after one ask", err)
	}
	o.server.Close()
	for _, r := range []*git.Repos{r, with("robot:" + secret + "-old"), with(secret)} {
		err := r.Confirm(t.Context(), project, "refs/heads/main", head)
		notAnEnd(t, "the server is away", err)
		token := base64.StdEncoding.EncodeToString([]byte("robot:" + secret))[:16]
		if strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), token) {
			t.Errorf("got %v", err)
		}
	}
}

// What was allowed once is looked at again: a connection from before the rules
// changed is not used.
func TestAskGuard(t *testing.T) {
	t.Parallel()
	name, err := os.Hostname() // which /etc/hosts has, as a rule
	if err != nil {
		t.Fatal(err)
	}
	addrs, err := net.DefaultResolver.LookupHost(t.Context(), name)
	if err != nil || strings.EqualFold(name, "localhost") {
		t.Skipf("SKIPPED: no name of this machine has an address: %v", err)
	}
	o := newOrigin(t)
	o.serve(net.JoinHostPort(addrs[0], "0"))
	head := o.push("main")
	var came calls
	o.intercept(came.handler)
	_, port, _ := net.SplitHostPort(o.server.Listener.Addr().String())
	looked := 0
	c := git.Config{Dir: t.TempDir(), Projects: of("http://" + net.JoinHostPort(name, port) + "/hello.git"), Rules: git.Rules{PlainHTTP: true, AllowPrivate: true},
		Lookup: func(context.Context, string) ([]netip.Addr, error) {
			looked++
			return []netip.Addr{netip.MustParseAddr("203.0.113.7"), netip.MustParseAddr("127.0.0.1")}, nil
		}}
	r := open(t, c)
	for _, allowed := range []bool{true, false, true} {
		r.SetRules(git.Rules{PlainHTTP: true, AllowPrivate: allowed})
		for range 2 {
			err := r.Confirm(t.Context(), project, "refs/heads/main", head)
			seen := came.took()
			if allowed && (err != nil || !slices.Equal(seen, []string{oneAsk}) || looked != 0) {
				t.Errorf("allowed: got %v after %q and %d looks, want a yes after one ask", err, seen, looked)
			}
			if !allowed && (err == nil || !strings.Contains(err.Error(), "git.allowPrivate: true") || seen != nil || looked == 0) {
				t.Errorf("not allowed: got %v after %q and %d looks", err, seen, looked)
			}
		}
		looked = 0
	}
}

// It dials what Lookup answers, and looks nothing up itself.
func TestAskDialsWhatWasLookedUp(t *testing.T) {
	t.Parallel()
	c := git.Config{Dir: t.TempDir(), Projects: of("http://git.example.com:8080/hello.git"), Rules: git.Rules{PlainHTTP: true}, Lookup: names("192.0.2.1")}
	ctx, cancel := context.WithCancel(t.Context())
	var dialled atomic.Value
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		DNSStart: func(i httptrace.DNSStartInfo) { t.Errorf("%s was looked up", i.Host) },
		ConnectStart: func(_, addr string) {
			dialled.Store(addr)
			cancel() // nobody is there
		},
	})
	if err := open(t, c).Confirm(ctx, project, "refs/heads/main", strings.Repeat("1", 40)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if got := dialled.Load(); got != "192.0.2.1:8080" {
		t.Errorf("dialled %v", got)
	}
}

func TestAskProxy(t *testing.T) {
	o := newOrigin(t)
	head := o.push("main")
	var came calls
	o.intercept(came.handler)
	var proxied calls
	forward := &httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) { p.Out.URL.Host, p.Out.Host = o.server.Listener.Addr().String(), "" }}
	proxy := httptest.NewServer(proxied.handler(forward))
	t.Cleanup(proxy.Close)
	for _, key := range []string{"HTTPS_PROXY", "https_proxy", "http_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"} {
		t.Setenv(key, "")
	}
	t.Setenv("HTTP_PROXY", proxy.URL)
	c := git.Config{Dir: t.TempDir(), Projects: of("http://git.example.com/hello.git"), Rules: git.Rules{PlainHTTP: true}, Lookup: names("10.1.2.3")}
	if err := open(t, c).Confirm(t.Context(), project, "refs/heads/main", head); err != nil {
		t.Error(err)
	}
	if got, want := proxied.took(), []string{oneAsk}; !slices.Equal(got, want) || !slices.Equal(came.took(), want) {
		t.Errorf("the proxy saw %q, want %q", got, want)
	}
}

func TestAskCAFile(t *testing.T) {
	t.Parallel()
	o := newOrigin(t)
	head := o.push("main")
	var came calls
	o.intercept(came.handler)
	server := httptest.NewUnstartedServer(o.server.Config.Handler)
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // of handshakes that were broken off
	server.StartTLS()
	t.Cleanup(server.Close)
	confirm := func(ca string) error {
		c := git.Config{Dir: t.TempDir(), Projects: of(server.URL + "/hello.git"), CAFile: ca}
		return open(t, c).Confirm(t.Context(), project, "refs/heads/main", head)
	}
	if err := confirm(pemFile(t, server.Certificate().Raw)); err != nil || !slices.Equal(came.took(), []string{oneAsk}) {
		t.Errorf("got %v, want a yes after one ask", err)
	}
	for _, wrong := range []string{newCA(t), filepath.Join(t.TempDir(), "none.pem")} {
		err := confirm(wrong)
		notAnEnd(t, wrong, err)
		if seen := came.took(); seen != nil {
			t.Errorf("a server that nobody vouches for was asked: %q", seen)
		}
	}
}

// newCA is the file of a certificate that vouches for nobody here.
func newCA(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	self := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, self, self, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return pemFile(t, der)
}

// pemFile is a file with the certificate.
func pemFile(t *testing.T, der []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func FuzzFind(f *testing.F) {
	object := strings.Repeat("1", 40)
	line := func(s string) string { return fmt.Sprintf("%04x%s", len(s)+4, s) }
	for _, seed := range []string{
		"0000", "", "0", "0001", "0004", "fff", "ffff", "-001", "0x0a",
		line(object+" refs/tags/v1\n") + "0000",
		line(object+" refs/tags/v1 peeled:"+strings.Repeat("2", 40)+"\n") + "0000",
		line(object+" refs/tags/v1 symref-target:refs/tags/v0\n") + line(object+" refs/tags/v1.1") + "0000",
		line(object+" refs/tags/v1\n") + "0000" + "0",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		object, target, err := git.Find(bytes.NewReader(answer), "refs/tags/v1")
		if err != nil || object == "" {
			if target != "" {
				t.Errorf("%q has the target %q, but no object: %v", answer, target, err)
			}
			return
		}
		if !bytes.Contains(answer, []byte(object)) || !bytes.Contains(answer, []byte(target)) || !bytes.Contains(answer, []byte(" refs/tags/v1")) || !bytes.HasSuffix(answer, []byte("0000")) {
			t.Errorf("%q names %q", answer, object)
		}
		if _, _, err := git.Find(io.LimitReader(bytes.NewReader(answer), int64(len(answer)-1)), "refs/tags/v1"); err == nil {
			t.Errorf("%q is an answer without its end too", answer)
		}
	})
}
