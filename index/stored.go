package index

import (
	"encoding/json"
	"sync/atomic"
)

// A stored is a value that is also a line of images.json. It holds either, or
// both: the line of what was written or read, the value of what is new. It does
// not change what it says, and is safe for concurrent use.
type stored[T any] struct {
	value atomic.Pointer[T]
	line  atomic.Pointer[string]
}

// get is the value, read from the line where that is all there is.
func (t *stored[T]) get() T {
	if v := t.value.Load(); v != nil {
		return *v
	}
	return unmarshal[T](*t.line.Load())
}

// json is the line.
func (t *stored[T]) json() string {
	if line := t.line.Load(); line != nil {
		return *line
	}
	line := marshal(*t.value.Load())
	t.line.Store(&line)
	return line
}

// check reports whether the line can be read.
func (t *stored[T]) check() error {
	if line := t.line.Load(); line != nil {
		return json.Unmarshal([]byte(*line), new(T))
	}
	return nil
}

// rest leaves the line alone, which is smaller.
func (t *stored[T]) rest() {
	t.json()
	t.value.Store(nil)
}

func marshal(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic("unreachable: what the index holds marshals: " + err.Error())
	}
	return string(b)
}

func unmarshal[T any](line string) (v T) {
	if err := json.Unmarshal([]byte(line), &v); err != nil {
		panic("unreachable: what images.json is written of, and its checksum, say that this is a line of it: " + err.Error())
	}
	return v
}
