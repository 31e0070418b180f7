// Command imgd is the daemon: it takes requests from the queue, builds and
// publishes them, and answers the HTTP API. Here are its flags, its config and
// its wiring, in the order of the data's path; no rule of what it does.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	_ "time/tzdata" // rules name time zones, and a container may have none

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/imgd/imgd/internal/client"
)

// version is set by the linker; without it the module's own is told.
var version string

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal has its default effect: the process ends at once
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		var wrong complaints
		if errors.As(err, &wrong) { // each line has its own beginning, which editors find
			fmt.Fprintln(os.Stderr, wrong)
		} else {
			fmt.Fprintln(os.Stderr, "imgd:", err)
		}
		os.Exit(exitCode(err))
	}
}

// errUsage marks what was wrong on the command line.
var errUsage = errors.New("see imgd --help")

// exitCode is 2 for a wrong command line or config, what an error says itself, and
// else 1.
func exitCode(err error) int {
	var wrong complaints
	var exit *client.ExitError
	if errors.As(err, &exit) {
		return client.ExitCode(err)
	}
	if errors.Is(err, errUsage) || errors.As(err, &wrong) {
		return 2
	}
	return 1
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	root := rootCommand(stderr)
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	understood := false
	root.PersistentPreRun = func(*cobra.Command, []string) { understood = true }
	err := root.ExecuteContext(ctx)
	if err != nil && !understood && !errors.Is(err, errUsage) { // cobra's own: of commands and arguments
		err = fmt.Errorf("%w; %w", err, errUsage)
	}
	return err
}

func rootCommand(stderr io.Writer) *cobra.Command {
	root := &cobra.Command{
		Use:   "imgd",
		Short: "Builds container images from git, publishes them, and keeps the index of what every tag means",
		Example: `  imgd config check imgd.yaml
  imgd serve --config imgd.yaml --data /var/lib/imgd`,
		SilenceUsage: true, SilenceErrors: true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return fmt.Errorf("%w; %w", err, errUsage) })
	root.AddCommand(serveCommand(stderr), healthCommand(), configCommand(), indexCommand(), versionCommand(), client.ManCommand("imgd", currentVersion()))
	return root
}

func serveCommand(stderr io.Writer) *cobra.Command {
	var flags flagValues
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the daemon",
		Long: `Run the daemon. With --data alone it brings its own NATS server, registry and
buildkitd (which needs root and runc); with addresses in the config it uses those.

SIGTERM stops taking requests, lets running builds finish within build.grace or
gives them back to the queue, and exits 0. A second one exits at once. SIGHUP
reads the config again; a bad one is logged, and the old one stays.`,
		Example: `  imgd serve --data /var/lib/imgd
  imgd serve --config imgd.yaml --listen 127.0.0.1:7070`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			hangup := make(chan os.Signal, 1) // one that waits is enough: it reads what is there then
			signal.Notify(hangup, syscall.SIGHUP)
			defer signal.Stop(hangup)
			cfg, err := checkedConfig(flags, os.Getenv)
			if err != nil {
				return err
			}
			level := new(slog.LevelVar)
			logger := newLog(cfg.Log, level, stderr)
			// What libraries print through the standard logger is for debugging.
			log.SetFlags(0)
			log.SetOutput(slog.NewLogLogger(logger.Handler(), slog.LevelDebug).Writer())
			return serve(cmd.Context(), cfg, setting{flags: flags, getenv: os.Getenv, hangup: hangup, level: level, log: logger,
				notify: newNotifier(os.Getenv, os.Getpid())})
		},
	}
	flags.register(cmd)
	return cmd
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: "  imgd version",
		Args:    cobra.NoArgs,
		Run:     func(cmd *cobra.Command, _ []string) { fmt.Fprintln(cmd.OutOrStdout(), currentVersion()) },
	}
}

func currentVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		return info.Main.Version
	}
	return "unknown"
}

// newLog writes to w as cfg says, from level on, which it sets.
func newLog(cfg LogConfig, level *slog.LevelVar, w io.Writer) *slog.Logger {
	if err := level.UnmarshalText([]byte(cfg.Level)); err != nil {
		panic("unreachable: validate has checked the level: " + err.Error())
	}
	options := &slog.HandlerOptions{Level: level}
	file, isFile := w.(*os.File)
	if cfg.Format == "text" || cfg.Format == "auto" && isFile && term.IsTerminal(int(file.Fd())) {
		return slog.New(slog.NewTextHandler(w, options))
	}
	return slog.New(slog.NewJSONHandler(w, options))
}
