package client

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"
)

// defaultData is where imgd keeps its data unless it is told otherwise.
const defaultData = "/var/lib/imgd"

// errNone says that no daemon runs where one is looked for.
var errNone = errors.New("no imgd is running")

const howToFind = "start one with: imgd serve --data DIR; or say where it is by --server URL, IMGD_SERVER, --data DIR or IMGD_DATA"

// A Finder knows where to look for the daemon.
type Finder struct {
	Server, Data string // flags
	Getenv       func(string) string
}

// Flags adds --server and --data.
func (f *Finder) Flags(flags *pflag.FlagSet) {
	flags.StringVar(&f.Server, "server", "", "URL of the daemon, as http://127.0.0.1:7070")
	flags.StringVar(&f.Data, "data", "", "data directory of the daemon on this machine")
}

// server is the URL that is given, "" if none is: then the data directory says.
func (f Finder) server() string { return cmp.Or(f.Server, f.Getenv("IMGD_SERVER")) }

// dir is the data directory.
func (f Finder) dir() string { return cmp.Or(f.Data, f.Getenv("IMGD_DATA"), defaultData) }

// Find is the daemon's URL, without a slash at the end. It looks each time, for
// a daemon that was started again may have another port.
func (f Finder) Find() (string, error) {
	if server := f.server(); server != "" {
		return parseServer(server)
	}
	file := filepath.Join(f.dir(), "endpoints.json")
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return "", Lost("%w here: there is no %s, which a running one writes; %s", errNone, file, howToFind)
	}
	if err != nil {
		return "", fmt.Errorf("find imgd: %w", err)
	}
	var endpoints struct {
		HTTP string `json:"http"`
	}
	if err := json.Unmarshal(text, &endpoints); err != nil || endpoints.HTTP == "" {
		return "", fmt.Errorf("find imgd: %s has no http address; %s", file, howToFind)
	}
	return parseServer(endpoints.HTTP)
}

func parseServer(server string) (string, error) {
	if !strings.Contains(server, "://") {
		server = "http://" + server
	}
	u, err := url.Parse(server)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.RawQuery != "" {
		return "", Usage("server %q is not a URL as http://127.0.0.1:7070", bare(server))
	}
	return strings.TrimRight(server, "/"), nil
}

// bare is the address as messages show it: what stands before its host may be a
// password.
func bare(server string) string {
	scheme, rest, _ := strings.Cut(server, "://")
	authority, path, more := strings.Cut(rest, "/")
	authority = authority[strings.LastIndexByte(authority, '@')+1:]
	if more {
		path = "/" + path
	}
	return scheme + "://" + authority + path
}
