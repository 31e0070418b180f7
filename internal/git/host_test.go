package git_test

import (
	"context"
	"encoding/pem"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/internal/git"
)

// names is a resolver that knows every name, under those addresses.
func names(addrs ...string) func(context.Context, string) ([]netip.Addr, error) {
	return func(context.Context, string) ([]netip.Addr, error) {
		var all []netip.Addr
		for _, a := range addrs {
			all = append(all, netip.MustParseAddr(a))
		}
		return all, nil
	}
}

// fakeGit is a git that notes its settings and fails to reach anything.
func fakeGit(t *testing.T) (settings func() string) {
	t.Helper()
	bin := t.TempDir()
	script := "#!/bin/sh\nenv | grep ^GIT_ >> " + bin + "/settings\necho 'fatal: no such server' >&2\nexit 128\n"
	if err := os.WriteFile(filepath.Join(bin, "git"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	return func() string {
		b, _ := os.ReadFile(filepath.Join(bin, "settings"))
		return string(b)
	}
}

// A name that leads inside is refused, whatever else it has for an address.
func TestPrivateNames(t *testing.T) {
	for _, addrs := range [][]string{
		{"127.0.0.1"}, {"127.8.8.8"}, {"::1"}, {"0.0.0.0"}, {"::"}, {"10.1.2.3"}, {"172.16.0.1"}, {"192.168.1.1"}, {"169.254.169.254"},
		{"fe80::1"}, {"fd00:ec2::254"}, {"100.100.100.200"}, {"192.0.0.192"}, {"168.63.129.16"}, {"198.18.0.1"}, {"255.255.255.255"},
		{"::ffff:10.1.2.3"}, {"64:ff9b::a01:203"}, {"64:ff9b:1::a01:203"}, {"2002:a01:203::1"}, {"fec0::1"}, {"203.0.113.7", "10.1.2.3"},
	} {
		for _, url := range []string{"https://git.example.com/hello.git", "ssh://git@git.example.com/hello.git"} {
			settings := fakeGit(t)
			c := git.Config{Dir: t.TempDir(), Projects: of(url), Lookup: names(addrs...)}
			_, err := open(t, c).Resolve(t.Context(), project, "refs/heads/main", "")
			notAnEnd(t, url, err)
			if !strings.Contains(err.Error(), "git.allowPrivate: true") || !strings.Contains(err.Error(), "git.example.com") {
				t.Errorf("%s at %v: got %v", url, addrs, err)
			}
			if got := settings(); !strings.Contains(got, "GIT_ALLOW_PROTOCOL=\n") || strings.Contains(got, "GIT_ALLOW_PROTOCOL="+url[:3]) {
				t.Errorf("%s at %v: git was run", url, addrs)
			}
		}
	}
}

// What was looked at is what git connects to, even if the name has moved by
// then: it is not looked up twice.
func TestPinned(t *testing.T) {
	for url, want := range map[string]string{
		"https://git.example.com/hello.git":      "=git.example.com:443:203.0.113.7,[2001:db8::7]\n",
		"https://git.example.com:8443/hello.git": "=git.example.com:8443:203.0.113.7,[2001:db8::7]\n",
		"http://git.example.com/hello.git":       "=git.example.com:80:203.0.113.7,[2001:db8::7]\n",
	} {
		settings := fakeGit(t)
		c := git.Config{Dir: t.TempDir(), Projects: of(url), Rules: git.Rules{PlainHTTP: true}, Lookup: names("203.0.113.7", "2001:db8::7")}
		_, err := open(t, c).Resolve(t.Context(), project, "refs/heads/main", "")
		notAnEnd(t, url, err)
		if got := settings(); !strings.Contains(got, "=http.curloptResolve\n") || !strings.Contains(got, want) {
			t.Errorf("%s: git ran with %s, want %s", url, got, want)
		}
	}
}

// Addresses and localhost are meant as they stand; and what allowPrivate allows
// is not looked up.
func TestMeantAsItStands(t *testing.T) {
	o := newOrigin(t)
	head := o.push("main")
	never := func(context.Context, string) ([]netip.Addr, error) { return nil, errors.New("nobody should ask") }
	_, port, _ := net.SplitHostPort(o.server.Listener.Addr().String())
	for url, allow := range map[string]bool{o.url(): false, "http://localhost:" + port + "/hello.git": false, "http://LOCALHOST:" + port + "/hello.git": true} {
		c := git.Config{Dir: t.TempDir(), Projects: of(url), Rules: git.Rules{PlainHTTP: true, AllowPrivate: allow}, Lookup: never}
		if got := resolve(t, open(t, c), "refs/heads/main", "").ID; got != head {
			t.Errorf("%s: got %s, want %s", url, got, head)
		}
	}
	c := git.Config{Dir: t.TempDir(), Projects: of("https://git.example.com/hello.git"), Lookup: never}
	_, err := open(t, c).Resolve(t.Context(), project, "refs/heads/main", "")
	notAnEnd(t, "no answer", err)
	if !strings.Contains(err.Error(), "git.example.com") || !strings.Contains(err.Error(), "nobody should ask") {
		t.Errorf("no answer: got %v", err)
	}
}

// A name that only ssh knows, from its own config, is ssh's to reach.
func TestSSHAlias(t *testing.T) {
	settings := fakeGit(t)
	c := git.Config{Dir: t.TempDir(), Projects: of("ssh://git@forge/hello.git"), Lookup: func(context.Context, string) ([]netip.Addr, error) {
		return nil, &net.DNSError{Err: "no such host", Name: "forge", IsNotFound: true}
	}}
	_, err := open(t, c).Resolve(t.Context(), project, "refs/heads/main", "")
	if err == nil || !strings.Contains(err.Error(), "no such server") || strings.Contains(settings(), "curloptResolve") {
		t.Errorf("got %v", err)
	}
}

// A proxy from the environment looks names up itself.
func TestProxy(t *testing.T) {
	o := newOrigin(t)
	head := o.push("main")
	var asked atomic.Int32
	var auth atomic.Value
	forward := &httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) { p.Out.URL.Host, p.Out.Host = o.server.Listener.Addr().String(), "" }}
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Host == "git.example.com" {
			asked.Add(1)
		}
		auth.Store(r.Header.Get("Proxy-Authorization"))
		if auth.Load() == "" {
			w.Header().Set("Proxy-Authenticate", "Basic")
			w.WriteHeader(http.StatusProxyAuthRequired)
			return
		}
		forward.ServeHTTP(w, r)
	}))
	t.Cleanup(proxy.Close)
	for _, key := range []string{"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"} {
		t.Setenv(key, "")
	}
	for _, key := range []string{"HTTP_PROXY", "http_proxy", "all_proxy"} {
		t.Run(key, func(t *testing.T) {
			asked.Store(0)
			t.Setenv(key, strings.Replace(proxy.URL, "://", "://robot:"+secret+"@", 1))
			c := git.Config{Dir: t.TempDir(), Projects: of("http://git.example.com/hello.git"), Rules: git.Rules{PlainHTTP: true}, Lookup: names("10.1.2.3")}
			if got := resolve(t, open(t, c), "refs/heads/main", "").ID; got != head || asked.Load() == 0 || auth.Load() == "" {
				t.Errorf("got %s, want %s; the proxy was asked %d times, with %q", got, head, asked.Load(), auth.Load())
			}
			noSecretOnDisk(t, c.Dir)
			t.Setenv("NO_PROXY", "example.com")
			if _, err := open(t, c).Resolve(t.Context(), project, "refs/heads/main", ""); err == nil || !strings.Contains(err.Error(), "allowPrivate") {
				t.Errorf("past the proxy: got %v", err)
			}
		})
	}
	t.Setenv("HTTP_PROXY", "http://robot:"+secret+"@bad host")
	if _, err := git.New(git.Config{Dir: t.TempDir(), Projects: of("http://git.example.com/hello.git"), Rules: git.Rules{PlainHTTP: true}}); err == nil || strings.Contains(err.Error(), secret) || !strings.Contains(err.Error(), "is no URL") {
		t.Errorf("a bad proxy: got %v", err)
	}
}

