package index

import (
	"errors"
	"sync"

	"github.com/imgd/imgd"
)

// errClosed says that writing was ended by close, and not by an error.
var errClosed = errors.New("the index is closed")

// aboutTold is what an entry is about that says what was announced.
const aboutTold = "told"

// about is what an entry about rel is about, and so what no other entry may be
// about that is decided before it is durable: its request and the tags that it
// asks for.
func about(rel imgd.Release) []string {
	all := []string{"request " + rel.Request.ID}
	for _, t := range rel.Tags {
		all = append(all, "tag "+rel.Image+":"+t.Name)
	}
	return all
}

// A log is the way of a decision into the state: entered into a batch, made
// durable with it, folded. Entries about different things are decided while
// those before them are on their way, and one fsync does for all of them.
type log struct {
	index  *Index
	engine engine
	failed chan error

	// appending is held while a batch is made durable and folded.
	appending sync.Mutex

	// mu guards what follows.
	mu      sync.Mutex
	seq     uint64 // of the last entry that was decided
	hash    string
	next    *batch            // being gathered, nil if nothing is
	busy    map[string]*batch // about what -> the batch that has an entry about it
	running bool              // batches are being made durable, in runs
	runs    sync.WaitGroup
	changed chan struct{} // closed and replaced when state changes
	broken  error         // nothing more is decided
	closed  bool
}

// A batch is the entries that one write makes durable.
type batch struct {
	entries []entry
	lines   [][]byte
	hashes  []string
	about   []string

	done chan struct{} // closed when err is set
	err  error
}

func newLog(x *Index, engine engine) *log {
	return &log{index: x, engine: engine, failed: make(chan error, 1), seq: x.state.seq, hash: x.state.hash, busy: map[string]*batch{}, changed: make(chan struct{})}
}

// enter makes one decision about some things durable and shows it to queries, in
// this order. What decide reads of those is durable; it must not wait.
func (l *log) enter(about []string, decide func(now *state) (entry, error)) error {
	l.mu.Lock()
	for before := l.before(about); before != nil && l.broken == nil; before = l.before(about) {
		l.mu.Unlock()
		<-before.done
		l.mu.Lock()
	}
	b, err := l.gather(about, decide)
	l.mu.Unlock()
	if err != nil {
		return err
	}
	<-b.done
	return b.err
}

// before is a batch that is not durable yet and has an entry about one of these.
func (l *log) before(about []string) *batch {
	for _, what := range about {
		if b := l.busy[what]; b != nil {
			return b
		}
	}
	return nil
}

func (l *log) gather(about []string, decide func(now *state) (entry, error)) (*batch, error) {
	if l.broken != nil {
		return nil, l.broken
	}
	l.index.view.RLock()
	e, err := decide(l.index.state)
	l.index.view.RUnlock()
	if err != nil {
		return nil, err
	}
	e.Format, e.Seq, e.Prev, e.Writer, e.At = format, l.seq+1, l.hash, l.index.config.Writer, l.index.now()
	line := e.line()
	l.seq, l.hash = e.Seq, hashOf(line)
	if l.next == nil {
		l.next = &batch{done: make(chan struct{})}
	}
	b := l.next
	b.entries, b.lines, b.hashes, b.about = append(b.entries, e), append(b.lines, line), append(b.hashes, l.hash), append(b.about, about...)
	for _, what := range about {
		l.busy[what] = b
	}
	if !l.running {
		l.running = true
		l.runs.Go(l.run)
	}
	return b, nil
}

// run makes batches durable until there is none.
func (l *log) run() {
	for {
		l.mu.Lock()
		b := l.next
		l.next = nil
		if b == nil {
			l.running = false
			l.mu.Unlock()
			return
		}
		broken := l.broken
		l.mu.Unlock()
		err := broken
		if err == nil {
			err = l.write(b)
		}
		l.finish(b, err)
	}
}

// write makes b durable, and then shows it.
func (l *log) write(b *batch) error {
	l.appending.Lock()
	defer l.appending.Unlock()
	if err := l.engine.append(b.lines); err != nil {
		return err
	}
	l.index.view.Lock()
	defer l.index.view.Unlock()
	for i, e := range b.entries {
		l.index.state.fold(e, b.hashes[i])
	}
	return nil
}

// finish tells those who wait for b what became of it. What was gathered after a
// batch that is not durable follows from that, and falls with it.
func (l *log) finish(b *batch, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := []*batch{b}
	if err != nil {
		if l.next != nil {
			all = append(all, l.next)
			l.next = nil
		}
		l.index.view.RLock()
		l.seq, l.hash = l.index.state.seq, l.index.state.hash
		l.index.view.RUnlock()
		if errors.Is(err, errUnknown) {
			l.breakDown(err)
		}
	}
	for _, b := range all {
		for _, what := range b.about {
			delete(l.busy, what)
		}
		b.err = err
		close(b.done)
	}
	close(l.changed)
	l.changed = make(chan struct{})
}

// change is closed when the state changes next.
func (l *log) change() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

// hold calls do with what is durable, while nothing is appended.
func (l *log) hold(do func(now frozen) error) error {
	l.appending.Lock()
	defer l.appending.Unlock()
	return do(l.index.freeze())
}

// fail ends writing, as nobody knows any more what is durable.
func (l *log) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.breakDown(err)
}

func (l *log) breakDown(err error) {
	if l.broken == nil || errors.Is(l.broken, errClosed) {
		l.broken = err
		l.failed <- err
	}
}

// close ends writing: what is on its way arrives, what is being gathered is
// refused. It answers what broke meanwhile.
func (l *log) close() error {
	l.mu.Lock()
	closed := l.closed
	l.closed = true
	if l.broken == nil {
		l.broken = errClosed
	}
	before := l.broken
	l.mu.Unlock()
	if closed {
		return nil
	}
	l.runs.Wait()
	l.mu.Lock()
	after := l.broken
	l.mu.Unlock()
	sound := errors.Is(after, errClosed)
	err := l.engine.close(sound)
	if errors.Is(before, errClosed) && !sound {
		err = errors.Join(after, err)
	}
	return err
}
