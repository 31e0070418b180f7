package builder_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/imgd/imgd/builder"
)

// shelve writes logs of so many bytes, the first an hour old, each an hour older
// than the one before.
func shelve(t *testing.T, sizes ...int) (b *builder.Builder, dir string, requests []string) {
	t.Helper()
	dir = t.TempDir()
	b, err := builder.New(t.Context(), builder.Config{Address: "unix:///nobody", LogDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	for i, size := range sizes {
		request := fmt.Sprintf("%032x", i)
		requests = append(requests, request)
		path, then := filepath.Join(dir, request+".jsonl"), time.Now().Add(-time.Duration(i+1)*time.Hour)
		if err := os.WriteFile(path, []byte(strings.Repeat("x", size)), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, then, then); err != nil {
			t.Fatal(err)
		}
	}
	return b, dir, requests
}

func TestDropLogs(t *testing.T) {
	t.Parallel()
	ago := func(d time.Duration) time.Time { return time.Now().Add(-d) }
	for name, tt := range map[string]struct {
		bounds builder.LogBounds
		open   int // a request that has not ended, -1: none
		left   []int
	}{
		"no bounds":         {builder.LogBounds{}, -1, []int{0, 1, 2, 3}},
		"age":               {builder.LogBounds{Since: ago(150 * time.Minute)}, -1, []int{0, 1}},
		"size":              {builder.LogBounds{Bytes: 30}, -1, []int{0, 1}},
		"just as large":     {builder.LogBounds{Bytes: 100}, -1, []int{0, 1, 2, 3}},
		"both":              {builder.LogBounds{Since: ago(150 * time.Minute), Bytes: 10}, -1, []int{0}},
		"not ended":         {builder.LogBounds{Since: ago(time.Minute)}, 2, []int{2}},
		"not ended is full": {builder.LogBounds{Bytes: 55}, 3, []int{0, 3}},
	} {
		t.Run(name, func(t *testing.T) {
			b, dir, requests := shelve(t, 10, 20, 30, 40)
			if err := os.WriteFile(filepath.Join(dir, "README.jsonl"), nil, 0o644); err != nil {
				t.Fatal(err)
			}
			tt.bounds.Ended = func(request string) bool { return tt.open < 0 || request != requests[tt.open] }
			n, bytes, err := b.DropLogs(t.Context(), tt.bounds)
			if err != nil {
				t.Fatal(err)
			}
			var left []int
			all := int64(100)
			for i, request := range requests {
				if info, err := os.Stat(filepath.Join(dir, request+".jsonl")); err == nil {
					left, all = append(left, i), all-info.Size()
				}
			}
			if !slices.Equal(left, tt.left) || n != len(requests)-len(left) || bytes != all {
				t.Errorf("left %v, and told of %d with %d bytes; want %v", left, n, bytes, tt.left)
			}
			if n, _, err := b.DropLogs(t.Context(), tt.bounds); n != 0 || err != nil {
				t.Errorf("again: %d, %v", n, err)
			}
			if _, err := os.Stat(filepath.Join(dir, "README.jsonl")); err != nil {
				t.Error(err)
			}
		})
	}
}

// A log that is being written stays, whatever is said of its request.
func TestDropLogsSparesWhatRuns(t *testing.T) {
	t.Parallel()
	b := newBuilder(t)
	p, req := newRepo(t, map[string]string{"Dockerfile": shell + "RUN echo hello\n", "busybox": "busybox"}).ask()
	all := builder.LogBounds{Bytes: 1, Ended: func(string) bool { return true }}
	dropped := make(chan int, 1)
	ended := make(chan struct{})
	go func() {
		defer close(dropped)
		for n := 0; ; {
			more, _, err := b.DropLogs(t.Context(), all)
			if n += more; err != nil {
				t.Error(err)
			}
			select {
			case <-ended:
				dropped <- n
				return
			default:
			}
		}
	}()
	_, err := b.Build(t.Context(), p, req)
	log, openErr := b.Log(t.Context(), req.ID, nil)
	close(ended)
	n := <-dropped
	if err != nil || openErr == nil && log.Close() != nil {
		t.Fatal(err)
	}
	more, _, err := b.DropLogs(t.Context(), all)
	if n+more != 1 || err != nil {
		t.Errorf("dropped %d logs, %v; want it once, after the build", n+more, err)
	}
	if size, err := b.CacheSize(t.Context()); err != nil || size == 0 {
		t.Errorf("cache of %d bytes, %v", size, err)
	}
}
