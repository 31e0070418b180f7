package kit

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// layerFormat is part of a cached layer's name; raise it when what goes into a layer changes.
const layerFormat = "2"

// cachedLayer gives the layer of that name, made by fill if the cache does not have it. A crash while it is made leaves
// a temporary file and no layer; two processes that make it at once write the same bytes.
func cachedLayer(name string, fill func(*layerWriter) error) (v1.Layer, error) {
	path := filepath.Join(cacheDir(), fmt.Sprintf("%s-%s.tar.gz", name, layerFormat))
	if _, err := os.Stat(path); err != nil {
		if err := writeLayer(path, fill); err != nil {
			return nil, fmt.Errorf("layer %s: %w", name, err)
		}
	}
	return tarball.LayerFromFile(path, tarball.WithMediaType(types.OCILayer))
}

func cacheDir() string {
	if dir, err := os.UserCacheDir(); err == nil {
		return filepath.Join(dir, "imgd-base-images")
	}
	return filepath.Join(os.TempDir(), "imgd-base-images")
}

func writeLayer(path string, fill func(*layerWriter) error) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".tmp-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(tmp.Name()) }() // gone already if it was renamed
	// The fastest level: the image goes over the loopback, the time to make it is what is waited for.
	zip, err := gzip.NewWriterLevel(tmp, gzip.BestSpeed)
	if err != nil {
		return err
	}
	w := &layerWriter{tar: tar.NewWriter(zip), dirs: map[string]bool{".": true}}
	for _, step := range []func() error{func() error { return fill(w) }, w.tar.Close, zip.Close, tmp.Sync, tmp.Close} {
		if err := step(); err != nil {
			return err
		}
	}
	return os.Rename(tmp.Name(), path)
}

// layerWriter writes a tar archive that depends on names, modes and contents alone.
type layerWriter struct {
	tar  *tar.Writer
	dirs map[string]bool
}

func (w *layerWriter) dir(name string, mode fs.FileMode) error {
	if w.dirs[name] {
		return nil
	}
	if err := w.dir(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	w.dirs[name] = true
	header := &tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: int64(mode)}
	return w.header(header)
}

func (w *layerWriter) link(name, target string) error {
	if err := w.dir(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	return w.header(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777})
}

func (w *layerWriter) file(name string, mode fs.FileMode, size int64, content io.Reader) error {
	if err := w.dir(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	if err := w.header(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: int64(mode), Size: size}); err != nil {
		return err
	}
	_, err := io.Copy(w.tar, content)
	return err
}

func (w *layerWriter) text(name, content string) error {
	return w.file(name, 0o644, int64(len(content)), strings.NewReader(content))
}

// header has one date for all: a file of a toolchain must not look newer than what is built from it.
func (w *layerWriter) header(h *tar.Header) error {
	h.ModTime, h.Format = firstCommit, tar.FormatPAX
	return w.tar.WriteHeader(h)
}

// notForBuilds are the parts of a Go toolchain that no `go build` reads.
var notForBuilds = map[string]bool{"api": true, "doc": true, "misc": true, "test": true, "src/cmd": true, ".git": true}

// toolchain writes the Go toolchain at goroot as /usr/local/go, and the directories its image has.
func (w *layerWriter) toolchain(goroot string) error {
	goroot, err := filepath.EvalSymlinks(goroot)
	if err != nil {
		return err
	}
	if err := w.dir("go/bin", 0o777); err != nil {
		return err
	}
	return filepath.WalkDir(goroot, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(goroot, path)
		if err != nil {
			return err
		}
		switch {
		case entry.IsDir() && (notForBuilds[rel] || entry.Name() == "testdata"):
			return fs.SkipDir
		case strings.HasSuffix(rel, "_test.go") || !entry.Type().IsRegular():
			return nil
		}
		return w.copyFile("usr/local/go/"+rel, path)
	})
}

func (w *layerWriter) copyFile(name, path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	mode := fs.FileMode(0o644)
	if info.Mode()&0o111 != 0 {
		mode = 0o755
	}
	return w.file(name, mode, info.Size(), file)
}

// smallSystem is what a RUN step expects of any base image: a shell and its tools, users, /tmp, CA certificates.
type smallSystem struct {
	busybox string
	applets []string
	certs   string
}

func readSmall(busybox, applets string) (*smallSystem, error) {
	binary, err := os.ReadFile(busybox)
	if err != nil {
		return nil, err
	}
	certs, err := readCABundle()
	if err != nil {
		return nil, err
	}
	s := &smallSystem{busybox: string(binary), applets: strings.Fields(applets), certs: string(certs)}
	sort.Strings(s.applets)
	return s, nil
}

// key names the content.
func (s *smallSystem) key() string {
	hash := sha256.New()
	for _, part := range []string{s.busybox, strings.Join(s.applets, " "), s.certs} {
		fmt.Fprintf(hash, "%d %s", len(part), part)
	}
	return hex.EncodeToString(hash.Sum(nil))[:16]
}

func (s *smallSystem) write(w *layerWriter) error {
	if err := w.file("bin/busybox", 0o755, int64(len(s.busybox)), strings.NewReader(s.busybox)); err != nil {
		return err
	}
	for _, applet := range s.applets {
		if applet == "bin/busybox" {
			continue
		}
		if err := w.link(applet, "/bin/busybox"); err != nil {
			return err
		}
	}
	if err := w.dir("tmp", 0o1777); err != nil {
		return err
	}
	if err := w.dir("root", 0o700); err != nil {
		return err
	}
	if err := w.text("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"); err != nil {
		return err
	}
	if err := w.text("etc/group", "root:x:0:\nnogroup:x:65534:\n"); err != nil {
		return err
	}
	return w.text("etc/ssl/certs/ca-certificates.crt", s.certs)
}

// checkStatic refuses a binary that needs a loader and libraries, which the image would not have.
func checkStatic(path string) error {
	file, err := elf.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	for _, part := range file.Progs {
		if part.Type == elf.PT_INTERP {
			return fmt.Errorf("%s is not static: install busybox-static", path)
		}
	}
	return nil
}
