package main

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/containerd/platforms"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/internal/git"
	"github.com/imgd/imgd/internal/webhook"
	"github.com/imgd/imgd/publisher"
	names "github.com/imgd/imgd/version"
)

// bad complains about the key unless ok.
func (c *config) bad(ok bool, key, format string, args ...any) {
	if !ok {
		c.complain(key, format, args...)
	}
}

// validate says all that is wrong with the values, each with its key.
func (c *config) validate() {
	for key, address := range map[string]string{"listen": c.Listen, "nats.listen": c.NATS.Listen, "registry.listen": c.Registry.Listen} {
		_, _, err := net.SplitHostPort(address)
		c.bad(err == nil, key, "%q is not host:port, as in 127.0.0.1:7070", address)
	}
	c.bad(c.Build.Slots > 0, "build.slots", "must be at least 1")
	c.bad(c.Build.Timeout > 0, "build.timeout", "must be more than 0, as in 30m")
	c.bad(c.Build.Grace >= 0, "build.grace", "must not be negative; 0s gives running builds back at once")
	c.bad(c.Queue.Lease >= time.Second, "queue.lease", "must be at least 1s")
	c.bad(c.Queue.RetryFor > 0, "queue.retryFor", "must be more than 0, as in 6h")
	c.bad(c.Queue.Tries > 0, "queue.tries", "must be at least 1")
	c.bad(c.Build.LogDays >= 0, "build.logDays", "must not be negative; 0 keeps them")
	c.bad(c.Build.LogMB >= 0, "build.logMB", "must not be negative; 0 is no limit")
	c.bad(c.Registry.CollectEvery >= 0, "registry.collectEvery", "must not be negative; 0s never collects")
	c.bad(c.Registry.KeepUntagged >= time.Minute, "registry.keepUntagged", "must be at least 1m: a build pushes before it tags")
	c.bad(c.BuildKit.CacheMB >= 0, "buildkit.cacheMB", "must not be negative; 0 is 60%% of the disk")
	c.bad(c.Disk.MinFreeMB >= 0, "disk.minFreeMB", "must not be negative; 0 never looks")
	c.bad(c.Expire.Every == 0 || c.Expire.Every >= time.Second, "expire.every", "must be at least 1s; 0 removes nothing by itself")
	c.bad(c.Expire.MaxShare > 0 && c.Expire.MaxShare <= 100, "expire.maxShare", "must be 1 to 100, in percent")
	c.bad(c.Audit.Every == 0 || c.Audit.Every >= time.Second, "audit.every", "must be at least 1s; 0 compares nothing by itself")
	c.bad(c.Audit.Rate > 0, "audit.rate", "must be at least 1, in requests a second")
	for i, glob := range c.Audit.Ignore {
		_, err := path.Match(glob, "")
		c.bad(err == nil && glob != "", fmt.Sprintf("audit.ignore[%d]", i), "%q is no glob of tags, as buildcache* is", glob)
	}
	c.validateEnums(reflectOf(&c.Config), "")
	c.validateParts()
	c.validateHolds()
	c.validateProjects()
}

// validateEnums checks the values that are one of a few words.
func (c *config) validateEnums(v reflect.Value, path string) {
	each(v, path, func(key string, field reflect.StructField, v reflect.Value) {
		words := strings.Split(field.Tag.Get("enum"), ",")
		if words[0] == "" || v.String() == "" && field.Tag.Get("unset") != "" {
			return
		}
		c.bad(slices.Contains(words, v.String()), key, "%q is not known; use %s", v, strings.Join(words, ", "))
	})
}

