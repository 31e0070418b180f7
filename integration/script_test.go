package integration_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/nats-io/nats.go"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/imgd/imgd/integration/kit"
)

// A scriptWorld is one daemon with all its parts in it, which all scripts share. Each has a project, an image and a
// repository of its own, by the script's name.
type scriptWorld struct {
	ctx    context.Context // of the test; the commands of a script have no other way to it
	bin    string
	git    string // directory of the git server
	repos  map[string]*kit.Repo
	daemon *kit.Daemon
}

// TestScripts runs every command of imgctl, imgd and publish, its errors and exit codes, against the real daemon.
func TestScripts(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: buildkitd needs root")
	}
	w := newScriptWorld(t)
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		RequireExplicitExec: true,
		Setup:               w.setup,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits, "eventually": w.eventually, "commit": w.commit, "tag": w.tag, "break": w.breakGit, "mend": w.mendGit,
			"stranger": w.stranger, "letter": w.letter, "hung": w.hung, "request": w.request, "push": w.push,
		},
	})
}

func newScriptWorld(t *testing.T) *scriptWorld {
	t.Helper()
	imgctl, err := kit.Bin("imgctl")
	if err != nil {
		t.Fatal(err)
	}
	scripts, err := filepath.Glob(filepath.Join("testdata", "script", "*.txtar"))
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	w := &scriptWorld{ctx: t.Context(), bin: filepath.Dir(imgctl), git: t.TempDir(), repos: map[string]*kit.Repo{}}
	server, err := kit.ServeGit(t.Context(), w.git)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	config := kit.LocalConfig()
	for _, script := range scripts {
		project := strings.TrimSuffix(filepath.Base(script), ".txtar")
		repo, err := server.Create(t.Context(), project)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := repo.Commit(t.Context(), "the first", scratchFiles(project)); err != nil {
			t.Fatal(err)
		}
		w.repos[project] = repo
		of := kit.ProjectConfig{Name: project, Git: repo.URL, Image: "demo/" + project, Labels: map[string]string{"env": "test"}}
		if project == "rules" {
			of.Tags = "# as docker/metadata-action takes them\ntype=schedule\ntype=semver,pattern={{version}}\ntype=semver,pattern={{major}}.{{minor}}\ntype=edge,branch=main\n"
			of.Labels["sha"], of.Annotations = "{{sha}}", map[string]string{"org.example.tag": "{{tag}}"}
		}
		config.Projects = append(config.Projects, of)
	}
	w.daemon = kit.RunDaemon(t, t.TempDir(), config)
	return w
}

// setup tells a script where things are. What its Dockerfile asks of $HANG is never answered.
func (w *scriptWorld) setup(env *testscript.Env) error {
	project := strings.TrimPrefix(filepath.Base(env.WorkDir), "script-")
	reached := make(chan struct{}, 1)
	hang := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case reached <- struct{}{}:
		default:
		}
		<-r.Context().Done()
	}))
	env.Defer(func() { hang.CloseClientConnections(); hang.Close() })
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	env.Defer(func() { busy.Close() })
	env.Values["hung"] = reached
	for key, value := range map[string]string{
		"PATH": w.bin + string(filepath.ListSeparator) + env.Getenv("PATH"), "IMGD_SERVER": "", "IMGD_DATA": w.daemon.Data(),
		"PROJECT": project, "IMAGE": "demo/" + project, "GIT": w.repos[project].URL, "HANG": hang.URL, "BUSY": busy.Addr().String(),
		"CONFIG": filepath.Join(w.daemon.Dir, "imgd.yaml"), "SOURCE": "https://git.example.com/tools/" + project + "@" + sourceCommit,
		"REGISTRY": w.daemon.Registry, "NATS": w.daemon.NATS, "HTTP": w.daemon.HTTP, "PID": strconv.Itoa(w.daemon.PID()),
	} {
		env.Setenv(key, value)
	}
	return nil
}

func (w *scriptWorld) repo(ts *testscript.TestScript) *kit.Repo { return w.repos[ts.Getenv("PROJECT")] }

// exits CODE PROGRAM [ARG…] runs a program that must exit with the code.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	code := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("%s exits with %d, want %s", strings.Join(args[1:], " "), code, args[0])
	}
}

