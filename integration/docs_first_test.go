package integration_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/imgd/imgd/integration/kit"
)

// firstTime bounds the way from clone to image: compiling imgd, which may be in the build cache, and two builds.
const firstTime = 8 * time.Minute

// firstStop is how long the daemon may take to stop when that time is over.
const firstStop = 30 * time.Second

// A newcomer's way: docs/first-image.md, followed to the letter in a clone of this repository. What differs here are the
// names of the two repositories, that the tools are built already, and that ports are free ones.
func TestFirstImage(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: the embedded buildkitd needs root")
	}
	server, err := kit.ServeGit(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	repo, err := server.Create(t.Context(), "you/hello")
	if err == nil {
		_, err = repo.Commit(t.Context(), "say hello", scratchFiles("hello"))
	}
	if err == nil {
		err = repo.Tag(t.Context(), "v0.1.0", "main")
	}
	if err != nil {
		t.Fatal(err)
	}
	imgd, err := kit.Bin("imgd")
	if err != nil {
		t.Fatal(err)
	}
	as := strings.NewReplacer("https://github.com/imgd/imgd.git", "'"+checkout(t)+"' imgd", "https://git.example.com/you/hello.git", repo.URL)
	var script strings.Builder
	for _, c := range commandsIn(t, filepath.Join(docs, "first-image.md")) {
		script.WriteString(firstScript(as.Replace(c.text), c.at, filepath.Dir(imgd)))
	}
	out := runFirst(t, script.String())
	for _, want := range []string{"docker pull ", "/you/hello@sha256:", "v0.1.0,0.1,latest", "projects.hello  now"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in what the commands print:\n%s", want, out)
		}
	}
}

// checkout is the root of the repository that this test is in.
func checkout(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func firstScript(command, at, tools string) string {
	end := "\n[ $? = 0 ] || { echo '" + at + " failed' >&2; exit 1; }\n"
	switch {
	case strings.HasPrefix(command, "cd "):
		// The tools take minutes to build: those there are stand for them.
		return command + end + "mkdir bin && cp " + tools + "/{buildkitd,buildctl,containerd,containerd-shim-runc-v2,ctr} bin/" + end
	case strings.Contains(command, "imgd serve"):
		// It goes on beside the rest, as in a terminal of its own.
		return strings.TrimPrefix(command, "sudo ") + " > serve.log 2>&1 &\nDAEMON=$!\n" +
			"until grep -q 'imgd serves' serve.log; do kill -0 $DAEMON || exit 1; sleep 0.1; done\n"
	}
	return command + end
}

// runFirst runs the script in an empty directory and answers what it printed. The daemon that it leaves running ends
// with it.
func runFirst(t *testing.T, script string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), firstTime)
	defer cancel()
	script = "sudo() { \"$@\"; }\ntrap '[ -z \"${DAEMON:-}\" ] || { kill $DAEMON; wait $DAEMON; }' EXIT\n" + script
	cmd := exec.CommandContext(ctx, "bash", "-c", script)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "IMGD_LISTEN=127.0.0.1:0", "IMGD_NATS_LISTEN=127.0.0.1:0", "IMGD_REGISTRY_LISTEN=127.0.0.1:0", "IMGD_GIT_PLAINHTTP=true")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // the trap ends the daemon
	cmd.WaitDelay = firstStop
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		log, _ := os.ReadFile(filepath.Join(cmd.Dir, "imgd", "serve.log"))
		t.Fatalf("%v\n%s\nimgd's log:\n%s", err, out.String(), log)
	}
	return out.String()
}
