package index_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/imgd/imgd/index"
)

const page = 4096

// still opens the index so that images.json does not follow by itself.
func still(t *testing.T, dir string, w *world) *index.Index {
	t.Helper()
	x, err := index.OpenStill(index.Config{Dir: dir, History: w, Registry: w})
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// A logged is a directory as a kill leaves it: an index whose journal has frames that images.json has not.
type logged struct {
	*testing.T
	w       *world
	dir     string
	journal []byte
	ends    []int // where each frame ends
}

// journaled writes n releases into the journal, each admitted in one frame and published in another.
func journaled(t *testing.T, n int) *logged {
	t.Helper()
	l := &logged{T: t, w: newWorld(), dir: t.TempDir()}
	x := still(t, l.dir, l.w)
	for i := range n {
		rel, err := x.Admit(t.Context(), l.w.candidate(fmt.Sprintf("refs/tags/v1.0.%d", i), "a", fmt.Sprint("root ", i), i), "")
		if err != nil {
			t.Fatal(err)
		}
		l.grown()
		if _, err := x.Publish(t.Context(), rel.ID); err != nil {
			t.Fatal(err)
		}
		l.grown()
	}
	if err := x.Kill(); err != nil {
		t.Fatal(err)
	}
	return l
}

func (l *logged) file(name string) string { return filepath.Join(l.dir, name) }

func (l *logged) read(name string) []byte {
	l.Helper()
	b, err := os.ReadFile(l.file(name))
	if err != nil {
		l.Fatal(err)
	}
	return b
}

func (l *logged) write(name string, b []byte) {
	l.Helper()
	if err := os.WriteFile(l.file(name), b, 0o644); err != nil {
		l.Fatal(err)
	}
}

func (l *logged) grown() {
	l.journal = l.read("journal")
	l.ends = append(l.ends, len(l.journal))
}

// shows is reads for who only looks.
func (l *logged) shows(journal []byte) (uint64, error) {
	l.Helper()
	l.write("journal", journal)
	found, err := index.Check(l.dir)
	return found.Seq, err
}

// reads is the entry that opening with this journal comes to, or the refusal.
func (l *logged) reads(journal []byte) (uint64, error) {
	l.Helper()
	l.write("journal", journal)
	x, err := index.OpenStill(index.Config{Dir: l.dir, History: l.w, Registry: l.w})
	if err != nil {
		return 0, err
	}
	defer x.Kill()
	seq := x.Seq()
	if left := l.read("journal"); len(left) != l.end(seq) || !bytes.Equal(left, journal[:len(left)]) {
		l.Errorf("opened at entry %d, the journal is left with %d bytes, want %d", seq, len(left), l.end(seq))
	}
	return seq, nil
}

// end is the length of the journal up to entry seq.
func (l *logged) end(seq uint64) int {
	if seq == 0 {
		return 0
	}
	return l.ends[seq-1]
}

// whole is the last entry of which n bytes of the journal have all.
func (l *logged) whole(n int) (seq uint64) {
	for _, end := range l.ends {
		if end <= n {
			seq++
		}
	}
	return seq
}

// Whatever its length, the journal gives back exactly the frames that are whole: what follows was never acknowledged.
func TestJournalCutAnywhere(t *testing.T) {
	l := journaled(t, 1)
	for n := range l.journal {
		if seq, err := l.reads(l.journal[:n]); err != nil || seq != l.whole(n) {
			t.Fatalf("cut at %d of %d: entry %d, %v; want entry %d", n, len(l.journal), seq, err, l.whole(n))
		}
		zeros := append(bytes.Clone(l.journal[:n]), make([]byte, len(l.journal)-n)...)
		seq, err := l.shows(zeros)
		if lost := len(l.journal) - n; lost < 2 || n < l.ends[len(l.ends)-2] { // a bit that has turned, or frames that were acknowledged
			if err == nil && seq != l.whole(n) {
				t.Fatalf("zeros from %d on: entry %d, want %d or a refusal", n, seq, l.whole(n))
			}
		} else if err != nil || seq != l.whole(n) {
			t.Fatalf("zeros from %d on: entry %d, %v; want entry %d", n, seq, err, l.whole(n))
		}
	}
}

// A bit that has turned is refused, with file and line, wherever it is: what it is in was acknowledged.
func TestJournalBitFlips(t *testing.T) {
	l := journaled(t, 1)
	name := l.file("journal")
	for i := range l.journal {
		for bit := range 8 {
			b := bytes.Clone(l.journal)
			b[i] ^= 1 << bit
			_, err := l.shows(b)
			if err == nil {
				t.Fatalf("bit %d of byte %d of %d turned: accepted", bit, i, len(b))
			}
			if !strings.Contains(err.Error(), name+":") || !strings.Contains(err.Error(), "restore") {
				t.Fatalf("bit %d of byte %d turned: %q does not say where and what to do", bit, i, err)
			}
		}
	}
}

// The pages of the last frame may come to the disk in any order: without all of them it is cut, whichever are there. An
// earlier frame was acknowledged, and lacks none.
func TestJournalPagesOutOfOrder(t *testing.T) {
	l := &logged{T: t, w: newWorld(), dir: t.TempDir()}
	x := still(t, l.dir, l.w)
	for i := range 2 {
		rel := l.w.candidate(fmt.Sprintf("refs/tags/v1.0.%d", i), "a", fmt.Sprint("root ", i), i)
		rel.Labels = map[string]string{"long": strings.Repeat("x", 3*page)}
		if _, err := x.Admit(t.Context(), rel, ""); err != nil {
			t.Fatal(err)
		}
		l.grown()
	}
	if err := x.Kill(); err != nil {
		t.Fatal(err)
	}
	last := l.ends[0]
	first, pages := last/page, (len(l.journal)-1)/page-last/page+1
	for mask := range 1<<pages - 1 {
		b := bytes.Clone(l.journal)
		for p := range pages {
			if mask&(1<<p) == 0 {
				from, to := max((first+p)*page, last), min((first+p+1)*page, len(b))
				clear(b[from:to])
			}
		}
		if seq, err := l.reads(b); err != nil || seq != 1 {
			t.Errorf("pages %0*b of the last frame: entry %d, %v; want entry 1", pages, mask, seq, err)
		}
	}
	b := bytes.Clone(l.journal)
	clear(b[page : 2*page])
	if seq, err := l.reads(b); err == nil {
		t.Errorf("a page is gone from a frame that was acknowledged: accepted at entry %d", seq)
	}
}

// Entries that do not follow from one another are refused, though each frame is as it was written.
func TestJournalChain(t *testing.T) {
	l := journaled(t, 2)
	other := journaled(t, 2)
	frame := func(l *logged, i int) []byte { return l.journal[l.end(uint64(i)):l.ends[i]] }
	images := l.read("images.json")
	for _, tt := range []struct {
		name    string
		journal []byte
	}{
		{"the first is gone", l.journal[l.ends[0]:]},
		{"one between is gone", bytes.Join([][]byte{frame(l, 0), frame(l, 2), frame(l, 3)}, nil)},
		{"one stands twice", bytes.Join([][]byte{frame(l, 0), frame(l, 1), frame(l, 1), frame(l, 3)}, nil)},
		{"another index's", other.journal},
		{"one is another index's", bytes.Join([][]byte{frame(l, 0), frame(other, 1)}, nil)},
	} {
		if seq, err := l.reads(tt.journal); err == nil {
			t.Errorf("%s: accepted at entry %d", tt.name, seq)
		}
		l.write("images.json", images)
	}
}
