package kit

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// The stand-ins that PushBaseImages makes, by the names they have on Docker Hub.
const (
	GoImage      = "library/golang:1.26-alpine"
	BusyboxImage = "library/busybox:latest"
)

// hubProbe is how long DockerHubReachable waits: a machine without a way out may drop packets silently.
const hubProbe = 3 * time.Second

// DockerHubReachable says whether docker.io answers as a registry does, so that base images can be pulled.
func DockerHubReachable(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, hubProbe)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, "https://"+name.DefaultRegistry+"/v2/", nil)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	_ = resp.Body.Close() // a HEAD has no body
	return resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusUnauthorized
}

// PushBaseImages pushes stand-ins of GoImage and BusyboxImage to the registry at host:port, over plain HTTP. They are
// made from what is on this machine: its Go toolchain, static busybox, CA certificates and Go proxy settings. A
// buildkitd that has the registry as mirror of docker.io builds ordinary Dockerfiles from them, without internet. Their
// layers are kept in the user's cache directory; pushing again only asks whether they are there.
func PushBaseImages(ctx context.Context, registry string) error {
	busybox, golang, err := baseLayers(ctx)
	if err != nil {
		return fmt.Errorf("make base images: %w", err)
	}
	goEnv, err := goSettings(ctx)
	if err != nil {
		return fmt.Errorf("make base images: %w", err)
	}
	path := "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	small := v1.Config{Env: []string{path}, Cmd: []string{"sh"}}
	if err := pushImage(ctx, registry, BusyboxImage, small, busybox); err != nil {
		return err
	}
	withGo := v1.Config{
		Env:        append([]string{path + ":/usr/local/go/bin:/go/bin", "GOPATH=/go"}, goEnv...),
		Cmd:        []string{"sh"},
		WorkingDir: "/go",
	}
	return pushImage(ctx, registry, GoImage, withGo, busybox, golang)
}

// pushImage leaves what is there already as it is: the same layers and config have the same digest.
func pushImage(ctx context.Context, registry, image string, config v1.Config, layers ...v1.Layer) error {
	ref, err := name.NewTag(registry+"/"+image, name.Insecure)
	if err != nil {
		return err
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err = mutate.ConfigFile(img, &v1.ConfigFile{
		Architecture: runtime.GOARCH, OS: "linux", Config: config, Created: v1.Time{Time: firstCommit},
		RootFS: v1.RootFS{Type: "layers"},
	})
	if err != nil {
		return err
	}
	if img, err = mutate.AppendLayers(img, layers...); err != nil {
		return fmt.Errorf("make image %s: %w", image, err)
	}
	if err := remote.Write(ref, img, remote.WithContext(ctx)); err != nil {
		return fmt.Errorf("push image %s: %w", ref, err)
	}
	return nil
}

// goSettings are this machine's settings for module downloads, without which a build inside the image could not
// reach the proxy that the machine uses.
func goSettings(ctx context.Context) ([]string, error) {
	settings := []string{"GOTOOLCHAIN=local"}
	for _, key := range []string{"GOPROXY", "GOSUMDB", "GOPRIVATE", "GONOPROXY", "GONOSUMDB", "GOFLAGS"} {
		value, err := output(exec.CommandContext(ctx, "go", "env", key))
		if err != nil {
			return nil, err
		}
		if value != "" {
			settings = append(settings, key+"="+value)
		}
	}
	return settings, nil
}

// baseLayers are the layer with busybox and CA certificates, and the one with the Go toolchain above it.
func baseLayers(ctx context.Context) (busybox, golang v1.Layer, err error) {
	box, err := findBusybox()
	if err != nil {
		return nil, nil, err
	}
	applets, err := output(exec.CommandContext(ctx, box, "--list-full"))
	if err != nil {
		return nil, nil, err
	}
	goroot, err := output(exec.CommandContext(ctx, "go", "env", "GOROOT"))
	if err != nil {
		return nil, nil, err
	}
	goversion, err := output(exec.CommandContext(ctx, "go", "env", "GOVERSION"))
	if err != nil {
		return nil, nil, err
	}
	small, err := readSmall(box, applets)
	if err != nil {
		return nil, nil, err
	}
	busybox, err = cachedLayer("busybox-"+small.key(), small.write)
	if err != nil {
		return nil, nil, err
	}
	golang, err = cachedLayer(goversion+"-"+runtime.GOARCH, func(w *layerWriter) error { return w.toolchain(goroot) })
	return busybox, golang, err
}

func findBusybox() (string, error) {
	path, err := exec.LookPath("busybox")
	if err != nil {
		return "", fmt.Errorf("%w: run `make deps`", err)
	}
	return path, checkStatic(path)
}

// caBundles are where Linux distributions keep the machine's CA certificates.
var caBundles = [...]string{"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"}

func readCABundle() ([]byte, error) {
	for _, path := range caBundles {
		bundle, err := os.ReadFile(path)
		if err == nil {
			return bundle, nil
		}
	}
	return nil, errors.New("no CA certificates found: run `make deps`")
}