func TestCAFile(t *testing.T) {
	o := newOrigin(t)
	head := o.push("main")
	server := httptest.NewTLSServer(o.server.Config.Handler)
	t.Cleanup(server.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	c := git.Config{Dir: t.TempDir(), Projects: of(server.URL + "/hello.git"), CAFile: ca}
	if got := resolve(t, open(t, c), "refs/heads/main", "").ID; got != head {
		t.Errorf("got %s, want %s", got, head)
	}
	c.Dir, c.CAFile = t.TempDir(), ""
	_, err := open(t, c).Resolve(t.Context(), project, "refs/heads/main", "")
	notAnEnd(t, "unknown authority", err)
	if !strings.Contains(err.Error(), "certificate") {
		t.Errorf("got %v", err)
	}
}

// Projects come, move and go, and rules change, while the clones are in use.
func TestReload(t *testing.T) {
	old, other := newOrigin(t), newOrigin(t)
	gone := old.push("main")
	other.minutes = 5
	want := other.push("main")
	c := old.config(t.TempDir())
	r := open(t, c)
	resolve(t, r, "refs/heads/main", gone)
	resolve(t, r, "refs/heads/main", gone) // in the clone that the first one made
	set := func(url string) { c.Projects.Set(map[string]imgd.Project{project: {Name: project, Git: url}}) }

	set(other.url())
	if got := resolve(t, r, "refs/heads/main", "").ID; got != want {
		t.Errorf("moved: got %s, want %s", got, want)
	}
	set(old.url()) // what was known of the first clone says nothing of the second
	if got := resolve(t, r, "refs/heads/main", "").ID; got != gone {
		t.Errorf("moved back: got %s, want %s", got, gone)
	}
	set(other.url())
	r.SetRules(git.Rules{})
	_, err := r.Resolve(t.Context(), project, "refs/heads/main", "")
	notAnEnd(t, "http", err)
	r.SetRules(git.Rules{PlainHTTP: true, AllowHosts: []string{"git.example.com"}})
	_, err = r.Resolve(t.Context(), project, "refs/heads/main", "")
	notAnEnd(t, "host", err)
	r.SetRules(git.Rules{PlainHTTP: true})
	if got := resolve(t, r, "refs/heads/main", want).ID; got != want {
		t.Errorf("allowed again: got %s, want %s", got, want)
	}
	c.Projects.Set(nil)
	if _, err := r.Resolve(t.Context(), project, "refs/heads/main", ""); !errors.Is(err, imgd.ErrInvalid) {
		t.Errorf("removed: got %v, want invalid", err)
	}
}

// A fetch that runs while the project moves answers for where it was asked, and
// who asks afterwards does not share it.
func TestMoveDuringFetch(t *testing.T) {
	old, other := newOrigin(t), newOrigin(t)
	old.push("main")
	other.minutes = 5
	want := other.push("main")
	c := old.config(t.TempDir())
	r := open(t, c)
	resolve(t, r, "refs/heads/main", "")
	h := newHold()
	old.intercept(h.handler)
	first := make(chan error, 1)
	go func() {
		_, err := r.Head(t.Context(), project, "refs/heads/main")
		first <- err
	}()
	<-h.reached
	c.Projects.Set(map[string]imgd.Project{project: {Name: project, Git: other.url()}})
	second := make(chan string, 1)
	go func() {
		head, _ := r.Head(t.Context(), project, "refs/heads/main")
		second <- head
	}()
	close(h.release)
	if err := <-first; err != nil {
		t.Error(err)
	}
	if got := <-second; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
