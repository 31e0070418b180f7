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
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/index"
	"github.com/imgd/imgd/version"
)

// element is one of the plain form: at minute at the tag came to name the root.
func element(tag, root string, at int) map[string]any {
	return map[string]any{"ImageName": "tools/lint", "Tag": tag, "Digest": digest.FromString(root), "PublishedAt": epoch.Add(time.Duration(at-100) * time.Minute),
		"SourceRef": "https://ci:secret@git.test/lint.git@" + commit("a"), "Labels": map[string]string{"env": "prod"}}
}

// past is the plain form of these elements.
func past(elements ...map[string]any) []byte {
	b, err := json.Marshal(elements)
	if err != nil {
		panic(err)
	}
	return b
}

func importing(text []byte) index.Import {
	return index.Import{Name: "past.json", Text: text, Now: epoch}
}

func imports(t *testing.T, dir string, in index.Import) index.Imported {
	t.Helper()
	done, err := index.ImportInto(dir, in)
	if err != nil {
		t.Fatal(err)
	}
	return done
}

// The plain form becomes published releases in the order of its times, which are
// not told. What differs by the tag only is one release, and moving tags know the
// version of what they name.
func TestImportPlain(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "index")
	text := past(element("v1.1.0", "B", 20), element("v1.0.0", "A", 10), element("1.1", "B", 20), element("latest", "B", 30), element("stable", "A", 40))
	done := imports(t, dir, importing(text))
	if done.Count(index.ImportNew) != 5 || done.Releases != 4 || !done.Changed || done.Whole || done.ID == "" {
		t.Errorf("got %+v", done)
	}
	if _, err := index.Check(dir); err != nil {
		t.Error(err)
	}
	w := newWorld()
	x := open(t, dir, w)
	if x.ID() != done.ID || len(x.Published(x.Told())) != 0 {
		t.Errorf("index %s, want %s; untold: %v", x.ID(), done.ID, x.Published(x.Told()))
	}
	var order []string
	for _, rel := range x.Published(0) {
		order = append(order, rel.Tags[0].Name)
		if !rel.Pushed || rel.Read() || rel.Request.By != "import" || rel.Seq == 0 {
			t.Errorf("got %+v", rel)
		}
	}
	if want := []string{"v1.0.0", "v1.1.0", "latest", "stable"}; !slices.Equal(order, want) {
		t.Errorf("got releases of %v, want %v", order, want)
	}
	got := x.Tag("tools/lint", "latest")
	want := imgd.Record{Image: "tools/lint", Tag: "latest", Digest: digest.FromString("B"), Platform: "linux/amd64", PublishedAt: epoch.Add(-70 * time.Minute),
		SourceRef: "https://git.test/lint@" + commit("a"), Version: "v1.1.0", Labels: map[string]string{"env": "prod"}, Generation: 1, Release: x.Published(0)[2].ID}
	if len(got) != 1 || fmt.Sprint(got[0]) != fmt.Sprint(want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	kinds := map[string]version.Kind{}
	for _, rel := range x.Published(0) {
		for _, tag := range rel.Tags {
			kinds[tag.Name] = tag.Kind
		}
	}
	if want := fmt.Sprint(map[string]version.Kind{"v1.0.0": "version", "v1.1.0": "version", "1.1": "series", "latest": "series", "stable": "other"}); fmt.Sprint(kinds) != want {
		t.Errorf("got kinds %v, want %s", kinds, want)
	}
	// An older build does not take what names a newer version, and a newer one does.
	for _, build := range []struct{ ref, takes string }{{"refs/tags/v1.0.1", "v1.0.1 1.0"}, {"refs/tags/v1.2.0", "v1.2.0 1.2 latest"}} {
		rel := w.candidate(build.ref, "b", build.ref, 1)
		rel.Image = "tools/lint"
		var takes []string
		for _, tag := range publish(t, x, rel).Taken() {
			takes = append(takes, tag.Name)
		}
		if got := strings.Join(takes, " "); got != build.takes {
			t.Errorf("%s takes %s, want %s", build.ref, got, build.takes)
		}
	}
}

