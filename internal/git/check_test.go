package git_test

import (
	"context"
	"encoding/base64"
	"errors"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/internal/git"
)

var badRefs = []string{
	"", "main", "HEAD", "refs/heads", "refs/heads/", "refs/tags/", "refs/remotes/origin/main",
	"refs/pull/", "refs/pull/1", "refs/pull/1/", "refs/pull/0/head", "refs/pull/01/head", "refs/pull/-1/head", "refs/pull/1/head/x", "refs/pull/1/heads",
	"refs/pull/1/base", "refs/pull/x/head", "refs/pull/1/head\n", "refs/pull/*/head", "refs/pull/1234567890123456789/head", "refs/pull/\u0661/head",
	"refs/merge-requests/1", "refs/merge-requests/1/../2/head", "refs/merge_requests/1/head", "refs/changes/01/1/1",
	"--upload-pack=touch x", "-x", "refs/heads/-x", "refs/heads/a/-x", "refs/tags/--output=x", "refs/heads/--upload-pack=touch${IFS}x",
	"refs/heads/a..b", "refs/heads/../../x", "refs/heads/.a", "refs/heads/a/.b", "refs/heads/a.lock", "refs/heads/a.lock/b", "refs/heads/a.",
	"refs/heads//a", "refs/heads/a//b", "refs/heads/a/", "/refs/heads/a", "refs/heads/a b", "refs/heads/a\tb", "refs/heads/a\nb", "refs/heads/a\x00",
	"refs/heads/a\x7f", "refs/heads/a\u0085b", "refs/heads/a~1", "refs/heads/a^", "refs/heads/a^{tree}", "refs/heads/a:b", "refs/heads/*", "refs/heads/a?",
	"refs/heads/[a]", `refs/heads/a\b`, "refs/heads/a@{1}", "refs/heads/\xff", "+refs/heads/a", "^refs/heads/a", "refs/heads/" + strings.Repeat("a", 600),
}

var goodRefs = []string{
	"refs/heads/main", "refs/tags/v1.2.3", "refs/tags/v1.2.3-rc.1+b5", "refs/heads/feature/x-y_z", "refs/heads/ä", "refs/heads/@", "refs/heads/a@b",
	"refs/pull/1/head", "refs/pull/123456789012345678/merge", "refs/merge-requests/7/head", "refs/merge-requests/7/merge", "refs/heads/refs/heads/main", "refs/heads/a'b\"$(c);d|e&f", "refs/heads/#1",
}

func TestCheckRef(t *testing.T) {
	for _, ref := range badRefs {
		if err := git.CheckRef(ref); !errors.Is(err, imgd.ErrInvalid) {
			t.Errorf("CheckRef(%q): got %v, want %v", ref, err, imgd.ErrInvalid)
		}
	}
	for _, ref := range goodRefs {
		if err := git.CheckRef(ref); err != nil {
			t.Error(err)
		}
	}
}

func FuzzCheckRef(f *testing.F) {
	for _, ref := range append(badRefs, goodRefs...) {
		f.Add(ref)
	}
	f.Fuzz(func(t *testing.T, ref string) {
		if git.CheckRef(ref) != nil {
			return
		}
		kind, name, _ := strings.Cut(strings.TrimPrefix(ref, "refs/"), "/")
		pull := (kind == "pull" || kind == "merge-requests") && strings.Trim(strings.TrimSuffix(strings.TrimSuffix(name, "/head"), "/merge"), "0123456789") == ""
		if strings.Contains(ref, "/-") || !strings.HasPrefix(ref, "refs/") || kind != "heads" && kind != "tags" && !pull {
			t.Errorf("%q passed", ref)
		}
		if out, err := exec.Command("git", "check-ref-format", ref).CombinedOutput(); err != nil {
			t.Errorf("%q passed, git check-ref-format: %v %s", ref, err, out)
		}
	})
}

const secret = "s3cr3t-t0ken"

var badURLs = []string{
	"", "hello", "/srv/hello.git", "./hello", "file:///srv/hello.git", "FILE:///srv/hello.git", "git://example.com/hello.git", "http://example.com/hello.git",
	"ext::sh -c touch% x", "EXT::sh", "fd::1", "ftp://example.com/x", "javascript:alert(1)", "git@example.com:hello.git", "-oProxyCommand=x@example.com:y",
	"--upload-pack=touch x", "https://", "https:///x", "https://example.com", "https://example.com/", "https://example.com//",
	"https://-oProxyCommand=x/y", "ssh://-oProxyCommand=touch/x", "ssh://git@-oProxyCommand=touch/x", "ssh://-x@example.com/y", "ssh://%2dx@example.com/y",
	"ssh://git:" + secret + "@example.com/x", "ssh://git @example.com/x", "https://example.com/-x", "https://example.com/a/-x", "https://example.com/a/%2dx",
	"https://example.com/../x", "https://example.com/a/%2e%2e/x", "https://example.com/a/./x", "https://example.com/a b", "https://example.com/a%20b",
	"https://example.com/a%0ab", "https://example.com/a\nb", "https://example.com/a%00b", "https://example.com/%ff", `https://example.com/a\b`, "https://example.com/a?" + secret + "=1",
	"https://example.com/a?", "https://example.com/a#b", "https://example.com/a#", "https://exa mple.com/a", "https://exam%70le.com/a", "https://example.com:99999999/a",
	"https://example.com:x/a", "https://a,b/x", "https://[::1%25eth0]/x", "https://" + secret + "%0a:x@example.com/x", "https://u:" + secret + "@exa mple.com/x",
}

