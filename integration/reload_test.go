package integration_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.yaml.in/yaml/v4"

	"github.com/imgd/imgd/integration/kit"
)

// noBase is a repository whose image needs no other.
func noBase() map[string]string {
	return map[string]string{"Dockerfile": "FROM scratch\nCOPY Dockerfile /\n"}
}

// A unit is a daemon as systemd runs it, and its config file.
type unit struct {
	*testing.T
	daemon *kit.Daemon
	config kit.Config
	git    *kit.GitServer
	told   chan string // what systemd hears
}

func newUnit(t *testing.T) *unit {
	t.Helper()
	server, err := kit.ServeGit(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	u := &unit{T: t, git: server, told: make(chan string, 100)}
	u.config = kit.LocalConfig(u.project("hello"))
	u.config.Log = kit.LogConfig{Level: "info", Format: "json"}
	socket := filepath.Join(t.TempDir(), "notify")
	u.daemon = kit.RunDaemon(t, t.TempDir(), u.config, "NOTIFY_SOCKET="+u.listen(socket))
	return u
}

// listen is systemd's end of the socket.
func (u *unit) listen(socket string) string {
	u.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	u.must(err)
	u.Cleanup(func() { conn.Close() })
	go func() {
		for buf := make([]byte, 1024); ; {
			n, err := conn.Read(buf)
			if err != nil {
				return // closed
			}
			u.told <- string(buf[:n])
		}
	}()
	return socket
}

// hears waits for what systemd is told next.
func (u *unit) hears(want string) {
	u.Helper()
	select {
	case got := <-u.told:
		if !strings.HasPrefix(got, want) {
			u.Errorf("systemd was told %q, want %q", got, want)
		}
	case <-time.After(time.Minute):
		u.Fatalf("systemd was not told %q", want)
	}
}

func (u *unit) must(err error) {
	u.Helper()
	if err != nil {
		u.Fatal(err)
	}
}

// project makes a repository with one commit, and says how it is configured.
func (u *unit) project(name string) kit.ProjectConfig {
	u.Helper()
	repo, err := u.git.Create(u.Context(), "demo/"+name)
	u.must(err)
	_, err = repo.Commit(u.Context(), "begin", noBase())
	u.must(err)
	return kit.ProjectConfig{Name: name, Git: repo.URL, Image: "demo/" + name}
}

// write replaces the config file by its text.
func (u *unit) write(text []byte) {
	u.Helper()
	u.must(os.WriteFile(filepath.Join(u.daemon.Dir, "imgd.yaml"), text, 0o644))
}

func (u *unit) writeConfig() {
	u.Helper()
	text, err := yaml.Marshal(u.config)
	u.must(err)
	u.write(text)
}

// hangUp sends SIGHUP and waits for the end of the reload.
func (u *unit) hangUp() {
	u.Helper()
	u.must(u.daemon.Signal(syscall.SIGHUP))
	u.hears("RELOADING=1\nMONOTONIC_USEC=")
	u.hears("READY=1\nSTATUS=")
}

// post reloads over HTTP.
func (u *unit) post(status int) (changed, restart []string, detail string) {
	u.Helper()
	req, err := http.NewRequestWithContext(u.Context(), http.MethodPost, u.daemon.HTTP+"/v1/reload", nil)
	u.must(err)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	u.must(err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	u.must(err)
	var answer struct {
		Changed, Restart []string
		Detail, Code     string
	}
	u.must(json.Unmarshal(body, &answer))
	if resp.StatusCode != status || status == http.StatusBadRequest && answer.Code != "usage" {
		u.Fatalf("reload: got %d %s, want %d", resp.StatusCode, body, status)
	}
	u.hears("RELOADING=1\n")
	u.hears("READY=1\n")
	return answer.Changed, answer.Restart, answer.Detail
}

// builds reports how `imgctl build --wait` of the project ends.
func (u *unit) builds(project string) error {
	ctx, cancel := context.WithTimeout(u.Context(), buildTime)
	defer cancel()
	_, err := u.daemon.Imgctl(ctx, "build", project, "--ref", "main", "--wait")
	return err
}

func (u *unit) metric(line string) {
	u.Helper()
	body, err := kit.Get(u.Context(), u.daemon.HTTP+"/metrics")
	u.must(err)
	if !strings.Contains(string(body), "\n"+line+"\n") {
		u.Errorf("/metrics lacks %s", line)
	}
}

// ping sends a delivery signed with the secret and answers the status.
func (u *unit) ping(secret string) int {
	u.Helper()
	body := []byte(`{"zen":"Keep it logically awesome."}`)
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write(body)
	req, err := http.NewRequestWithContext(u.Context(), http.MethodPost, u.daemon.HTTP+"/hooks/github/hello", bytes.NewReader(body))
	u.must(err)
	req.Header.Set("X-GitHub-Event", "ping")
	req.Header.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(mac.Sum(nil)))
	resp, err := http.DefaultClient.Do(req)
	u.must(err)
	u.must(resp.Body.Close())
	return resp.StatusCode
}

// A config that changes while imgd runs, by SIGHUP and over HTTP.
func TestReload(t *testing.T) {
	u := newUnit(t)
	u.hears("READY=1\nSTATUS=serving")
	u.must(u.builds("hello"))
	if err := u.builds("other"); err == nil || !strings.Contains(err.Error(), "not configured") {
		t.Errorf("a project that is not there yet: %v", err)
	}

	u.config.Projects = append(u.config.Projects, u.project("other"))
	u.config.Log.Level = "debug"
	u.writeConfig()
	if strings.Contains(u.daemon.Log(), `"level":"DEBUG"`) {
		t.Error("the log tells of debugging before it should")
	}
	u.hangUp()
	u.must(u.builds("other"))
	if !strings.Contains(u.daemon.Log(), `"level":"DEBUG"`) {
		t.Error("the log level has not changed")
	}
	u.metric(`imgd_config_reloads_total{result="ok"} 1`)

	u.broken()
	u.secrets()
	u.removed()

	u.config.Build.Slots, u.config.NATS.URL = 3, "nats://127.0.0.1:1"
	u.writeConfig()
	if changed, restart, _ := u.post(http.StatusOK); len(changed) > 0 || !slices.Equal(restart, []string{"build.slots", "nats.url"}) {
		t.Errorf("got %q and %q", changed, restart)
	}
	u.must(u.builds("hello"))
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	u.must(u.daemon.Terminate(ctx))
	u.hears("STOPPING=1")
}

// broken: what is bad changes nothing, says why, and is counted.
func (u *unit) broken() {
	u.Helper()
	u.write([]byte("buidl: {slots: 2}\nlog: {level: loud}\nprojects: []\n"))
	u.hangUp()
	_, _, detail := u.post(http.StatusBadRequest)
	for _, want := range []string{"imgd.yaml:1:1: buidl: there is no such key; did you mean build?", `imgd.yaml:2:14: log.level: "loud" is not known`} {
		if !strings.Contains(detail, want) || !strings.Contains(u.daemon.Log(), strings.ReplaceAll(want, `"`, `\"`)) {
			u.Errorf("%q is not in the answer %q, or not in the log", want, detail)
		}
	}
	u.metric(`imgd_config_reloads_total{result="failed"} 2`)
	u.metric(`imgd_config_last_reload_successful 0`)
	u.must(u.builds("other"))
}

// secrets are read anew, although the config is the same.
func (u *unit) secrets() {
	u.Helper()
	file := filepath.Join(u.TempDir(), "secret")
	u.must(os.WriteFile(file, []byte("first\n"), 0o600))
	u.config.Projects[0].Webhook = &kit.WebhookConfig{Forge: "github", SecretFile: file}
	u.writeConfig()
	for _, now := range []string{"first", "second"} {
		u.must(os.WriteFile(file, []byte(now+"\n"), 0o600))
		if changed, _, _ := u.post(http.StatusOK); !slices.Equal(changed, []string{"projects.hello"}) {
			u.Errorf("%s secret: changed are %q", now, changed)
		}
		for secret, want := range map[string]int{now: http.StatusOK, now + "-not": http.StatusUnauthorized} {
			if got := u.ping(secret); got != want {
				u.Errorf("signed with %s: got %d, want %d", secret, got, want)
			}
		}
	}
	u.must(os.WriteFile(file, nil, 0o600))
	if _, _, detail := u.post(http.StatusBadRequest); !strings.Contains(detail, file+" is empty") {
		u.Errorf("empty secret: got %s", detail)
	}
	if got := u.ping("second"); got != http.StatusOK {
		u.Errorf("after a bad secret the old one is refused: %d", got)
	}
	u.must(os.WriteFile(file, []byte("second\n"), 0o600))
}

// removed: a project that is gone is refused, also where somebody asks past the
// API, and what it has published stays.
func (u *unit) removed() {
	u.Helper()
	u.config.Projects = u.config.Projects[:1]
	u.writeConfig()
	if changed, restart, _ := u.post(http.StatusOK); !slices.Equal(changed, []string{"projects.other"}) || len(restart) > 0 {
		u.Errorf("got %q and %q", changed, restart)
	}
	if err := u.builds("other"); err == nil || !strings.Contains(err.Error(), "not configured") {
		u.Errorf("a project that is gone: %v", err)
	}
	conn, err := nats.Connect(u.daemon.NATS)
	u.must(err)
	defer conn.Close()
	msg := nats.NewMsg("imgd.requests.other.branch")
	msg.Data = []byte(`{"schema":1,"ref":"refs/heads/main","by":"a stranger"}`)
	ctx, cancel := context.WithTimeout(u.Context(), time.Minute)
	defer cancel()
	_, err = conn.RequestMsgWithContext(ctx, msg)
	u.must(err)
	u.must(kit.Wait(ctx, func(ctx context.Context) error {
		out, err := u.daemon.Imgctl(ctx, "requests", "list", "--project", "other", "--state", "failed", "-o", "json")
		if err == nil && !strings.Contains(out, "a stranger") {
			err = errors.New("it has not failed yet")
		}
		return err
	}))
	out, err := u.daemon.Imgctl(ctx, "get", "demo/other:main")
	if err != nil || !strings.Contains(out, "sha256:") {
		u.Errorf("what it published is gone: %s %v", out, err)
	}
}
