package builder_test

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/builder"
)

var _ imgd.Builder = (*builder.Builder)(nil)

const shell = "FROM scratch AS build\nCOPY busybox /bin/sh\n"

func TestBuild(t *testing.T) {
	t.Parallel()
	b := newBuilder(t)
	r := newRepo(t, map[string]string{"svc/hello/Dockerfile": "# syntax=registry.invalid/no/frontend:1\n" + shell +
		"ARG VERSION COMMIT DATE LDFLAGS SOURCE_DATE_EPOCH CHANNEL EXTRA DOCKER_META_VERSION DOCKER_META_IMAGES\n" +
		`RUN echo "$VERSION|$COMMIT|$DATE|$LDFLAGS|$SOURCE_DATE_EPOCH|$CHANNEL|$EXTRA|$DOCKER_META_VERSION|$DOCKER_META_IMAGES" > /args` + "\n" +
		"FROM scratch AS final\nCOPY --from=build /args /args\nCOPY hello.txt /hello.txt\nFROM scratch AS other\nCOPY hello.txt /other.txt\n",
		"svc/hello/hello.txt": "hello", "svc/hello/busybox": "busybox", "hello.txt": "of the root"})
	p, req := r.ask()
	p.Context, p.Target = "svc/hello", "final"
	p.Repositories = append(p.Repositories, registryOf()+"/demo/copy")
	p.BuildArgs = map[string]string{"CHANNEL": "branch {{.Branch}} it's"}
	req.Named.Labels = map[string]string{"env": "prod", ocispec.AnnotationRevision: "a lie", ocispec.AnnotationTitle: "Hello"}
	req.Named.Annotations = map[string]string{"org.example.team": "red=blue", ocispec.AnnotationSource: "a lie"}
	req.Named.Version = "1.2.0-main"
	req.Args = map[string]string{"EXTRA": "1.x_y+z"}

	root, err := b.Build(t.Context(), p, req)
	if err != nil {
		t.Fatal(err)
	}
	if root.MediaType != ocispec.MediaTypeImageManifest {
		t.Errorf("root is %s, want one platform's manifest", root.MediaType)
	}
	config, files, times := image(t, "demo/hello", root.Digest)
	image(t, "demo/copy", root.Digest)
	if tags := tagsOf(t, "demo/copy"); len(tags) > 0 {
		t.Errorf("tags %q, want none", tags)
	}
	const date = "2026-11-21T10:00:00Z"
	if want := "v1.2.0|" + req.Commit + "|" + date + "|-s -w -X main.version=v1.2.0|1795255200|branch main it's|1.x_y+z|1.2.0-main|" + strings.Join(p.Repositories, ",") + "\n"; files["args"] != want {
		t.Errorf("args %q, want %q", files["args"], want)
	}
	source := strings.TrimSuffix(r.url, ".git")
	labels := map[string]string{"env": "prod", ocispec.AnnotationSource: source, ocispec.AnnotationURL: source, ocispec.AnnotationTitle: "Hello",
		ocispec.AnnotationRevision: req.Commit, ocispec.AnnotationVersion: "1.2.0-main", ocispec.AnnotationCreated: date}
	annotations := maps.Clone(labels)
	delete(annotations, "env")
	annotations["org.example.team"], annotations[ocispec.AnnotationTitle] = "red=blue", path.Base(source)
	if got := annotationsOf(t, "demo/hello", root.Digest); !maps.Equal(got, annotations) {
		t.Errorf("annotations %v, want %v", got, annotations)
	}
	if !maps.Equal(config.Config.Labels, labels) {
		t.Errorf("labels %v, want %v", config.Config.Labels, labels)
	}
	if config.Created == nil || !config.Created.Equal(commitTime) || !times["hello.txt"].Equal(commitTime) {
		t.Errorf("created %v, hello.txt of %v, want the commit's time %v", config.Created, times["hello.txt"], commitTime)
	}
	if files["hello.txt"] != "hello" {
		t.Errorf("hello.txt %q is not the one in the context", files["hello.txt"])
	}
	if config.OS != "linux" || config.Architecture != "amd64" {
		t.Errorf("platform %+v", config.Platform)
	}

	req.Target = "other"
	other, err := b.Build(t.Context(), p, req)
	if err != nil {
		t.Fatal(err)
	}
	if _, files, _ := image(t, "demo/hello", other.Digest); files["other.txt"] != "hello" {
		t.Errorf("the request's target: %v", files)
	}
}

