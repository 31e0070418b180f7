package main

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
)

// defaultData is where imgd keeps its data unless it is told otherwise.
const defaultData = "/var/lib/imgd"

const howToFind = "start one with: imgd serve --data DIR; or say where it is by --server URL, IMGD_SERVER, --data DIR or IMGD_DATA"

// A finder knows where to look for the daemon.
type finder struct {
	server, data string // flags
	getenv       func(string) string
}

// find is the daemon's URL, without a slash at the end. It looks each time, for
// a daemon that was started again may have another port.
func (f finder) find() (string, error) {
	if server := cmp.Or(f.server, f.getenv("IMGD_SERVER")); server != "" {
		return parseServer(server)
	}
	file := filepath.Join(cmp.Or(f.data, f.getenv("IMGD_DATA"), defaultData), "endpoints.json")
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return "", lost("no imgd is running here: there is no %s, which a running one writes; %s", file, howToFind)
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
		return "", usage("server %q is not a URL as http://127.0.0.1:7070", server)
	}
	return strings.TrimRight(server, "/"), nil
}
