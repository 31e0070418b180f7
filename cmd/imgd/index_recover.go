package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/events"
	"github.com/imgd/imgd/index"
)

const (
	// recoverTime bounds it without --timeout: a million events take minutes.
	recoverTime = time.Hour
	// recoverConnect is how long a NATS that does not answer is waited for.
	recoverConnect = 15 * time.Second
	// progressEvery is between two lines that say how far the reading has come.
	progressEvery = 2 * time.Second
)

// A recovering is what the command line says.
type recovering struct {
	flags   flagValues
	index   string
	dryRun  bool
	timeout time.Duration
	out     io.Writer
	log     io.Writer
}

func indexRecoverCommand() *cobra.Command {
	var r recovering
	cmd := &cobra.Command{
		Use:   "recover",
		Short: "Add to the index what it has announced and does not know",
		Long: `Add to the index what it has announced and does not know: after an old copy of it was
put back, or when it is lost. While imgd does not run, each published and deleted
event of this index is read from the stream IMGD_EVENTS, of the NATS that the config
names, or of imgd's own in the data directory. A release that the index lacks is
entered as it was: with its time, its sequence, the generations and marks of its tags,
and who asked for it and why. It is not announced again. Without an index, one is made,
with the ID that the queue or the last event names.

What was never announced does not come back: releases that were on their way (their
requests are in the queue still, or are to be given again), and those that were given
up. An index that was written to after it had been put back is refused; put the copy
back as it was. To recover again changes nothing.`,
		Example: `  imgd index recover --data /var/lib/imgd
  imgd index recover --config /etc/imgd/imgd.yaml --dry-run`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r.out, r.log = cmd.OutOrStdout(), cmd.ErrOrStderr()
			cfg, err := loadConfig(r.flags, os.Getenv)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), r.timeout)
			defer cancel()
			return exiting(r.run(ctx, cfg))
		},
	}
	cmd.Flags().StringVar(&r.flags.data, "data", "", "data directory, which has the index in index/ (default IMGD_DATA, else /var/lib/imgd)")
	cmd.Flags().StringVar(&r.flags.config, "config", "", "config file, which names NATS (default imgd.yaml in the data directory, if there is one)")
	cmd.Flags().StringVar(&r.index, "index", "", "directory of images.json, wherever it is")
	cmd.Flags().BoolVar(&r.dryRun, "dry-run", false, "say what would be done, and do nothing")
	cmd.Flags().DurationVar(&r.timeout, "timeout", recoverTime, "give up after so long, with nothing changed")
	return cmd
}

func (r recovering) run(ctx context.Context, cfg Config) (err error) {
	log := slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelWarn}))
	url, closeNATS, err := streamsOf(ctx, cfg, log)
	if err != nil {
		return fmt.Errorf("recover index: %w", err)
	}
	defer func() { err = errors.Join(err, closeNATS()) }()
	bus, err := events.Look(ctx, events.Config{URL: url, Creds: cfg.NATS.CredsFile, Timeout: recoverConnect, Log: log})
	if err != nil {
		return fmt.Errorf("recover index: %w", err)
	}
	defer bus.Close()
	told := index.Events{}
	if told.ID, err = bus.Owner(ctx); err != nil {
		return fmt.Errorf("recover index: %w", err)
	}
	told.Read = func(each func(imgd.Release) error) error { return r.read(ctx, bus, told.ID, each) }
	done, err := index.RecoverFrom(cmp.Or(r.index, filepath.Join(cfg.Data, "index")), told, r.dryRun)
	if err != nil {
		return err
	}
	r.say(done)
	return nil
}

// streamsOf answers where NATS is: that of the config, or imgd's own, which is
// started over what is there.
func streamsOf(ctx context.Context, cfg Config, log *slog.Logger) (url string, closeAll func() error, err error) {
	s := &stack{}
	if cfg.NATS.URL == "" {
		if _, err := os.Stat(filepath.Join(cfg.Data, "nats")); errors.Is(err, fs.ErrNotExist) {
			return "", nil, fmt.Errorf("%s has no streams (nats), and no nats.url says where they are: %w", cfg.Data, imgd.ErrNotFound)
		}
		if err := s.lock(ctx, cfg.Data); err != nil {
			return "", nil, err
		}
		cfg.NATS.Listen = net.JoinHostPort("127.0.0.1", "0") // for itself alone
	}
	if err := s.startNATS(ctx, cfg, log); err != nil {
		return "", nil, errors.Join(err, s.close())
	}
	return s.NATS, s.close, nil
}

// read reads the events, and says how far it has come.
func (r recovering) read(ctx context.Context, bus *events.Bus, id string, each func(imgd.Release) error) error {
	read, said := 0, time.Now()
	return bus.Told(ctx, id, func(rel imgd.Release, left uint64) error {
		read++
		if time.Since(said) > progressEvery {
			said = time.Now()
			fmt.Fprintf(r.log, "read %d events, %d are left\n", read, left)
		}
		return each(rel)
	})
}

// say tells what was done: on stderr release by release, and what is to be known
// of what did not come back; on stdout in one line.
func (r recovering) say(done index.Recovery) {
	for _, rel := range done.Releases {
		var tags []string
		for _, t := range rel.Taken() {
			tags = append(tags, fmt.Sprintf("%s (generation %d)", t.Name, t.Generation))
		}
		what := rel.Root.Digest.String()
		if what == "" {
			what = "removed"
		}
		fmt.Fprintln(r.log, rel.PublishedAt.Format(time.RFC3339), rel.ID, rel.Image, tags, what)
	}
	for _, rel := range done.Open {
		fmt.Fprintf(r.log, "release %s of %s is open, as of the copy: imgd takes it to its end; if it was dropped since, drop request %s again\n", rel.ID, rel.Image, rel.Request.ID)
	}
	would := "recovered"
	switch {
	case len(done.Releases) == 0 && !done.Made:
		would = "unchanged"
	case r.dryRun:
		would = "would be recovered"
	}
	fmt.Fprintf(r.out, "%s: index %s, events: %d, releases it lacked: %d, open: %d, entry: %d\n", would, done.ID, done.Read, len(done.Releases), len(done.Open), done.Seq)
}