// A second daemon, or a lost lease, should come to the same digest.
func TestBuildAgain(t *testing.T) {
	t.Parallel()
	r := newRepo(t, map[string]string{"Dockerfile": "FROM scratch\nCOPY hello.txt /\n", "hello.txt": t.Name()})
	p, req := r.ask()
	first, err := newBuilder(t).Build(t.Context(), p, req)
	if err != nil {
		t.Fatal(err)
	}
	r.write(map[string]string{"hello.txt": "newer"}) // the ref has moved on
	second, err := newBuilder(t).Build(t.Context(), p, req)
	if err != nil || first.Digest != second.Digest {
		t.Errorf("%v: %s and then %s", err, first.Digest, second.Digest)
	}
}

// A rebuild runs every step again. Files have no times of their own, unless the
// project keeps them.
func TestRebuild(t *testing.T) {
	t.Parallel()
	b := newBuilder(t)
	r := newRepo(t, map[string]string{"busybox": "busybox", "Dockerfile": "FROM scratch AS build\nCOPY busybox /bin/sh\nCOPY busybox /bin/busybox\n" +
		"RUN /bin/busybox cp /proc/sys/kernel/random/uuid /drawn\n" +
		"FROM scratch\nCOPY --from=build /drawn /out/\n"})
	p, req := r.ask()
	build := func(name string) (root digest.Digest, drawn string) {
		t.Helper()
		req.ID = digest.FromString(name).Encoded()[:32]
		built, err := b.Build(t.Context(), p, req)
		if err != nil {
			t.Fatal(err)
		}
		_, files, times := image(t, "demo/hello", built.Digest)
		if late := times["out/drawn"].After(commitTime); late != p.KeepTimes {
			t.Errorf("%s: a file is of %s, the commit of %s", name, times["out/drawn"], commitTime)
		}
		return built.Digest, files["out/drawn"]
	}
	first, drawn := build("first")
	if cached, _ := build("cached"); cached != first {
		t.Errorf("from the cache: %s and then %s", first, cached)
	}
	req.Rebuild = true
	if _, again := build("rebuild"); again == drawn {
		t.Errorf("the step was not run again: it drew %s, then %s", drawn, again)
	}
	p.KeepTimes = true
	build("with times")
}

// Of a Dockerfile whose steps make the same each time the image is the same,
// made from nothing: files copied from another stage, directories made on the
// way to them, and what a step in the last stage writes.
func TestReproducible(t *testing.T) {
	t.Parallel()
	b := newBuilder(t)
	r := newRepo(t, map[string]string{"busybox": "busybox", "Dockerfile": "FROM scratch AS build\nCOPY busybox /bin/sh\nRUN echo hello > /hello\n" +
		"FROM scratch\nWORKDIR /a/b\nCOPY --from=build /hello /c/d/\nCOPY --from=build /bin/sh /bin/sh\nRUN echo x > /c/x\n"})
	p, req := r.ask()
	first, err := b.Build(t.Context(), p, req)
	if err != nil {
		t.Fatal(err)
	}
	req.Rebuild, req.Compare, req.ID = true, true, strings.Repeat("c", 32)
	if plan, err := b.Plan(p, req); err != nil || plan.Args["BUILDKIT_CACHE_MOUNT_NS"] != req.ID {
		t.Errorf("cache mounts are those of %v, %v", plan.Args, err)
	}
	again, err := b.Build(t.Context(), p, req)
	if err != nil || again.Digest != first.Digest {
		t.Errorf("built %s and then %s, %v", first.Digest, again.Digest, err)
	}
}

func TestBuildSeveralPlatforms(t *testing.T) {
	t.Parallel()
	b := newBuilder(t)
	r := newRepo(t, map[string]string{"Dockerfile": "FROM scratch\nCOPY hello.txt /\n", "hello.txt": "hello"})
	p, req := r.ask()
	req.Platforms = []string{"linux/arm64", "linux/amd64"}
	root, err := b.Build(t.Context(), p, req)
	if err != nil || root.MediaType != ocispec.MediaTypeImageIndex {
		t.Fatal(root.MediaType, err)
	}
	fetch(t, "manifests", "demo/hello", root.Digest)
}

