package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const mib = 1 << 20

// kept are the parts of the data directory that may lie on file systems of
// their own.
func kept() []string { return []string{".", "nats", "index", "registry", "buildkit", "git", "builds"} }

// headRoom is the check that the data directory's file systems can be written
// and have space left: on a full one the streams and the index can note nothing,
// so work that would not be remembered must not begin. It looks at what is free
// to everybody, not at what is kept for root.
func (d *daemon) headRoom(context.Context) error {
	least := uint64(d.live.config.Load().Disk.MinFreeMB)
	if least == 0 {
		return nil
	}
	for _, part := range kept() {
		dir := filepath.Join(d.cfg.Data, part)
		var disk unix.Statfs_t
		if err := unix.Statfs(dir, &disk); errors.Is(err, fs.ErrNotExist) && part != "." {
			continue // an external one is used
		} else if err != nil {
			return fmt.Errorf("ask for free space of %s: %w", dir, err)
		}
		if disk.Flags&unix.ST_RDONLY != 0 {
			return fmt.Errorf("%s is on a read-only file system", dir)
		}
		if free := disk.Bavail * uint64(disk.Bsize) / mib; free < least {
			return fmt.Errorf("%s has %d MiB free, less than disk.minFreeMB (%d): free some space", dir, free, least)
		}
	}
	return nil
}