var goodURLs = []string{
	"https://example.com/hello.git", "https://example.com:8443/a/b/c.git", "https://" + secret + "@example.com/x", "https://u:" + secret + "@example.com/x",
	"https://u:p%40%3a@example.com/x", "ssh://git@example.com/a/b.git", "ssh://git@example.com:2222/~me/b.git", "https://[::1]:8443/x", "https://10.0.0.1/x", "HTTPS://Example.com/x",
}

func TestCheckURL(t *testing.T) {
	for _, u := range badURLs {
		if err := git.CheckURL(u, git.Rules{}); err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("CheckURL(%q): got %v, want an error that tells nothing", u, err)
		}
	}
	for _, u := range goodURLs {
		if err := git.CheckURL(u, git.Rules{}); err != nil {
			t.Errorf("CheckURL(%q): %v", u, err)
		}
	}
	for _, tt := range []struct {
		url   string
		hosts []string
		ok    bool
	}{
		{"https://git.example.com/x", []string{"git.example.com"}, true},
		{"https://GIT.example.com:8443/x", []string{"git.example.com"}, true},
		{"https://git.example.com:8443/x", []string{"other", "git.example.com:8443"}, true},
		{"https://git.example.com:8444/x", []string{"git.example.com:8443"}, false},
		{"https://git.example.com.evil.com/x", []string{"git.example.com"}, false},
		{"https://git.example.com@evil.com/x", []string{"git.example.com"}, false},
		{"http://git.example.com/x", []string{"git.example.com"}, true},
	} {
		if err := git.CheckURL(tt.url, git.Rules{PlainHTTP: true, AllowHosts: tt.hosts}); (err == nil) != tt.ok {
			t.Errorf("CheckURL(%s, %v): got %v, want ok %t", tt.url, tt.hosts, err, tt.ok)
		}
	}
}

func FuzzCheckURL(f *testing.F) {
	for _, u := range append(badURLs, goodURLs...) {
		f.Add(u)
	}
	f.Fuzz(func(t *testing.T, u string) {
		if git.CheckURL(u, git.Rules{}) != nil {
			return
		}
		scheme, rest, _ := strings.Cut(u, "://")
		if s := strings.ToLower(scheme); s != "https" && s != "ssh" {
			t.Errorf("%q passed", u)
		}
		if strings.HasPrefix(rest, "-") && strings.EqualFold(scheme, "ssh") || strings.Contains(u, "/-") && !strings.Contains(u, "@") || strings.Contains(u, "/../") {
			t.Errorf("%q passed", u)
		}
	})
}

// What is refused is refused before a git runs, wherever it comes in.
func TestOptionsAreNotTaken(t *testing.T) {
	o := newOrigin(t)
	head := o.push("main")
	o.set("refs/heads/--output=canary", head)
	o.set("refs/tags/-v1.0.0", head)
	here := t.TempDir()
	t.Chdir(here)
	c := o.config(filepath.Join(here, "git"))
	r := open(t, c)
	for _, bad := range append([]string{"--output=canary", "--upload-pack=touch canary", "-v1.0.0", "--exec=touch canary"}, badRefs...) {
		_, err := r.Resolve(t.Context(), project, bad, "")
		_, headErr := r.Head(t.Context(), project, bad)
		_, _, expandErr := r.Expand(t.Context(), project, strings.TrimPrefix(strings.TrimPrefix(bad, "refs/heads/"), "refs/tags/"))
		if !errors.Is(err, imgd.ErrInvalid) || !errors.Is(headErr, imgd.ErrInvalid) || expandErr == nil && !strings.HasSuffix(bad, "main") {
			t.Errorf("%q: got %v, %v, %v", bad, err, headErr, expandErr)
		}
	}
	for _, bad := range []string{"--output=canary", "-h", head + " --output=canary", head + "\n"} {
		_, err := r.Contains(t.Context(), project, head, bad)
		_, headErr := r.Contains(t.Context(), project, bad, head)
		if !errors.Is(err, imgd.ErrInvalid) || !errors.Is(headErr, imgd.ErrInvalid) {
			t.Errorf("commit %q: got %v, %v", bad, err, headErr)
		}
	}
	for _, bad := range append([]string{"ext::touch canary", "ssh://-oProxyCommand=touch canary/x"}, badURLs...) {
		c.Rules.PlainHTTP = false
		c.Projects = of(bad)
		if _, err := git.New(c); err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("URL %q: got %v", bad, err)
		}
	}
	if got := resolve(t, r, "refs/heads/main", "").ID; got != head {
		t.Errorf("beside such refs: got %s, want %s", got, head)
	}
	_ = filepath.WalkDir(here, func(path string, d fs.DirEntry, _ error) error {
		if strings.Contains(path, "canary") && !strings.Contains(path, "hello.git/refs/") {
			t.Errorf("%s was made", path)
		}
		return nil
	})
}

