package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	shared "github.com/imgd/imgd/internal/client"
	"github.com/imgd/imgd/internal/httpapi"
)

// An app is one call of imgctl.
type app struct {
	stdout, stderr io.Writer
	find           shared.Finder
	timeout        time.Duration // --timeout, 0 if not given
	noColor        bool          // --no-color
}

// run is imgctl. It reads nothing from stdin. An error that it answers is shown
// already.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	a := &app{stdout: stdout, stderr: stderr, find: shared.Finder{Getenv: os.Getenv}}
	root := a.root()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err != nil {
		a.say("%s %v", a.palette(stderr).paint(red, "imgctl:"), err)
	}
	return err
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "imgctl",
		Short: "Ask imgd for builds, see which digest every tag means, and look after requests",
		Long: `Ask imgd for builds, see which digest every tag means, and look after requests.

The daemon is found by --server, IMGD_SERVER, --data, IMGD_DATA, and then in /var/lib/imgd:
the first that is given decides. A data directory names the address in endpoints.json.

` + shared.ExitHelp,
		Example: `  imgctl build hello --ref v1.2.3 --wait
  imgctl get demo/hello:v1.2.3 -o digest
  imgctl verify demo/hello:v1.2.3
  imgctl requests list --state failed`,
		SilenceErrors: true, SilenceUsage: true, SuggestionsMinimumDistance: 2,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		Args:              unknownCommand,
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	flags := root.PersistentFlags()
	a.find.Flags(flags)
	flags.DurationVar(&a.timeout, "timeout", 0, "give up after so long and exit 9 (default 1h for build, retry --wait and drift --now, none with -f and for a verify of many tags or deeper than tag, else 2m)")
	flags.BoolVar(&a.noColor, "no-color", false, "no colours, also where stdout or stderr is a terminal; NO_COLOR and TERM=dumb say so too")
	completeFlag(root, "server", cobra.NoFileCompletions)
	completeFlag(root, "timeout", cobra.NoFileCompletions)
	completeFlag(root, "data", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return nil, cobra.ShellCompDirectiveFilterDirs
	})
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usage("%v; see %s --help", err, cmd.CommandPath()) })
	root.AddCommand(a.buildCommand(), a.listCommand(), a.getCommand(), a.inspectCommand(), a.verifyCommand(), a.requestsCommand(),
		a.releasesCommand(), a.logsCommand(), a.eventsCommand(), a.watchCommand(), a.publishCommand(),
		a.historyCommand(), a.rollbackCommand(), a.tagCommand(), a.untagCommand(), a.expireCommand(), a.driftCommand(), a.explainCommand(), a.checkCommand(), a.usageCommand(), a.reloadCommand(), a.versionCommand(),
		a.completionCommand(), shared.ManCommand("imgctl", version))
	return root
}

func unknownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	hint := ""
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		hint = "; did you mean " + strings.Join(near, " or ") + "?"
	}
	return usage("there is no command %q%s; see %s --help", args[0], hint, cmd.CommandPath())
}

// between wants so many arguments, which what names.
func between(least, most int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < least || len(args) > most {
			return usage("%s wants %s, got %d arguments; see %s --help", cmd.CommandPath(), what, len(args), cmd.CommandPath())
		}
		return nil
	}
}

// Deadlines without --timeout. A build may wait for others before it begins.
const (
	callTime  = 2 * time.Minute
	buildTime = time.Hour
)

// within is cmd's context, ending after --timeout or else after otherwise; 0
// means never.
func (a *app) within(cmd *cobra.Command, otherwise time.Duration) (context.Context, context.CancelFunc) {
	if cmd.Flags().Changed("timeout") {
		otherwise = a.timeout
	}
	if otherwise <= 0 {
		return context.WithCancel(cmd.Context())
	}
	return context.WithTimeout(cmd.Context(), otherwise)
}

// client is one to the daemon.
func (a *app) client() *client {
	return &client{&shared.Client{Find: a.find.Find, Agent: "imgctl/" + version}}
}

// say tells the person at the terminal.
func (a *app) say(format string, args ...any) { fmt.Fprintf(a.stderr, format+"\n", args...) }

// stopped says how a wait ended before what it waited for, nil if it did not.
func stopped(ctx context.Context, hint string) error {
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return &exitError{Code: httpapi.CodeTimeout, Message: "gave up waiting after --timeout" + hint}
	case ctx.Err() != nil:
		return &exitError{Code: httpapi.CodeCancelled, Message: "stopped waiting" + hint}
	}
	return nil
}
