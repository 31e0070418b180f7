package git

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"
)

const (
	// killDelay is what a git that was told to stop gets to remove its lock files.
	killDelay = 2 * time.Second
	// silence is how long an http server may send nothing, in seconds. While it
	// works, git's sends a keep-alive every 5 seconds.
	silence = "60"
	// maxStderr bounds how much of git's (and the server's) messages is kept.
	maxStderr = 4 << 10
	// maxMessage bounds how much of that an error repeats.
	maxMessage = 600
)

// A runner runs git for one project.
type runner struct {
	url      string // without http credentials: command lines and the clone's config show it
	scheme   string
	dir      string // working directory, in no repository
	env      []string
	settings [][2]string // of git, beside nobody's configuration
	guard    *guard
	ask      *asker
	secrets  *strings.Replacer
	timeout  time.Duration
}

func newRunner(dir string, u *url.URL, c Config) (runner, error) {
	r := runner{scheme: u.Scheme, dir: dir, timeout: c.Timeout, secrets: strings.NewReplacer()}
	if r.timeout <= 0 {
		r.timeout = defaultTimeout
	}
	r.settings = [][2]string{
		{"protocol.file.allow", "never"},
		{"http.followRedirects", "false"}, // one would lead to a host that nobody allowed
		{"http.lowSpeedLimit", "1"},
		{"http.lowSpeedTime", silence},
		{"fetch.unpackLimit", "1"}, // a fetch makes one pack, never loose objects
		{"gc.auto", "0"},           // see clone.tidy
		{"maintenance.auto", "false"},
		{"core.hooksPath", os.DevNull},
		{"credential.helper", ""},
	}
	proxy, err := proxyOf(u)
	if err != nil {
		return r, err
	}
	if proxy != "" {
		r.settings = append(r.settings, [2]string{"http.proxy", proxy})
	}
	r.guard = newGuard(u, proxy != "", c)
	authorize := ""
	if u.Scheme != "ssh" && u.User != nil {
		password, _ := u.User.Password()
		token := base64.StdEncoding.EncodeToString([]byte(u.User.Username() + ":" + password))
		authorize = "Basic " + token
		r.settings = append(r.settings, [2]string{"http.extraHeader", "Authorization: " + authorize})
		r.secrets = secrets(u.User, token)
		u.User = nil
	}
	r.url = u.String()
	caFile := cmp.Or(c.CAFile, os.Getenv("GIT_SSL_CAINFO"), os.Getenv("SSL_CERT_FILE"))
	r.env = append(environ(caFile), "GIT_CEILING_DIRECTORIES="+filepath.Dir(dir))
	r.ask = newAsker(u, authorize, proxy, caFile, r.guard)
	return r, nil
}

// environment is the whole of a git's: what has settings may have secrets, so
// they do not stand on the command line.
func (r runner) environment(protocols string, more ...[2]string) []string {
	settings := slices.Concat(r.settings, more)
	env := append(slices.Clone(r.env), "GIT_ALLOW_PROTOCOL="+protocols, "GIT_CONFIG_COUNT="+strconv.Itoa(len(settings)))
	for i, s := range settings {
		env = append(env, fmt.Sprintf("GIT_CONFIG_KEY_%d=%s", i, s[0]), fmt.Sprintf("GIT_CONFIG_VALUE_%d=%s", i, s[1]))
	}
	return env
}

// environ is all that git inherits: nobody's configuration, no terminal to ask.
func environ(caFile string) []string {
	env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.DevNull, "LC_ALL=C",
		"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=" + os.DevNull, "GIT_ATTR_NOSYSTEM=1",
		"GIT_TERMINAL_PROMPT=0",
		"GIT_SSH_COMMAND=ssh -o BatchMode=yes -o ConnectTimeout=30 -o ServerAliveInterval=15", "GIT_SSH_VARIANT=ssh"}
	if agent := os.Getenv("SSH_AUTH_SOCK"); agent != "" {
		env = append(env, "SSH_AUTH_SOCK="+agent)
	}
	if caFile != "" {
		env = append(env, "GIT_SSL_CAINFO="+caFile)
	}
	return env
}

// secrets blots out what must not be seen of the credentials. A user without
// password is a token.
func secrets(user *url.Userinfo, token string) *strings.Replacer {
	password, has := user.Password()
	hide := []string{token, password, url.QueryEscape(password), url.PathEscape(password)}
	if !has || password == "" {
		name := user.Username()
		hide = []string{token, name, url.QueryEscape(name), url.PathEscape(name)}
	}
	var pairs []string
	for _, s := range hide {
		if s != "" {
			pairs = append(pairs, s, "xxxxx")
		}
	}
	return strings.NewReplacer(pairs...)
}