func TestBuildFails(t *testing.T) {
	t.Parallel()
	rows := []struct {
		name, dockerfile string
		change           func(*imgd.Project, *imgd.Request)
		want             imgd.BuildError // Message: a part of it
	}{
		{name: "command", dockerfile: shell + "ARG N=1\nRUN echo one; echo two >&2; \\\n exit 7\n",
			want: imgd.BuildError{Message: "two", File: "Dockerfile", Line: 4, ExitCode: 7}},
		{name: "killed", dockerfile: shell + "RUN sh -c 'kill -9 $$'; exit $?\n",
			want: imgd.BuildError{Message: "memory", File: "Dockerfile", Line: 3, ExitCode: 137}},
		{name: "parse", dockerfile: "FROM scratch\n\nRUNN true\n", want: imgd.BuildError{Message: "RUNN", File: "Dockerfile", Line: 3}},
		{name: "command in a directory", dockerfile: "FROM scratch\n", want: imgd.BuildError{Message: "the command failed with exit code 3: [2/2] RUN exit 3", File: "svc/Dockerfile", Line: 3, ExitCode: 3},
			change: func(p *imgd.Project, _ *imgd.Request) { p.Context = "svc" }},
		{name: "copy", dockerfile: "FROM scratch\nCOPY nothing /\n", want: imgd.BuildError{Message: "nothing", File: "Dockerfile", Line: 2}},
		{name: "copy of an odd name", dockerfile: "FROM scratch\nCOPY [\"a blob x\", \"/\"]\n", want: imgd.BuildError{Message: "not found", File: "Dockerfile", Line: 2}},
		{name: "a directory", dockerfile: "FROM scratch\n", want: imgd.BuildError{Message: "not a regular file", File: "svc"},
			change: func(p *imgd.Project, _ *imgd.Request) { p.Dockerfile = "svc" }},
		{name: "output that steers a terminal", dockerfile: shell + "RUN printf '\\033[2Jgone\\n'; exit 2\n",
			want: imgd.BuildError{Message: "\n[2Jgone", File: "Dockerfile", Line: 3, ExitCode: 2}},
		{name: "empty", dockerfile: "\n", want: imgd.BuildError{Message: "no instructions", File: "Dockerfile", Line: 1}},
		{name: "no Dockerfile", dockerfile: "FROM scratch\n", want: imgd.BuildError{Message: "no such file", File: "Other"},
			change: func(p *imgd.Project, _ *imgd.Request) { p.Dockerfile = "Other" }},
		{name: "no directory", dockerfile: "FROM scratch\n", want: imgd.BuildError{Message: "no such file", File: "nowhere/Dockerfile"},
			change: func(p *imgd.Project, _ *imgd.Request) { p.Context = "nowhere" }},
		{name: "no stage", dockerfile: "FROM scratch\n", want: imgd.BuildError{Message: "could not be found", File: "Dockerfile"},
			change: func(_ *imgd.Project, r *imgd.Request) { r.Target = "nowhere" }},
		{name: "no base image", dockerfile: "FROM REGISTRY/no/base:1\nCOPY a /\n", want: imgd.BuildError{Message: "not found", File: "Dockerfile", Line: 1}},
		{name: "time", dockerfile: shell + "RUN sleep 60\n", want: imgd.BuildError{Message: "timed out after 2s (timeout of the project)"},
			change: func(p *imgd.Project, _ *imgd.Request) { p.Timeout = 2 * time.Second }},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			b := newBuilder(t)
			r := newRepo(t, map[string]string{"Dockerfile": strings.ReplaceAll(row.dockerfile, "REGISTRY", registryOf()), "busybox": "busybox",
				"svc/Dockerfile": shell + "RUN exit 3\n", "svc/busybox": "busybox"})
			p, req := r.ask()
			if row.change != nil {
				row.change(&p, &req)
			}
			_, err := b.Build(t.Context(), p, req)
			var got *imgd.BuildError
			if !errors.As(err, &got) {
				t.Fatalf("got %v, want a *BuildError", err)
			}
			t.Log(err)
			if !strings.Contains(got.Message, row.want.Message) || got.File != row.want.File || got.Line != row.want.Line || got.ExitCode != row.want.ExitCode {
				t.Errorf("got %+v, want %+v", *got, row.want)
			}
			if strings.Contains(got.Message, "failed to solve") || len(got.Message) > 8<<10 {
				t.Errorf("message %q", got.Message)
			}
		})
	}
}