// validateParts checks how NATS, registry, buildkitd and git are reached.
func (c *config) validateParts() {
	c.bad(!strings.Contains(c.NATS.URL, "@"), "nats.url", "credentials cannot stand in the URL, which others get to see; use nats.credsFile")
	c.bad(c.NATS.CredsFile == "" || c.NATS.URL != "", "nats.credsFile", "is for the servers of nats.url; the one in process takes no credentials")
	for key, host := range map[string]string{"registry.address": c.Registry.Address, "buildkit.registryAddress": c.BuildKit.RegistryAddress} {
		c.bad(host == "" || imgd.IsHost(host), key, "%q is not host[:port], without scheme, path and credentials", redacted(host))
	}
	for i, host := range c.Registry.UntagByPlaceholder {
		c.bad(imgd.IsHost(host), fmt.Sprintf("registry.untagByPlaceholder[%d]", i), "%q is not host[:port], without scheme, path and credentials", redacted(host))
	}
	c.bad(c.Registry.CAFile == "" || !c.Registry.PlainHTTP, "registry.plainHTTP", "with registry.caFile the registry speaks TLS: leave one of them out")
	u, err := url.Parse(c.BuildKit.Address)
	c.bad(c.BuildKit.Address == "" || err == nil && slices.Contains([]string{"unix", "tcp", "docker-container", "kube-pod", "ssh"}, u.Scheme),
		"buildkit.address", "%q does not begin with unix://, tcp://, docker-container://, kube-pod:// or ssh://", redacted(c.BuildKit.Address))
	for key, path := range c.files() {
		c.bad(path == "" || filepath.IsAbs(path), key, "%q is not absolute: imgd may be started anywhere", path)
	}
}

// files are all that the config names beside itself, by their keys.
func (c Config) files() map[string]string {
	files := map[string]string{"nats.credsFile": c.NATS.CredsFile, "registry.caFile": c.Registry.CAFile,
		"registry.dockerConfig": c.Registry.DockerConfig, "git.caFile": c.Git.CAFile}
	for i, p := range c.Projects {
		files[fmt.Sprintf("projects[%d].webhook.secretFile", i)] = p.Webhook.SecretFile
	}
	return files
}

// validateProjects checks the projects. No two may share a name, an image, or a
// repository, whose tags they would settle against each other.
func (c *config) validateProjects() {
	projects, owners := c.projects(c.registryHost()), map[string]int{}
	for i, p := range c.Projects {
		c.validateProject(p, fmt.Sprintf("projects[%d]", i))
		things := []string{"name " + p.Name, "image " + p.Image}
		for _, repository := range projects[p.Name].Repositories {
			things = append(things, "repository "+repository)
		}
		for _, thing := range things {
			what, value, _ := strings.Cut(thing, " ")
			key := fmt.Sprintf("projects[%d].%s", i, strings.Replace(what, "repository", "repositories", 1))
			owner, taken := owners[thing]
			c.bad(!taken || value == "", key, "%s is used twice, also by projects[%d]", redacted(value), owner)
			owners[thing] = i
		}
	}
}

var projectName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

