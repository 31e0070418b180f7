package kit

// Config is imgd's configuration file as FORMATS of imgd's documentation gives it. Empty fields are left out, so that
// imgd's own defaults hold.
type Config struct {
	Listen   string          `yaml:"listen,omitempty"`
	Build    BuildConfig     `yaml:"build,omitempty"`
	Queue    QueueConfig     `yaml:"queue,omitempty"`
	NATS     NATSConfig      `yaml:"nats,omitempty"`
	Registry RegistryConfig  `yaml:"registry,omitempty"`
	BuildKit BuildKitConfig  `yaml:"buildkit,omitempty"`
	Git      GitConfig       `yaml:"git,omitempty"`
	Disk     *DiskConfig     `yaml:"disk,omitempty"`
	Expire   *ExpireConfig   `yaml:"expire,omitempty"`
	Audit    *AuditConfig    `yaml:"audit,omitempty"`
	Log      LogConfig       `yaml:"log,omitempty"`
	Holds    []HoldConfig    `yaml:"holds,omitempty"`
	Projects []ProjectConfig `yaml:"projects,omitempty"`
}

// BuildConfig is the part of Config about builds.
type BuildConfig struct {
	Slots   int    `yaml:"slots,omitempty"`
	Timeout string `yaml:"timeout,omitempty"`
	Grace   string `yaml:"grace,omitempty"`
}

// QueueConfig is the part of Config about deliveries.
type QueueConfig struct {
	Lease    string `yaml:"lease,omitempty"`
	RetryFor string `yaml:"retryFor,omitempty"`
	Tries    int    `yaml:"tries,omitempty"`
}

// NATSConfig is the part of Config about NATS.
type NATSConfig struct {
	URL       string `yaml:"url,omitempty"`
	CredsFile string `yaml:"credsFile,omitempty"`
	Listen    string `yaml:"listen,omitempty"`
}

// RegistryConfig is the part of Config about the registry.
type RegistryConfig struct {
	Address      string `yaml:"address,omitempty"`
	PlainHTTP    bool   `yaml:"plainHTTP,omitempty"`
	CAFile       string `yaml:"caFile,omitempty"`
	DockerConfig string `yaml:"dockerConfig,omitempty"`
	Listen       string `yaml:"listen,omitempty"`

	UntagByPlaceholder []string `yaml:"untagByPlaceholder,omitempty"`
}

// BuildKitConfig is the part of Config about buildkitd.
type BuildKitConfig struct {
	Address         string `yaml:"address,omitempty"`
	RegistryAddress string `yaml:"registryAddress,omitempty"`
}

// GitConfig is the part of Config about where repositories may be.
type GitConfig struct {
	AllowHosts   []string `yaml:"allowHosts,omitempty"`
	PlainHTTP    bool     `yaml:"plainHTTP,omitempty"`
	AllowPrivate bool     `yaml:"allowPrivate,omitempty"`
	CAFile       string   `yaml:"caFile,omitempty"`
}

// DiskConfig is the part of Config about the data directory's file system.
type DiskConfig struct {
	MinFreeMB int `yaml:"minFreeMB"`
}

// ExpireConfig is the part of Config about the clean-up of tags.
type ExpireConfig struct {
	Every    string `yaml:"every"`
	MaxShare int    `yaml:"maxShare,omitempty"`
}

// HoldConfig is one image that is held.
type HoldConfig struct {
	Digest string `yaml:"digest"`
	Reason string `yaml:"reason"`
}

// AuditConfig is the part of Config about the comparison of registries with the index.
type AuditConfig struct {
	Every  string `yaml:"every"`
	Rate   int    `yaml:"rate,omitempty"`
	Repair bool   `yaml:"repair,omitempty"`
}

// LogConfig is the part of Config about imgd's own log.
type LogConfig struct {
	Level  string `yaml:"level,omitempty"`
	Format string `yaml:"format,omitempty"`
}

// ProjectConfig is one project.
type ProjectConfig struct {
	Name         string            `yaml:"name"`
	Git          string            `yaml:"git"`
	Image        string            `yaml:"image"`
	Repositories []string          `yaml:"repositories,omitempty"`
	Refs         []string          `yaml:"refs,omitempty"`
	TagPrefix    string            `yaml:"tagPrefix,omitempty"`
	Paths        []string          `yaml:"paths,omitempty"`
	Dockerfile   string            `yaml:"dockerfile,omitempty"`
	Context      string            `yaml:"context,omitempty"`
	Target       string            `yaml:"target,omitempty"`
	Platforms    []string          `yaml:"platforms,omitempty"`
	BuildArgs    map[string]string `yaml:"buildArgs,omitempty"`
	LDFlags      string            `yaml:"ldflags,omitempty"`
	KeepTimes    bool              `yaml:"keepTimes,omitempty"`
	Labels       map[string]string `yaml:"labels,omitempty"`
	Annotations  map[string]string `yaml:"annotations,omitempty"`
	Tags         string            `yaml:"tags,omitempty"`
	Timeout      string            `yaml:"timeout,omitempty"`
	Retention    *Retention        `yaml:"retention,omitempty"`
	Webhook      *WebhookConfig    `yaml:"webhook,omitempty"`
	PullRequests *PullRequests     `yaml:"pullRequests,omitempty"`
}

// Retention is the part of ProjectConfig about which tags go by themselves.
type Retention struct {
	Never []string        `yaml:"never,omitempty"`
	Rules []RetentionRule `yaml:"rules,omitempty"`
}

// RetentionRule is one rule of it.
type RetentionRule struct {
	Tags     []string `yaml:"tags,omitempty"`
	Kinds    []string `yaml:"kinds,omitempty"`
	TTL      string   `yaml:"ttl,omitempty"`
	KeepLast int      `yaml:"keepLast,omitempty"`
}

// PullRequests is the part of ProjectConfig about those.
type PullRequests struct {
	Forks bool `yaml:"forks"`
}

// WebhookConfig is the part of ProjectConfig about its forge.
type WebhookConfig struct {
	Forge      string `yaml:"forge"`
	SecretFile string `yaml:"secretFile"`
}

// LocalConfig is the embedded stack on free ports of the loopback, and plain HTTP to git servers allowed.
func LocalConfig(projects ...ProjectConfig) Config {
	const anyPort = "127.0.0.1:0"
	return Config{
		Listen:   anyPort,
		NATS:     NATSConfig{Listen: anyPort},
		Registry: RegistryConfig{Listen: anyPort},
		Git:      GitConfig{PlainHTTP: true},
		Projects: projects,
	}
}