// local runs a git that cannot reach the network: in a partial clone any
// command may want to fetch what is missing, and would do it behind our back.
// (GIT_NO_LAZY_FETCH would say so, but on a damaged pack git 2.39 then recurses
// until its stack is full.)
// Nor does git always fail on lost history: describe goes on without it, and
// only complains.
func (r runner) local(ctx context.Context, args ...string) (string, error) {
	stdout, stderr, err := r.run(ctx, r.environment(""), args...)
	if err == nil && strings.Contains("\n"+stderr, "\nerror: ") {
		return "", &exitError{name: subcommand(args), stderr: r.clean(stderr)}
	}
	return stdout, err
}

// remote runs a git that may speak to the project's server, by the scheme of
// its URL alone, at the address that it has and that is allowed.
func (r runner) remote(ctx context.Context, args ...string) (string, error) {
	bound, err := r.guard.bind(ctx)
	if err != nil {
		return "", err
	}
	stdout, _, err := r.run(ctx, r.environment(r.scheme, bound...), args...)
	return stdout, err
}

// clone downloads the project into dir.
func (r runner) clone(ctx context.Context, dir string, options ...string) error {
	args := append([]string{"clone", "--quiet", "--bare", "--template="}, options...)
	_, err := r.remote(ctx, append(args, "--end-of-options", r.url, dir)...)
	return err
}

// fetch brings the clone in dir what the server has: branches, tags, these refs
// of pull requests, and what its HEAD names. A bare clone has no refspec of its
// own; it has its filter in its config. What ends in * need not be there.
func (r runner) fetch(ctx context.Context, dir string, pulls []string) error {
	args := []string{"--git-dir=" + dir, "fetch", "--quiet", "--prune", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance",
		"--no-recurse-submodules", "--end-of-options", "origin", "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*", "+HEAD*:" + serverHead + "*"}
	for _, ref := range pulls {
		args = append(args, "+"+ref+"*:"+ref+"*")
	}
	_, err := r.remote(ctx, args...)
	return err
}

// run answers what git wrote. Errors: *exitError if it ended by itself, ctx's
// own if that ended it, errTimeout, and that git could not be run.
func (r runner) run(ctx context.Context, env []string, args ...string) (out, messages string, err error) {
	timed, stop := context.WithTimeout(ctx, r.timeout)
	defer stop()
	var stdout bytes.Buffer
	var stderr tail
	cmd := exec.CommandContext(timed, "git", args...)
	cmd.Dir, cmd.Env = r.dir, env
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	// git has children of its own (git-remote-https, ssh, index-pack): they
	// form a process group, which is stopped as one.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = killDelay
	err = cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) && timed.Err() == nil { // git has done all: a child of it only takes its time to end
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		err = nil
	}
	if err != nil && timed.Err() != nil && cmd.Process != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // no such process: all have obeyed
	}
	var exit *exec.ExitError
	switch {
	case err == nil:
		return stdout.String(), string(stderr), nil
	case ctx.Err() != nil:
		err = ctx.Err()
	case timed.Err() != nil:
		err = fmt.Errorf("%w of %s", errTimeout, r.timeout)
	case errors.As(err, &exit):
		return "", "", &exitError{name: subcommand(args), code: exit.ExitCode(), stderr: r.clean(string(stderr))}
	}
	return "", "", fmt.Errorf("run git %s: %w", subcommand(args), err)
}

func subcommand(args []string) string {
	for _, a := range args {
		if !strings.HasPrefix(a, "-") {
			return a
		}
	}
	return ""
}

var errTimeout = errors.New("stopped after the time limit")

// An exitError is a git that ended with a status other than 0.
type exitError struct {
	name   string
	code   int
	stderr string // one line, without secrets
}

func (e *exitError) Error() string {
	message := e.stderr
	if len(message) > maxMessage { // the end says why
		message = "…" + strings.ToValidUTF8(message[len(message)-maxMessage:], "")
	}
	return fmt.Sprintf("git %s: exit status %d: %s", e.name, e.code, message)
}

var userinfo = regexp.MustCompile(`://[^/\s@]+@`)

// clean makes one line of what git and the server wrote, without credentials
// and without what could steer a terminal.
func (r runner) clean(stderr string) string {
	if len(stderr) == maxStderr { // the first line lacks its beginning, and may have half a secret
		_, stderr, _ = strings.Cut(stderr, "\n")
	}
	s := userinfo.ReplaceAllString(r.secrets.Replace(stderr), "://xxxxx@")
	s = strings.ReplaceAll(strings.TrimSpace(strings.ToValidUTF8(s, "?")), "\n", "; ")
	return strings.Map(func(c rune) rune {
		if unicode.IsControl(c) {
			return ' '
		}
		return c
	}, s)
}

// A tail keeps the last maxStderr bytes written to it.
type tail []byte

func (t *tail) Write(p []byte) (int, error) {
	*t = append(*t, p...)
	if over := len(*t) - maxStderr; over > 0 {
		*t = append((*t)[:0], (*t)[over:]...)
	}
	return len(p), nil
}
