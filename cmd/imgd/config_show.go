package main

import (
	"bytes"
	"fmt"
	"net"
	"net/url"
	"slices"

	"go.yaml.in/yaml/v4"
)

// show is the config as it is in effect, in YAML, without secrets: what stands
// in files is not read, and URLs lose their credentials.
func (c Config) show() ([]byte, error) {
	c.NATS.URL = redacted(c.NATS.URL)
	c.Projects = slices.Clone(c.Projects)
	_, port, _ := net.SplitHostPort(c.Registry.Listen)
	for i, p := range c.Projects {
		p.Git = redactedGit(p.Git)
		if c.Registry.Address != "" || port != "0" { // else the address is not known before the start
			p.Repositories = c.projects(c.registryHost())[p.Name].Repositories
		}
		c.Projects[i] = p
	}
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	if err := encoder.Encode(c); err != nil {
		return nil, fmt.Errorf("write config: %w", err)
	}
	if err := encoder.Close(); err != nil {
		return nil, fmt.Errorf("write config: %w", err)
	}
	return out.Bytes(), nil
}

// redactedGit keeps the user of ssh, who is no secret; of http it may be a token,
// also beside a password that is none (token:x-oauth-basic).
func redactedGit(rawURL string) string {
	u, err := url.Parse(rawURL)
	if err != nil {
		return redacted(rawURL)
	}
	if u.Scheme == "ssh" || u.User == nil {
		return rawURL
	}
	u.User = url.User("xxxxx")
	return u.String()
}