// As an array or one a line, again or not, with what is new or not: what is there
// stays as it is.
func TestImportAgain(t *testing.T) {
	dir := t.TempDir()
	text := past(element("v1.0.0", "A", 10), element("v1.1.0", "B", 20), element("v1.0.0", "A", 30))
	if done := imports(t, dir, importing(text)); done.Count(index.ImportNew) != 2 || done.Count(index.ImportSame) != 1 {
		t.Errorf("got %+v", done)
	}
	once := images(t, dir)
	var elements []json.RawMessage
	if err := json.Unmarshal(text, &elements); err != nil {
		t.Fatal(err)
	}
	lines := []byte(fmt.Sprintf("%s\n%s\n\n%s\n", elements[0], elements[1], elements[2]))
	for _, again := range [][]byte{text, lines, []byte("[]")} {
		if done := imports(t, dir, importing(again)); done.Changed || done.Count(index.ImportNew) != 0 {
			t.Errorf("got %+v of %s", done, again)
		}
		if got := images(t, dir); got != once {
			t.Errorf("got %s\nwant %s", got, once)
		}
	}
	more := importing(past(element("v1.0.0", "A", 10), element("v1.2.0", "C", 50)))
	more.DryRun = true
	if done := imports(t, dir, more); !done.Changed || done.Count(index.ImportNew) != 1 || images(t, dir) != once {
		t.Errorf("dry: got %+v and %s", done, images(t, dir))
	}
	more.DryRun = false
	if done := imports(t, dir, more); done.Releases != 1 || images(t, dir) == once {
		t.Errorf("got %+v", done)
	}
}

// A tag that is to name something else is a conflict, which names both; nothing
// is written.
func TestImportConflict(t *testing.T) {
	w, dir := newWorld(), t.TempDir()
	x := open(t, dir, w)
	a := publish(t, x, w.candidate("refs/tags/v1.0.0", "a", "A", 1))
	untag := publish(t, x, command(1, nil, 2, "latest"))
	if err := x.SetTold(t.Context(), x.Seq()); err != nil {
		t.Fatal(err)
	}
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	before := images(t, dir)
	of := func(tag, root string) map[string]any {
		e := element(tag, root, 10)
		e["ImageName"] = image
		return e
	}
	for _, c := range []struct {
		what     string
		elements []map[string]any
		words    []string
	}{
		{"another digest", []map[string]any{of("v9.0.0", "X"), of("v1.0.0", "B")}, []string{"element 2: demo/hello:v1.0.0", a.ID, digest.FromString("A").String(), digest.FromString("B").String()}},
		{"another digest of a moving tag", []map[string]any{of("1.0", "B")}, []string{"element 1", a.ID}},
		{"a removed tag", []map[string]any{of("latest", "A")}, []string{"element 1", "removed by release " + untag.ID}},
		{"two elements", []map[string]any{of("v2.0.0", "A"), of("v2.0.0", "B")}, []string{"element 2: demo/hello:v2.0.0", "element 1 says"}},
	} {
		done, err := index.ImportInto(dir, importing(past(c.elements...)))
		if !errors.Is(err, imgd.ErrConflict) || done.Changed || done.Count(index.ImportConflict) != 1 {
			t.Errorf("%s: got %+v, %v", c.what, done, err)
			continue
		}
		for _, words := range c.words {
			if !strings.Contains(err.Error(), words) {
				t.Errorf("%s: %q does not say %q", c.what, err, words)
			}
		}
		if got := images(t, dir); got != before {
			t.Errorf("%s: got %s\nwant %s", c.what, got, before)
		}
	}
	if done := imports(t, dir, importing(past(of("v1.0.0", "A")))); done.Count(index.ImportSame) != 1 || done.Changed {
		t.Errorf("the same: got %+v", done)
	}
}

