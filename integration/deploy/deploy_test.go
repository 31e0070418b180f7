// Package deploy_test checks the files of deploy/ against what reads them: Kubernetes, Compose, NATS, buildkitd and systemd. It
// starts none of it.
package deploy_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/moby/buildkit/cmd/buildkitd/config"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/pelletier/go-toml/v2"

	"github.com/imgd/imgd/integration/kit"
)

const deployDir = "../../deploy"

// The compose file loads by the specification's schema, pins its images, and mounts files that are there.
func TestCompose(t *testing.T) {
	dir, err := filepath.Abs(deployDir)
	if err != nil {
		t.Fatal(err)
	}
	project, err := loader.LoadWithContext(t.Context(), types.ConfigDetails{WorkingDir: dir,
		ConfigFiles: []types.ConfigFile{{Filename: filepath.Join(dir, "compose.yaml")}}}, func(o *loader.Options) { o.SetProjectName("imgd", false) })
	if err != nil {
		t.Fatal(err)
	}
	if len(project.Services) != 4 {
		t.Errorf("%d services, want 4", len(project.Services))
	}
	for name, service := range project.Services {
		_, tag, _ := strings.Cut(service.Image, ":")
		if tag == "" || tag == "latest" {
			t.Errorf("%s: image %q is not pinned", name, service.Image)
		}
		for _, port := range service.Ports {
			if port.HostIP != "127.0.0.1" {
				t.Errorf("%s: port %s is open to the world", name, port.Published)
			}
		}
		for _, volume := range service.Volumes {
			if _, err := os.Stat(volume.Source); volume.Type == types.VolumeTypeBind && err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if build := project.Services["imgd"].Build; build == nil || filepath.Clean(build.Context) != filepath.Dir(dir) {
		t.Errorf("imgd is not built from this repository: %+v", build)
	}
	for name := range project.Services["buildkitd"].Networks {
		if _, both := project.Services["nats"].Networks[name]; both {
			t.Errorf("what is built can reach NATS through network %s", name)
		}
	}
}

// NATS takes its configs, and syncs what it acknowledges.
func TestNATSConfigs(t *testing.T) {
	t.Setenv("POD_NAME", "nats-1")
	for name, cluster := range map[string]string{"compose/nats.conf": "", "kubernetes/config/nats.conf": "imgd"} {
		options, err := server.ProcessConfigFile(filepath.Join(deployDir, name))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !options.JetStream || !options.SyncAlways || options.StoreDir != "/data" || options.Cluster.Name != cluster {
			t.Errorf("%s: jetstream %v, sync always %v in %s, cluster %q", name, options.JetStream, options.SyncAlways, options.StoreDir, options.Cluster.Name)
		}
		if cluster != "" && (options.ServerName != "nats-1" || len(options.Routes) != 3 || options.LameDuckGracePeriod >= options.LameDuckDuration) {
			t.Errorf("%s: server %q, routes %v", name, options.ServerName, options.Routes)
		}
	}
}

// buildkitd knows every key of its configs.
func TestBuildkitdConfigs(t *testing.T) {
	for _, name := range []string{"compose/buildkitd.toml", "kubernetes/config/buildkitd.toml"} {
		text, err := os.ReadFile(filepath.Join(deployDir, name))
		if err != nil {
			t.Fatal(err)
		}
		var c config.Config
		if err := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields().Decode(&c); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// systemd takes the unit, alone and with the drop-in for parts that run elsewhere, which leaves next to no rights.
func TestSystemdUnit(t *testing.T) {
	imgd, err := kit.Bin("imgd")
	if err != nil {
		t.Fatal(err)
	}
	unit, err := os.ReadFile(filepath.Join(deployDir, "imgd.service"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(unit, []byte("ExecStart=/usr/local/bin/imgd serve ")) {
		t.Fatal("the unit starts something else")
	}
	unit = bytes.ReplaceAll(unit, []byte("/usr/local/bin/imgd"), []byte(imgd)) // verify wants it there
	external, err := os.ReadFile(filepath.Join(deployDir, "imgd-external.conf"))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name     string
		text     []byte
		exposure string // at most, in tenths, by `systemd-analyze security`
	}{
		{"embedded", unit, "85"},
		{"external", append(unit, external...), "13"},
	} {
		t.Run(test.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "imgd.service")
			if err := os.WriteFile(file, test.text, 0o644); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.CommandContext(t.Context(), "systemd-analyze", "verify", "--man=no", file).CombinedOutput(); err != nil || len(out) > 0 {
				t.Errorf("systemd-analyze verify: %v\n%s", err, out)
			}
			out, err := exec.CommandContext(t.Context(), "systemd-analyze", "security", "--no-pager", "--offline=true", "--threshold="+test.exposure, file).CombinedOutput()
			if err != nil {
				t.Errorf("systemd-analyze security: %v\n%s", err, out)
			}
		})
	}
}
