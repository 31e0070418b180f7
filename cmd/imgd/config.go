package main

import (
	"cmp"
	"net"
	"slices"
	"time"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/internal/git"
)

// Config is imgd's configuration: YAML with these keys, each of which but
// projects the environment overrides as IMGD_ and the path in capitals
// (IMGD_BUILD_SLOTS), and --data and --listen override both.
//
// The comment of a field is the manual: `imgd config docs` and `imgd config
// schema` are made from it. The tag unset says what an empty value stands for,
// and reload:"now" that a reload changes it in the running daemon. enum and min
// are for the schema.
type Config struct {
	// Directory of everything imgd keeps, on a local file system.
	Data string `yaml:"data"`
	// host:port of the HTTP API; port 0 takes any free one. Off loopback only `/hooks`, `/livez` and `/readyz` are served, unless `allowAnonymous`.
	Listen string `yaml:"listen"`
	// Serve the whole API to everyone who can reach `listen`.
	AllowAnonymous bool `yaml:"allowAnonymous"`

	Build    BuildConfig    `yaml:"build"`
	Queue    QueueConfig    `yaml:"queue"`
	NATS     NATSConfig     `yaml:"nats"`
	Registry RegistryConfig `yaml:"registry"`
	BuildKit BuildKitConfig `yaml:"buildkit"`
	Index    IndexConfig    `yaml:"index"`
	Git      GitConfig      `yaml:"git"`
	Disk     DiskConfig     `yaml:"disk"`
	Expire   ExpireConfig   `yaml:"expire"`
	Audit    AuditConfig    `yaml:"audit"`
	Log      LogConfig      `yaml:"log"`

	// Images that are held, as for an incident or a court: imgd removes none of their tags, and keeps their bytes. See [holds](retention.md#holds).
	Holds []HoldConfig `yaml:"holds" reload:"now"`
	// All that may be built. They stand only in the file.
	Projects []ProjectConfig `yaml:"projects" reload:"now"`
}

// BuildConfig bounds the builds.
type BuildConfig struct {
	// Builds at a time.
	Slots int `yaml:"slots" min:"1"`
	// How long one build may take, where the project says nothing.
	Timeout time.Duration `yaml:"timeout" reload:"now"`
	// How long running builds may go on after SIGTERM; then they are given back to the queue.
	Grace time.Duration `yaml:"grace"`
	// Build logs older than so many days are removed; 0 keeps them.
	LogDays int `yaml:"logDays" min:"0" reload:"now"`
	// And the oldest of them when they are larger together, in MiB; 0 for no limit. That of a request that has not ended stays.
	LogMB int `yaml:"logMB" min:"0" reload:"now"`
}

// QueueConfig is about IMGD_REQUESTS.
type QueueConfig struct {
	// A request whose daemon is silent for so long is given to another.
	Lease time.Duration `yaml:"lease"`
	// A request that fails for no reason of its own is tried for at least so long,
	RetryFor time.Duration `yaml:"retryFor"`
	// and at least so often; then it is a dead letter (`imgctl requests list --state dead`).
	Tries int `yaml:"tries" min:"1"`
}

// NATSConfig names the NATS server.
type NATSConfig struct {
	// NATS servers, separated by commas, without credentials.
	URL string `yaml:"url" unset:"one in process"`
	// Absolute path of a `.creds` file (JWT and seed) for them. It is read at each connect.
	CredsFile string `yaml:"credsFile"`
	// host:port where the one in process listens; port 0 takes any free one.
	Listen string `yaml:"listen"`
}

// RegistryConfig names the registry.
type RegistryConfig struct {
	// host[:port] of the registry.
	Address string `yaml:"address" unset:"one in process"`
	// Speak to it without TLS; on loopback there is none anyway, unless `registry.caFile`.
	PlainHTTP bool `yaml:"plainHTTP"`
	// Absolute path of certificates (PEM) that sign registries', beside the system's. The embedded buildkitd trusts them for `registry.address` and the projects' `repositories`.
	CAFile string `yaml:"caFile"`
	// Directory with docker's `config.json`: logins and credential helpers, for imgd and its builds. They are read anew every few minutes and for each build.
	DockerConfig string `yaml:"dockerConfig" unset:"$DOCKER_CONFIG, else ~/.docker"`
	// host[:port] of registries that delete manifests and no tags, as distribution 2 does. Of a tag there imgd makes an [empty index](registries.md#placeholder) of its own and deletes that; else such tags stay.
	UntagByPlaceholder []string `yaml:"untagByPlaceholder"`
	// host:port where the one in process listens. Its address is part of the repositories' names, so keep it.
	Listen string `yaml:"listen"`
	// How often the one in process is freed of what nothing needs any more, and old build logs are removed; 0 never does.
	CollectEvery time.Duration `yaml:"collectEvery"`
	// How long the one in process keeps a manifest that no tag and not the index names, from when it was last pushed, read by digest or tagged, and a blob that no manifest names. It must exceed the time from a push to its tag.
	KeepUntagged time.Duration `yaml:"keepUntagged" reload:"now"`
}