// Each bad element is named, and nothing is written.
func TestImportBad(t *testing.T) {
	without := func(key string, value any) map[string]any {
		e := element("v1.0.0", "A", 10)
		if e[key] = value; value == nil {
			delete(e, key)
		}
		return e
	}
	text := past(element("v1.0.0", "A", 10), without("Digest", "sha256:12"), without("SourceRef", "https://git.test/lint"), without("PublishedAt", nil),
		without("PublishedAt", epoch.Add(time.Second)), without("Tag", 7), without("Size", 7), without("ImageName", "registry:5000/Lint"), without("Platform", "amd64"))
	dir := filepath.Join(t.TempDir(), "index")
	_, err := index.ImportInto(dir, importing(text))
	for n, words := range map[int]string{2: "digest", 3: "source", 4: "PublishedAt: want a time", 5: "yet to come", 6: "Tag", 7: `unknown field "Size"`, 8: "image", 9: "platform"} {
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("element %d: ", n)) || !strings.Contains(err.Error(), words) {
			t.Errorf("got %v, want it to say %q of element %d", err, words, n)
		}
	}
	if strings.Contains(err.Error(), "element 1:") || strings.Contains(err.Error(), "secret") {
		t.Errorf("got %v", err)
	}
	for _, bad := range []string{"[", `[{}`, `[{},`, `{"ImageName":`, "[] []", `"schema"`, "7", "\x00", `[null]`} {
		if _, err := index.ImportInto(dir, importing([]byte(bad))); err == nil || !strings.Contains(err.Error(), "past.json: element ") {
			t.Errorf("%s: got %v", bad, err)
		}
	}
	if _, err := index.ImportInto(dir, importing([]byte("\n"))); err == nil || !strings.Contains(err.Error(), "it is empty") {
		t.Errorf("of nothing: got %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "images.json")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("there is an images.json: %v", err)
	}
}

// What waits to be told is not silenced by what never is.
func TestImportBesideUntold(t *testing.T) {
	w, dir := newWorld(), t.TempDir()
	x := open(t, dir, w)
	first := publish(t, x, w.candidate("refs/tags/v1.0.0", "a", "A", 1))
	in := importing(past(element("v1.0.0", "A", 10)))
	if _, err := index.ImportInto(dir, in); !errors.Is(err, index.ErrInUse) || !strings.Contains(err.Error(), fmt.Sprint("process ", os.Getpid())) {
		t.Errorf("in use: got %v", err)
	}
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := index.ImportInto(dir, in); err == nil || !strings.Contains(err.Error(), "not announced yet") {
		t.Errorf("got %v", err)
	}
	in.Announce, in.Registry, in.Moving = true, "registry.test", true
	imports(t, dir, in)
	x = open(t, dir, w)
	untold := x.Published(x.Told())
	if len(untold) != 2 || untold[0].ID != first.ID || untold[1].Repositories[0] != "registry.test/tools/lint" || untold[1].Tags[0].Kind != version.KindOther {
		t.Errorf("got %+v", untold)
	}
}