// What another try may not meet again is no BuildError.
func TestBuildMayPass(t *testing.T) {
	t.Parallel()
	rows := []struct {
		name, dockerfile string
		config           func(*builder.Config)
		change           func(*imgd.Project, *imgd.Request)
		want             string
	}{
		{name: "buildkitd is down", config: func(c *builder.Config) { c.Address = "unix:///run/imgd-no-such.sock" }, want: "no such file"},
		{name: "registry is down", change: func(p *imgd.Project, _ *imgd.Request) { p.Repositories = []string{"127.0.0.1:1/demo/hello"} }, want: "refused"},
		{name: "base registry is down", dockerfile: "FROM 127.0.0.1:1/base\n", want: "refused"},
		{name: "base registry is overloaded", dockerfile: "FROM " + answering(t, http.StatusServiceUnavailable) + "/base\n", want: "503"},
		{name: "base registry limits the rate", dockerfile: "FROM " + answering(t, http.StatusTooManyRequests) + "/base\n", want: "429"},
		{name: "git is down", change: func(p *imgd.Project, _ *imgd.Request) { p.Git = "http://127.0.0.1:1/hello.git" }, want: "127.0.0.1"},
		{name: "commit is gone", change: func(_ *imgd.Project, r *imgd.Request) { r.Commit = strings.Repeat("a", 40) }, want: "aaaa"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			b := newBuilder(t, func(c *builder.Config) {
				if row.config != nil {
					row.config(c)
				}
			})
			dockerfile := row.dockerfile
			if dockerfile == "" {
				dockerfile = "FROM scratch\nCOPY Dockerfile /\n"
			}
			p, req := newRepo(t, map[string]string{"Dockerfile": dockerfile}).ask()
			if row.change != nil {
				row.change(&p, &req)
			}
			_, err := b.Build(t.Context(), p, req)
			var fault *imgd.BuildError
			if err == nil || errors.As(err, &fault) || errors.Is(err, context.Canceled) || errors.Is(err, imgd.ErrInvalid) || !strings.Contains(err.Error(), row.want) {
				t.Errorf("got %#v %v, want a plain error with %q", err, err, row.want)
			}
			t.Log(err)
		})
	}
}

// answering is the address of a registry that has one answer to everything.
func answering(t *testing.T, status int) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

func TestBuildRefuses(t *testing.T) {
	t.Parallel()
	rows := []struct {
		name   string
		change func(*imgd.Project, *imgd.Request)
	}{
		{"value with a space", func(_ *imgd.Project, r *imgd.Request) { r.Args = map[string]string{"A": "1 -X main.admin=evil"} }},
		{"value with a quote", func(_ *imgd.Project, r *imgd.Request) { r.Args = map[string]string{"A": "'"} }},
		{"reserved name", func(_ *imgd.Project, r *imgd.Request) { r.Args = map[string]string{"VERSION": "v9"} }},
		{"name that steers BuildKit", func(_ *imgd.Project, r *imgd.Request) { r.Args = map[string]string{"BUILDKIT_SYNTAX": "evil"} }},
		{"name that is none", func(_ *imgd.Project, r *imgd.Request) { r.Args = map[string]string{"A=B": "c"} }},
		{"reserved name in config", func(p *imgd.Project, _ *imgd.Request) { p.BuildArgs = map[string]string{"http_proxy": "x"} }},
		{"template", func(p *imgd.Project, _ *imgd.Request) { p.LDFlags = "{{.Nothing}}" }},
		{"branch", func(p *imgd.Project, r *imgd.Request) { r.Ref, p.LDFlags = "refs/heads/a'b", "{{.Branch}}" }},
		{"commit", func(_ *imgd.Project, r *imgd.Request) { r.Commit = "main" }},
		{"platform", func(_ *imgd.Project, r *imgd.Request) { r.Platforms = []string{"linux/amd64,linux/arm64"} }},
		{"platform without arch", func(_ *imgd.Project, r *imgd.Request) { r.Platforms = []string{"linux"} }},
		{"context outside", func(p *imgd.Project, _ *imgd.Request) { p.Context = "../x" }},
		{"dockerfile outside", func(p *imgd.Project, _ *imgd.Request) { p.Dockerfile = "/etc/passwd" }},
		{"local repository", func(p *imgd.Project, _ *imgd.Request) { p.Git = "/srv/git/hello.git" }},
		{"repository with a tag", func(p *imgd.Project, _ *imgd.Request) { p.Repositories = []string{"example.com/a:1"} }},
		{"two repositories in one", func(p *imgd.Project, _ *imgd.Request) { p.Repositories = []string{"example.com/a,example.com/b"} }},
		{"request ID", func(_ *imgd.Project, r *imgd.Request) { r.ID = "../../../etc/cron.d/x" }},
	}
	dir := t.TempDir()
	b, err := builder.New(t.Context(), builder.Config{Address: "unix:///run/imgd-no-such.sock", LogDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			r := &repo{t: t, url: "http://127.0.0.1:1/hello.git"}
			p, req := r.askFor(strings.Repeat("b", 40))
			row.change(&p, &req)
			if _, err := b.Build(t.Context(), p, req); !errors.Is(err, imgd.ErrInvalid) {
				t.Errorf("got %v, want ErrInvalid", err)
			}
		})
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("%v %v, want no log", left, err)
	}
}

