package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func load(t *testing.T, text string, env map[string]string, flags flagValues) (Config, error) {
	t.Helper()
	flags.data = t.TempDir()
	if err := os.WriteFile(filepath.Join(flags.data, "imgd.yaml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return loadConfig(flags, func(key string) string { return env[key] })
}

const project = `
projects:
  - {name: hello, git: "https://git.example.com/demo/hello.git", image: demo/hello}
`

func TestConfigDefaults(t *testing.T) {
	cfg, err := load(t, project, nil, flagValues{})
	if err != nil {
		t.Fatal(err)
	}
	p := cfg.projects("registry.test:5000")["hello"]
	if p.Repositories[0] != "registry.test:5000/demo/hello" || p.Timeout != 30*time.Minute || p.Dockerfile != "Dockerfile" ||
		len(p.Refs) != 2 || p.Platforms[0] != "linux/amd64" || p.LDFlags != defaultLDFlags {
		t.Errorf("got %+v", p)
	}
	if cfg.Build.Slots != 2 || cfg.Listen != "127.0.0.1:7070" {
		t.Errorf("got %+v", cfg)
	}
}

func TestConfigPrecedence(t *testing.T) {
	env := map[string]string{"IMGD_LISTEN": "127.0.0.1:2", "IMGD_BUILD_SLOTS": "7", "IMGD_NATS_URL": "nats://n:4222",
		"IMGD_BUILD_TIMEOUT": "5m", "IMGD_GIT_ALLOWHOSTS": "a,git.example.com", "IMGD_ALLOWANONYMOUS": "true"}
	cfg, err := load(t, "listen: 127.0.0.1:1\nbuild: {slots: 3}\n"+project, env, flagValues{listen: "127.0.0.1:3"})
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Listen != "127.0.0.1:3" || cfg.Build.Slots != 7 || cfg.NATS.URL != "nats://n:4222" || !cfg.AllowAnonymous ||
		cfg.Build.Timeout != 5*time.Minute || strings.Join(cfg.Git.AllowHosts, " ") != "a git.example.com" || cfg.Projects[0].Timeout != 5*time.Minute {
		t.Errorf("got %+v", cfg)
	}
}

func TestConfigRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		text string
		env  map[string]string
		want string
	}{
		"unknown key":       {"buidl: {slots: 2}", nil, "buidl"},
		"bad duration":      {"build: {timeout: soon}", nil, "soon"},
		"bad environment":   {"", map[string]string{"IMGD_BUILD_SLOTS": "many"}, "IMGD_BUILD_SLOTS"},
		"projects in env":   {"", map[string]string{"IMGD_PROJECTS": "x"}, "config file"},
		"no slots":          {"build: {slots: 0}", nil, "build.slots"},
		"listen":            {"listen: localhost", nil, "host:port"},
		"engine":            {"index: {engine: jetstream}", nil, "index.engine"},
		"project name":      {"projects: [{name: Hello, git: g, image: i}]", nil, "Hello"},
		"two of one name":   {"projects: [{name: a, git: g, image: i}, {name: a, git: g, image: j}]", nil, "twice"},
		"two of one image":  {"projects: [{name: a, git: g, image: i}, {name: b, git: g, image: i}]", nil, "also by projects[0]"},
		"two of one repo":   {"projects: [{name: a, git: g, image: i, repositories: ['r.test/x']}, {name: b, git: g, image: j, repositories: ['r.test/x']}]", nil, "r.test/x is used twice"},
		"NATS credentials":  {"nats: {url: 'nats://user:secret@host:4222'}", nil, "nats.url"},
		"registry URL":      {"registry: {address: 'https://r.test'}", nil, "registry.address"},
		"image with a tag":  {"projects: [{name: a, git: g, image: 'i:v1'}]", nil, "i:v1"},
		"bare repository":   {"projects: [{name: a, git: g, image: i, repositories: [demo]}]", nil, "demo"},
		"escaping context":  {"projects: [{name: a, git: g, image: i, context: ../x}]", nil, "context"},
		"reserved arg":      {"projects: [{name: a, git: g, image: i, buildArgs: {BUILDKIT_SYNTAX: x}}]", nil, "reserved"},
		"unknown field":     {"projects: [{name: a, git: g, image: i, ldflags: '{{.Nope}}'}]", nil, "Nope"},
		"quoted ldflags":    {"projects: [{name: a, git: g, image: i, ldflags: \"-X 'main.v={{.Version}}'\"}]", nil, "it has quotes"},
		"linker of ldflags": {"projects: [{name: a, git: g, image: i, ldflags: '-s -linkmode=external'}]", nil, "-linkmode=external"},
		"no tag prefix":     {"projects: [{name: a, git: g, image: i, tagPrefix: 'svc a/'}]", nil, "tagPrefix"},
		"option as prefix":  {"projects: [{name: a, git: g, image: i, tagPrefix: '--x'}]", nil, "tagPrefix"},
		"absolute path":     {"projects: [{name: a, git: g, image: i, paths: [a, /b]}]", nil, "projects[0].paths[1]"},
		"open bracket":      {"projects: [{name: a, git: g, image: i, paths: ['[a']}]", nil, "is not closed"},
		"forks as a word":   {"projects: [{name: a, git: g, image: i, pullRequests: {forks: some}}]", nil, "projects[0].pullRequests.forks"},
		"short ref pattern": {"projects: [{name: a, git: g, image: i, refs: [main]}]", nil, "refs/"},
		"no retries":        {"queue: {tries: 0}", nil, "queue.tries"},
		"no patience":       {"queue: {retryFor: 0s}", nil, "queue.retryFor"},
		"negative logs":     {"build: {logDays: -1, logMB: -1}", nil, "build.logMB"},
		"negative cache":    {"buildkit: {cacheMB: -1}", nil, "buildkit.cacheMB"},
		"negative collect":  {"registry: {collectEvery: -1s}", nil, "registry.collectEvery"},
		"no grace":          {"registry: {keepUntagged: 59s}", nil, "registry.keepUntagged"},
		"negative disk":     {"disk: {minFreeMB: -1}", nil, "disk.minFreeMB"},
		"hook, no secret":   {"projects: [{name: a, git: g, image: i, webhook: {forge: github}}]", nil, "secretFile"},
		"hook, no forge":    {"projects: [{name: a, git: g, image: i, webhook: {secretFile: /s}}]", nil, "forge"},
		"unknown forge":     {"projects: [{name: a, git: g, image: i, webhook: {forge: sourcehut, secretFile: /s}}]", nil, "sourcehut"},
		"relative secret":   {"projects: [{name: a, git: g, image: i, webhook: {forge: gitea, secretFile: s}}]", nil, "absolute"},
		"platform":          {"projects: [{name: a, git: g, image: i, platforms: ['a/b/c/d']}]", nil, "platforms"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := load(t, tt.text, tt.env, flagValues{})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error that names %q", err, tt.want)
			}
		})
	}
	if _, err := loadConfig(flagValues{config: "/nonexistent.yaml"}, os.Getenv); err == nil {
		t.Error("a config file that is named and missing is no error")
	}
}