func (c *config) validateProject(p ProjectConfig, path string) {
	bad := func(ok bool, key, format string, args ...any) { c.bad(ok, path+"."+key, format, args...) }
	bad(projectName.MatchString(p.Name), "name", "%q must match %s", p.Name, projectName)
	if p.Git == "" {
		bad(false, "git", "the URL to clone is missing, as in https://git.example.com/demo/hello.git")
	} else if err := git.CheckURL(p.Git, c.gitRules()); err != nil {
		bad(false, "git", "%s", strings.TrimPrefix(err.Error(), "git URL: "))
	}
	bad(imgd.IsRepository("registry.invalid/"+p.Image), "image", "%q is no image name: lower case, without registry, tag and digest, as in demo/hello", p.Image)
	for i, name := range p.Repositories {
		bad(imgd.IsRepository(name), fmt.Sprintf("repositories[%d]", i), "%q is no repository: registry/name, lower case, without tag and digest", name)
	}
	for i, ref := range p.Refs {
		bad(strings.HasPrefix(ref, "refs/"), fmt.Sprintf("refs[%d]", i), "%q must begin with refs/, as in refs/heads/*", ref)
	}
	bad(p.TagPrefix == "" || git.CheckRef("refs/tags/"+p.TagPrefix+"v1.2.3") == nil, "tagPrefix", "%q cannot begin a tag; it is as svc-a/, for tags as svc-a/v1.2.3", p.TagPrefix)
	for i, pattern := range p.Paths {
		err := git.CheckPath(pattern)
		bad(err == nil, fmt.Sprintf("paths[%d]", i), "%q: %v", pattern, err)
	}
	bad(filepath.IsLocal(p.Dockerfile), "dockerfile", "%q leaves the context", p.Dockerfile)
	bad(filepath.IsLocal(p.Context), "context", "%q leaves the repository", p.Context)
	for i, name := range p.Platforms {
		_, err := platforms.Parse(name)
		bad(err == nil, fmt.Sprintf("platforms[%d]", i), "%q is no platform, as linux/amd64 is: %v", name, err)
	}
	for arg, value := range p.BuildArgs {
		bad(!names.Reserved(arg), "buildArgs."+arg, "is reserved: imgd sets it, or it steers BuildKit")
		err := names.CheckTemplate(value)
		bad(err == nil, "buildArgs."+arg, "%v", err)
	}
	err := names.CheckLDFlags(p.LDFlags)
	bad(err == nil, "ldflags", "%v", err)
	c.validateNames(p, path)
	c.validateRetention(p.Retention, path+".retention")
	bad((p.Webhook.Forge == "") == (p.Webhook.SecretFile == ""), "webhook", "forge and secretFile belong together")
	bad(p.Webhook.Forge == "" || slices.Contains(webhook.Forges(), p.Webhook.Forge), "webhook.forge", "%q is none of %s", p.Webhook.Forge, strings.Join(webhook.Forges(), ", "))
	bad(p.Timeout > 0, "timeout", "must be more than 0, as in 30m")
}

// validateNames checks how the project's images are named.
func (c *config) validateNames(p ProjectConfig, path string) {
	_, err := names.Parse(names.Config{Tags: p.Tags, Flavor: p.Flavor, Labels: p.Labels, Annotations: p.Annotations, Immutable: p.Immutable, Moving: p.Moving})
	var wrong names.Complaints
	errors.As(err, &wrong)
	for _, one := range wrong {
		key := fmt.Sprintf("%s.%s[%s]", path, one.Key, one.At)
		if one.Key == "labels" || one.Key == "annotations" {
			key = fmt.Sprintf("%s.%s.%s", path, one.Key, one.At)
		}
		c.complain(key, "project %s: %s", p.Name, one.Text)
	}
}

// checkFiles reads the files that the config names, as the daemon will, and
// tells nothing of what is in them.
func (c *config) checkFiles() {
	for key, path := range c.files() {
		if path == "" || !filepath.IsAbs(path) {
			continue
		}
		var err error
		switch {
		case key == "registry.dockerConfig":
			err = publisher.CheckDockerConfig(path)
		case strings.HasSuffix(key, ".caFile"):
			err = checkPEM(path)
		case strings.HasSuffix(key, ".secretFile"):
			_, err = readSecret(path)
		default:
			_, err = os.ReadFile(path)
		}
		if err != nil {
			c.complain(key, "%v", err)
		}
	}
}

func checkPEM(path string) error {
	text, err := os.ReadFile(path)
	if err == nil && !x509.NewCertPool().AppendCertsFromPEM(text) {
		err = fmt.Errorf("%s has no certificate in PEM", path)
	}
	return err
}

// readSecret is a webhook's secret.
func readSecret(path string) ([]byte, error) {
	secret, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if secret = bytes.TrimRight(secret, "\r\n"); len(bytes.TrimSpace(secret)) == 0 {
		return nil, fmt.Errorf("%s is empty, so that everybody could ask for builds", path)
	}
	return secret, nil
}

var userinfo = regexp.MustCompile(`(://)?[^/\s@]*@`)

// redacted is a URL without credentials, or what was meant to be one.
func redacted(s string) string { return userinfo.ReplaceAllString(s, "${1}xxxxx@") }
