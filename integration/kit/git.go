package kit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// maxGitRequest bounds the body of one request to the git server. Only fetches arrive there, whose bodies are lists of
// commits.
const maxGitRequest = 32 << 20

// firstCommit is the date of a repository's first commit; each further one is a minute later. So the same calls give the
// same commits on every machine.
var firstCommit = time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)

// FirstCommit is the date of a repository's first commit.
func FirstCommit() time.Time { return firstCommit }

// GitServer serves bare repositories over HTTP on a free port of the loopback, as a forge does: with partial clones
// and fetches of any commit.
type GitServer struct {
	// URL is http://127.0.0.1:<port>, without a slash at the end.
	URL string

	dir  string
	http *http.Server
	done chan error
}

// ServeGit starts a server whose repositories are kept below dir.
func ServeGit(ctx context.Context, dir string) (*GitServer, error) {
	execPath, err := output(exec.CommandContext(ctx, "git", "--exec-path"))
	if err != nil {
		return nil, err
	}
	for _, sub := range []string{"bare", "work"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, err
		}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	backend := &cgi.Handler{
		Path: filepath.Join(execPath, "git-http-backend"),
		Root: "/",
		Dir:  dir,
		Env:  append(gitEnv(), "GIT_PROJECT_ROOT="+filepath.Join(dir, "bare"), "GIT_HTTP_EXPORT_ALL=1"),
	}
	s := &GitServer{
		URL:  "http://" + listener.Addr().String(),
		dir:  dir,
		http: &http.Server{Handler: unchunked(backend), ReadHeaderTimeout: 10 * time.Second},
		done: make(chan error, 1),
	}
	go func() { s.done <- s.http.Serve(listener) }()
	return s, nil
}

// Close stops the server. The repositories stay.
func (s *GitServer) Close() error {
	err := s.http.Close()
	if served := <-s.done; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

// unchunked gives every request a length: git sends large ones in chunks, which CGI cannot pass on.
func unchunked(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxGitRequest))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		r.Body, r.ContentLength, r.TransferEncoding = io.NopCloser(bytes.NewReader(body)), int64(len(body)), nil
		next.ServeHTTP(w, r)
	})
}

// Repo is one repository on a GitServer and the clone in which its commits are made. Every method pushes what it
// changes before it returns. A Repo is for one goroutine at a time.
type Repo struct {
	// URL is what a client clones; it ends in .git.
	URL string

	work    string
	commits int
}

