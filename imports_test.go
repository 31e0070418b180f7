package imgd_test

import (
	"errors"
	"go/build"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/imgd/imgd"

// plan is every package of this module and its floor. A package imports lower floors only: so the adapters on floor 2 know the
// domain and never each other, and cmd/ wires them. Add a package here before writing it.
var plan = map[string]int{
	"version":           0,
	".":                 1,
	"builder":           2,
	"publisher":         2,
	"index":             2,
	"events":            2,
	"internal/git":      2,
	"internal/webhook":  2,
	"internal/httpapi":  2,
	"internal/auth":     2,
	"internal/embedded": 2,
	"internal/client":   3, // what the programs share: it wires index and publisher where no daemon runs
	"cmd/imgd":          4,
	"cmd/imgctl":        4,
	"cmd/publish":       4,
}

// confined are the technologies, each with the packages that may know it. What begins with a key is meant too.
var confined = map[string][]string{
	"github.com/moby/buildkit":              {"builder"},
	"github.com/containerd/containerd/v2":   {"publisher"},
	"github.com/hashicorp/go-retryablehttp": {"publisher"},
	"oras.land/oras-go":                     {"publisher"},
	"github.com/nats-io/nats.go":            {"events", "index"},
	"github.com/nats-io/nats-server":        {"internal/embedded"},
	"github.com/distribution/distribution":  {"internal/embedded"},
	"github.com/drone/go-scm":               {"internal/webhook"},
	"github.com/docker/cli":                 {"publisher"},
	"github.com/prometheus":                 {"internal/httpapi"},
	"go.opentelemetry.io/otel":              {"builder", "events", "internal/httpapi", "cmd/imgd"}, // its API; the SDK has one home:
	"go.opentelemetry.io/otel/sdk":          {"cmd/imgd"},
	"go.opentelemetry.io/contrib":           {"cmd/imgd"},
	"github.com/Masterminds/semver":         {"version", "builder"},
	"github.com/spf13/cobra":                {"cmd/imgd", "cmd/imgctl", "cmd/publish", "internal/client"},
	"github.com/itchyny/gojq":               {"cmd/imgctl"},
}

// effects are packages of the standard library that only these packages' code may use: the domain and the pure rules do nothing by
// themselves. Tests may.
var effects = map[string][]string{
	"net/http": {"builder", "publisher", "index", "events", "internal/git", "internal/webhook", "internal/httpapi", "internal/auth",
		"internal/embedded", "internal/client", "cmd/imgd", "cmd/imgctl", "cmd/publish"},
	"os/exec": {"internal/git", "internal/embedded", "cmd/imgd", "cmd/imgctl", "cmd/publish"},
}

const sdk = "go.opentelemetry.io/otel/sdk/trace"

// testsMayUse are the packages that tests import beyond what the code may, for real parts in process: the pipeline and the
// HTTP API are tested over the real index, and the adapters meet the embedded NATS and registry.
var testsMayUse = map[string][]string{
	".":                 {"index"},
	"builder":           {"internal/embedded", sdk, sdk + "/tracetest"},
	"publisher":         {"internal/embedded"},
	"events":            {"internal/embedded", "github.com/nats-io/nats-server/v2/server", sdk, sdk + "/tracetest"},
	"internal/httpapi":  {"index", sdk, sdk + "/tracetest"},
	"internal/embedded": {"github.com/nats-io/nats.go", "github.com/nats-io/nats.go/jetstream"},
}

// A house is the packages of a module, by their directory, and what each imports, in its code and in its tests.
type house map[string]struct{ code, tests []string }

func TestImports(t *testing.T) {
	h, err := readHouse(os.DirFS("."))
	if err != nil {
		t.Fatal(err)
	}
	if len(h) < 2 {
		t.Fatalf("found only %v", slices.Collect(maps.Keys(h)))
	}
	for _, complaint := range h.complaints() {
		t.Error(complaint)
	}
}

// What go build ./cmd/… leaves beside go.mod is not the repository's: bin/ is its place.
func TestNoBinaries(t *testing.T) {
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if info, err := file.Info(); err == nil && info.Mode().IsRegular() && info.Size() > 1<<20 {
			t.Errorf("%s has %d bytes: build into bin/", file.Name(), info.Size())
		}
	}
}

