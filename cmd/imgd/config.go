package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"go.yaml.in/yaml/v4"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/internal/webhook"
	names "github.com/imgd/imgd/version"
)

// Config is imgd's configuration: YAML with these keys, each of which the
// environment overrides as IMGD_ and the path in capitals (IMGD_BUILD_SLOTS),
// and --data and --listen override both. These comments are the manual.
type Config struct {
	// Data is the directory of everything imgd keeps. On a local file system.
	Data string `yaml:"data"`
	// Listen is the host:port of the HTTP API; port 0 takes any free one. Off
	// loopback only /hooks, /livez and /readyz are served, unless AllowAnonymous.
	Listen string `yaml:"listen"`
	// AllowAnonymous serves the whole API to everyone who can reach Listen.
	AllowAnonymous bool `yaml:"allowAnonymous"`

	Build    BuildConfig    `yaml:"build"`
	Queue    QueueConfig    `yaml:"queue"`
	NATS     NATSConfig     `yaml:"nats"`
	Registry RegistryConfig `yaml:"registry"`
	BuildKit BuildKitConfig `yaml:"buildkit"`
	Index    IndexConfig    `yaml:"index"`
	Git      GitConfig      `yaml:"git"`
	Disk     DiskConfig     `yaml:"disk"`
	Log      LogConfig      `yaml:"log"`

	// Projects are all that may be built.
	Projects []ProjectConfig `yaml:"projects"`
}

// BuildConfig bounds the builds.
type BuildConfig struct {
	Slots   int           `yaml:"slots"`   // builds at a time
	Timeout time.Duration `yaml:"timeout"` // of one build, where the project says nothing
	Grace   time.Duration `yaml:"grace"`   // how long running builds may go on after SIGTERM
}

// QueueConfig is about IMGD_REQUESTS.
type QueueConfig struct {
	Lease    time.Duration `yaml:"lease"`    // a request whose daemon is silent for so long is given to another
	RetryFor time.Duration `yaml:"retryFor"` // a request that fails for no reason of its own is tried for at least so long,
	Tries    int           `yaml:"tries"`    // and at least so often, before it becomes a dead letter
}

// NATSConfig names the NATS server. URL empty: one in process, on Listen.
type NATSConfig struct {
	URL    string `yaml:"url"`
	Listen string `yaml:"listen"` // host:port, port 0 any free one
}

// RegistryConfig names the registry. Address empty: one in process, on Listen.
type RegistryConfig struct {
	Address   string `yaml:"address"`   // host[:port]
	PlainHTTP bool   `yaml:"plainHTTP"` // no TLS; on loopback there is none anyway
	Listen    string `yaml:"listen"`    // host:port, port 0 any free one
}

// BuildKitConfig names buildkitd. Address empty: one as a child process, which
// needs root, runc and git.
type BuildKitConfig struct {
	Address         string `yaml:"address"`         // unix://, tcp://, docker-container://, kube-pod://, ssh://
	RegistryAddress string `yaml:"registryAddress"` // the registry's host as buildkitd sees it, if that differs
	Binary          string `yaml:"binary"`          // buildkitd to run as a child; default beside imgd, then in PATH
}

// IndexConfig chooses the index's engine.
type IndexConfig struct {
	Engine string `yaml:"engine"` // file
}

// GitConfig bounds what projects may be cloned from.
type GitConfig struct {
	AllowHosts []string `yaml:"allowHosts"` // empty: the hosts of the projects
	PlainHTTP  bool     `yaml:"plainHTTP"`  // allow http:// URLs
}

// DiskConfig guards the file system of the data directory.
type DiskConfig struct {
	MinFreeMB int `yaml:"minFreeMB"` // with less free, in MiB, imgd takes no requests and is not ready; 0 never looks
}

// LogConfig is about the log on stderr.
type LogConfig struct {
	Level  string `yaml:"level"`  // debug, info, warn, error
	Format string `yaml:"format"` // text, json, or auto: text on a terminal
}

// ProjectConfig is one project: a git repository, and how it becomes an image.
type ProjectConfig struct {
	Name         string            `yaml:"name"`         // [a-z0-9][a-z0-9-]{0,62}
	Git          string            `yaml:"git"`          // URL to clone, https:// or ssh://; over HTTP it ends in .git
	Image        string            `yaml:"image"`        // name in the index, without registry
	Repositories []string          `yaml:"repositories"` // registry/name of all that hold it; default <registry>/<image>
	Refs         []string          `yaml:"refs"`         // what may be built; * matches any run of characters
	Dockerfile   string            `yaml:"dockerfile"`   // inside context
	Context      string            `yaml:"context"`      // directory inside the repository
	Target       string            `yaml:"target"`       // stage, default the last
	Platforms    []string          `yaml:"platforms"`    // os/arch[/variant]
	BuildArgs    map[string]string `yaml:"buildArgs"`    // Go templates: Version Commit ShortCommit Date Describe Branch Tag
	LDFlags      string            `yaml:"ldflags"`      // the build arg LDFLAGS, such a template too
	Labels       map[string]string `yaml:"labels"`       // go into the record and the image
	Timeout      time.Duration     `yaml:"timeout"`      // of one build
	Webhook      WebhookConfig     `yaml:"webhook"`
}

