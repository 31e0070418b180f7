package main_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/imgd/imgd"
	publish "github.com/imgd/imgd/cmd/publish"
	"github.com/imgd/imgd/index"
	"github.com/imgd/imgd/internal/httpapi"
	"github.com/imgd/imgd/publisher"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"publish": publish.Main})
}

type worldKey struct{}

// TestScripts runs testdata/script. Each script has a registry of its own, at
// REGISTRY, and SOURCE.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script", RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			w := &world{served: map[string][]byte{}, types: map[string]string{}}
			registry := httptest.NewServer(w)
			env.Defer(func() { registry.Close(); w.stop() })
			w.host = strings.TrimPrefix(registry.URL, "http://")
			env.Values[worldKey{}] = w
			env.Setenv("REGISTRY", w.host)
			env.Setenv("WIDE", strings.Replace(w.host, "127.0.0.1", "0.0.0.0", 1)) // the same, by a name that is not known to be this machine's
			env.Setenv("SOURCE", "https://git.test/tools/lint@"+strings.Repeat("a", 40))
			env.Setenv("IMGD_DATA", filepath.Join(env.WorkDir, "data"))
			env.Setenv("GORACE", "atexit_sleep_ms=0")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "push": push, "unpush": unpush, "serve": serve, "kills": kills, "silent": silent, "hangs": hangs, "lines": lines},
	})
}

// A world is a registry, and a daemon if there is one.
type world struct {
	host string

	mu     sync.Mutex
	served map[string][]byte // path -> body
	types  map[string]string // path -> media type
	hangs  bool

	index  *index.Index
	server *httptest.Server
}

func worldOf(ts *testscript.TestScript) *world { return ts.Value(worldKey{}).(*world) }

// ServeHTTP is the registry.
func (w *world) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	body, ok := w.served[r.URL.Path]
	hangs := w.hangs
	w.mu.Unlock()
	if hangs {
		<-r.Context().Done()
		return
	}
	if !ok || r.Method != http.MethodGet {
		http.NotFound(rw, r)
		return
	}
	rw.Header().Set("Content-Type", w.types[r.URL.Path])
	_, _ = rw.Write(body)
}

func (w *world) put(repository, kind, mediaType string, v any, names ...string) ocispec.Descriptor {
	body, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(body), Size: int64(len(body))}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, name := range append(names, d.Digest.String()) {
		path := "/v2/" + repository + "/" + kind + "/" + name
		w.served[path], w.types[path] = body, mediaType
	}
	return d
}

// push REPOSITORY TAG NAME [ARCH…] puts an image into the registry, NAME and
// NAME_ARCH are its digests. With several platforms it is a list.
func push(ts *testscript.TestScript, _ bool, args []string) {
	w, repository, tag, name, arches := worldOf(ts), args[0], args[1], args[2], args[3:]
	if len(arches) == 0 {
		arches = []string{"amd64"}
	}
	var list []ocispec.Descriptor
	for _, arch := range arches {
		platform := ocispec.Platform{OS: "linux", Architecture: arch}
		config := w.put(repository, "blobs", ocispec.MediaTypeImageConfig, ocispec.Image{Author: name, Platform: platform})
		manifest := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: []ocispec.Descriptor{}}
		manifest.SchemaVersion = 2
		d := w.put(repository, "manifests", ocispec.MediaTypeImageManifest, manifest, tag)
		ts.Setenv(name+"_"+arch, d.Digest.String())
		ts.Setenv(name, d.Digest.String())
		d.Platform = &platform
		list = append(list, d)
	}
	if len(list) > 1 {
		all := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: list}
		all.SchemaVersion = 2
		ts.Setenv(name, w.put(repository, "manifests", ocispec.MediaTypeImageIndex, all, tag).Digest.String())
	}
}

// unpush REPOSITORY TAG removes the tag.
func unpush(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.served, "/v2/"+args[0]+"/manifests/"+args[1])
}

// hangs makes the registry answer nothing any more.
func hangs(ts *testscript.TestScript, _ bool, _ []string) {
	w := worldOf(ts)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hangs = true
}

// serve DIR [PROJECT-IMAGE] starts a daemon over the data directory.
func serve(ts *testscript.TestScript, _ bool, args []string) {
	w, dir := worldOf(ts), ts.MkAbs(args[0])
	registry := publisher.New(publisher.Config{})
	ts.Check(os.MkdirAll(dir, 0o755))
	var err error
	w.index, err = index.Open(index.Config{Dir: filepath.Join(dir, "index"), Registry: registry})
	ts.Check(err)
	projects := map[string]imgd.Project{}
	if len(args) > 1 {
		projects["p"] = imgd.Project{Image: args[1], Repositories: []string{w.host + "/" + args[1]}}
	}
	w.server = httptest.NewServer(httpapi.New(httpapi.Config{Local: true, Index: w.index, Projects: configured(projects),
		Recorder: &imgd.Pipeline{Projects: configured(projects), Capturer: registry, Index: w.index, Lookup: w.index, Registry: w.host}}))
	ts.Setenv("SERVER", w.server.URL)
	ts.Check(os.WriteFile(filepath.Join(dir, "endpoints.json"), fmt.Appendf(nil, `{"http":%q}`, w.server.URL), 0o644))
}

// kills ends the daemon as a kill does: endpoints.json stays.
func kills(ts *testscript.TestScript, _ bool, _ []string) { worldOf(ts).stop() }

func (w *world) stop() {
	if w.server != nil {
		w.server.Close()
		w.index.Close()
		w.server = nil
	}
}

// silent FILE holds that the file has no word of a credential.
func silent(ts *testscript.TestScript, _ bool, args []string) {
	if strings.Contains(ts.ReadFile(args[0]), "s3cret") {
		ts.Fatalf("%s tells the secret", args[0])
	}
}

// lines FILE replaces $NAME in the file.
func lines(ts *testscript.TestScript, _ bool, args []string) {
	text := os.Expand(ts.ReadFile(args[0]), ts.Getenv)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o644))
}

// exits CODE PROGRAM [ARG…] runs a program that must exit with the code.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	code := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("%s exits with %d, want %s", strings.Join(args[1:], " "), code, args[0])
	}
}

// configured are the projects of a config, by name.
func configured(byName map[string]imgd.Project) *imgd.Projects {
	p := new(imgd.Projects)
	p.Set(byName)
	return p
}
