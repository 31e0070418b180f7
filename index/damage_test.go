package index_test

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/imgd/imgd/index"
)

// refusedAt wants a refusal that says which file, and what to do.
func (l *logged) refusedAt(what, name string) {
	l.Helper()
	_, err := index.Check(l.dir)
	if err == nil {
		l.Fatalf("%s: accepted", what)
	}
	if !strings.Contains(err.Error(), l.file(name)+":") || !strings.Contains(err.Error(), "restore the whole directory") {
		l.Fatalf("%s: %q does not say where and what to do", what, err)
	}
}

// Whatever its length, and whichever bit has turned, images.json is refused, be there something in the journal or not. The one
// before is read by nobody.
func TestDamagedSnapshot(t *testing.T) {
	l := journaled(t, 1)
	x := still(t, l.dir, l.w)
	if err := x.Snapshot(); err != nil {
		t.Fatal(err)
	}
	if err := x.Kill(); err != nil {
		t.Fatal(err)
	}
	good := l.read("images.json")
	file, err := os.OpenFile(l.file("images.json"), os.O_RDWR, 0) // not written anew each time: file systems hurry that to the disk
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	put := func(b []byte, at int) {
		if _, err := file.WriteAt(b, int64(at)); err != nil {
			t.Fatal(err)
		}
	}
	for _, journal := range [][]byte{nil, l.journal} {
		l.write("journal", journal)
		for n := len(good) - 1; n >= 0; n-- {
			for bit := range 8 {
				put([]byte{good[n] ^ 1<<bit}, n)
				l.refusedAt(fmt.Sprintf("bit %d of byte %d, %d bytes of journal", bit, n, len(journal)), "images.json")
			}
			put(good[n:n+1], n)
		}
		for n := len(good) - 1; n >= 0; n-- {
			if err := file.Truncate(int64(n)); err != nil {
				t.Fatal(err)
			}
			l.refusedAt(fmt.Sprintf("cut at %d, %d bytes of journal", n, len(journal)), "images.json")
		}
		put(good, 0)
		l.write("images.json.prev", good[:len(good)/2])
		if found, err := index.Check(l.dir); err != nil || found.Seq != 2 {
			t.Errorf("after all that, entry %d, %v; want entry 2", found.Seq, err)
		}
	}
}

// A newer format is not damage.
func TestNewerFormat(t *testing.T) {
	l := journaled(t, 1)
	newer := bytes.Replace(l.read("images.json"), []byte(`"schema":1`), []byte(`"schema":2`), 1)
	body := newer[:bytes.LastIndex(newer, []byte(`"crc32c"`))]
	l.write("images.json", fmt.Appendf(nil, "%s\"crc32c\":\"%08x\"}\n", body, crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli))))
	_, err := index.Check(l.dir)
	if err == nil || !strings.Contains(err.Error(), "format 2") || strings.Contains(err.Error(), "damaged") {
		t.Errorf("got %v, want a refusal that names format 2", err)
	}
}

// Where images.json stops being JSON is told by its line.
func TestDamagedLine(t *testing.T) {
	l := journaled(t, 1)
	good := l.read("images.json")
	lines := bytes.SplitAfter(good, []byte("\n"))
	for n := range lines[:len(lines)-1] {
		b := bytes.Join([][]byte{bytes.Join(lines[:n], nil), []byte("\x00"), bytes.Join(lines[n:], nil)}, nil)
		l.write("images.json", b)
		if _, err := index.Check(l.dir); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%s:%d: ", l.file("images.json"), n+1)) {
			t.Errorf("got %v, want it to name line %d", err, n+1)
		}
	}
}

// What is missing beside the rest is refused, or is not needed.
func TestMissingFiles(t *testing.T) {
	l := journaled(t, 2)
	older := l.read("images.json") // as of no entry
	remove := func(name string) {
		t.Helper()
		if err := os.Remove(l.file(name)); err != nil {
			t.Fatal(err)
		}
	}
	opens := func(what string, want uint64) {
		t.Helper()
		x, err := index.OpenStill(index.Config{Dir: l.dir, History: l.w, Registry: l.w})
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if x.Seq() != want {
			t.Errorf("%s: entry %d, want %d", what, x.Seq(), want)
		}
		if err := x.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Rename(l.file("journal"), l.file("journal.older")); err != nil {
		t.Fatal(err)
	}
	opens("killed before the new journal was made", 4)

	x := still(t, l.dir, l.w)
	if err := x.Snapshot(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(l.file("journal.older")); err == nil {
		t.Error("journal.older is still there after a snapshot")
	}
	if err := x.Kill(); err != nil {
		t.Fatal(err)
	}
	remove("journal")
	opens("images.json alone", 4)

	newest := l.read("images.json")
	l.write("journal.older", l.journal)
	opens("journal.older that images.json has", 4)
	remove("journal.older")

	x = still(t, l.dir, l.w)
	if err := x.SetTold(t.Context(), 4); err != nil {
		t.Fatal(err)
	}
	if err := x.Kill(); err != nil {
		t.Fatal(err)
	}
	l.write("images.json", older)
	l.refusedAt("an old images.json beside a newer journal", "journal")
	l.write("images.json", newest)
	opens("with the right one again", 5)

	remove("images.json")
	if _, err := index.OpenStill(index.Config{Dir: l.dir, History: l.w, Registry: l.w}); err == nil || !strings.Contains(err.Error(), l.file("images.json")) {
		t.Errorf("without images.json: got %v, want a refusal that names it", err)
	}
	remove("lock") // which says that an index was here
	if _, err := index.OpenStill(index.Config{Dir: l.dir, History: l.w, Registry: l.w}); err == nil || !strings.Contains(err.Error(), l.file("journal")) {
		t.Errorf("without images.json and lock: got %v, want a refusal that names the journal", err)
	}
}

// A second process is told who has the index open.
func TestSecondProcess(t *testing.T) {
	dir := t.TempDir()
	open(t, dir, newWorld())
	second := exec.Command(os.Args[0])
	second.Env = append(os.Environ(), writerDir+"="+dir)
	said, err := second.CombinedOutput()
	if err == nil || !strings.Contains(string(said), fmt.Sprintf("%s is in use by process %d", dir, os.Getpid())) {
		t.Errorf("got %v, %q, want a refusal that names process %d", err, said, os.Getpid())
	}
}