// BuildKitConfig names buildkitd.
type BuildKitConfig struct {
	// Of buildkitd: `unix://`, `tcp://`, `docker-container://`, `kube-pod://` or `ssh://`.
	Address string `yaml:"address" unset:"a child process, which needs root, runc and git"`
	// The registry's host as buildkitd sees it, if that differs.
	RegistryAddress string `yaml:"registryAddress"`
	// The buildkitd to run as a child.
	Binary string `yaml:"binary" unset:"beside imgd, then in PATH"`
	// How large the child's cache may become, in MiB; 0: 60% of its disk. Below 10% free it shrinks in any case.
	CacheMB int `yaml:"cacheMB" min:"0"`
}

// IndexConfig chooses the index's engine.
type IndexConfig struct {
	// `file` is the only one so far.
	Engine string `yaml:"engine" enum:"file"`
}

// GitConfig bounds what projects may be cloned from.
type GitConfig struct {
	// Hosts, with or without port, that may be cloned from.
	AllowHosts []string `yaml:"allowHosts" unset:"the projects' hosts" reload:"now"`
	// Allow `http://` URLs.
	PlainHTTP bool `yaml:"plainHTTP" reload:"now"`
	// Allow host names that have loopback, link-local or private addresses, or a cloud's metadata. A host that is written as an address, or as `localhost`, needs no leave.
	AllowPrivate bool `yaml:"allowPrivate" reload:"now"`
	// Absolute path of certificates (PEM) that sign git servers', beside the system's.
	CAFile string `yaml:"caFile"`
}

// DiskConfig guards the file system of the data directory.
type DiskConfig struct {
	// With less free in the data directory's file systems, in MiB, imgd takes no requests and is not ready; 0 never looks.
	MinFreeMB int `yaml:"minFreeMB" min:"0" reload:"now"`
}

// ExpireConfig is about the clean-up of tags whose time is over.
type ExpireConfig struct {
	// How often [tags whose time is over](retention.md) are removed; 0: only `imgctl expire` and closed pull requests remove any.
	Every time.Duration `yaml:"every"`
	// Percent of an image's tags that may go at once; of more none goes, but for `imgctl expire --yes`. Up to three always may.
	MaxShare int `yaml:"maxShare" min:"1" reload:"now"`
}

// HoldConfig is an image that is held.
type HoldConfig struct {
	// Of the root, or of one platform's manifest: `sha256:` and 64 hex digits.
	Digest string `yaml:"digest" required:"yes"`
	// Why, in one line, for whoever wonders that a tag stays.
	Reason string `yaml:"reason" required:"yes"`
}

// AuditConfig is about the comparison of what registries have with the index.
type AuditConfig struct {
	// How often [all tags are compared with the registries](drift.md); 0: only by `imgctl drift --now`.
	Every time.Duration `yaml:"every"`
	// Requests to each registry that this makes in a second, at most.
	Rate int `yaml:"rate" min:"1" reload:"now"`
	// How far it looks. `tag`: what the tags name; `parts`: also whether all that this consists of is there, in its size; `bytes`: also whether its bytes are right, for which all of them are read.
	Depth string `yaml:"depth" enum:"tag,parts,bytes" reload:"now"`
	// Put tags right by itself, where imgd has made them and the image is still there. Else only `imgctl drift --repair` does.
	Repair bool `yaml:"repair" reload:"now"`
	// Globs of tags that may be in the repositories without being in the index.
	Ignore []string `yaml:"ignore" reload:"now"`
}

// LogConfig is about the log on stderr.
type LogConfig struct {
	// `debug`, `info`, `warn` or `error`.
	Level string `yaml:"level" enum:"debug,info,warn,error" reload:"now"`
	// `text`, `json`, or `auto`: text on a terminal.
	Format string `yaml:"format" enum:"auto,text,json"`
}

