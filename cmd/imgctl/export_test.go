package main

import (
	"io"
	"os"

	"github.com/spf13/cobra"

	shared "github.com/imgd/imgd/internal/client"
)

// Main is for testscript, which runs it as a process of its own.
var Main = main

// Root is the command tree.
func Root() *cobra.Command {
	a := &app{stdout: io.Discard, stderr: io.Discard, find: shared.Finder{Getenv: os.Getenv}}
	return a.root()
}

// TagPath is the path of IMAGE:TAG in the API, "" without a tag.
func TagPath(s string) (string, error) {
	r, err := parseReference(s)
	if err != nil || r.tag == "" {
		return "", err
	}
	return r.path(), nil
}