// eventually PATTERN PROGRAM [ARG…] runs a program until its stdout has the pattern.
func (w *scriptWorld) eventually(ts *testscript.TestScript, _ bool, args []string) {
	ctx, cancel := context.WithTimeout(w.ctx, heldTime)
	defer cancel()
	pattern := regexp.MustCompile("(?m)" + args[0])
	err := kit.Wait(ctx, func(context.Context) error {
		if err := ts.Exec(args[1], args[2:]...); err != nil {
			return err
		}
		if out := ts.ReadFile("stdout"); !pattern.MatchString(out) {
			return errors.New(out)
		}
		return nil
	})
	if err != nil {
		ts.Fatalf("%s has no %s: %v", strings.Join(args[1:], " "), args[0], err)
	}
}

// commit REF [FILE…] commits files into the branch, which is made if it is not there; $HANG in them is replaced.
func (w *scriptWorld) commit(ts *testscript.TestScript, _ bool, args []string) {
	files := map[string]string{"time": time.Now().String()} // so that it differs
	for _, file := range args[1:] {
		files[file] = strings.ReplaceAll(ts.ReadFile(file), "$HANG", ts.Getenv("HANG"))
	}
	repo := w.repo(ts)
	if repo.Checkout(w.ctx, args[0]) != nil {
		ts.Check(repo.Branch(w.ctx, args[0], "main"))
	}
	_, err := repo.Commit(w.ctx, "another", files)
	ts.Check(err)
}

// tag NAME REV makes a git tag, or moves it.
func (w *scriptWorld) tag(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(w.repo(ts).MoveTag(w.ctx, args[0], args[1]))
}

// break takes the script's repository away from the git server, and mend brings it back.
func (w *scriptWorld) breakGit(ts *testscript.TestScript, _ bool, _ []string) {
	bare := filepath.Join(w.git, "bare", ts.Getenv("PROJECT")+".git")
	ts.Check(os.Rename(bare, bare+".away"))
}

func (w *scriptWorld) mendGit(ts *testscript.TestScript, _ bool, _ []string) {
	bare := filepath.Join(w.git, "bare", ts.Getenv("PROJECT")+".git")
	ts.Check(os.Rename(bare+".away", bare))
}

// stranger TAG puts an image of another hand under a tag of the script's repository.
func (w *scriptWorld) stranger(ts *testscript.TestScript, _ bool, args []string) {
	ref, err := name.NewTag(w.daemon.Registry+"/"+ts.Getenv("IMAGE")+":"+args[0], name.Insecure)
	ts.Check(err)
	img, err := random.Image(64, 1)
	ts.Check(err)
	ts.Check(remote.Write(ref, img, remote.WithContext(w.ctx)))
}

// push IMAGE:TAG NAME pushes an image as another CI would, another one each time, and puts its digest into a variable.
func (w *scriptWorld) push(ts *testscript.TestScript, _ bool, args []string) {
	digest, err := pushImage(w.ctx, w.daemon.Registry+"/"+args[0])
	ts.Check(err)
	ts.Setenv(args[1], digest)
}

// letter TEXT puts a message into the queue.
func (w *scriptWorld) letter(ts *testscript.TestScript, _ bool, args []string) {
	conn, err := nats.Connect(w.daemon.NATS)
	ts.Check(err)
	defer conn.Close()
	_, err = conn.Request("imgd.requests."+ts.Getenv("PROJECT")+".branch", []byte(args[0]), heldTime) // the stream's ack
	ts.Check(err)
}

// hung waits until a build hangs.
func (w *scriptWorld) hung(ts *testscript.TestScript, _ bool, _ []string) {
	select {
	case <-ts.Value("hung").(chan struct{}):
	case <-time.After(heldTime):
		ts.Fatalf("no build came to ask for what hangs")
	}
}

// request NAME puts the ID of the request that the last command told of into a variable.
func (w *scriptWorld) request(ts *testscript.TestScript, _ bool, args []string) {
	found := regexp.MustCompile(`request ([0-9a-f]{32})`).FindStringSubmatch(ts.ReadFile("stderr"))
	if found == nil {
		ts.Fatalf("the last command tells of no request")
	}
	ts.Setenv(args[0], found[1])
}