// Create makes an empty repository, whose branch is main. The name may have slashes.
func (s *GitServer) Create(ctx context.Context, name string) (*Repo, error) {
	bare := filepath.Join(s.dir, "bare", name+".git")
	r := &Repo{URL: s.URL + "/" + name + ".git", work: filepath.Join(s.dir, "work", name)}
	for _, args := range [][]string{
		{"init", "-q", "--bare", "-b", "main", bare},
		{"-C", bare, "config", "uploadpack.allowFilter", "true"},
		{"-C", bare, "config", "uploadpack.allowAnySHA1InWant", "true"},
		{"init", "-q", "-b", "main", r.work},
		{"-C", r.work, "remote", "add", "origin", bare},
	} {
		if _, err := output(gitCommand(ctx, args...)); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// Import makes a repository of what the git repository in the directory dir has as HEAD, with its history. Its branch is main.
func (s *GitServer) Import(ctx context.Context, name, dir string) (*Repo, error) {
	r, err := s.Create(ctx, name)
	if err != nil {
		return nil, err
	}
	if _, err := output(gitCommand(ctx, "-C", r.work, "pull", "-q", "--ff-only", dir, "HEAD")); err != nil {
		return nil, err
	}
	return r, r.push(ctx, "HEAD")
}

// Commit writes the files (path to content) into the current branch, commits and returns the commit. Files not named
// stay as they are.
func (r *Repo) Commit(ctx context.Context, msg string, files map[string]string) (string, error) {
	for name, content := range files {
		path := filepath.Join(r.work, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return "", err
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return "", err
		}
	}
	if _, err := r.git(ctx, "add", "-A"); err != nil {
		return "", err
	}
	if _, err := r.git(ctx, "commit", "-q", "--allow-empty", "-m", msg); err != nil {
		return "", err
	}
	r.commits++
	if err := r.push(ctx, "HEAD"); err != nil {
		return "", err
	}
	return r.Rev(ctx, "HEAD")
}

// Rev is the commit that a branch, tag or other revision names.
func (r *Repo) Rev(ctx context.Context, rev string) (string, error) {
	return r.git(ctx, "rev-parse", "--verify", "--end-of-options", rev+"^{commit}")
}

// Contains reports whether the revision is, or has among its ancestors, the other.
func (r *Repo) Contains(ctx context.Context, rev, other string) bool {
	_, err := r.git(ctx, "merge-base", "--is-ancestor", other, rev)
	return err == nil
}

// Tag makes a lightweight tag; at is any revision.
func (r *Repo) Tag(ctx context.Context, name, at string) error {
	if _, err := r.git(ctx, "tag", name, at); err != nil {
		return err
	}
	return r.push(ctx, "refs/tags/"+name)
}

// MoveTag makes a lightweight tag name another revision, as `git tag -f` and a forced push do.
func (r *Repo) MoveTag(ctx context.Context, name, at string) error {
	if _, err := r.git(ctx, "tag", "-f", name, at); err != nil {
		return err
	}
	return r.push(ctx, "refs/tags/"+name)
}

// AnnotatedTag makes a tag object with a message.
func (r *Repo) AnnotatedTag(ctx context.Context, name, at, msg string) error {
	if _, err := r.git(ctx, "tag", "-a", "-m", msg, name, at); err != nil {
		return err
	}
	return r.push(ctx, "refs/tags/"+name)
}

// Branch makes a branch at a revision. The next commits go into it.
func (r *Repo) Branch(ctx context.Context, name, at string) error {
	if _, err := r.git(ctx, "checkout", "-q", "-b", name, at); err != nil {
		return err
	}
	return r.push(ctx, "HEAD")
}

// PullRequest makes the ref by which GitHub, Gitea and Forgejo have the head of a pull request.
func (r *Repo) PullRequest(ctx context.Context, number int, at string) error {
	return r.push(ctx, fmt.Sprintf("%s:refs/pull/%d/head", at, number))
}

// Checkout goes back to a branch that exists.
func (r *Repo) Checkout(ctx context.Context, branch string) error {
	_, err := r.git(ctx, "checkout", "-q", branch)
	return err
}

// Reset makes the current branch name another revision, with a forced push.
func (r *Repo) Reset(ctx context.Context, to string) error {
	if _, err := r.git(ctx, "reset", "-q", "--hard", to); err != nil {
		return err
	}
	return r.push(ctx, "HEAD")
}

// DeleteRef removes a full ref (refs/tags/v1.0.0) from the server and the clone. The current branch cannot be removed.
func (r *Repo) DeleteRef(ctx context.Context, ref string) error {
	if _, err := r.git(ctx, "push", "-q", "origin", ":"+ref); err != nil {
		return err
	}
	_, err := r.git(ctx, "update-ref", "-d", ref)
	return err
}

func (r *Repo) push(ctx context.Context, ref string) error {
	_, err := r.git(ctx, "push", "-q", "-f", "origin", ref)
	return err
}

func (r *Repo) git(ctx context.Context, args ...string) (string, error) {
	cmd := gitCommand(ctx, append([]string{"-C", r.work}, args...)...)
	date := firstCommit.Add(time.Duration(r.commits) * time.Minute).Format(time.RFC3339)
	cmd.Env = append(cmd.Env, "GIT_AUTHOR_DATE="+date, "GIT_COMMITTER_DATE="+date)
	out, err := output(cmd)
	if err != nil {
		return "", fmt.Errorf("repository %s: %w", r.URL, err)
	}
	return strings.TrimSpace(out), nil
}

func gitCommand(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Env = gitEnv()
	return cmd
}

// gitEnv keeps the machine's git configuration out, and names the one author.
func gitEnv() []string {
	return []string{
		"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent", "LC_ALL=C",
		"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=" + os.DevNull, "GIT_TERMINAL_PROMPT=0",
		"GIT_AUTHOR_NAME=Ada", "GIT_AUTHOR_EMAIL=ada@example.com",
		"GIT_COMMITTER_NAME=Ada", "GIT_COMMITTER_EMAIL=ada@example.com",
	}
}
