package integration_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/integration/kit"
)

// docTime bounds the commands of one document.
const docTime = 3 * time.Minute

// elsewhere are the commands of documents that TestDocuments does not run, and why. Nothing else is left out.
var elsewhere = []struct{ command, why string }{
	{`^(KEEP=1 )?make `, ".ci/run and TestFirstImage run make"},
	{`^(sudo (install|mkdir|systemctl)|sudoedit|vi|docker|kubectl) `, "it changes the machine, or needs Docker, Kubernetes or systemd as PID 1; what it puts there is checked file by file"},
	{`^sudo tar `, "TestBackup runs it with imgd stopped"},
	{`^nats `, "the nats CLI cannot be had here; the consumer example does the same through nats.go"},
}

// streaming are the commands that go on until they are stopped: here after so many seconds.
var streaming = regexp.MustCompile(`^(imgctl (events|logs) .*-f\b|curl -N )`)

// A docCommand is what stands behind "$ " in a console block, and where.
type docCommand struct{ at, text string }

// commandsIn are the commands of the document, in their order. A command goes on after a backslash, and to the end of
// its here-document.
func commandsIn(t *testing.T, file string) (found []docCommand) {
	t.Helper()
	inBlock, end := false, ""
	for i, line := range strings.Split(string(readFile(t, file)), "\n") {
		last := len(found) - 1
		switch {
		case strings.HasPrefix(line, "```"):
			inBlock = line == "```console"
		case !inBlock:
		case end != "":
			found[last].text += "\n" + line
			if line == end || end == "\\" && !strings.HasSuffix(line, "\\") {
				end = ""
			}
		case strings.HasPrefix(line, "$ "):
			found = append(found, docCommand{fmt.Sprintf("%s:%d", filepath.Base(file), i+1), line[2:]})
			if m := regexp.MustCompile(`<<'?(\w+)'?`).FindStringSubmatch(line); m != nil {
				end = m[1]
			} else if strings.HasSuffix(line, "\\") {
				end = "\\"
			}
		}
	}
	return found
}

