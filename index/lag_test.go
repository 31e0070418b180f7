package index_test

import (
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

// While images.json cannot be written the index says so, and since when, until it
// can. It starts with what the last process left.
func TestLag(t *testing.T) {
	w, dir := newWorld(), t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		x := open(t, dir, w)
		if lag := x.Lag(); lag.Entries != 0 || lag.Err != nil || !lag.Since.IsZero() {
			t.Errorf("a new index lags: %+v", lag)
		}
		inTheWay := filepath.Join(dir, "images.json.tmp")
		if err := os.Mkdir(inTheWay, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(inTheWay, "file"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		publish(t, x, w.candidate("refs/tags/v1.0.0", "a", "A", 0))
		<-time.After(time.Minute) // which passes at once here
		began := time.Now()
		first := x.Lag()
		if first.Entries != 2 || first.Err == nil || began.Sub(first.Since) < 50*time.Second || began.Sub(first.Since) > time.Minute {
			t.Errorf("images.json cannot be written: %+v at %s", first, began)
		}
		<-time.After(time.Minute)
		if lag := x.Lag(); !lag.Since.Equal(first.Since) || lag.Entries != 2 {
			t.Errorf("a minute later %+v, want the same as %+v", lag, first)
		}
		if err := os.RemoveAll(inTheWay); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Minute)
		if lag := x.Lag(); lag.Entries != 0 || lag.Err != nil || !lag.Since.IsZero() {
			t.Errorf("images.json can be written again: %+v", lag)
		}
		if err := x.Close(); err != nil {
			t.Error(err)
		}
	})
	if lag := open(t, dir, w).Lag(); lag.Entries != 0 {
		t.Errorf("the next process begins with %+v", lag)
	}
}
