package embedded

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// tailSize is how much of buildkitd's log an error shows.
	tailSize = 2 << 10
	// logLimit is the size at which a start sets the log aside as .old.
	logLimit = 16 << 20
)

// buildkitdTOML is the part of the configuration that does not depend on us.
//
// No history: a record holds the build args, is written before a build is
// reported as done, and its failure fails a build that was already pushed.
// Garbage collection: buildkitd's own first rule would drop cache mounts (Go's
// build and module cache) unused for two days, so only what is made again
// cheaply goes that early, the rest by age and size.
const buildkitdTOML = `insecure-entitlements = []

[log]
  format = "json"

[history]
  maxEntries = 0

[cdi]
  disabled = true

[worker.containerd]
  enabled = false

[frontend."gateway.v0"]
  allowedRepositories = ["docker.io/docker/dockerfile"]

[worker.oci]
  enabled = true
  networkMode = "host"
  gc = true
%[1]s
  [[worker.oci.gcpolicy]]
    filters = ["type==source.local", "type==source.git.checkout"]
    keepDuration = "48h"
    maxUsedSpace = "512MB"
  [[worker.oci.gcpolicy]]
    keepDuration = "1440h"
%[2]s  [[worker.oci.gcpolicy]]
    all = true
%[2]s`

// reserved is the part of the cache that buildkitd keeps however full the disk
// is. More than a tenth of the disk would leave small ones without a bound.
const reserved = 10 << 30

// bounds are those of the cache. It may have cacheMB MiB, or 60% of the disk.
func bounds(dir string, cacheMB int) (string, error) {
	var disk unix.Statfs_t
	if err := unix.Statfs(dir, &disk); err != nil {
		return "", fmt.Errorf("ask for the size of the disk: %w", err)
	}
	most, kept := "60%", min(reserved>>20, int(disk.Blocks*uint64(disk.Bsize)>>20)/10)
	if cacheMB > 0 {
		most, kept = fmt.Sprintf("%dMB", cacheMB), min(kept, cacheMB)
	}
	return fmt.Sprintf("    reservedSpace = \"%dMB\"\n    maxUsedSpace = %q\n    minFreeSpace = \"10%%\"\n", kept, most), nil
}

// writeFiles writes buildkitd's configuration and the runc it is to use: runc
// with a state directory of its own. By default it would share /run/runc with
// everyone, and the containers of a killed buildkitd could not be told apart.
func (s site) writeFiles(cfg BuildkitdConfig) error {
	registries, err := registriesTOML(cfg)
	if err != nil {
		return err
	}
	worker := fmt.Sprintf("  binary = %q\n  defaultCgroupParent = %q\n", s.wrapper(), s.name)
	bounds, err := bounds(s.dir, cfg.CacheMB)
	if err != nil {
		return err
	}
	text := fmt.Sprintf(buildkitdTOML, worker, bounds) + registries +
		fmt.Sprintf("\n[otel]\n  socketPath = %q\n", s.run()+"/otel.sock")
	if err := os.WriteFile(s.config(), []byte(text), 0o600); err != nil {
		return fmt.Errorf("write config: %w", err)
	}
	script := fmt.Sprintf("#!/bin/sh\nexec %s --root %s \"$@\"\n", shellQuote(s.runc), shellQuote(s.runcRoot()))
	if err := os.WriteFile(s.wrapper(), []byte(script), 0o700); err != nil {
		return fmt.Errorf("write runc wrapper: %w", err)
	}
	if err := s.wrapGit(cfg.GitCAFile); err != nil {
		return fmt.Errorf("write git wrapper: %w", err)
	}
	return s.setLogAside()
}

// wrapGit has buildkitd's git trust the certificates in the file. buildkitd
// hands none of its environment on to git but PATH and the proxies.
func (s site) wrapGit(caFile string) error {
	if err := os.RemoveAll(s.bin()); err != nil || caFile == "" {
		return err
	}
	git, err := exec.LookPath("git")
	if err == nil {
		git, err = filepath.Abs(git)
	}
	if err == nil {
		err = os.Mkdir(s.bin(), 0o700)
	}
	if err != nil {
		return err
	}
	script := fmt.Sprintf("#!/bin/sh\nexport GIT_SSL_CAINFO=%s\nexec %s \"$@\"\n", shellQuote(caFile), shellQuote(git))
	return os.WriteFile(filepath.Join(s.bin(), "git"), []byte(script), 0o700)
}

// setLogAside begins a new log when the one there is has grown too long.
func (s site) setLogAside() error {
	if fileSize(s.logFile()) <= logLimit {
		return nil
	}
	if err := os.Rename(s.logFile(), s.logFile()+".old"); err != nil {
		return fmt.Errorf("set log aside: %w", err)
	}
	return nil
}

// registriesTOML writes one table for each registry that is named.
func registriesTOML(cfg BuildkitdConfig) (string, error) {
	mirrors, plain := cfg.Mirrors, cfg.HTTPRegistries
	names := slices.Concat(plain, cfg.TLSRegistries)
	for name, hosts := range mirrors {
		names = append(names, name)
		for _, host := range hosts {
			if !validRegistry(host) {
				return "", fmt.Errorf("read mirrors of %s: %q is not a registry", name, host)
			}
		}
	}
	slices.Sort(names)
	var text strings.Builder
	for _, name := range slices.Compact(names) {
		if !validRegistry(name) {
			return "", fmt.Errorf("read registries: %q is not a registry", name)
		}
		fmt.Fprintf(&text, "\n[registry.%q]\n", name)
		if hosts := mirrors[name]; len(hosts) > 0 {
			fmt.Fprintf(&text, "  mirrors = [\"%s\"]\n", strings.Join(hosts, `", "`))
		}
		if slices.Contains(plain, name) {
			text.WriteString("  http = true\n")
		} else if slices.Contains(cfg.TLSRegistries, name) {
			fmt.Fprintf(&text, "  http = false\n  ca = [%q]\n", cfg.CAFile)
		}
	}
	return text.String(), nil
}

// validRegistry takes host, host:port and either with a path, and nothing that
// means something in TOML.
func validRegistry(name string) bool {
	ok, _ := regexp.MatchString(`^[A-Za-z0-9.:/_\[\]-]+$`, name)
	return ok
}

func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// fileSize is 0 for a file that is not there.
func fileSize(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}

// logTail is the end of what was written to the file after from, for an error.
func logTail(path string, from int64) string {
	file, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer file.Close()
	size := fileSize(path)
	text, err := io.ReadAll(io.NewSectionReader(file, max(from, size-tailSize), tailSize))
	if text = bytes.TrimSpace(text); err != nil || len(text) == 0 {
		return "; nothing in " + path
	}
	return "; the end of " + path + ":\n" + string(text)
}
