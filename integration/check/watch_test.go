package check_test

import (
	"strings"
	"testing"
	"time"

	"github.com/imgd/imgd/integration/check"
)

// Each step is from the good world, or that after its end, to a forged one of the latter.
func TestWatcher(t *testing.T) {
	const rewritten = "five"
	for _, test := range []struct {
		name  string
		forge func(*check.World)
		want  string // empty: nothing
	}{
		{"nothing new", func(*check.World) {}, ""},
		{"a later commit of the branch", func(w *check.World) { w.Index.Tags[tagMain].Mark.Commit = commit("six") }, ""},
		{"a commit of a branch that was rewritten", func(w *check.World) { w.Index.Tags[tagMain].Mark.Commit = commit(rewritten) }, ""},
		{"an older commit of the branch", func(w *check.World) { w.Index.Tags[tagMain].Mark.Commit = commit("one") }, "I5: demo/hello:main: its mark was"},
		{"the same commit, asked for earlier", func(w *check.World) {
			w.Index.Tags[tagMain].Mark.AskedAt = monday
		}, "asked for earlier"},
		{"a mark that is gone", func(w *check.World) { w.Index.Tags[tagMain].Mark = check.Mark{} }, "it is gone"},
		{"a lower version", func(w *check.World) { w.Index.Tags[tagLatest].Mark.Version = "v0.9.0" }, "a lower version"},
		{"a higher version, asked for earlier", func(w *check.World) {
			w.Index.Tags[tagLatest].Mark = check.Mark{Version: "v1.10.0", AskedAt: monday}
		}, ""},
		{"the same version, asked for earlier", func(w *check.World) { w.Index.Tags[tagLatest].Mark.AskedAt = monday }, "asked for earlier"},
		{"a lower generation", func(w *check.World) { w.Index.Tags[tagMain].Generation = 1 }, "I4: demo/hello:main was a branch tag"},
		{"another kind", func(w *check.World) { w.Index.Tags[tagMain].Kind = "other" }, "I4: demo/hello:main was a branch tag"},
		{"another ref", func(w *check.World) { w.Index.Tags[tagMain].Ref = "refs/heads/other" }, "I4: demo/hello:main was a branch tag"},
		{"a tag that is forgotten", func(w *check.World) { w.Index.Tags = w.Index.Tags[1:] }, "I4: demo/hello:aaa was a commit tag"},
		{"a generation of another root", func(w *check.World) { w.Index.Tags[tagTwo].Holder = first.ID + "-1" }, "I4: demo/hello:bbb: generation 1 was that of"},
		{"a release that is forgotten", func(w *check.World) { w.Index.Releases = w.Index.Releases[1:] }, "I4: release " + first.ID + "-1, which was published"},
		{"history that is rewritten", func(w *check.World) { w.Index.Releases[relOne].PublishedAt = monday }, "I4: release " + first.ID + "-1 was {"},
		{"an index that has gone back", func(w *check.World) { w.Index.Seq = 8 }, "I4: index"},
		{"told less", func(w *check.World) { w.Index.Told = 5 }, "I4: index"},
		{"another index", func(w *check.World) { w.Index.ID = "x" }, "I4: index x"},
		{"an event that is gone", func(w *check.World) { w.Events = w.Events[1:] }, "I2: message 1 of IMGD_EVENTS was"},
		{"an event in place of another", func(w *check.World) { w.Events[1].ID = "x-1" }, "I2: message 2 of IMGD_EVENTS was"},
		{"published, and then failed", func(w *check.World) { setState(w, first, check.Failed, "") }, "I3: request " + first.ID + " was published"},
		{"published, and asked again", func(w *check.World) {
			r := first
			r.AskedAt = monday.Add(time.Hour)
			setState(w, r, "queued", "")
		}, ""},
		{"an end that is gone", func(w *check.World) { delete(w.States, moved.ID) }, "I3: request " + moved.ID + " was conflict"},
		{"the state of an earlier ask", func(w *check.World) { setAskedAt(w, moved.ID, monday) }, "I3: request " + moved.ID + " was conflict"},
	} {
		watcher := &check.Watcher{Follows: func(_, _, old, now string) bool {
			return old == second.Commit && now == running.Commit || now == commit("six") || now == commit(rewritten)
		}}
		w := good()
		wrong := watcher.Watch(w)
		w = good()
		endRunning(w)
		if wrong = append(wrong, watcher.Watch(w)...); len(wrong) > 0 {
			t.Fatalf("from good to good: %s", strings.Join(wrong, "\n"))
		}
		w = good()
		endRunning(w)
		test.forge(w)
		wrong = watcher.Watch(w)
		if got := strings.Join(wrong, "\n"); !strings.Contains(got, test.want) || test.want == "" && got != "" {
			t.Errorf("%s: got %q, want %q in it", test.name, got, test.want)
		}
	}
}

func TestWatcherOfOpenReleases(t *testing.T) {
	watcher := &check.Watcher{}
	if wrong := watcher.Watch(good()); len(wrong) > 0 {
		t.Fatal(wrong)
	}
	w := good()
	delete(w.States, running.ID) // it may stand under another ID, once its commit is known
	if wrong := watcher.Watch(w); len(wrong) > 0 {
		t.Error(wrong)
	}
	w = good()
	w.Index.Releases[relOpen].Root.Digest = other
	if got, want := strings.Join(watcher.Watch(w), "\n"), "I4: release "+running.ID+"-1 was of"; !strings.Contains(got, want) {
		t.Errorf("got %q, want %q in it", got, want)
	}
}
