package kit

import (
	"context"
	"fmt"
	"slices"
	"sync"
)

// Side says when a gate stops what it holds.
type Side int

// The sides of the part behind a gate.
const (
	// Before it: the part has seen nothing yet.
	Before Side = iota
	// Answered by it: it has done what was asked, and the asker does not know.
	Answered
)

func (s Side) String() string {
	if s == Answered {
		return "answered"
	}
	return "before"
}

// A Hold stops the first thing at a gate that matches, until it is let pass or dropped. Whichever of the two is called
// first counts, even if nothing has come by then.
type Hold struct {
	held   chan struct{}
	done   chan struct{}
	once   sync.Once
	passes bool // valid when done is closed
}

func newHold() *Hold { return &Hold{held: make(chan struct{}), done: make(chan struct{})} }

// Held is closed when something is held.
func (h *Hold) Held() <-chan struct{} { return h.held }

// Pass lets it go on as if nothing had been.
func (h *Hold) Pass() { h.decide(true) }

// Drop cuts the connection of what is held: it, or its answer, never arrives.
func (h *Hold) Drop() { h.decide(false) }

func (h *Hold) decide(pass bool) {
	h.once.Do(func() {
		h.passes = pass
		close(h.done)
	})
}

// wait tells that something is held, and answers whether it may pass. When closing is closed, nothing may.
func (h *Hold) wait(closing <-chan struct{}) bool {
	close(h.held)
	select {
	case <-h.done:
		return h.passes
	case <-closing:
		return false
	}
}

// A gate is what the gates have in common: holds, watchers, and the number of things that are inside.
type gate[T any] struct {
	closing   chan struct{}
	closeOnce sync.Once

	mu      sync.Mutex // guards what follows
	armed   []armed[T]
	watches []func(T)
	inside  int
}

type armed[T any] struct {
	side  Side
	match func(T) bool
	hold  *Hold
}

// Arm makes the gate hold the first thing that comes from now on and matches, at that side of the part behind the gate.
// Each hold is for one thing, and what two match is held for the one that was armed first. match is called by one
// goroutine at a time and once for each thing until one matches, so that it may count. It must leave what it looks at as
// it is, and not call the gate.
func (g *gate[T]) Arm(side Side, match func(T) bool) *Hold {
	g.mu.Lock()
	defer g.mu.Unlock()
	hold := newHold()
	g.armed = append(g.armed, armed[T]{side, match, hold})
	return hold
}

// Watch shows everything that comes from now on to f, before it is passed on or held, one at a time: while f looks around,
// the part behind the gate has not seen it. f must not read a body, and not call the gate.
func (g *gate[T]) Watch(f func(T)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.watches = append(g.watches, f)
}

// meet answers the hold for what has come, nil if there is none.
func (g *gate[T]) meet(thing T) (*Hold, Side) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, watch := range g.watches {
		watch(thing)
	}
	i := slices.IndexFunc(g.armed, func(a armed[T]) bool { return a.match(thing) })
	if i < 0 {
		return nil, Before
	}
	found := g.armed[i]
	g.armed = slices.Delete(g.armed, i, i+1)
	return found.hold, found.side
}

// enter counts what is inside; the answer is for its end.
func (g *gate[T]) enter() (leave func()) {
	g.count(1)
	return func() { g.count(-1) }
}

func (g *gate[T]) count(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside += n
}

// Idle waits until nothing is inside: after the client is dead, until the part behind has got all that the client had
// sent and was not dropped.
func (g *gate[T]) Idle(ctx context.Context) error {
	return poll(ctx, nil, func(context.Context) error {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.inside > 0 {
			return fmt.Errorf("%d still inside the gate", g.inside)
		}
		return nil
	})
}

// close drops what is held, and answers whether it is the first to close.
func (g *gate[T]) close() (first bool) {
	g.closeOnce.Do(func() {
		close(g.closing)
		first = true
	})
	return first
}
