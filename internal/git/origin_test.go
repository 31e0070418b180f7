package git_test

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/internal/git"
)

const project = "hello"

// start is when the first commit was made; each later one is a minute younger.
var start = time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)

// An origin is a git server of one repository, git-http-backend behind a
// handler that a test may put something in front of.
type origin struct {
	t       testing.TB
	dir     string
	server  *httptest.Server
	minutes int

	mu     sync.Mutex // guards before
	before func(next http.Handler) http.Handler
}

func newOrigin(t testing.TB, initArgs ...string) *origin {
	t.Helper()
	o := &origin{t: t, dir: filepath.Join(t.TempDir(), "hello.git")}
	o.git(append([]string{"init", "--quiet", "--bare", "--template=", "--initial-branch=main"}, initArgs...)...)
	o.git("config", "uploadpack.allowFilter", "true")
	o.git("config", "uploadpack.allowAnySHA1InWant", "true")
	o.serve("")
	return o
}

// serve listens on addr, any if empty.
func (o *origin) serve(addr string) {
	o.t.Helper()
	execPath, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		o.t.Fatal(err)
	}
	backend := &cgi.Handler{
		Path:   filepath.Join(strings.TrimSpace(string(execPath)), "git-http-backend"),
		Env:    append(cleanEnv(), "GIT_PROJECT_ROOT="+filepath.Dir(o.dir), "GIT_HTTP_EXPORT_ALL=1"),
		Stderr: io.Discard,
	}
	o.server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		o.mu.Lock()
		before := o.before
		o.mu.Unlock()
		if before != nil {
			before(backend).ServeHTTP(w, r)
			return
		}
		backend.ServeHTTP(w, r)
	}))
	if addr != "" {
		o.server.Listener.Close()
		if o.server.Listener, err = listen(addr); err != nil {
			o.t.Fatal(err)
		}
	}
	o.server.Start()
	o.t.Cleanup(o.server.Close)
}

// intercept puts a handler in front of the git server.
func (o *origin) intercept(before func(next http.Handler) http.Handler) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.before = before
}

func (o *origin) url() string { return o.server.URL + "/hello.git" }

func cleanEnv() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=/dev/null", "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "LC_ALL=C"}
}

// git runs git in the server's repository.
func (o *origin) git(args ...string) string {
	o.t.Helper()
	return runGit(o.t, o.dir, start.Add(time.Duration(o.minutes)*time.Minute), args...)
}

func runGit(t testing.TB, dir string, now time.Time, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", append([]string{"--git-dir=" + dir, "-c", "advice.nestedTag=false"}, args...)...)
	date := strconv.FormatInt(now.Unix(), 10) + " +0200"
	cmd.Env = append(cleanEnv(), "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=c", "GIT_COMMITTER_EMAIL=c@example.com",
		"GIT_AUTHOR_DATE="+date, "GIT_COMMITTER_DATE="+date)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("git %q: %v\n%s", args, err, &stderr)
	}
	return strings.TrimSpace(string(out))
}

// tree makes a tree with a blob of its own.
func (o *origin) tree(content string) string {
	o.t.Helper()
	file := filepath.Join(o.t.TempDir(), "f")
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		o.t.Fatal(err)
	}
	blob := o.git("hash-object", "-w", file)
	index := filepath.Join(filepath.Dir(file), "index")
	for _, args := range [][]string{{"update-index", "--add", "--cacheinfo", "100644," + blob + ",f"}, {"write-tree"}} {
		content = o.indexed(index, args...)
	}
	return content
}

// indexed runs git in the server's repository with that file as its index.
func (o *origin) indexed(index string, args ...string) string {
	o.t.Helper()
	cmd := exec.Command("git", append([]string{"--git-dir=" + o.dir}, args...)...)
	cmd.Env = append(cleanEnv(), "GIT_INDEX_FILE="+index)
	out, err := cmd.CombinedOutput()
	if err != nil {
		o.t.Fatalf("git %q: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// commit makes a commit with its own tree, a minute after the last.
func (o *origin) commit(parents ...string) string {
	o.t.Helper()
	o.minutes++
	n := strconv.Itoa(o.minutes)
	args := []string{"commit-tree", "-m", "commit " + n}
	for _, p := range parents {
		args = append(args, "-p", p)
	}
	return o.git(append(args, o.tree(n))...)
}

// push makes a commit on top of the branch.
func (o *origin) push(branch string) string {
	o.t.Helper()
	var parents []string
	if head := o.git("for-each-ref", "--format=%(objectname)", "refs/heads/"+branch); head != "" {
		parents = append(parents, head)
	}
	id := o.commit(parents...)
	o.set("refs/heads/"+branch, id)
	return id
}

func (o *origin) set(ref, object string) { o.t.Helper(); o.git("update-ref", ref, object) }
func (o *origin) remove(ref string)      { o.t.Helper(); o.git("update-ref", "-d", ref) }

func (o *origin) annotate(tag, object string) {
	o.t.Helper()
	o.git("tag", "--force", "--annotate", "--message", tag, tag, object)
}

// config is for repos that fetch from o into dir.
func (o *origin) config(dir string) git.Config {
	return git.Config{Dir: dir, Rules: git.Rules{PlainHTTP: true}, Projects: of(o.url())}
}

// of is the project at that URL.
func of(url string) *imgd.Projects {
	return configured(map[string]imgd.Project{project: {Name: project, Git: url}})
}

func open(t testing.TB, c git.Config) *git.Repos {
	t.Helper()
	r, err := git.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func resolve(t *testing.T, r *git.Repos, ref, commit string) imgd.Commit {
	t.Helper()
	got, err := r.Resolve(t.Context(), project, ref, commit)
	if err != nil {
		t.Fatalf("Resolve(%s, %s): %v", ref, commit, err)
	}
	return got
}

func listen(addr string) (net.Listener, error) { return net.Listen("tcp", addr) }

// configured are the projects of a config, by name.
func configured(byName map[string]imgd.Project) *imgd.Projects {
	p := new(imgd.Projects)
	p.Set(byName)
	return p
}