// WebhookConfig lets the repository's forge ask for builds, at
// /hooks/{forge}/{project}. One webhook serves all projects with the same git
// URL, forge and secret.
type WebhookConfig struct {
	Forge      string `yaml:"forge"`      // github, gitlab, gitea, forgejo; empty: no webhook
	SecretFile string `yaml:"secretFile"` // absolute path; holds the webhook's secret; a newline at its end does not count
}

const defaultLDFlags = "-s -w -X main.version={{.Version}} -X main.commit={{.Commit}} -X main.date={{.Date}}"

func defaultConfig() Config {
	return Config{
		Data:     "/var/lib/imgd",
		Listen:   "127.0.0.1:7070",
		Build:    BuildConfig{Slots: 2, Timeout: 30 * time.Minute, Grace: 2 * time.Minute},
		Queue:    QueueConfig{Lease: 30 * time.Second, RetryFor: 6 * time.Hour, Tries: 5},
		NATS:     NATSConfig{Listen: "127.0.0.1:4222"},
		Registry: RegistryConfig{Listen: "127.0.0.1:5000"},
		Index:    IndexConfig{Engine: "file"},
		Disk:     DiskConfig{MinFreeMB: 512},
		Log:      LogConfig{Level: "info", Format: "auto"},
	}
}

// A flagValues is what the command line says of the config; "" says nothing.
type flagValues struct{ config, data, listen string }

// loadConfig reads flags over environment over file. Without --config the file
// is imgd.yaml in the data directory, if there is one.
func loadConfig(flags flagValues, getenv func(string) string) (Config, error) {
	cfg := defaultConfig()
	name, optional := flags.config, false
	if name == "" {
		name, optional = filepath.Join(cmp.Or(flags.data, getenv("IMGD_DATA"), cfg.Data), "imgd.yaml"), true
	}
	b, err := os.ReadFile(name)
	if err != nil && !(optional && errors.Is(err, fs.ErrNotExist)) {
		return cfg, fmt.Errorf("read config: %w", err)
	}
	decoder := yaml.NewDecoder(bytes.NewReader(b))
	decoder.KnownFields(true)
	if err := decoder.Decode(&cfg); err != nil && len(bytes.TrimSpace(b)) > 0 {
		return cfg, fmt.Errorf("read config %s: %w", name, err)
	}
	if err := overlay(&cfg, getenv); err != nil {
		return cfg, err
	}
	cfg.Data = cmp.Or(flags.data, cfg.Data)
	cfg.Listen = cmp.Or(flags.listen, cfg.Listen)
	for i := range cfg.Projects {
		cfg.Projects[i].setDefaults(cfg)
	}
	if cfg.Data, err = filepath.Abs(cfg.Data); err != nil {
		return cfg, err
	}
	if err := cfg.Validate(); err != nil {
		return cfg, fmt.Errorf("config %s: %w", name, err)
	}
	return cfg, nil
}

func (p *ProjectConfig) setDefaults(cfg Config) {
	p.Dockerfile = cmp.Or(p.Dockerfile, "Dockerfile")
	p.Context = cmp.Or(p.Context, ".")
	p.LDFlags = cmp.Or(p.LDFlags, defaultLDFlags)
	p.Timeout = cmp.Or(p.Timeout, cfg.Build.Timeout)
	if len(p.Refs) == 0 {
		p.Refs = []string{"refs/heads/*", "refs/tags/*"}
	}
	if len(p.Platforms) == 0 {
		p.Platforms = []string{"linux/amd64"}
	}
}

var projectName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

