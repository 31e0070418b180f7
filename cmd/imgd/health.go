package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// healthTime bounds the question, below what a container engine waits.
const healthTime = 5 * time.Second

func healthCommand() *cobra.Command {
	var data string
	cmd := &cobra.Command{
		Use:   "health",
		Short: "Ask the daemon of this data directory whether it lives: exit code 0 if it does, else 1",
		Long: `Ask the daemon of this data directory whether it lives, at /livez: exit code 0 if it does, else 1.
For a container's health check, as the image needs no other program for it. Whether the
daemon can build now, which depends on others too, is what /readyz says.`,
		Example: `  imgd health
  imgd health --data /var/lib/imgd`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir := cmp.Or(data, os.Getenv("IMGD_DATA"), defaultConfig().Data)
			if err := askHealth(cmd.Context(), dir); err != nil {
				return fmt.Errorf("ask imgd for its health: %w", err)
			}
			fmt.Fprintln(cmd.OutOrStdout(), "ok")
			return nil
		},
	}
	cmd.Flags().StringVar(&data, "data", "", "data directory of the daemon (default IMGD_DATA, else /var/lib/imgd)")
	return cmd
}

// askHealth finds the daemon by the endpoints in its data directory, as it may
// listen on any port, and answers nil if it says that it lives.
func askHealth(ctx context.Context, dir string) error {
	text, err := os.ReadFile(filepath.Join(dir, "endpoints.json"))
	if err != nil {
		return err
	}
	var at endpoints
	if err := json.Unmarshal(text, &at); err != nil || at.HTTP == "" {
		return errors.Join(errors.New("endpoints.json has no http address"), err)
	}
	ctx, cancel := context.WithTimeout(ctx, healthTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.HTTP+"/livez", nil)
	if err != nil {
		return err
	}
	direct := &http.Transport{} // no proxy: it asks its own machine
	defer direct.CloseIdleConnections()
	resp, err := direct.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		said, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10)) // only for the message
		return fmt.Errorf("it answers %s: %s", resp.Status, strings.TrimSpace(string(said)))
	}
	return nil
}
