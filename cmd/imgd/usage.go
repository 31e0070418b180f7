package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/imgd/imgd/internal/httpapi"
)

// usage measures the parts of the data directory. Those of an external part are
// not there. What cannot be measured is said beside what can.
func (d *daemon) usage(ctx context.Context) []httpapi.Used {
	used := []httpapi.Used{}
	for _, part := range kept() {
		dir := filepath.Join(d.cfg.Data, part)
		var disk unix.Statfs_t
		if err := unix.Statfs(dir, &disk); err != nil || part == "." {
			continue
		}
		bytes, err := d.size(ctx, part, dir)
		u := httpapi.Used{Part: part, Path: dir, Bytes: bytes, Free: int64(disk.Bavail) * disk.Bsize}
		if err != nil {
			u.Error = err.Error()
		}
		used = append(used, u)
	}
	return used
}

// size is what the part takes. buildkitd knows its cache, and to walk it would
// take minutes.
func (d *daemon) size(ctx context.Context, part, dir string) (int64, error) {
	if part == "buildkit" {
		return d.builder.CacheSize(ctx)
	}
	return diskUsage(ctx, dir)
}

// diskUsage is what du says of dir. Files come and go meanwhile.
func diskUsage(ctx context.Context, dir string) (bytes int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var info os.FileInfo
		if err == nil {
			info, err = entry.Info()
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if stat, ok := info.Sys().(*syscall.Stat_t); ok {
			bytes += stat.Blocks * 512
		}
		return nil
	})
	return bytes, err
}
