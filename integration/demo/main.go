// Command demo shows imgd's main job end to end on this machine: a commit
// becomes an image in a registry, a record in images.json and a published
// event. Everything is real: NATS, registry, BuildKit, containerd, git over
// HTTP. It runs in a temporary directory on free ports and leaves nothing
// behind; with KEEP=1 it leaves everything running until Ctrl-C.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/imgd/imgd/integration/kit"
)

const (
	// demoTime bounds the demo; it takes about half a minute.
	demoTime = 10 * time.Minute
	stopTime = 30 * time.Second
	// conflict is imgctl's exit code for it.
	conflict = 5
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// A demo is what the scenes share.
type demo struct {
	out    io.Writer
	repo   *kit.Repo
	daemon *kit.Daemon
}

func run(ctx context.Context, out io.Writer) (err error) {
	bounded, cancel := context.WithTimeoutCause(ctx, demoTime, fmt.Errorf("the demo did not end within %s", demoTime))
	defer cancel()
	dir, err := os.MkdirTemp("", "imgd-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	d := &demo{out: out}
	closeAll, err := d.start(bounded, dir)
	defer func() { err = errors.Join(err, closeAll()) }()
	if err != nil {
		return err
	}
	for _, scene := range []func(context.Context) error{d.release, d.runImage, d.next, d.conflict} {
		if err := scene(bounded); err != nil {
			return err
		}
	}
	if os.Getenv("KEEP") == "1" {
		d.say("Everything keeps running; Ctrl-C stops it. In another terminal:")
		fmt.Fprintf(out, "export IMGD_DATA=%s\n%s list\n", d.daemon.Data(), binary("imgctl"))
		<-ctx.Done()
		return nil
	}
	d.say("Done. Everything is stopped and removed.")
	return nil
}

// start brings up git server and daemon. What it answers stops what was
// started.
func (d *demo) start(ctx context.Context, dir string) (closeAll func() error, err error) {
	var closes []func() error
	closeAll = func() error {
		var errs []error
		for i := len(closes) - 1; i >= 0; i-- {
			errs = append(errs, closes[i]())
		}
		return errors.Join(errs...)
	}
	d.say("A git server with a small Go repository, tag v1.0.0.")
	server, err := kit.ServeGit(ctx, filepath.Join(dir, "git"))
	if err != nil {
		return closeAll, err
	}
	closes = append(closes, server.Close)
	if d.repo, err = server.Create(ctx, "demo/hello"); err != nil {
		return closeAll, err
	}
	commit, err := d.repo.Commit(ctx, "say hello", kit.HelloFiles())
	if err != nil {
		return closeAll, err
	}
	if err := d.repo.Tag(ctx, "v1.0.0", "main"); err != nil {
		return closeAll, err
	}
	fmt.Fprintf(d.out, "%s  commit %.12s\n", d.repo.URL, commit)

	d.say("imgd serve --data DIR: NATS and registry in process, buildkitd as its child.")
	d.daemon, err = kit.StartDaemon(ctx, dir, kit.LocalConfig(kit.ProjectConfig{
		Name: "hello", Git: d.repo.URL, Image: "demo/hello", Labels: map[string]string{"env": "demo"},
	}))
	if err != nil {
		return closeAll, err
	}
	closes = append(closes, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), stopTime)
		defer cancel()
		return d.daemon.Terminate(ctx)
	})
	fmt.Fprintf(d.out, "http      %s\nnats      %s\nregistry  %s\nbuildkit  %s\n", d.daemon.HTTP, d.daemon.NATS, d.daemon.Registry, d.daemon.BuildKit)
	return closeAll, d.baseImage(ctx)
}

func (d *demo) baseImage(ctx context.Context) error {
	if kit.DockerHubReachable(ctx) {
		return nil
	}
	d.say("docker.io cannot be reached: a stand-in for golang:1.26-alpine is made from this machine's Go.")
	return kit.PushBaseImages(ctx, d.daemon.Registry)
}

