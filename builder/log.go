package builder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"sync"

	"github.com/imgd/imgd"
)

var requestID = regexp.MustCompile(`^[0-9a-f]{32}$`)

// logs are the build logs of one directory: <request>.jsonl, of the newest
// attempt, in the form of `buildctl --progress=rawjson`.
type logs struct {
	dir string

	mu      sync.Mutex
	running map[string]*buildLog // guarded by mu: by request
}

func newLogs(dir string) *logs { return &logs{dir: dir, running: map[string]*buildLog{}} }

// path is the log's file. The ID comes from outside.
func (l *logs) path(request string) (string, error) {
	if !requestID.MatchString(request) {
		return "", fmt.Errorf("request ID %.64q: want 32 hex digits: %w", request, imgd.ErrInvalid)
	}
	return filepath.Join(l.dir, request+".jsonl"), nil
}

// buildLog is the log of an attempt that runs.
type buildLog struct {
	done func() // takes it out of the running ones

	mu      sync.Mutex
	file    *os.File
	err     error         // guarded by mu: the first of a write
	ended   bool          // guarded by mu
	changed chan struct{} // guarded by mu: closed by the next write, or the end
}

// start begins the log of another attempt. It is a new file: who reads the one
// before goes on to its end.
func (l *logs) start(request string) (*buildLog, error) {
	name, err := l.path(request)
	if err != nil {
		return nil, err
	}
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return nil, err
	}
	log := &buildLog{file: file, changed: make(chan struct{})}
	log.done = func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.running[request] == log {
			delete(l.running, request)
		}
	}
	l.running[request] = log
	return log, nil
}

// write appends lines and wakes those who wait for them. A disk that is full
// does not end a build: the error is kept for end.
func (log *buildLog) write(lines []byte) {
	log.mu.Lock()
	defer log.mu.Unlock()
	if log.err == nil {
		_, log.err = log.file.Write(lines)
	}
	close(log.changed)
	log.changed = make(chan struct{})
}

// end says that the attempt is over, and what went wrong while it was written.
func (log *buildLog) end() error {
	log.done()
	log.mu.Lock()
	defer log.mu.Unlock()
	log.ended = true
	close(log.changed)
	return errors.Join(log.err, log.file.Close())
}

// state tells whether the attempt is over, and what to wait for if not.
func (log *buildLog) state() (ended bool, changed <-chan struct{}) {
	log.mu.Lock()
	defer log.mu.Unlock()
	return log.ended, log.changed
}

// Log opens the log of the request's newest attempt: lines of JSON, which
// Replay shows. With follow, a reader that is at the end waits for more until
// the attempt is over, or ctx is. An attempt that begins later is another log:
// open it then. imgd.ErrNotFound if there is none, imgd.ErrInvalid for what is
// no request ID.
func (b *Builder) Log(ctx context.Context, request string, follow bool) (io.ReadCloser, error) {
	file, running, err := b.logs.open(request)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open log of %s: %w", request, imgd.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	if !follow || running == nil {
		return file, nil
	}
	return &logReader{ctx: ctx, File: file, log: running}, nil
}

// open answers the file, and the attempt that writes it if there is one.
func (l *logs) open(request string) (*os.File, *buildLog, error) {
	name, err := l.path(request)
	if err != nil {
		return nil, nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	file, err := os.Open(name)
	return file, l.running[request], err
}

// logReader reads what is there and waits for the rest.
type logReader struct {
	*os.File
	ctx context.Context // of the reader's whole life: io.Reader takes none
	log *buildLog
}

// Read implements io.Reader.
func (r *logReader) Read(p []byte) (int, error) {
	for {
		ended, changed := r.log.state() // before the read: what comes after it closes changed
		n, err := r.File.Read(p)
		if n > 0 || err != io.EOF || ended {
			return n, err
		}
		select {
		case <-changed:
		case <-r.ctx.Done():
			return 0, r.ctx.Err()
		}
	}
}

// WriteTo keeps os.File's own from being used, which would not wait.
func (r *logReader) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, struct{ io.Reader }{r})
}