// Validate says all that is wrong with c, each with its key.
func (c Config) Validate() error {
	var errs []error
	bad := func(ok bool, key, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf("%s: %s", key, fmt.Sprintf(format, args...)))
		}
	}
	for key, address := range map[string]string{"listen": c.Listen, "nats.listen": c.NATS.Listen, "registry.listen": c.Registry.Listen} {
		_, _, err := net.SplitHostPort(address)
		bad(err == nil, key, "%q is not host:port", address)
	}
	bad(c.Build.Slots > 0, "build.slots", "must be at least 1")
	bad(c.Build.Timeout > 0, "build.timeout", "must be more than 0, as in 30m")
	bad(c.Build.Grace >= 0, "build.grace", "must not be negative")
	bad(c.Queue.Lease >= time.Second, "queue.lease", "must be at least 1s")
	bad(c.Queue.RetryFor > 0, "queue.retryFor", "must be more than 0, as in 6h")
	bad(c.Queue.Tries > 0, "queue.tries", "must be at least 1")
	bad(c.Disk.MinFreeMB >= 0, "disk.minFreeMB", "must not be negative")
	bad(c.Index.Engine == "file", "index.engine", "%q is not known; use file", c.Index.Engine)
	bad(slices.Contains([]string{"debug", "info", "warn", "error"}, c.Log.Level), "log.level", "%q is none of debug, info, warn, error", c.Log.Level)
	bad(slices.Contains([]string{"auto", "text", "json"}, c.Log.Format), "log.format", "%q is none of auto, text, json", c.Log.Format)
	bad(!strings.Contains(c.NATS.URL, "@"), "nats.url", "credentials cannot stand in the URL, which others get to see")
	bad(!strings.ContainsAny(c.Registry.Address, "@/"), "registry.address", "want host[:port], without scheme, path and credentials")
	return errors.Join(append(errs, c.validateProjects()...)...)
}

// validateProjects says what is wrong with the projects. No two may share a
// name, an image, or a repository, whose tags they would settle against each
// other.
func (c Config) validateProjects() []error {
	var errs []error
	projects, owners := c.projects(cmp.Or(c.Registry.Address, c.Registry.Listen)), map[string]string{}
	for i, p := range c.Projects {
		fail := func(err error) { errs = append(errs, fmt.Errorf("projects[%d] (%s): %w", i, p.Name, err)) }
		if err := p.validate(); err != nil {
			fail(err)
		}
		for _, thing := range append([]string{"name " + p.Name, "image " + p.Image}, projects[p.Name].Repositories...) {
			if owner, taken := owners[thing]; taken {
				fail(fmt.Errorf("%s is used twice, also by project %s", thing, owner))
			}
			owners[thing] = p.Name
		}
	}
	return errs
}

func (p ProjectConfig) validate() error {
	var errs []error
	bad := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	bad(projectName.MatchString(p.Name), "name %q must match %s", p.Name, projectName)
	bad(p.Git != "", "git: the URL to clone is missing")
	for _, name := range append([]string{"registry.invalid/" + p.Image}, p.Repositories...) {
		named, err := reference.ParseNamed(name)
		bad(err == nil && reference.IsNameOnly(named), "%q is no image name: lower case, without tag or digest, a repository with its registry", strings.TrimPrefix(name, "registry.invalid/"))
	}
	for _, ref := range p.Refs {
		bad(strings.HasPrefix(ref, "refs/"), "refs: %q must begin with refs/, as in refs/heads/*", ref)
	}
	bad(filepath.IsLocal(p.Dockerfile), "dockerfile: %q leaves the context", p.Dockerfile)
	bad(filepath.IsLocal(p.Context), "context: %q leaves the repository", p.Context)
	for _, name := range p.Platforms {
		_, err := platforms.Parse(name)
		bad(err == nil, "platforms: %q: %v", name, err)
	}
	for arg, value := range p.BuildArgs {
		bad(!names.Reserved(arg), "buildArgs: %s is reserved", arg)
		err := names.CheckTemplate(value)
		bad(err == nil, "buildArgs: %s: %v", arg, err)
	}
	err := names.CheckTemplate(p.LDFlags)
	bad(err == nil, "ldflags: %v", err)
	bad((p.Webhook.Forge == "") == (p.Webhook.SecretFile == ""), "webhook: forge and secretFile belong together")
	bad(p.Webhook.Forge == "" || slices.Contains(webhook.Forges(), p.Webhook.Forge), "webhook: forge %q is none of %q", p.Webhook.Forge, webhook.Forges())
	bad(p.Webhook.SecretFile == "" || filepath.IsAbs(p.Webhook.SecretFile), "webhook: secretFile %q is not absolute", p.Webhook.SecretFile)
	bad(p.Timeout > 0, "timeout: must be more than 0, as in 30m")
	return errors.Join(errs...)
}

// projects are the configured projects by name, for the registry at host.
func (c Config) projects(host string) map[string]imgd.Project {
	all := map[string]imgd.Project{}
	for _, p := range c.Projects {
		project := imgd.Project{
			Name: p.Name, Git: p.Git, Image: p.Image, Repositories: p.Repositories, Refs: p.Refs,
			Dockerfile: p.Dockerfile, Context: p.Context, Target: p.Target, Platforms: p.Platforms,
			BuildArgs: p.BuildArgs, LDFlags: p.LDFlags, Labels: p.Labels, Timeout: p.Timeout,
		}
		if len(project.Repositories) == 0 {
			project.Repositories = []string{host + "/" + p.Image}
		}
		all[p.Name] = project
	}
	return all
}