// release builds a tag and shows the three things that come of it.
func (d *demo) release(ctx context.Context) error {
	d.say("A release: the tag becomes an image, a record and an event.")
	if err := d.imgctl(ctx, []string{"build", "hello", "--ref", "v1.0.0", "--wait"}); err != nil {
		return err
	}
	if err := d.showRecords(); err != nil {
		return err
	}
	return d.imgctl(ctx, []string{"events", "-o", "json"}, []string{"verify", "demo/hello:v1.0.0"})
}

// showRecords shows the records as they stand in images.json, one a line.
func (d *demo) showRecords() error {
	file := filepath.Join(d.daemon.Data(), "index", "images.json")
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	records, _, _ := strings.Cut(string(text), `],"tags":`)
	fmt.Fprintf(d.out, "\n$ cat %s\n%s … and the state of tags and releases\n", file, records)
	return nil
}

// runImage pulls and runs what the record names, by digest.
func (d *demo) runImage(ctx context.Context) error {
	d.say("The image, pulled BY DIGEST and run by containerd: the version was injected through ldflags.")
	ref, err := d.daemon.Imgctl(ctx, "get", "demo/hello:v1.0.0", "-o", "digest")
	if err != nil {
		return err
	}
	ref = strings.TrimSpace(ref)
	fmt.Fprintf(d.out, "$ ctr run --rm %s\n", ref)
	repository, digest, _ := strings.Cut(ref, "@")
	stdout, err := kit.RunByDigest(ctx, repository, digest)
	if err != nil {
		return err
	}
	fmt.Fprintln(d.out, strings.TrimSpace(stdout))
	if !strings.Contains(stdout, "hello v1.0.0") {
		return fmt.Errorf("the image says %q, not hello v1.0.0", stdout)
	}
	return nil
}

// next commits again and shows what moved.
func (d *demo) next(ctx context.Context) error {
	d.say("A second commit, tag v1.0.1: series tags and the branch move, v1.0.0 stays.")
	if _, err := d.repo.Commit(ctx, "say more", map[string]string{"README.md": "Says hello.\n"}); err != nil {
		return err
	}
	if err := d.repo.Tag(ctx, "v1.0.1", "main"); err != nil {
		return err
	}
	return d.imgctl(ctx,
		[]string{"build", "hello", "--ref", "v1.0.1", "--wait", "--progress", "quiet"},
		[]string{"build", "hello", "--ref", "main", "--wait", "--progress", "quiet"},
		[]string{"list", "demo/hello"},
	)
}

// conflict moves an immutable tag, which imgd refuses.
func (d *demo) conflict(ctx context.Context) error {
	d.say("Somebody moves the git tag v1.0.0 to the new commit and builds it again: refused.")
	if err := d.repo.MoveTag(ctx, "v1.0.0", "main"); err != nil {
		return err
	}
	err := d.imgctl(ctx, []string{"build", "hello", "--ref", "v1.0.0", "--wait", "--progress", "quiet"})
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != conflict {
		return fmt.Errorf("moving v1.0.0 must end in a conflict (exit code %d), got %w", conflict, err)
	}
	fmt.Fprintf(d.out, "(exit code %d, as it should be; the image is still the first one)\n", conflict)
	return d.imgctl(ctx, []string{"verify", "demo/hello:v1.0.0"})
}

// imgctl runs commands as a user would, and shows them.
func (d *demo) imgctl(ctx context.Context, commands ...[]string) error {
	for _, args := range commands {
		fmt.Fprintf(d.out, "\n$ imgctl %s\n", strings.Join(args, " "))
		cmd := exec.CommandContext(ctx, binary("imgctl"), args...)
		cmd.Env = append(os.Environ(), "IMGD_DATA="+d.daemon.Data(), "IMGD_SERVER=")
		cmd.Stdout, cmd.Stderr = d.out, os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("imgctl %s: %w", args[0], err)
		}
	}
	return nil
}

func (d *demo) say(text string) { fmt.Fprintf(d.out, "\n== %s\n", text) }

// binary is a binary that the Makefile has made; StartDaemon has found them.
func binary(name string) string {
	path, err := kit.Bin(name)
	if err != nil {
		return name
	}
	return path
}
