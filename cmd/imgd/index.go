package main

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/imgd/imgd/index"
	"github.com/imgd/imgd/internal/client"
)

func indexCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "index",
		Short: "Check, export, import and recover the whole index",
		Long: `Check, export, import and recover the whole index, which is in index/ of the data
directory: images.json, and a journal that it follows. To check and to export it, a
daemon may be running on it.

` + client.ExitHelp,
		Example: "  imgd index check\n  imgd index export > images.json\n  imgd index import images.json\n  imgd index recover",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(indexCheckCommand(), indexExportCommand(), indexImportCommand(), indexRecoverCommand())
	return cmd
}

// indexFlags say which index is meant.
type indexFlags struct{ data, index string }

func (f *indexFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.data, "data", "", "data directory, which has the index in index/ (default IMGD_DATA, else /var/lib/imgd)")
	cmd.Flags().StringVar(&f.index, "index", "", "directory of images.json, wherever it is")
	cmd.MarkFlagsMutuallyExclusive("data", "index")
}

func (f *indexFlags) dir() string {
	return cmp.Or(f.index, filepath.Join(cmp.Or(f.data, os.Getenv("IMGD_DATA"), defaultConfig().Data), "index"))
}

func indexCheckCommand() *cobra.Command {
	var flags indexFlags
	var fix bool
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Read the whole index and say whether it is as it was written",
		Long: `Read the whole index, images.json and the journal, and say whether it is as it was
written: checksums, the chain of entries, and that records, tags and releases agree.
Exit code 0 if all is well, else 1, with file and line.

Who has edited images.json by hand lets --fix-checksum write its last line anew,
while no daemon runs. What contradicts itself stays refused.`,
		Example: "  imgd index check\n  imgd index check --index /mnt/backup/index\n  imgd index check --fix-checksum --data /var/lib/imgd",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if fix {
				if err := index.FixChecksum(flags.dir()); err != nil {
					return err
				}
			}
			found, err := index.Check(flags.dir())
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "index %s is sound: records: %d, tags: %d, releases: %d, entries: %d, of which images.json lacks %d\n",
				found.ID, found.Records, found.Tags, found.Releases, found.Seq, found.Ahead)
			return nil
		},
	}
	flags.register(cmd)
	cmd.Flags().BoolVar(&fix, "fix-checksum", false, "write the checksum of an images.json that was edited by hand")
	return cmd
}

func indexExportCommand() *cobra.Command {
	var flags indexFlags
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Print the whole index, in the form of images.json",
		Long: `Print the whole index, in the form of images.json and complete, with what only the
journal has so far. A daemon that runs goes on meanwhile.`,
		Example: "  imgd index export > images.json\n  imgd index export --index /mnt/backup/index",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			text, err := index.Export(flags.dir())
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(text)
			return err
		},
	}
	flags.register(cmd)
	return cmd
}
