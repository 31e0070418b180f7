package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/imgd/imgd"
)

// register makes flags the command's.
func (f *flagValues) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.data, "data", "", "directory of everything imgd keeps (default /var/lib/imgd)")
	cmd.Flags().StringVar(&f.config, "config", "", "config file (default imgd.yaml in the data directory, if there is one)")
	cmd.Flags().StringVar(&f.listen, "listen", "", "host:port of the HTTP API (default 127.0.0.1:7070)")
}

func configCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Check, show and explain the configuration",
		Long: `Check, show and explain the configuration: YAML, from --config or imgd.yaml in
the data directory, overridden by the environment (IMGD_BUILD_SLOTS=4) and by
--data and --listen.`,
		Example: "  imgd config check --config imgd.yaml\n  imgd config show",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(checkCommand(), showCommand(), schemaCommand(), docsCommand())
	return cmd
}

func checkCommand() *cobra.Command {
	var flags flagValues
	var verbose bool
	cmd := &cobra.Command{
		Use:   "check [FILE]",
		Short: "Say all that is wrong with the config",
		Long: `Say all that is wrong with the config: each line names file, line, column and
key, and what to write instead. The files that it names (secrets, certificates,
credentials) are read too. It contacts nobody. Exit code 0 if all is well, else 2.

If all is well, it prints what the rules of each project that has its own (tags,
immutable, moving) would make of a few refs, as if the default branch were main;
with -v of all projects, and why.`,
		Example: "  imgd config check imgd.yaml\n  IMGD_BUILD_SLOTS=4 imgd config check --data /var/lib/imgd",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				flags.config = args[0]
			}
			cfg, err := checkedConfig(flags, os.Getenv)
			if err != nil {
				return err
			}
			name := flags.config
			if name == "" {
				name = filepath.Join(cfg.Data, "imgd.yaml")
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "%s: ok, projects: %d\n", name, len(cfg.Projects))
			var projects imgd.Projects
			projects.Set(cfg.projects(cfg.registryHost()))
			return showTags(cmd.OutOrStdout(), projects.All(), verbose)
		},
	}
	flags.register(cmd)
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "of all projects, and what each rule gave or why nothing")
	return cmd
}

func showCommand() *cobra.Command {
	var flags flagValues
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Print the config in effect, without secrets",
		Long: `Print the config in effect, as YAML: the file, overridden by environment and
flags, with all defaults. Credentials in URLs are left out, and the files that it
names are not read.`,
		Example: "  imgd config show --config imgd.yaml\n  imgd config show --data /var/lib/imgd",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(flags, os.Getenv)
			if err != nil {
				return err
			}
			text, err := cfg.show()
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

func schemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON schema of the config file, for editors",
		Long: `Print the JSON schema of the config file. An editor with a YAML language server
takes it from a line at the top of imgd.yaml:

  # yaml-language-server: $schema=/etc/imgd/imgd.schema.json`,
		Example: "  imgd config schema > imgd.schema.json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			text, err := schema()
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(text)
			return err
		},
	}
}

func docsCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "docs",
		Short:   "Print the reference of all keys, as Markdown",
		Example: "  imgd config docs",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			text, err := tables()
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), text)
			return err
		},
	}
}
