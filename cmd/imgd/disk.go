package main

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"
)

const mib = 1 << 20

// headRoom is the check that the data directory's file system has space left:
// on a full one the streams and the index can note nothing, so work that would
// not be remembered must not begin. It looks at what is free to everybody, not
// at what is kept for root.
func (d *daemon) headRoom(context.Context) error {
	least := uint64(d.cfg.Disk.MinFreeMB)
	if least == 0 {
		return nil
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(d.cfg.Data, &fs); err != nil {
		return fmt.Errorf("ask for free space of %s: %w", d.cfg.Data, err)
	}
	if free := fs.Bavail * uint64(fs.Bsize) / mib; free < least {
		return fmt.Errorf("%s has %d MiB free, less than disk.minFreeMB (%d): free some space", d.cfg.Data, free, least)
	}
	return nil
}
