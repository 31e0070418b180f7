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
	"time"

	"github.com/imgd/imgd"
)

// endedPoll is how often a follower asks whether the request has ended.
const endedPoll = 200 * time.Millisecond

var requestID = regexp.MustCompile(`^[0-9a-f]{32}$`)

// logSuffix ends the name of a build log.
const logSuffix = ".jsonl"

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
	return filepath.Join(l.dir, request+logSuffix), nil
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
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
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

// state tells whether the attempt is over, and what to wait for if not. No
// attempt is over.
func (log *buildLog) state() (ended bool, changed <-chan struct{}) {
	if log == nil {
		return true, nil
	}
	log.mu.Lock()
	defer log.mu.Unlock()
	if log.ended {
		return true, nil
	}
	return false, log.changed
}

// Log reads the build log of a request: lines of JSON, which Replay shows. With
// ended nil it ends where the log ends now. Else it waits for more, and for a
// log to begin, goes on with that of the next attempt, which may come after a
// torn line, and ends when ended answers true after the last; or with ctx.
// imgd.ErrNotFound if there is none, imgd.ErrInvalid for what is no request ID.
func (b *Builder) Log(ctx context.Context, request string, ended func() bool) (io.ReadCloser, error) {
	r := &logReader{logs: b.logs, request: request, ended: ended, done: ctx.Done(), cause: func() error { return context.Cause(ctx) }}
	for {
		over := ended == nil || ended() // before the look: what was written until then is found
		_, err := r.next()
		if err == nil {
			return r, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("open log: %w", err)
		}
		if over {
			return nil, fmt.Errorf("open log of %s: %w", request, imgd.ErrNotFound)
		}
		if err := r.wait(nil); err != nil {
			return nil, fmt.Errorf("wait for log: %w", err)
		}
	}
}

// open answers the file, and the attempt that writes it if it still runs.
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
	logs    *logs
	request string
	ended   func() bool     // of the request; nil: do not wait
	done    <-chan struct{} // of the context that Log was called with
	cause   func() error

	file *os.File
	log  *buildLog // that writes file; nil: nobody does any more
}

// Read implements io.Reader.
func (r *logReader) Read(p []byte) (int, error) {
	for {
		over, changed := r.log.state() // before the read: what comes later closes changed
		last := r.ended == nil || over && r.ended()
		n, err := r.file.Read(p)
		if n > 0 || err != io.EOF {
			return n, err
		}
		if over && r.ended != nil {
			if moved, _ := r.next(); moved { // what cannot be opened now is tried again
				continue
			}
		}
		if last {
			return 0, io.EOF
		}
		if err := r.wait(changed); err != nil {
			return 0, err
		}
	}
}

// next opens the newest attempt's log; moved says that it is another than the
// one before.
func (r *logReader) next() (moved bool, err error) {
	file, log, err := r.logs.open(r.request)
	if err != nil {
		return false, err
	}
	if r.file != nil {
		if same(r.file, file) {
			return false, file.Close()
		}
		r.file.Close() // it was only read
	}
	r.file, r.log = file, log
	return true, nil
}

func same(a, b *os.File) bool {
	infoA, errA := a.Stat()
	infoB, errB := b.Stat()
	return errA == nil && errB == nil && os.SameFile(infoA, infoB)
}

// wait returns when there may be more. Whether the request has ended, and
// whether another attempt has begun, has to be asked.
func (r *logReader) wait(changed <-chan struct{}) error {
	tick := time.NewTimer(endedPoll)
	defer tick.Stop()
	select {
	case <-changed:
	case <-tick.C:
	case <-r.done:
		return r.cause()
	}
	return nil
}

// Close implements io.Closer.
func (r *logReader) Close() error { return r.file.Close() }
