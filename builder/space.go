package builder

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// LogBounds say which build logs stay.
type LogBounds struct {
	Since time.Time // the last line of those that stay was written since then; zero: whenever
	Bytes int64     // the oldest go until all have no more; 0: no limit
	// Ended reports whether the request has ended: only then its log goes.
	Ended func(request string) bool
}

// DropLogs removes the build logs that the bounds do not let stay, and answers
// how many those were, and their bytes. One that is being written stays, and who
// reads one reads it to its end. Safe to interrupt and to repeat.
func (b *Builder) DropLogs(ctx context.Context, bounds LogBounds) (n int, bytes int64, err error) {
	files, err := b.logs.oldest()
	if err != nil {
		return 0, 0, fmt.Errorf("look for old build logs: %w", err)
	}
	var all int64
	for _, file := range files {
		all += file.Size()
	}
	for _, file := range files {
		request := strings.TrimSuffix(file.Name(), logSuffix)
		tooOld, tooMuch := file.ModTime().Before(bounds.Since), bounds.Bytes > 0 && all > bounds.Bytes
		if !tooOld && !tooMuch || !bounds.Ended(request) {
			continue
		}
		if ctx.Err() != nil {
			return n, bytes, context.Cause(ctx)
		}
		dropped, err := b.logs.drop(request)
		if err != nil {
			return n, bytes, fmt.Errorf("remove old build log: %w", err)
		}
		if dropped {
			n, bytes, all = n+1, bytes+file.Size(), all-file.Size()
		}
	}
	return n, bytes, nil
}

// oldest are the logs, the oldest first.
func (l *logs) oldest() ([]fs.FileInfo, error) {
	entries, err := os.ReadDir(l.dir)
	if err != nil {
		return nil, err
	}
	var files []fs.FileInfo
	for _, entry := range entries {
		request, isLog := strings.CutSuffix(entry.Name(), logSuffix)
		if !isLog || !requestID.MatchString(request) {
			continue
		}
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) { // another attempt begins
			continue
		}
		if err != nil {
			return nil, err
		}
		files = append(files, info)
	}
	slices.SortFunc(files, func(a, b fs.FileInfo) int {
		return cmp.Or(a.ModTime().Compare(b.ModTime()), strings.Compare(a.Name(), b.Name()))
	})
	return files, nil
}

// drop removes the log, unless an attempt writes it.
func (l *logs) drop(request string) (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.running[request] != nil {
		return false, nil
	}
	err := os.Remove(filepath.Join(l.dir, request+logSuffix))
	return err == nil, err
}

// CacheSize is how many bytes buildkitd's cache has.
func (b *Builder) CacheSize(ctx context.Context) (bytes int64, err error) {
	records, err := b.client.DiskUsage(ctx)
	if err != nil {
		return 0, fmt.Errorf("ask buildkitd for the size of its cache: %w", err)
	}
	for _, record := range records {
		bytes += record.Size
	}
	return bytes, nil
}
