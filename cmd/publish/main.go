// Publish records an image that another CI has pushed: imgctl publish as a
// program of its own, quick to build in a CI job. It links no builder.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/imgd/imgd/internal/client"
)

// version is set by the linker: -X main.version=v1.2.3.
var version = "devel"

// callTime is how long it may take without --timeout.
const callTime = 2 * time.Minute

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	err := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	if err != nil {
		fmt.Fprintln(os.Stderr, "publish:", err)
	}
	os.Exit(client.ExitCode(err))
}

// run is publish. It reads nothing from stdin.
func run(ctx context.Context, args []string, _ io.Reader, stdout, stderr io.Writer) error {
	find := client.Finder{Getenv: os.Getenv}
	var timeout time.Duration
	cmd := client.PublishCommand(client.Program{
		Name: "publish", Agent: "publish/" + version, Stdout: stdout, Stderr: stderr, Find: &find,
		Within: func(cmd *cobra.Command, calls int) (context.Context, context.CancelFunc) {
			if !cmd.Flags().Changed("timeout") {
				timeout *= time.Duration(calls)
			}
			return context.WithTimeout(cmd.Context(), timeout)
		},
	})
	cmd.SilenceErrors, cmd.SilenceUsage, cmd.Version = true, true, version
	find.Flags(cmd.Flags())
	cmd.Flags().DurationVar(&timeout, "timeout", callTime, "give up after so long and exit 9")
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return client.Usage("%v; see publish --help", err) })
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	return cmd.ExecuteContext(ctx)
}
