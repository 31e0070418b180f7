package index_test

import (
	"testing"
)

// A write that fails while the index is being closed, so that nobody knows what
// is durable, is told, and images.json is not made of what there may be.
func TestCloseBroken(t *testing.T) {
	w := newWorld()
	x := still(t, t.TempDir(), w)
	var entered error
	err, sound := x.CloseBroken(func() {
		_, entered = x.Admit(t.Context(), w.candidate("refs/tags/v1.0.0", "a", "root", 1), "")
	})
	if entered == nil || err == nil || sound {
		t.Errorf("admit answers %v, close %v, sound %t; want two errors, and not sound", entered, err, sound)
	}
	select {
	case <-x.Failed():
	default:
		t.Error("Failed says nothing")
	}
	if _, err := x.Admit(t.Context(), w.candidate("refs/tags/v1.0.1", "b", "root", 1), ""); err == nil {
		t.Error("an index that is closed decides")
	}
	if err := x.Close(); err != nil {
		t.Error(err)
	}
}
