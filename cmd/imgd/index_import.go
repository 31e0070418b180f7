package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/index"
	"github.com/imgd/imgd/internal/client"
	"github.com/imgd/imgd/internal/httpapi"
)

func indexImportCommand() *cobra.Command {
	var flags indexFlags
	var in index.Import
	cmd := &cobra.Command{
		Use:   "import FILE|-",
		Short: "Bring a whole index, or the past of another system, into the index",
		Long: `Bring a whole index, or the past of another system, into the index, while no
daemon runs. What FILE is (- is stdin) is seen from what is in it:

  - an images.json, as imgd index export prints it. Its checksum is verified, and it
    becomes the index, with its ID, where there is none or an empty one;
  - the plain form: a JSON array of elements, or one element a line, of the fields
    ImageName, Tag, Digest, PublishedAt, SourceRef (URL@<40 hex>), and if need be
    Labels and Platform (default linux/amd64). They become published releases, in
    the order of their times, as if another CI had pushed them; nobody is asked
    whether the registry has them. A tag that is a version is immutable, latest and
    1.2 are series, others are moved by nobody but by who pushes them.

All of it is imported or nothing: an element that is wrong, or a tag that names
something else, refuses the file, and each is named. To import a file again changes
nothing. What is imported is not announced.`,
		Example: `  imgd index import images.json --index /var/lib/imgd/index
  imgd index import releases.json --dry-run
  imgd index import - --registry registry.example.com < releases.json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			in.Name, in.Now = args[0], time.Now()
			if in.Text, err = readAll(args[0], cmd.InOrStdin()); err != nil {
				return fmt.Errorf("import: %w", err)
			}
			done, err := index.ImportInto(flags.dir(), in)
			if in.DryRun {
				for _, t := range done.Tags {
					fmt.Fprintln(cmd.OutOrStdout(), t.Outcome, t.Image+":"+t.Tag, t.Digest)
				}
			}
			if err != nil {
				return exiting(err)
			}
			fmt.Fprintln(cmd.OutOrStdout(), importLine(done, in.DryRun))
			return nil
		},
	}
	flags.register(cmd)
	cmd.Flags().BoolVar(&in.Moving, "moving", false, "of the plain form: all tags may move, whatever their names")
	cmd.Flags().StringVar(&in.Registry, "registry", "", "of the plain form: host[:port] of the registry that has the images")
	cmd.Flags().BoolVar(&in.Announce, "announce", false, "of the plain form: announce what is imported, once imgd serves")
	cmd.Flags().BoolVar(&in.DryRun, "dry-run", false, "say what would be done, and do nothing")
	return cmd
}

func importLine(done index.Imported, dry bool) string {
	would := "imported"
	switch {
	case !done.Changed:
		would = "unchanged"
	case dry:
		would = "would be imported"
	}
	id := done.ID
	if id == "" {
		id = "(a new one)"
	}
	if done.Whole {
		return fmt.Sprintf("%s: index %s, releases: %d", would, id, done.Releases)
	}
	return fmt.Sprintf("%s: index %s, new: %d, same: %d, releases: %d", would, id, done.Count(index.ImportNew), done.Count(index.ImportSame), done.Releases)
}

// readAll reads the file, or stdin if its name is -.
func readAll(name string, stdin io.Reader) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(stdin)
	}
	return os.ReadFile(name)
}

// exiting gives err the exit code that it has in imgctl and publish too.
func exiting(err error) error {
	for code, is := range map[httpapi.Code]error{httpapi.CodeConflict: imgd.ErrConflict, httpapi.CodeNotFound: imgd.ErrNotFound,
		httpapi.CodeCancelled: context.Canceled, httpapi.CodeTimeout: context.DeadlineExceeded} {
		if errors.Is(err, is) {
			return &client.ExitError{Code: code, Message: err.Error()}
		}
	}
	return err
}
