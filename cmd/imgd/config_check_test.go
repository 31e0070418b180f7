package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Every complaint at once, each in its line, and no secret in any.
func TestConfigComplaints(t *testing.T) {
	const text = `data: /tmp/x
buidl: {slots: 2}
build: {slot: 2, timeout: 30}
slots: 3
log:
  level: loud
nats: {url: nats://user:pw@h:4222, credsFile: rel}
registry: {address: "https://u:pw@r.test/x", plainHTTP: maybe, untagByPlaceholder: [r.test:5000, "http://r.test"]}
git: [a]
projects:
  - name: Hello
    git: http://robot:pw@git.example.com/x.git
    image: demo/hello:v1
    refs: [refs/heads/*, main]
    timeout: soon
    webhook: {forge: sourcehut}
    labels: {a: [1]}
  - {name: b, git: "https://git.example.com/x.git", image: demo/b, imgae: x, buildArgs: {COMMIT: x, A: "{{.Nope}}"}}
  - {name: b, git: "https://git.example.com/x.git", image: demo/c}
data: /tmp/y
`
	const want = `environment IMGD_BUILD_GRACE: build.grace: must not be negative; 0s gives running builds back at once
environment IMGD_QUEUE_TRIES: queue.tries: want a whole number, not "x"
FILE:2:1: buidl: there is no such key; did you mean build?
FILE:3:9: build.slot: there is no such key; did you mean slots?
FILE:3:27: build.timeout: want a duration, as in 30s, 10m or 1h30m, not "30"
FILE:4:1: slots: there is no such key; did you mean build.slots?
FILE:6:10: log.level: "loud" is not known; use debug, info, warn, error
FILE:7:13: nats.url: credentials cannot stand in the URL, which others get to see; use nats.credsFile
FILE:7:47: nats.credsFile: "rel" is not absolute: imgd may be started anywhere
FILE:8:21: registry.address: "https://xxxxx@r.test/x" is not host[:port], without scheme, path and credentials
FILE:8:57: registry.plainHTTP: want true or false, not "maybe"
FILE:8:98: registry.untagByPlaceholder[1]: "http://r.test" is not host[:port], without scheme, path and credentials
FILE:9:6: git: want keys with values, as in ` + "`key: value`" + `, not a list
FILE:11:11: projects[0].name: "Hello" must match ^[a-z0-9][a-z0-9-]{0,62}$
FILE:12:10: projects[0].git: http is allowed only with git.plainHTTP
FILE:13:12: projects[0].image: "demo/hello:v1" is no image name: lower case, without registry, tag and digest, as in demo/hello
FILE:14:26: projects[0].refs[1]: "main" must begin with refs/, as in refs/heads/*
FILE:15:14: projects[0].timeout: want a duration, as in 30s, 10m or 1h30m, not "soon"
FILE:16:14: projects[0].webhook: forge and secretFile belong together
FILE:16:22: projects[0].webhook.forge: "sourcehut" is none of github, gitlab, gitea, forgejo
FILE:17:17: projects[0].labels.a: want a text, not a list
FILE:18:68: projects[1].imgae: there is no such key; did you mean image?
FILE:18:98: projects[1].buildArgs.COMMIT: is reserved: imgd sets it, or it steers BuildKit
FILE:18:104: projects[1].buildArgs.A: `
	_, err := load(t, text, map[string]string{"IMGD_BUILD_GRACE": "-1s", "IMGD_QUEUE_TRIES": "x"}, flagValues{})
	var wrong complaints
	if !errors.As(err, &wrong) {
		t.Fatalf("got %v, want complaints", err)
	}
	got := strings.ReplaceAll(err.Error(), wrong[len(wrong)-1].source, "FILE")
	for i, line := range strings.Split(want, "\n") {
		if all := strings.Split(got, "\n"); i >= len(all) || !strings.HasPrefix(all[i], line) {
			t.Fatalf("line %d is not %q in\n%s", i+1, line, got)
		}
	}
	for _, rest := range []string{
		"FILE:19:12: projects[2].name: b is used twice, also by projects[1]",
		"FILE:20:1: data: it stands in line 1 already",
	} {
		if !strings.Contains(got, rest) {
			t.Errorf("there is no %q in\n%s", rest, got)
		}
	}
	if strings.Contains(got, "pw") {
		t.Errorf("a password is shown: %s", got)
	}
}