// ProjectConfig is one project: a git repository, and how it becomes an image.
type ProjectConfig struct {
	// `[a-z0-9][a-z0-9-]{0,62}`; it is a file name and a NATS token.
	Name string `yaml:"name" required:"yes"`
	// URL to clone, `https://` or `ssh://`; over HTTP it ends in `.git`. An https one may carry `user:password@`.
	Git string `yaml:"git" required:"yes"`
	// Name in the index, without registry; one project's only.
	Image string `yaml:"image" required:"yes"`
	// `registry/name` of all that must hold it.
	Repositories []string `yaml:"repositories" unset:"<registry>/<image>"`
	// Full refs that may be built; `*` matches any run of characters, slashes too.
	Refs []string `yaml:"refs"`
	// Of the git tags that are this project's, where a repository has several: with `svc-a/` the tag `svc-a/v1.2.0` is version v1.2.0, and others are ignored.
	TagPrefix string `yaml:"tagPrefix" unset:"all tags"`
	// What the image is made of, from the repository's root: files, directories with all that is in them, or globs (`svc-a/**`, `go.mod`, `!docs/**`). A push of a branch in which none of it differs from what was [built last](#paths) ends unchanged.
	Paths []string `yaml:"paths" unset:"everything"`
	// Inside `context`.
	Dockerfile string `yaml:"dockerfile"`
	// Directory inside the repository.
	Context string `yaml:"context"`
	// Stage to build.
	Target string `yaml:"target" unset:"the last stage"`
	// os/arch[/variant].
	Platforms []string `yaml:"platforms"`
	// Build args by name; the values are templates, see below.
	BuildArgs map[string]string `yaml:"buildArgs"`
	// The build arg LDFLAGS, a template: `-s`, `-w`, `-X importpath.name=value`, and a few [more](#ldflags).
	LDFlags string `yaml:"ldflags"`
	// How images are named: lines of docker/metadata-action, as a text or a list. See [tags](tags.md), also for the next five keys.
	Tags Lines `yaml:"tags" unset:"imgd's own rules"`
	// `latest=auto|true|false`, `prefix=…[,onlatest=true]`, `suffix=…[,onlatest=true]`, as a text or a list. It needs `tags`.
	Flavor Lines `yaml:"flavor"`
	// Globs of tags that are of kind version, and so never name another image.
	Immutable []string `yaml:"immutable"`
	// Globs of tags that move, whatever rule gave them.
	Moving []string `yaml:"moving"`
	// Go into the records and the image; the values may have the expressions of tags in them, as in `{{sha}}`.
	Labels map[string]string `yaml:"labels"`
	// Annotations of the image's manifests, in the same way. If there is one, those that imgd knows (`org.opencontainers.image.…`) are added.
	Annotations map[string]string `yaml:"annotations"`
	// Let files in layers keep the times at which the build made them. Else none is newer than the commit, so that a rebuild makes the same image; it takes about 20 ms for each MB of layers, at each build.
	KeepTimes bool `yaml:"keepTimes"`
	// How long one build may take.
	Timeout time.Duration `yaml:"timeout" unset:"build.timeout"`

	Retention    RetentionConfig    `yaml:"retention"`
	Webhook      WebhookConfig      `yaml:"webhook"`
	PullRequests PullRequestsConfig `yaml:"pullRequests"`
}

// PullRequestsConfig is about [pull requests](webhooks.md#pull-requests), which
// the project's refs must allow.
type PullRequestsConfig struct {
	// Build those whose head is in another repository too. Whoever may open one runs what he likes in the build, which pulls base images with imgd's logins.
	Forks bool `yaml:"forks"`
}

// RetentionConfig says which tags of the image go by themselves: those whose own
// time is over (pull requests', and what was pushed with a ttl), and what the
// rules say.
type RetentionConfig struct {
	// Globs of tags that are never removed by themselves, whatever else says so. See [retention](retention.md), also for the rules.
	Never []string `yaml:"never"`
	// Each says which of its tags stay; the others go. Of the rules that match a tag the first decides.
	Rules []RetentionRuleConfig `yaml:"rules"`
}

// RetentionRuleConfig is one rule. A tag stays for any of the reasons that it
// gives; ttl or keepLast must be there.
type RetentionRuleConfig struct {
	// Globs of the tags that are meant.
	Tags []string `yaml:"tags" unset:"all"`
	// Kinds of tags that are meant: `version`, `commit`, `series`, `branch` or `other`.
	Kinds []string `yaml:"kinds" unset:"commit, branch, other"`
	// Globs of tags that stay.
	Keep []string `yaml:"keep"`
	// A tag stays for so long after it was published, as in 168h.
	TTL time.Duration `yaml:"ttl" unset:"none"`
	// So many tags stay that were published last; those of `keep` and `never` do not count.
	KeepLast int `yaml:"keepLast" unset:"none" min:"0"`
}

// Lines are a list, or a text of which each line is one of it.
type Lines []string