func TestBuildCancelled(t *testing.T) {
	t.Parallel()
	b := newBuilder(t)
	r := newRepo(t, map[string]string{"Dockerfile": shell + "RUN echo started; sleep 60\n", "busybox": "busybox"})
	p, req := r.ask()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := b.Build(ctx, p, req)
		ended <- err
	}()
	waitForLog(t, b, req.ID, "c3RhcnRlZA") // "started" in base64
	cancel()
	start := time.Now()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("ended %s after it was cancelled", took)
	}
	r.write(map[string]string{"Dockerfile": shell + "RUN echo done\n"})
	p, again := r.ask()
	again.ID = req.ID
	if _, err := b.Build(t.Context(), p, again); err != nil {
		t.Errorf("and again: %v", err)
	}
}

// waitForLog returns when the log of a running build has the text.
func waitForLog(t *testing.T, b *builder.Builder, request, text string) {
	t.Helper()
	log, err := b.Log(t.Context(), request, func() bool { return false })
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	var seen strings.Builder
	for buf := make([]byte, 4<<10); !strings.Contains(seen.String(), text); {
		n, err := log.Read(buf)
		seen.Write(buf[:n])
		if err != nil {
			t.Fatalf("%v: %s", err, seen.String())
		}
	}
}

func TestCredentialsStaySecret(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := newBuilder(t, func(c *builder.Config) { c.LogDir = dir })
	r := newRepo(t, map[string]string{"busybox": "busybox", "Dockerfile": shell + "RUN echo build s3cr3t/word; exit 1\n"})
	r.auth = "robot:s3cr3t/word"
	p, req := r.ask()
	p.Git = strings.Replace(r.url, "http://", "http://robot:s3cr3t%2Fword@", 1)
	_, err := b.Build(t.Context(), p, req)
	var fault *imgd.BuildError
	if !errors.As(err, &fault) || strings.Contains(err.Error(), "s3cr3t") || !strings.Contains(err.Error(), "build ***") {
		t.Errorf("got %v; want the step's failure without the password", err)
	}
	log, err := b.Log(t.Context(), req.ID, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	var shown strings.Builder
	if err := builder.Replay(t.Context(), log, &shown, "plain"); err != nil || strings.Contains(shown.String(), "s3cr3t") || !strings.Contains(shown.String(), "***") {
		t.Errorf("%v: %s", err, shown.String())
	}
	r.write(map[string]string{"new": "or buildkitd would not ask for the commit again"})
	p, req = r.ask()
	p.Git = strings.Replace(r.url, "http://", "http://robot:wrong-word@", 1)
	if _, err := b.Build(t.Context(), p, req); err == nil || errors.As(err, &fault) || strings.Contains(err.Error(), "wrong-word") {
		t.Errorf("wrong password: got %v, want a plain error without it", err)
	}
	raw, err := os.ReadFile(filepath.Join(dir, req.ID+".jsonl"))
	if err != nil || strings.Contains(string(raw), "wrong-word") {
		t.Errorf("%v: %s", err, raw)
	}
}

func TestPlainHTTPAndRegistryAddress(t *testing.T) {
	t.Parallel()
	b := newBuilder(t, func(c *builder.Config) {
		c.Registry, c.RegistryAddress, c.PlainHTTP = "registry.invalid", world.registry, true
	})
	p, req := newRepo(t, map[string]string{"Dockerfile": "FROM scratch\nCOPY Dockerfile /\n"}).ask()
	p.Repositories = []string{"registry.invalid/named/otherwise", world.registry + "/named/same"}
	root, err := b.Build(t.Context(), p, req)
	if err != nil {
		t.Fatal(err)
	}
	fetch(t, "manifests", "named/otherwise", root.Digest)
	fetch(t, "manifests", "named/same", root.Digest)
}

func TestPing(t *testing.T) {
	t.Parallel()
	if err := newBuilder(t).Ping(t.Context()); err != nil {
		t.Error(err)
	}
	down := newBuilder(t, func(c *builder.Config) { c.Address = "unix:///run/imgd-no-such.sock" })
	if err := down.Ping(t.Context()); err == nil || !strings.Contains(err.Error(), "/run/imgd-no-such.sock") {
		t.Errorf("got %v, want an error that names the address", err)
	}
	if err := builder.Probe(t.Context(), "unix:///run/imgd-no-such.sock"); err == nil {
		t.Error("nobody listens, and Probe is content")
	}
}

func readAll(t *testing.T, r io.Reader) string {
	t.Helper()
	all, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(all)
}