func TestProjectNames(t *testing.T) {
	for _, name := range []string{"", "..", ".tmp-x", "a/b"} {
		c := git.Config{Dir: t.TempDir(), Projects: configured(map[string]imgd.Project{name: {Name: name, Git: "https://example.com/x"}})}
		if _, err := git.New(c); err == nil {
			t.Errorf("%q: got no error", name)
		}
	}
}

// locked asks for user and password, and talks about what it was given.
func locked(user, password string) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if u, p, _ := r.BasicAuth(); u == user && p == password {
				next.ServeHTTP(w, r)
				return
			}
			_, p, _ := r.BasicAuth()
			w.Header().Set("Content-Type", "text/plain")
			w.WriteHeader(http.StatusForbidden)
			_, _ = w.Write([]byte("no entry with \x1b[31m" + p + " or " + r.Header.Get("Authorization") + " at https://bob:builder@example.com/\n" + strings.Repeat(p, 30)))
		})
	}
}

func TestCredentials(t *testing.T) {
	o := newOrigin(t)
	head := o.push("main")
	o.intercept(locked("robot", secret))
	with := func(userinfo string) (git.Config, *strings.Builder) {
		log := &strings.Builder{}
		c := o.config(t.TempDir())
		c.Log = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		c.Projects = of(strings.Replace(o.url(), "://", "://"+userinfo+"@", 1))
		return c, log
	}
	c, log := with("robot:" + secret)
	r := open(t, c)
	if got := resolve(t, r, "refs/heads/main", "").ID; got != head {
		t.Errorf("got %s, want %s", got, head)
	}
	truncate(t, c.Dir, project+".git/objects/pack/*") // something to log
	resolve(t, r, "refs/heads/main", "")
	if log.Len() == 0 || strings.Contains(log.String(), secret) {
		t.Errorf("log: got %s", log)
	}
	noSecretOnDisk(t, c.Dir)

	long := strings.Repeat("long", 50) // the beginning of what git writes is cut off somewhere inside it
	for _, wrong := range []string{"robot:" + secret + "-old", "robot:old%2F" + secret, secret, secret + ":", "robot:" + long} {
		c, log := with(wrong)
		_, err := open(t, c).Resolve(t.Context(), project, "refs/heads/main", "")
		notAnEnd(t, "wrong password", err)
		token := base64.StdEncoding.EncodeToString([]byte("robot:" + secret))[:16]
		if s := err.Error() + log.String(); strings.Contains(s, secret) || strings.Contains(s, token) || strings.ContainsAny(s, "\x1b\n") || strings.Contains(s, "long") || strings.Contains(s, "builder") || !strings.Contains(s, "403") {
			t.Errorf("%s: got %s", wrong, s)
		}
		noSecretOnDisk(t, c.Dir)
	}
}

func noSecretOnDisk(t *testing.T, dir string) {
	t.Helper()
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, _ error) error {
		if b, err := os.ReadFile(path); err == nil && strings.Contains(string(b), secret) {
			t.Errorf("%s has the password", path)
		}
		return nil
	})
}

// Command lines are for every user of the machine to read.
func TestNoSecretOnCommandLine(t *testing.T) {
	o := newOrigin(t)
	o.push("main")
	came, went := make(chan struct{}, 9), make(chan struct{}, 9)
	o.intercept(silent(came, went))
	c := o.config(t.TempDir())
	c.Projects = of(strings.Replace(o.url(), "://", "://robot:"+secret+"@", 1))
	failed := make(chan error)
	ctx, cancel := context.WithCancel(t.Context())
	r := open(t, c)
	go func() {
		_, err := r.Resolve(ctx, project, "refs/heads/main", "")
		failed <- err
	}()
	<-came
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	seen := false
	for _, file := range files {
		line, _ := os.ReadFile(file)
		seen = seen || strings.Contains(string(line), o.url())
		if strings.Contains(string(line), secret) {
			t.Errorf("%s: %q", file, line)
		}
	}
	if !seen && len(files) > 0 {
		t.Error("no git with the URL is running")
	}
	cancel()
	<-failed
}
