// Imgctl asks an imgd daemon for builds, and shows what it has published and
// what it is doing. Results go to stdout, everything else to stderr; the exit
// codes are in internal/client/exit.go. It talks HTTP to the daemon, and
// to nobody else but where it is told to go without one.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	shared "github.com/imgd/imgd/internal/client"
)

// version is set by the linker: -X main.version=v1.2.3.
var version = "devel"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	os.Exit(shared.ExitCode(run(ctx, os.Args[1:], os.Stdout, os.Stderr)))
}
