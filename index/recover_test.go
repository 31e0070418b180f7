package index_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/index"
)

// toldBy are the events of the releases, of the index with that ID.
func toldBy(id string, rels []imgd.Release) index.Events {
	return index.Events{ID: id, Read: func(each func(imgd.Release) error) error {
		for _, rel := range rels {
			if err := each(rel); err != nil {
				return err
			}
		}
		return nil
	}}
}

// putBack makes dir an index of which images.json is all there is.
func putBack(t interface{ Fatal(...any) }, dir, images string) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "images.json"), []byte(images), 0o644); err != nil {
		t.Fatal(err)
	}
}

// A document is the parts of images.json that come back.
type document struct {
	Records  []json.RawMessage
	Tags     []map[string]any
	Releases []map[string]any
}

// lasting is what an index says of all that was published: its records, the tags
// that were ever held, without their claims, and the releases.
func lasting(t interface{ Fatal(...any) }, dir string) string {
	text, err := index.Export(dir)
	var d document
	if err == nil {
		err = json.Unmarshal(text, &d)
	}
	if err != nil {
		t.Fatal(err)
	}
	open := map[any]bool{nil: true}
	for _, rel := range d.Releases {
		open[rel["id"]] = rel["state"] == "admitted"
	}
	d.Tags = slices.DeleteFunc(d.Tags, func(tag map[string]any) bool {
		if !open[tag["claim"]] {
			t.Fatal(fmt.Sprintf("a release that is not open claims %v", tag))
		}
		delete(tag, "claim")
		return tag["holder"] == nil
	})
	d.Releases = slices.DeleteFunc(d.Releases, func(rel map[string]any) bool { return rel["state"] != "published" })
	b, err := json.MarshalIndent(d, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// differing are the lines of each that the other does not have at that place.
func differing(got, want string) string {
	var out strings.Builder
	a, b := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range max(len(a), len(b)) {
		if x, y := at(a, i), at(b, i); x != y {
			fmt.Fprintf(&out, "\n%d got  %s\n%d want %s", i, x, i, y)
		}
	}
	return out.String()
}

func at(lines []string, i int) string {
	if i < len(lines) {
		return lines[i]
	}
	return ""
}

// From any copy of itself, or from none, an index comes back as it was: records,
// generations, marks, history. Then it goes on, and no rule is broken by that, no
// generation used twice and no change missed.
func TestRecoverInAnyOrder(t *testing.T) {
	base, runs := t.TempDir(), 0
	rapid.Check(t, func(t *rapid.T) {
		runs++
		m := &medley{world: newWorld(), dir: filepath.Join(base, fmt.Sprint(runs)), mirror: &mirror{records: map[string]imgd.Record{}}, roots: map[string]string{}, last: map[string]uint64{}}
		m.parents[commit("b")], m.parents[commit("c")] = commit("a"), commit("b")
		m.open(t)
		defer func() { m.Close(); os.RemoveAll(m.dir) }()
		commands := map[string]func(*rapid.T){"build": m.build, "push": m.push, "command": m.command, "end": m.end, "end too": m.end}
		t.Repeat(commands)
		copied, err := index.Export(m.dir)
		if err != nil {
			t.Fatal(err)
		}
		if rapid.Bool().Draw(t, "tell") {
			if err := m.SetTold(t.Context(), rapid.Uint64Range(0, m.Seq()).Draw(t, "told")); err != nil {
				t.Fatal(err)
			}
		}
		t.Repeat(commands)
		m.check(t)
		id, told, seq := m.ID(), m.Published(0), m.Seq()
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
		want := lasting(t, m.dir)
		if err := os.RemoveAll(m.dir); err != nil {
			t.Fatal(err)
		}
		if rapid.Bool().Draw(t, "a copy is there") {
			putBack(t, m.dir, string(copied))
		}
		done, err := index.RecoverFrom(m.dir, toldBy(id, told), false)
		if err != nil {
			t.Fatal(err)
		}
		if got := lasting(t, m.dir); got != want {
			t.Fatalf("it differs from line to line: %s", differing(got, want))
		}
		if _, err := index.Check(m.dir); err != nil {
			t.Fatal(err)
		}
		m.open(t)
		if m.ID() != id || len(done.Releases) > 0 && (m.Seq() <= seq || len(m.Published(m.Told())) > 0) {
			t.Fatalf("index %s at entry %d, was %s at %d; told again: %v", m.ID(), m.Seq(), id, seq, m.Published(m.Told()))
		}
		m.check(t)
		t.Repeat(commands)
		m.check(t)
	})
}

// recoverable is an index with two releases, a copy of it after the first, and
// what it has told.
func recoverable(t *testing.T) (dir, copied, id string, told []imgd.Release) {
	w, dir := newWorld(), t.TempDir()
	x := open(t, dir, w)
	publish(t, x, w.candidate("refs/tags/v1.0.0", "a", "A", 1))
	copied = images(t, dir)
	publish(t, x, w.candidate("refs/tags/v1.1.0", "b", "B", 2))
	id, told = x.ID(), x.Published(0)
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	return dir, copied, id, told
}

// What was done is done once, a look changes nothing, and so does an error.
func TestRecoverAgain(t *testing.T) {
	_, copied, id, told := recoverable(t)
	dir := filepath.Join(t.TempDir(), "index")
	putBack(t, dir, copied)
	recovered := func(dry bool, lacked int) {
		t.Helper()
		done, err := index.RecoverFrom(dir, toldBy(id, told), dry)
		if err != nil || len(done.Releases) != lacked || done.Read != 2 || done.ID != id || done.Made {
			t.Errorf("got %+v, %v; want %d releases that it lacked", done, err, lacked)
		}
	}
	recovered(true, 1)
	broken := errors.New("the connection is lost")
	events := toldBy(id, told)
	read := events.Read
	events.Read = func(each func(imgd.Release) error) error { return errors.Join(read(each), broken) }
	if _, err := index.RecoverFrom(dir, events, false); !errors.Is(err, broken) {
		t.Errorf("got %v, want %v", err, broken)
	}
	if got := images(t, dir); got != copied {
		t.Errorf("got %s\nwant %s", got, copied)
	}
	recovered(false, 1)
	once := images(t, dir)
	recovered(false, 0)
	recovered(true, 0)
	if again := images(t, dir); again != once {
		t.Errorf("got %s\nwant %s", again, once)
	}
}

// A tag that nobody has held is of the kind of who took it first and held it, and
// not of who claimed it in the copy and was abandoned since.
func TestRecoverKinds(t *testing.T) {
	w, dir := newWorld(), t.TempDir()
	w.heads["refs/heads/main"] = commit("b")
	x := open(t, dir, w)
	a := publish(t, x, w.candidate("refs/tags/v1.0.0", "a", "A", 1))
	claim, err := x.Admit(t.Context(), command(1, &a, 2, "main"), "")
	if err != nil {
		t.Fatal(err)
	}
	copied := images(t, dir)
	if _, err := x.Abandon(t.Context(), claim.ID, "dropped by ada"); err != nil {
		t.Fatal(err)
	}
	publish(t, x, w.candidate("refs/heads/main", "b", "B", 3))
	id, told := x.ID(), x.Published(0)
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	want := lasting(t, dir)
	again := t.TempDir()
	putBack(t, again, copied)
	done, err := index.RecoverFrom(again, toldBy(id, told), false)
	if err != nil || len(done.Open) != 1 || done.Open[0].ID != claim.ID {
		t.Fatalf("got %+v, %v; want release %s to be open", done, err, claim.ID)
	}
	if got := lasting(t, again); got != want {
		t.Errorf("it differs: %s", differing(got, want))
	}
}

// What has not come to the events is told, once.
func TestRecoverLeavesUntold(t *testing.T) {
	dir, _, id, told := recoverable(t)
	if _, err := index.RecoverFrom(dir, toldBy(id, told[:1]), false); err != nil {
		t.Fatal(err)
	}
	x := open(t, dir, newWorld())
	if left := x.Published(x.Told()); len(left) != 2 { // of the first the relay finds the event
		t.Errorf("got %v, want both", left)
	}
	_, copied, id, told := recoverable(t)
	dir = t.TempDir()
	putBack(t, dir, copied)
	if _, err := index.RecoverFrom(dir, toldBy(id, told[1:]), false); err != nil { // the first event has gone
		t.Fatal(err)
	}
	x = open(t, dir, newWorld())
	if left := x.Published(x.Told()); len(left) != 2 || left[0].ID != told[0].ID {
		t.Errorf("got %v, want the first and what came after it", left)
	}
}

// What a release has lost before it was published is not its claim any more, and
// a branch tag stays its branch's though a command was the first to publish it.
func TestRecoverClaims(t *testing.T) {
	w, dir := newWorld(), t.TempDir()
	w.heads["refs/heads/main"] = commit("b")
	x := open(t, dir, w)
	a, err := x.Admit(t.Context(), w.candidate("refs/tags/v1.0.0", "a", "A", 1), "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := x.Admit(t.Context(), w.candidate("refs/heads/main", "b", "B", 2), ""); err != nil {
		t.Fatal(err)
	}
	copied := images(t, dir)
	if _, err := x.Forgo(t.Context(), a.ID, "latest", "refused"); err != nil {
		t.Fatal(err)
	}
	if a, err = x.Publish(t.Context(), a.ID); err != nil {
		t.Fatal(err)
	}
	publish(t, x, command(1, &a, 3, "main"))
	id, told := x.ID(), x.Published(0)
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	want := lasting(t, dir)
	for _, copied := range []string{copied, ""} {
		dir := t.TempDir()
		if copied != "" {
			putBack(t, dir, copied)
		}
		if _, err := index.RecoverFrom(dir, toldBy(id, told), false); err != nil {
			t.Fatal(err)
		}
		if got := lasting(t, dir); got != want {
			t.Errorf("it differs: %s", differing(got, want))
		}
	}
}

// An index that was put back and then written to is not the one that told these
// events. Nor is another one.
func TestRecoverRefuses(t *testing.T) {
	_, copied, id, told := recoverable(t)
	w, dir := newWorld(), filepath.Join(t.TempDir(), "index")
	other := strings.Repeat("0f", 16)
	refuses := func(what string, events index.Events, want error, words string) {
		t.Helper()
		before, _ := os.ReadFile(filepath.Join(dir, "images.json"))
		_, err := index.RecoverFrom(dir, events, false)
		if !errors.Is(err, want) || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: got %v, want %v that says %q", what, err, want, words)
		}
		if after, _ := os.ReadFile(filepath.Join(dir, "images.json")); string(after) != string(before) {
			t.Errorf("%s: images.json has changed", what)
		}
	}
	refuses("nothing at all", index.Events{}, imgd.ErrNotFound, "no event")
	putBack(t, dir, copied)
	refuses("another index", toldBy(other, told), imgd.ErrConflict, other)
	unread := slices.Clone(told)
	unread[1] = imgd.Release{ID: told[1].ID}
	refuses("an event without its release", toldBy(id, unread), imgd.ErrInvalid, told[1].ID)
	x := open(t, dir, w)
	publish(t, x, w.candidate("refs/heads/main", "c", "C", 3))
	_, err := index.RecoverFrom(dir, toldBy(id, told), false)
	if !errors.Is(err, index.ErrInUse) || !strings.Contains(err.Error(), fmt.Sprint("process ", os.Getpid())) {
		t.Errorf("in use: got %v", err)
	}
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	refuses("another way", toldBy(id, told), imgd.ErrConflict, told[1].ID)
	if err := os.Remove(filepath.Join(dir, "images.json")); err != nil {
		t.Fatal(err)
	}
	refuses("another one was here", toldBy(other, told), imgd.ErrConflict, "remove the file lock")
	if done, err := index.RecoverFrom(dir, toldBy(id, told), false); err != nil || !done.Made || len(done.Releases) != 2 {
		t.Errorf("lost: got %+v, %v", done, err)
	}
}

// An empty index that a daemon has begun in the place of the lost one gives way.
func TestRecoverOverEmpty(t *testing.T) {
	_, _, id, told := recoverable(t)
	dir := t.TempDir()
	x := open(t, dir, newWorld())
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	done, err := index.RecoverFrom(dir, toldBy(id, told), false)
	if err != nil || !done.Made {
		t.Fatalf("got %+v, %v", done, err)
	}
	if x = open(t, dir, newWorld()); x.ID() != id || !x.Has(told[1].ID, told[1].Seq) || x.Has(told[1].ID, 1) || x.Has("none-1", 1) {
		t.Errorf("index %s; has %v", x.ID(), x.Published(0))
	}
}