// TestImports passes silently, so this one shows that it can fail.
func TestImportsComplains(t *testing.T) {
	for _, test := range []struct {
		name, dir  string
		code, test string
		want       string
	}{
		{"downward", "index", module + "/version", "", ""},
		{"to the domain", "index", module, "", ""},
		{"wiring", "cmd/imgd", module + "/internal/embedded", "", ""},
		{"what commands share", "internal/client", module + "/index", "", ""},
		{"what commands share in an adapter", "index", module + "/internal/client", "", "index imports internal/client"},
		{"real parts in a test", "events", "", module + "/internal/embedded", ""},
		{"its own package in a test", "events", "", module + "/events", ""},
		{"standard library", "version", "strings", "", ""},
		{"sideways", "publisher", module + "/builder", "", "publisher imports builder"},
		{"sideways in a test", "publisher", "", module + "/builder", "test of publisher imports builder"},
		{"real parts in code", "events", module + "/internal/embedded", "", "events imports internal/embedded"},
		{"upward", ".", module + "/index", "", ". imports index"},
		{"upward in a test", "version", "", module, "test of version imports ."},
		{"commands", "cmd/imgctl", module + "/cmd/imgd", "", "cmd/imgctl imports cmd/imgd"},
		{"not planned", "util", "strings", "", "util is not in the plan"},
		{"confined", "events", "github.com/moby/buildkit/client", "", "events imports github.com/moby/buildkit/client"},
		{"confined in a test", "index", "", "github.com/containerd/containerd/v2/core/images", "test of index imports"},
		{"allowed", "builder", "github.com/moby/buildkit/client", "", ""},
		{"no I/O", "version", "net/http", "", "version imports net/http"},
		{"no I/O in the domain", ".", "os/exec", "", ". imports os/exec"},
		{"I/O in a test", "version", "", "os/exec", ""},
		{"a name that only begins alike", "events", "github.com/moby/buildkit-fake", "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := house{test.dir: {strings.Fields(test.code), strings.Fields(test.test)}}
			got := strings.Join(h.complaints(), "\n")
			if (got == "") != (test.want == "") || !strings.Contains(got, test.want) {
				t.Errorf("complaints are %q, want %q", got, test.want)
			}
		})
	}
}

// complaints names every import that the plan does not allow.
func (h house) complaints() []string {
	var found []string
	for _, dir := range slices.Sorted(maps.Keys(h)) {
		if _, ok := plan[dir]; !ok {
			found = append(found, dir+" is not in the plan of imports_test.go. Add a package there before writing it")
			continue
		}
		for _, to := range h[dir].code {
			if !below(dir, to) || !among(confined, dir, to) || !among(effects, dir, to) {
				found = append(found, dir+" imports "+where(to)+": imports_test.go says who may")
			}
		}
		for _, to := range h[dir].tests {
			real := where(to) == dir || slices.Contains(testsMayUse[dir], where(to))
			if !real && (!below(dir, to) || !among(confined, dir, to)) {
				found = append(found, "a test of "+dir+" imports "+where(to)+": imports_test.go says who may")
			}
		}
	}
	return found
}

// below says whether a package of this module is on a lower floor than the one in dir. Those of others are.
func below(dir, imported string) bool {
	if !isBelow(imported, module) {
		return true
	}
	floor, planned := plan[where(imported)]
	return planned && floor < plan[dir]
}

// among says whether the rules let the package in dir import the package.
func among(rules map[string][]string, dir, imported string) bool {
	for prefix, dirs := range rules {
		if isBelow(imported, prefix) && !slices.Contains(dirs, dir) {
			return false
		}
	}
	return true
}

// where is the directory of a package of this module; other packages keep their path.
func where(imported string) string {
	if imported == module {
		return "."
	}
	return strings.TrimPrefix(imported, module+"/")
}

func isBelow(imported, prefix string) bool {
	return imported == prefix || strings.HasPrefix(imported, prefix+"/")
}

// readHouse reads the packages below root, which is the working directory. It opens the files itself and does not ask the go command, so that the cache of
// test results notices when one changes.
func readHouse(root fs.FS) (house, error) {
	h := house{}
	err := fs.WalkDir(root, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return err
		}
		if name != "." && (strings.HasPrefix(path.Base(name), ".") || path.Base(name) == "testdata" || isModule(root, name)) {
			return fs.SkipDir
		}
		pkg, err := build.ImportDir(filepath.FromSlash(name), 0)
		var none *build.NoGoError
		switch {
		case errors.As(err, &none):
			return nil
		case err != nil:
			return err
		}
		h[name] = struct{ code, tests []string }{pkg.Imports, slices.Concat(pkg.TestImports, pkg.XTestImports)}
		return nil
	})
	return h, err
}

func isModule(root fs.FS, dir string) bool {
	_, err := fs.Stat(root, path.Join(dir, "go.mod"))
	return err == nil
}