// documents are the pages whose commands are to work.
func documents(t *testing.T) []string {
	t.Helper()
	pages, err := filepath.Glob(filepath.Join(docs, "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	return append(pages, filepath.Join(docs, "..", "README.md"))
}

// Every command of the documents works as it stands, each document's in one shell, in their order, beside a daemon that
// is as they tell. docs/first-image.md has a test of its own, for it makes all that from nothing.
func TestDocuments(t *testing.T) {
	w := newDocWorld(t)
	for _, page := range documents(t) {
		if filepath.Base(page) == "first-image.md" {
			continue
		}
		t.Run(filepath.Base(page), func(t *testing.T) {
			var script strings.Builder
			for _, c := range commandsIn(t, page) {
				if why := leftOut(c.text); why != "" {
					t.Logf("%s: not run here, as %s: %s", c.at, why, c.text)
					continue
				}
				script.WriteString(w.scriptOf(t, c))
			}
			w.runScript(t, script.String())
		})
	}
}

func leftOut(command string) (why string) {
	for _, e := range elsewhere {
		if regexp.MustCompile(e.command).MatchString(command) {
			return e.why
		}
	}
	return ""
}

// A docWorld is what the documents tell of: a daemon with the projects hello, broken and slow.
type docWorld struct {
	daemon *kit.Daemon
	dir    string            // the shells' working directory
	as     *strings.Replacer // what the documents name, as it is here
	pushed string            // digest of what another CI has pushed
}

func newDocWorld(t *testing.T) *docWorld {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: the embedded buildkitd needs root")
	}
	server, err := kit.ServeGit(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	hanging := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	t.Cleanup(hanging.Close)
	var projects []kit.ProjectConfig
	for name, files := range map[string]map[string]string{
		"hello":  scratchFiles("hello"),
		"broken": {"Dockerfile": "FROM scratch\nCOPY nothing /\n"},
		"slow":   {"Dockerfile": "FROM scratch\nADD " + hanging.URL + "/never /\n"},
	} {
		repo, err := server.Create(t.Context(), "demo/"+name)
		if err == nil {
			_, err = repo.Commit(t.Context(), "begin", files)
		}
		if err == nil {
			err = repo.Tag(t.Context(), "v1.2.3", "main")
		}
		if err != nil {
			t.Fatal(err)
		}
		projects = append(projects, kit.ProjectConfig{Name: name, Git: repo.URL, Image: "demo/" + name})
	}
	w := &docWorld{dir: t.TempDir()}
	local := kit.LocalConfig(projects...)
	local.Build.Grace = "1s" // one hangs
	w.daemon = kit.RunDaemon(t, t.TempDir(), local)
	address := strings.TrimPrefix(w.daemon.HTTP, "http://")
	w.as = strings.NewReplacer("127.0.0.1:7070", address, "nats://127.0.0.1:4222", w.daemon.NATS, "127.0.0.1:5000", w.daemon.Registry,
		"/var/lib/imgd", w.daemon.Data(), "/etc/imgd", w.dir, "/etc/bash_completion.d", w.dir, "${fpath[1]}", w.dir,
		"~/.config/fish/completions", w.dir, "/usr/local/share/man/man1", w.dir)
	config, err := os.ReadFile(filepath.Join(w.daemon.Dir, "imgd.yaml"))
	if err == nil {
		err = os.WriteFile(filepath.Join(w.dir, "imgd.yaml"), config, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	w.ask(t, "hello", "--wait")
	if w.pushed, err = pushImage(t.Context(), w.daemon.Registry+"/demo/tool:v1.5.0"); err != nil {
		t.Fatal(err)
	}
	return w
}

// ask asks for a build of v1.2.3 and answers the request's ID.
func (w *docWorld) ask(t *testing.T, project string, flags ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), buildTime)
	defer cancel()
	out, err := w.daemon.Imgctl(ctx, append([]string{"build", project, "--ref", "v1.2.3", "-o", "json"}, flags...)...)
	var asked []struct{ Request, Release string }
	if err == nil {
		err = json.Unmarshal([]byte(out), &asked)
	}
	if err != nil || len(asked) == 0 {
		t.Fatalf("build %s: %v: %s", project, err, out)
	}
	request, _, _ := strings.Cut(asked[0].Request+asked[0].Release, "-")
	return request
}

// request is one that the command can be given as $REQUEST.
func (w *docWorld) request(t *testing.T, command string) string {
	t.Helper()
	switch {
	case strings.Contains(command, "requests cancel"):
		return w.ask(t, "slow")
	case strings.Contains(command, "requests drop"):
		return w.letter(t)
	case strings.Contains(command, "requests retry"):
		id := w.ask(t, "broken")
		w.await(t, imgd.Failed, func(s imgd.Status) bool { return s.Request == id })
		return id
	}
	return w.ask(t, "hello")
}

// letter is the ID of a dead letter.
func (w *docWorld) letter(t *testing.T) (id string) {
	t.Helper()
	nc, err := nats.Connect(w.daemon.NATS)
	if err == nil {
		err = errors.Join(nc.Publish("imgd.requests.hello.branch", []byte("no request")), nc.Flush())
		nc.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	w.await(t, imgd.Dead, func(s imgd.Status) bool {
		id = s.Request
		return true
	})
	return id
}

// await waits until there is such a request in that state.
func (w *docWorld) await(t *testing.T, state imgd.State, such func(imgd.Status) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), endTime)
	defer cancel()
	err := kit.Wait(ctx, func(ctx context.Context) error {
		out, err := w.daemon.Imgctl(ctx, "requests", "list", "--state", string(state), "-o", "json")
		var all []imgd.Status
		if err == nil {
			err = json.Unmarshal([]byte(out), &all)
		}
		for _, s := range all {
			if such(s) {
				return nil
			}
		}
		return errors.Join(err, fmt.Errorf("no such request: %s", out))
	})
	if err != nil {
		t.Fatal(err)
	}
}

// scriptOf runs the command in the shell, which ends with the command's place if the command fails.
func (w *docWorld) scriptOf(t *testing.T, c docCommand) string {
	text, want := w.as.Replace(c.text), "0"
	if streaming.MatchString(text) {
		text, want = "timeout 2 "+text, "124"
	}
	if strings.HasPrefix(text, "go run ./") {
		text = "(cd '" + checkout(t) + "' && " + text + ")"
	}
	before := ""
	if strings.Contains(text, "$REQUEST") {
		before = "REQUEST=" + w.request(t, text) + "\n"
	}
	return fmt.Sprintf("%s%s\ncode=$?; [ $code = %s ] || { echo '%s ended with' $code >&2; exit 1; }\n", before, text, want, c.at)
}

func (w *docWorld) runScript(t *testing.T, script string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), docTime)
	defer cancel()
	imgctl, err := kit.Bin("imgctl")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, "bash", "-c", `sudo() { "$@"; }`+"\n"+script)
	cmd.Dir = w.dir
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(imgctl)+":"+os.Getenv("PATH"), "IMGD_DATA="+w.daemon.Data(),
		"DIGEST="+w.pushed, "COMMIT="+strings.Repeat("a", 40))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Errorf("%v\n%s\nthe commands:\n%s", err, out.String(), script)
	}
}