// An export becomes the index that it is of, where there is none or an empty one.
func TestImportWhole(t *testing.T) {
	_, text, id, _ := recoverable(t)
	whole := importing([]byte(text))
	lost, empty, other := filepath.Join(t.TempDir(), "index"), t.TempDir(), t.TempDir()
	open(t, empty, newWorld()).Close()
	for _, dir := range []string{lost, empty} {
		for again := range 3 {
			done := imports(t, dir, whole)
			if !done.Whole || done.ID != id || done.Changed != (again == 0) || done.Releases != 1 || images(t, dir) != text {
				t.Errorf("got %+v and %s", done, images(t, dir))
			}
		}
		w := newWorld()
		x := open(t, dir, w)
		publish(t, x, w.candidate("refs/tags/v3.0.0", "c", "C", 3))
		if err := x.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := index.ImportInto(dir, whole); !errors.Is(err, imgd.ErrConflict) || !strings.Contains(err.Error(), "index "+id+" is there") {
			t.Errorf("over what has gone on: got %v", err)
		}
	}
	damaged := importing([]byte(strings.Replace(text, "v1.0.0", "v1.0.1", 1)))
	if _, err := index.ImportInto(other, damaged); err == nil || !strings.Contains(err.Error(), "past.json:") || !strings.Contains(err.Error(), "crc32c") {
		t.Errorf("damaged: got %v", err)
	}
	newer := importing([]byte(strings.Replace(text, `"schema":1`, `"schema":2`, 1)))
	if _, err := index.ImportInto(other, newer); err == nil || !strings.Contains(err.Error(), "format 2") {
		t.Errorf("of a newer format: got %v", err)
	}
	if err := os.Remove(filepath.Join(empty, "images.json")); err != nil {
		t.Fatal(err)
	}
	imports(t, empty, whole) // the lock says that it was here
	_, foreign, _, _ := recoverable(t)
	if err := os.Remove(filepath.Join(empty, "images.json")); err != nil {
		t.Fatal(err)
	}
	if _, err := index.ImportInto(empty, importing([]byte(foreign))); !errors.Is(err, imgd.ErrConflict) || !strings.Contains(err.Error(), id) {
		t.Errorf("another one where %s was: got %v", id, err)
	}
	if _, err := index.ImportInto(empty, importing(past(element("v1.0.0", "A", 1)))); err == nil || !strings.Contains(err.Error(), "was here and is gone") {
		t.Errorf("a past where %s was: got %v", id, err)
	}
}

// Whatever is to be imported, it becomes an index that is sound, or is refused;
// and it is there when it is imported again.
func FuzzImport(f *testing.F) {
	f.Add(past(element("v1.0.0", "A", 10), element("latest", "A", 10)))
	f.Add([]byte(`{"ImageName":"a","Tag":"b","Digest":"sha256:` + strings.Repeat("0", 64) + `","PublishedAt":"2026-01-01T00:00:00+01:00","SourceRef":"git@git.test:a@` + commit("a") + `"}` + "\n"))
	f.Add([]byte(`{"schema":1,"id":"x","seq":0,"hash":"x","told":0,"records":[],"tags":[],"releases":[],` + "\n\"crc32c\":\"00000000\"}\n"))
	f.Add([]byte(`[{"ImageName":"a"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		dir := t.TempDir()
		look := importing(text)
		look.DryRun = true
		would, err := index.ImportInto(dir, look)
		if err != nil && would.Changed {
			t.Fatalf("%+v, and %v", would, err)
		}
		if !would.Changed {
			return
		}
		if done, err := index.ImportInto(dir, importing(text)); err != nil || !done.Changed {
			t.Fatalf("%+v, %v", done, err)
		}
		if _, err := index.Check(dir); err != nil {
			t.Fatal(err)
		}
		if again, err := index.ImportInto(dir, importing(text)); err != nil || again.Changed {
			t.Fatalf("again: %+v, %v", again, err)
		}
	})
}

// What a release is about to take is nobody's yet: it may be given up. And some
// systems begin a text with a mark of its encoding.
func TestImportBesideClaim(t *testing.T) {
	dir, w := t.TempDir(), newWorld()
	x := open(t, dir, w)
	rel := w.candidate("refs/tags/v1.0.0", "a", "A", 1)
	rel.Image = "tools/lint"
	if _, err := x.Admit(t.Context(), rel, ""); err != nil {
		t.Fatal(err)
	}
	x.Close()
	_, err := index.ImportInto(dir, importing(past(element("v1.0.0", "A", 1))))
	if !errors.Is(err, imgd.ErrConflict) || !strings.Contains(err.Error(), "is about to take it") {
		t.Errorf("got %v, want a conflict with who is about to take it", err)
	}
	marked := append([]byte("\xef\xbb\xbf"), past(element("v9.0.0", "A", 1))...)
	if done := imports(t, dir, importing(marked)); done.Count(index.ImportNew) != 1 {
		t.Errorf("got %+v", done)
	}
}
