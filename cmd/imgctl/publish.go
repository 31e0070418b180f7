package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	shared "github.com/imgd/imgd/internal/client"
)

func (a *app) publishCommand() *cobra.Command {
	return shared.PublishCommand(shared.Program{
		Name: "imgctl publish", Agent: "imgctl/" + version, Stdout: a.stdout, Stderr: a.stderr, Find: &a.find,
		Within: func(cmd *cobra.Command, calls int) (context.Context, context.CancelFunc) {
			return a.within(cmd, time.Duration(calls)*callTime)
		},
	})
}