// What is wrong with the text as such.
func TestConfigSyntax(t *testing.T) {
	for name, tt := range map[string]struct{ text, want string }{
		"no end":           {"a: [1\nb: }\n", "imgd.yaml:2:1: this is no YAML: "},
		"tab":              {"log:\n\tlevel: info\n", "imgd.yaml:2:1: this is no YAML: "},
		"two documents":    {"log: {level: info}\n---\nlog: {}\n", "imgd.yaml:2:1: a second document"},
		"a list":           {"- a\n", "imgd.yaml:1:1: want keys with values"},
		"a word":           {"imgd\n", `not "imgd"`},
		"contains itself":  {"projects: &a\n  - *a\n", "imgd.yaml:"},
		"merges itself":    {"log: &a\n  <<: *a\n", "imgd.yaml:2:7: log: *a contains itself"},
		"text as a number": {"build: {slots: two}\n", `build.slots: want a whole number, not "two"`},
		"word as a list":   {"git: {allowHosts: h}\n", "git.allowHosts: want a list, as in [a, b], not"},
		"list as a word":   {"data: [a]\n", "data: want a text, not a list"},
		"far from any":     {"xyzzy: 1\n", "there are data, listen"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := load(t, tt.text, nil, flagValues{}); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// What YAML can say in more than one way.
func TestConfigYAML(t *testing.T) {
	cfg, err := load(t, `# nothing is said of nats
nats:
log: {level: }
queue: {tries: "7", lease: 0h1m}
build: {grace: 0}
projects:
  - &base
    name: a
    git: https://git.example.com/a.git
    image: demo/a
    refs: &refs [refs/tags/*]
    labels: {version: 1.0, yes: true}
  - {<<: *base, name: b, image: demo/b}
  - {<<: [{target: first}, {target: second, dockerfile: F}], name: c, git: "https://git.example.com/c.git", image: demo/c, refs: *refs}
`, nil, flagValues{})
	if err != nil {
		t.Fatal(err)
	}
	a, b, c := cfg.Projects[0], cfg.Projects[1], cfg.Projects[2]
	if a.Labels["version"] != "1.0" || a.Labels["yes"] != "true" || b.Git != a.Git || b.Name != "b" || b.Image != "demo/b" || b.Labels["version"] != "1.0" {
		t.Errorf("got %+v and %+v", a, b)
	}
	if c.Target != "first" || c.Dockerfile != "F" || strings.Join(c.Refs, "") != "refs/tags/*" {
		t.Errorf("got %+v", c)
	}
	if cfg.Log.Level != "info" || cfg.Queue.Tries != 7 || cfg.Queue.Lease.String() != "1m0s" || cfg.Build.Grace != 0 {
		t.Errorf("got %+v", cfg)
	}
}

// The files that the config names are read, and nothing of them is told.
func TestConfigFiles(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	empty, secret := write("empty", "\n"), write("secret", "s3cret")
	text := `nats: {url: nats://n:4222, credsFile: ` + dir + `/none.creds}
registry: {address: r.test, caFile: ` + secret + `, dockerConfig: ` + dir + `/nowhere}
git: {caFile: ` + dir + `/none.pem}
projects:
  - {name: a, git: "https://git.example.com/a.git", image: demo/a, webhook: {forge: github, secretFile: ` + empty + `}}
  - {name: b, git: "https://git.example.com/a.git", image: demo/b, webhook: {forge: github, secretFile: ` + dir + `/none}}
  - {name: c, git: "https://git.example.com/a.git", image: demo/c, webhook: {forge: github, secretFile: ` + secret + `}}
`
	file := write("imgd.yaml", text)
	_, err := checkedConfig(flagValues{config: file}, func(string) string { return "" })
	for _, want := range []string{
		"imgd.yaml:1:39: nats.credsFile: open " + dir + "/none.creds: no such file",
		"imgd.yaml:2:37: registry.caFile: " + secret + " has no certificate in PEM",
		"registry.dockerConfig: stat " + dir + "/nowhere/config.json: no such file",
		"imgd.yaml:3:15: git.caFile: open " + dir + "/none.pem: no such file",
		"imgd.yaml:5:", "projects[0].webhook.secretFile: " + empty + " is empty",
		"projects[1].webhook.secretFile: open " + dir + "/none: no such file",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	if err != nil && (strings.Contains(err.Error(), "projects[2]") || strings.Contains(err.Error(), "s3cret")) {
		t.Errorf("got %v", err)
	}
	if _, err := loadConfig(flagValues{config: file}, func(string) string { return "" }); err != nil {
		t.Errorf("without the files: %v", err)
	}
}

// command runs a command line as main does.
func command(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	if err := run(context.WithoutCancel(t.Context()), args, &out, &errs); err != nil {
		errs.WriteString(err.Error())
		code = exitCode(err)
	}
	return out.String(), errs.String(), code
}

func TestCommandLine(t *testing.T) {
	for _, line := range []string{"srve", "serve now", "serve --bogus", "man", "version now", "config check one two", "health now"} {
		if _, stderr, code := command(t, strings.Fields(line)...); code != 2 || strings.Count(stderr, "see imgd --help") != 1 {
			t.Errorf("imgd %s: got %d, %s", line, code, stderr)
		}
	}
	if _, stderr, code := command(t, "man", filepath.Join(os.DevNull, "pages")); code != 1 || strings.Contains(stderr, "--help") {
		t.Errorf("a directory that cannot be made: got %d, %s", code, stderr)
	}
}

func TestConfigCommands(t *testing.T) {
	dir := t.TempDir()
	good, bad := filepath.Join(dir, "imgd.yaml"), filepath.Join(dir, "bad.yaml")
	text := "projects:\n  - {name: a, git: 'https://robot:s3cret@git.example.com/a.git', image: demo/a}\n" +
		"  - {name: b, git: 'https://t0ken@git.example.com/b.git', image: demo/b, timeout: 90s}\n" +
		"  - {name: c, git: 'ssh://git@git.example.com/c.git', image: demo/c}\n" +
		"  - {name: d, git: 'https://t0ken:x-oauth-basic@git.example.com/d.git', image: demo/d}\n" +
		"  - {name: e, git: 'https://t0ken:@git.example.com/e.git', image: demo/e}\n"
	for file, text := range map[string]string{good: text, bad: "buidl: 1\n"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{{"config", "check", good}, {"config", "check", "--config", good}, {"config", "check", "--data", dir}} {
		if out, errs, code := command(t, args...); code != 0 || out != "" || errs != good+": ok, projects: 5\n" {
			t.Errorf("%q: got %d %q %q", args, code, out, errs)
		}
	}
	for _, args := range [][]string{{"config", "check", bad}, {"config", "show", "--config", bad}, {"serve", "--config", bad, "--data", dir}} {
		if out, errs, code := command(t, args...); code != 2 || out != "" || errs != bad+":1:1: buidl: there is no such key; did you mean build?" {
			t.Errorf("%q: got %d %q %q", args, code, out, errs)
		}
	}
	if _, errs, code := command(t, "config", "check", dir+"/none.yaml"); code != 2 || !strings.Contains(errs, "none.yaml") {
		t.Errorf("no file: got %d %q", code, errs)
	}
	t.Setenv("IMGD_BUILD_SLOTS", "5")
	shown, _, code := command(t, "config", "show", "--data", dir, "--listen", "127.0.0.1:1")
	for _, want := range []string{"slots: 5", "listen: 127.0.0.1:1\n", "https://xxxxx@git.example.com/a.git", "https://xxxxx@git.example.com/b.git",
		"ssh://git@git.example.com/c.git", "127.0.0.1:5000/demo/a", "timeout: 1m30s", "minFreeMB: 512"} {
		if code != 0 || !strings.Contains(shown, want) {
			t.Errorf("%d, there is no %q in\n%s", code, want, shown)
		}
	}
	if strings.Contains(shown, "s3cret") || strings.Contains(shown, "t0ken") {
		t.Errorf("a secret is shown in\n%s", shown)
	}
	if err := os.WriteFile(bad, []byte(strings.ReplaceAll(shown, "xxxxx@", "")), 0o600); err != nil {
		t.Fatal(err)
	}
	if again, errs, code := command(t, "config", "show", "--config", bad, "--listen", "127.0.0.1:1"); code != 0 || !strings.Contains(again, "slots: 5") {
		t.Errorf("what is shown is no config: %d %s", code, errs)
	}
}

var update = flag.Bool("update", false, "write the tables into docs/config.md")

// docs/config.md has what the comments in config.go say.
func TestConfigDocs(t *testing.T) {
	const page, begin, end = "../../docs/config.md", "<!-- made by imgd config docs -->\n", "<!-- end -->\n"
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, found := strings.Cut(string(text), begin)
	tables, tail, ended := strings.Cut(rest, end)
	if !found || !ended {
		t.Fatalf("%s lacks %q or %q", page, begin, end)
	}
	want, _, code := command(t, "config", "docs")
	if code != 0 {
		t.Fatal(code)
	}
	want = "\n" + want + "\n"
	if *update {
		if err := os.WriteFile(page, []byte(head+begin+want+end+tail), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if tables != want {
		t.Errorf("%s is stale: go test ./cmd/imgd -run Docs -update", page)
	}
	if strings.Contains(want, "|  |\n") {
		t.Errorf("a key has no comment:\n%s", want)
	}
}
