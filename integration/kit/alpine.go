package kit

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// AlpineImage is what PushAlpineImage makes a stand-in of, by its name on Docker Hub.
const AlpineImage = "library/alpine:3.23"

// PushAlpineImage pushes a stand-in of AlpineImage to the registry at host:port, over plain HTTP: busybox, and an apk that
// installs the packages of alpinePackages, made from this machine's own files, and knows no others, as the real one knows
// none that do not exist. So a Dockerfile that installs them builds unchanged where docker.io cannot be reached. What it
// cannot show is that Alpine's packages, linked with another C library, do what this machine's do.
func PushAlpineImage(ctx context.Context, registry string) error {
	busybox, _, err := baseLayers(ctx)
	if err != nil {
		return fmt.Errorf("make base image: %w", err)
	}
	files, err := alpinePackages(ctx)
	if err != nil {
		return fmt.Errorf("make base image: %w", err)
	}
	key, err := files.key()
	if err != nil {
		return fmt.Errorf("make base image: %w", err)
	}
	packages, err := cachedLayer("apk-"+key, files.write)
	if err != nil {
		return fmt.Errorf("make base image: %w", err)
	}
	config := v1.Config{Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, Cmd: []string{"sh"}}
	return pushImage(ctx, registry, AlpineImage, config, busybox, packages)
}

// packageDir is where the stand-in keeps what its apk installs: a directory per package, with the files as they are to lie.
const packageDir = "usr/share/stand-in"

// apk is the stand-in's. It refuses what it does not know, options too.
const apk = `#!/bin/sh
set -eu
[ "${1-}" = add ] || { echo "this stand-in of apk knows only: apk add [--no-cache] PACKAGE..." >&2; exit 99; }
shift
for package in "$@"; do
  case $package in
    --no-cache) continue ;;
    -*) echo "this stand-in of apk does not know the option $package" >&2; exit 99 ;;
  esac
  if [ ! -d "/` + packageDir + `/$package" ]; then
    echo "ERROR: unable to select packages: $package (no such package)" >&2
    exit 1
  fi
done
for package in "$@"; do
  [ "$package" = --no-cache ] || cp -R "/` + packageDir + `/$package/." /
done
`

// machineFiles are files of this machine by the names they get in a layer.
type machineFiles map[string]string

// alpinePackages are the files of the packages that the stand-in can install.
func alpinePackages(ctx context.Context) (machineFiles, error) {
	files := machineFiles{}
	gitCore, err := output(exec.CommandContext(ctx, "git", "--exec-path"))
	if err != nil {
		return nil, err
	}
	remote := filepath.Join(gitCore, "git-remote-http")
	if err := files.program(ctx, "git", "git", "/usr/bin/git"); err != nil {
		return nil, err
	}
	for _, name := range []string{remote, remote + "s"} {
		if err := files.program(ctx, "git", remote, name); err != nil {
			return nil, err
		}
	}
	if err := files.program(ctx, "openssh-client-default", "ssh", "/usr/bin/ssh"); err != nil {
		return nil, err
	}
	for _, bundle := range caBundles {
		if _, err := os.Stat(bundle); err == nil {
			files.add("ca-certificates", caBundles[0], bundle)
			return files, nil
		}
	}
	_, err = readCABundle() // says what to do
	return nil, err
}

func (f machineFiles) add(pkg, name, path string) { f[packageDir+"/"+pkg+name] = path }

// program adds a program under that name, and the libraries it needs where it looks for them.
func (f machineFiles) program(ctx context.Context, pkg, program, name string) error {
	path, err := exec.LookPath(program)
	if err != nil {
		return fmt.Errorf("%w: run `make test-deps`", err)
	}
	f.add(pkg, name, path)
	needs, err := output(exec.CommandContext(ctx, "ldd", path))
	if err != nil {
		return err
	}
	// "libz.so.1 => /lib/libz.so.1 (0x…)", "/lib64/ld-linux-x86-64.so.2 (0x…)", and what the kernel brings itself.
	for line := range strings.Lines(needs) {
		for _, field := range strings.Fields(line) {
			if filepath.IsAbs(field) {
				f.add(pkg, field, field)
			}
		}
	}
	return nil
}

// key names the content.
func (f machineFiles) key() (string, error) {
	hash := sha256.New()
	fmt.Fprintf(hash, "%d %s", len(apk), apk)
	for _, name := range slices.Sorted(maps.Keys(f)) {
		file, err := os.Open(f[name])
		if err != nil {
			return "", err
		}
		sum := sha256.New()
		_, err = io.Copy(sum, file)
		_ = file.Close() // only read
		if err != nil {
			return "", err
		}
		fmt.Fprintf(hash, "%d %s %x", len(name), name, sum.Sum(nil))
	}
	return hex.EncodeToString(hash.Sum(nil))[:16], nil
}

func (f machineFiles) write(w *layerWriter) error {
	if err := w.file("sbin/apk", 0o755, int64(len(apk)), strings.NewReader(apk)); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(f)) {
		path, err := filepath.EvalSymlinks(f[name])
		if err != nil {
			return err
		}
		if err := w.copyFile(name, path); err != nil {
			return err
		}
	}
	return nil
}