// WebhookConfig lets the repository's forge ask for builds, at
// /hooks/{forge}/{project}. One webhook serves all projects with the same git
// URL, forge and secret.
type WebhookConfig struct {
	// `github`, `gitlab`, `gitea` or `forgejo`: whose [webhooks](webhooks.md) ask for builds.
	Forge string `yaml:"forge" unset:"none" enum:"github,gitlab,gitea,forgejo"`
	// Absolute path of a file with the webhook's secret; a newline at its end does not count.
	SecretFile string `yaml:"secretFile"`
}

const defaultLDFlags = "-s -w -X main.version={{.Version}} -X main.commit={{.Commit}} -X main.date={{.Date}}"

func defaultConfig() Config {
	return Config{
		Data:     "/var/lib/imgd",
		Listen:   "127.0.0.1:7070",
		Build:    BuildConfig{Slots: 2, Timeout: 30 * time.Minute, Grace: 2 * time.Minute, LogDays: 30, LogMB: 1024},
		Queue:    QueueConfig{Lease: 30 * time.Second, RetryFor: 6 * time.Hour, Tries: 5},
		NATS:     NATSConfig{Listen: "127.0.0.1:4222"},
		Registry: RegistryConfig{Listen: "127.0.0.1:5000", CollectEvery: 24 * time.Hour, KeepUntagged: 24 * time.Hour},
		Index:    IndexConfig{Engine: "file"},
		Disk:     DiskConfig{MinFreeMB: 512},
		Expire:   ExpireConfig{Every: time.Hour, MaxShare: 20},
		Audit:    AuditConfig{Every: 6 * time.Hour, Rate: 20, Depth: string(imgd.DepthParts), Ignore: []string{"buildcache*", "cache*"}},
		Log:      LogConfig{Level: "info", Format: "auto"},
	}
}

func defaultProject() ProjectConfig {
	return ProjectConfig{
		Refs: []string{"refs/heads/*", "refs/tags/*"}, Dockerfile: "Dockerfile", Context: ".",
		Platforms: []string{"linux/amd64"}, LDFlags: defaultLDFlags,
	}
}

func (p *ProjectConfig) setDefaults(cfg Config) {
	unset := defaultProject()
	p.Dockerfile = cmp.Or(p.Dockerfile, unset.Dockerfile)
	p.Context = cmp.Or(p.Context, unset.Context)
	p.LDFlags = cmp.Or(p.LDFlags, unset.LDFlags)
	p.Timeout = cmp.Or(p.Timeout, cfg.Build.Timeout)
	if len(p.Refs) == 0 {
		p.Refs = unset.Refs
	}
	if len(p.Platforms) == 0 {
		p.Platforms = unset.Platforms
	}
}

// projects are the configured projects by name, for the registry at host.
func (c Config) projects(host string) map[string]imgd.Project {
	all := map[string]imgd.Project{}
	for _, p := range c.Projects {
		project := imgd.Project{
			Name: p.Name, Git: p.Git, Image: p.Image, Repositories: p.Repositories, Refs: p.Refs,
			TagPrefix: p.TagPrefix, Paths: p.Paths, Forks: p.PullRequests.Forks,
			Dockerfile: p.Dockerfile, Context: p.Context, Target: p.Target, Platforms: p.Platforms,
			BuildArgs: p.BuildArgs, LDFlags: p.LDFlags, Labels: p.Labels, KeepTimes: p.KeepTimes, Timeout: p.Timeout,
			Tags: p.Tags, Flavor: p.Flavor, Immutable: p.Immutable, Moving: p.Moving, Annotations: p.Annotations,
			Retention: p.Retention.rules(),
		}
		if len(project.Repositories) == 0 {
			project.Repositories = []string{host + "/" + p.Image}
		}
		all[p.Name] = project
	}
	return all
}

// registryHost is the registry's host:port, as far as the config alone tells.
func (c Config) registryHost() string {
	return cmp.Or(c.Registry.Address, c.Registry.Listen)
}

// gitRules say where the projects may be cloned from.
func (c Config) gitRules() git.Rules {
	return git.Rules{AllowHosts: c.Git.AllowHosts, PlainHTTP: c.Git.PlainHTTP, AllowPrivate: c.Git.AllowPrivate}
}

// tlsRegistries are the hosts of all repositories that do not lie in the registry
// itself, and of that, if they speak TLS.
func (c Config) tlsRegistries() []string {
	var hosts []string
	if c.Registry.Address != "" && !c.Registry.PlainHTTP {
		hosts = append(hosts, c.Registry.Address)
	}
	for _, p := range c.Projects {
		for _, repository := range p.Repositories {
			if host := imgd.Host(repository); host != c.registryHost() && !isLoopback(withPort(host)) {
				hosts = append(hosts, host)
			}
		}
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}

func withPort(host string) string {
	if _, _, err := net.SplitHostPort(host); err == nil {
		return host
	}
	return net.JoinHostPort(host, "443")
}
