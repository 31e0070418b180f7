package imgd_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgd/imgd"
)

// order gives a command as an operator repeats it under its ID until it is done.
func (w *world) order(c imgd.Command) (imgd.Release, error) {
	w.t.Helper()
	for range 8 {
		ctx, die := context.WithCancel(w.t.Context())
		w.die = die
		p := w.recorder()
		rel, _, err := p.Command(ctx, c)
		dead := ctx.Err() != nil
		die()
		if dead {
			w.index.Close()
			w.open()
		}
		if err == nil && !dead || isEnd(err) || errors.Is(err, imgd.ErrNotFound) {
			return rel, err
		}
	}
	w.t.Fatalf("no end after 8 tries; effects: %v", w.effects)
	return imgd.Release{}, nil
}

// obeyed gives a command that must be done.
func (w *world) obeyed(c imgd.Command) imgd.Release {
	w.t.Helper()
	rel, err := w.order(c)
	if err != nil || rel.State != imgd.ReleasePublished {
		w.t.Fatalf("%s %s: got %q, %v", c.Name, c.Tag, rel.State, err)
	}
	return rel
}

// id is that of a command, drawn once.
func id(n int) string { return fmt.Sprintf("%032x", n) }

func order(name imgd.CommandName, n int, tag string) imgd.Command {
	return imgd.Command{Name: name, ID: id(n), Image: demoImage, Tag: tag, By: "ada", Reason: "because"}
}

// twoVersions is a world in which v1.2.2 and then v1.2.3 were built.
func twoVersions(t *testing.T) (w *world, older, newer imgd.Release) {
	w = newWorld(t)
	w.repos = []string{demoRepo, copyRepo}
	w.refs[oldRef], w.refs[newRef] = commit("a"), commit("b")
	var err error
	if older, err = w.deliver(request(oldRef, -20)); err != nil {
		t.Fatal(err)
	}
	if newer, err = w.deliver(request(newRef, -10)); err != nil {
		t.Fatal(err)
	}
	return w, older, newer
}

// history is the tag's generations and roots, newest first, as rootOf has them.
func (w *world) history(tag string) string {
	var all []string
	for _, s := range imgd.Steps(tag, w.index.History(demoImage, tag)) {
		end := ""
		if s.Ended != nil {
			end = " " + s.Ended.How
		}
		all = append(all, fmt.Sprintf("%d %.12s by %s%s", s.Generation, s.Root, s.By, end))
	}
	return strings.Join(all, "; ")
}

func TestRollback(t *testing.T) {
	w, older, newer := twoVersions(t)
	c := order(imgd.CommandRollback, 1, "latest")
	rel := w.obeyed(c)
	took := rel.Taken()
	if len(took) != 1 || took[0].Generation != 3 || took[0].Previous != newer.Root.Digest || rel.Root.Digest != older.Root.Digest ||
		rel.Request.Commit != commit("a") || rel.Request.Version != "v1.2.2" || rel.Request.By != "ada" {
		t.Errorf("got %+v", rel)
	}
	w.shows("latest", older.Root.Digest)
	w.shows("1.2", newer.Root.Digest)
	seq := w.index.Seq()
	if again := w.obeyed(c); again.ID != rel.ID || w.index.Seq() != seq {
		t.Errorf("repeated, it made release %s after %s", again.ID, rel.ID)
	}
	// Neither a redelivery nor a later ask for what it was rolled back from undoes it.
	for _, at := range []int{-10, 1000} {
		if _, err := w.deliver(request(newRef, at)); err != nil && !isEnd(err) {
			t.Fatal(err)
		}
		w.shows("latest", older.Root.Digest)
	}
	// The next newer release takes over, though asked for before.
	w.refs["refs/tags/v1.2.4"] = commit("c")
	next, err := w.deliver(request("refs/tags/v1.2.4", -5))
	if err != nil {
		t.Fatal(err)
	}
	w.shows("latest", next.Root.Digest)
	to := order(imgd.CommandRollback, 2, "latest")
	to.Generation = 2
	w.obeyed(to)
	w.shows("latest", newer.Root.Digest)
	to = order(imgd.CommandRollback, 3, "latest")
	to.To = older.Root.Digest
	w.obeyed(to)
	w.shows("latest", older.Root.Digest)
	want := fmt.Sprintf("6 %.12s by ada; 5 %.12s by ada replaced; 4 %.12s by  replaced; 3 %.12s by ada replaced; 2 %.12s by  replaced; 1 %.12s by  replaced",
		older.Root.Digest, newer.Root.Digest, next.Root.Digest, older.Root.Digest, newer.Root.Digest, older.Root.Digest)
	if got := w.history("latest"); got != want {
		t.Errorf("history\n%s\nwant\n%s", got, want)
	}
	w.check()
}

func TestRollbackRefused(t *testing.T) {
	w, older, newer := twoVersions(t)
	rows := []struct {
		name   string
		change func(*imgd.Command)
		want   error
		says   string
	}{
		{"unknown tag", func(c *imgd.Command) { c.Tag = "nothing" }, imgd.ErrNotFound, "nothing was ever published"},
		{"unknown image", func(c *imgd.Command) { c.Image = "demo/other" }, imgd.ErrNotFound, "nothing was ever published"},
		{"generation", func(c *imgd.Command) { c.Generation = 7 }, imgd.ErrNotFound, "no generation 7"},
		{"digest", func(c *imgd.Command) { c.To = digest.FromString("x") }, imgd.ErrNotFound, digest.FromString("x").String()},
		{"never another", func(c *imgd.Command) { c.Tag = "v1.2.3" }, imgd.ErrNotFound, "never named anything else"},
		{"both", func(c *imgd.Command) { c.To, c.Generation = newer.Root.Digest, 1 }, imgd.ErrInvalid, "one of them"},
		{"force", func(c *imgd.Command) { c.Force, c.Reason = true, " " }, imgd.ErrInvalid, "reason"},
		{"request", func(c *imgd.Command) { c.ID = "x" }, imgd.ErrInvalid, "32 hex"},
		{"another's request", func(c *imgd.Command) { c.ID = newer.Request.ID }, imgd.ErrInvalid, "another's"},
		{"tag", func(c *imgd.Command) { c.Tag = "a b" }, imgd.ErrInvalid, "a b"},
		{"command", func(c *imgd.Command) { c.Name = "promote" }, imgd.ErrInvalid, "promote"},
	}
	seq := w.index.Seq()
	for _, row := range rows {
		c := order(imgd.CommandRollback, 1, "latest")
		row.change(&c)
		rel, _, err := w.recorder().Command(t.Context(), c)
		if !errors.Is(err, row.want) || !strings.Contains(err.Error(), row.says) || rel.ID != "" {
			t.Errorf("%s: got %q, %v; want %v with %q", row.name, rel.ID, err, row.want, row.says)
		}
	}
	delete(w.roots, older.Root.Digest)
	if _, err := w.order(order(imgd.CommandRollback, 1, "latest")); !errors.Is(err, imgd.ErrNotFound) || !strings.Contains(err.Error(), "is gone from the registry") {
		t.Errorf("a root that is gone: got %v", err)
	}
	if w.index.Seq() != seq {
		t.Error("a refusal entered the index")
	}
	w.shows("latest", newer.Root.Digest)
}

// The root is lost after it was captured.
func TestRollbackLosesRoot(t *testing.T) {
	w, older, newer := twoVersions(t)
	p := w.recorder()
	p.Index = admits{w, func() { delete(w.roots, older.Root.Digest) }}
	rel, _, err := p.Command(t.Context(), order(imgd.CommandRollback, 1, "latest"))
	if !errors.Is(err, imgd.ErrNotFound) || rel.State != imgd.ReleaseAbandoned {
		t.Errorf("got %q, %v", rel.State, err)
	}
	w.shows("latest", newer.Root.Digest)
	if _, err := w.order(order(imgd.CommandRollback, 1, "latest")); !errors.Is(err, imgd.ErrNotFound) {
		t.Errorf("repeated: got %v", err)
	}
	w.check()
}

// admits calls then after each admission.
type admits struct {
	*world
	then func()
}

func (a admits) Admit(ctx context.Context, rel imgd.Release, known string) (imgd.Release, error) {
	defer a.then()
	return a.world.Admit(ctx, rel, known)
}

func TestUntag(t *testing.T) {
	w, older, newer := twoVersions(t)
	c := order(imgd.CommandUntag, 1, "latest")
	rel := w.obeyed(c)
	if took := rel.Taken(); rel.Root.Digest != "" || rel.Removes != newer.ID || took[0].Generation != 2 || took[0].Previous != newer.Root.Digest {
		t.Errorf("got %+v", rel)
	}
	w.shows("latest", "")
	records, _ := w.index.Records()
	if slices.ContainsFunc(records, func(r imgd.Record) bool { return r.Tag == "latest" }) {
		t.Errorf("records %v", records)
	}
	seq := w.index.Seq()
	for n := range 2 { // under the same ID, and under another
		if again := w.obeyed(order(imgd.CommandUntag, n+1, "latest")); again.ID != rel.ID || w.index.Seq() != seq {
			t.Errorf("repeated, it made release %s after %s", again.ID, rel.ID)
		}
	}
	// Neither a redelivery nor an older build brings it back.
	for _, ref := range []string{newRef, oldRef} {
		if _, err := w.deliver(request(ref, -10)); err != nil && !isEnd(err) {
			t.Fatal(err)
		}
		w.shows("latest", "")
	}
	if _, err := w.order(order(imgd.CommandUntag, 3, "nothing")); !errors.Is(err, imgd.ErrNotFound) {
		t.Errorf("what is not there: got %v", err)
	}
	named := order(imgd.CommandTag, 4, "latest")
	named.NewTags = []string{"stable"}
	if _, err := w.order(named); !errors.Is(err, imgd.ErrNotFound) || !strings.Contains(err.Error(), "was removed") {
		t.Errorf("to name what was removed: got %v", err)
	}
	if back := w.obeyed(order(imgd.CommandRollback, 5, "latest")); back.Root.Digest != newer.Root.Digest || back.Taken()[0].Generation != 3 {
		t.Errorf("it came back as %+v", back)
	}
	w.shows("latest", newer.Root.Digest)
	want := fmt.Sprintf("3 %.12s by ada; 2 %.12s by ada replaced; 2 %.12s by  removed; 1 %.12s by  replaced", newer.Root.Digest, "", newer.Root.Digest, older.Root.Digest)
	if got := w.history("latest"); got != want {
		t.Errorf("history\n%s\nwant\n%s", got, want)
	}
	w.check()
}

// An immutable tag changes by force with a reason, and only so; what was asked
// for before does not change it back.
func TestCommandImmutable(t *testing.T) {
	w, older, newer := twoVersions(t)
	c := order(imgd.CommandTag, 1, "v1.2.2")
	c.NewTags = []string{"v1.2.3"}
	untag := order(imgd.CommandUntag, 2, "v1.2.3")
	for _, c := range []imgd.Command{c, untag} {
		if _, err := w.order(c); !errors.Is(err, imgd.ErrConflict) || !strings.Contains(err.Error(), newer.ID) {
			t.Errorf("%s: got %v, want a conflict that names %s", c.Name, err, newer.ID)
		}
	}
	untag.Force = true
	w.obeyed(untag)
	w.shows("v1.2.3", "")
	if _, err := w.deliver(request(newRef, -10)); err != nil && !isEnd(err) { // acked: it was published
		t.Fatal(err)
	}
	w.shows("v1.2.3", "")
	if _, err := w.order(c); !errors.Is(err, imgd.ErrConflict) {
		t.Errorf("what was removed keeps its name for what it was: got %v", err)
	}
	back := order(imgd.CommandRollback, 3, "v1.2.3")
	if rel := w.obeyed(back); rel.Root.Digest != newer.Root.Digest || rel.Taken()[0].Generation != 2 {
		t.Errorf("it came back as %+v", rel)
	}
	c.Force, c.ID = true, id(4)
	if rel := w.obeyed(c); rel.Root.Digest != older.Root.Digest {
		t.Errorf("forced: got %+v", rel)
	}
	w.shows("v1.2.3", older.Root.Digest)
	w.check()
}

func TestTag(t *testing.T) {
	w, older, newer := twoVersions(t)
	c := order(imgd.CommandTag, 1, "latest")
	c.NewTags = []string{"stable", "v9.0.0", "stable"}
	rel := w.obeyed(c)
	if tags := rel.Taken(); len(tags) != 2 || tags[0].Name != "v9.0.0" || tags[0].Kind != "version" || tags[1].Kind != "other" {
		t.Errorf("got %+v", rel.Tags)
	}
	w.shows("stable", newer.Root.Digest)
	w.shows("v9.0.0", newer.Root.Digest)
	again := c
	again.ID, again.NewTags = id(2), []string{"stable"}
	if got := w.obeyed(again); got.ID != rel.ID {
		t.Errorf("what is so already: got release %s, want %s", got.ID, rel.ID)
	}
	byDigest := imgd.Command{Name: imgd.CommandTag, ID: id(3), Image: demoImage, To: older.Root.Digest, NewTags: []string{"stable", "prod"}}
	if got := w.obeyed(byDigest); got.Root.Digest != older.Root.Digest {
		t.Errorf("got %+v", got)
	}
	w.shows("stable", older.Root.Digest)
	w.shows("prod", older.Root.Digest)
	w.push(demoRepo, "v8.0.0", "another hand's")
	taken := c
	taken.ID, taken.NewTags = id(4), []string{"v8.0.0"}
	if _, err := w.order(taken); !errors.Is(err, imgd.ErrConflict) || !strings.Contains(err.Error(), "another hand") {
		t.Errorf("a version that another hand put there: got %v", err)
	}
	delete(w.tags, "v8.0.0")
	w.check()
}

// What another CI has pushed is deleted by an untag, and by nothing else; what a
// command puts under another tag is imgd's.
func TestCommandOverPushed(t *testing.T) {
	w := newWorld(t)
	first := w.push(otherRepo, "stable", "one")
	in := pushed("stable", first)
	in.Moving = true
	w.record(in, true)
	second := w.push(otherRepo, "stable", "two")
	in.Digest = second
	w.record(in, true)
	w.neverWrote()
	named := func(tag string) digest.Digest { return w.tags[at(otherRepo, tag)] }

	c := order(imgd.CommandTag, 1, "stable")
	c.Image, c.NewTags = otherImage, []string{"prod"}
	p := w.recorder()
	p.Tagger = unchecked{w}
	obey := func(c imgd.Command) {
		t.Helper()
		if rel, _, err := p.Command(t.Context(), c); err != nil || rel.State != imgd.ReleasePublished {
			t.Fatalf("%s: got %q, %v", c.Name, rel.State, err)
		}
	}
	obey(c)
	if named("prod") != second {
		t.Errorf("prod names %q", named("prod"))
	}
	back := order(imgd.CommandRollback, 2, "stable")
	back.Image = otherImage
	obey(back)
	if named("stable") != first {
		t.Errorf("stable names %q", named("stable"))
	}
	in.Digest = w.push(otherRepo, "stable", "three") // the other CI goes on
	w.record(in, true)
	for n, tag := range []string{"stable", "prod"} {
		untag := order(imgd.CommandUntag, 3+n, tag)
		untag.Image = otherImage
		obey(untag)
		if named(tag) != "" {
			t.Errorf("%s names %q after untag", tag, named(tag))
		}
	}
	w.push(otherRepo, "stable", "another hand's")
	untag := order(imgd.CommandUntag, 5, "stable")
	untag.Image = otherImage
	obey(untag)
	if named("stable") == "" {
		t.Error("what is not imgd's was removed")
	}
}

// unchecked is the registry's tags without the world's check, which knows one
// image only.
type unchecked struct{ *world }

func (u unchecked) Tag(_ context.Context, repository, tag string, root ocispec.Descriptor) error {
	return u.put(at(repository, tag), root.Digest)
}

// Whatever befalls whichever effect of a command: given again under its ID, it is
// done once.
func TestFaultsInCommands(t *testing.T) {
	for _, name := range []imgd.CommandName{imgd.CommandRollback, imgd.CommandTag, imgd.CommandUntag} {
		for _, effect := range []string{"capture", "admit", "tag", "untag", "publish"} {
			for _, mode := range []string{"fails", "fails but took effect", "interrupted before", "interrupted after", "repeated"} {
				t.Run(strings.Join([]string{string(name), effect, mode}, "/"), func(t *testing.T) {
					w, older, newer := twoVersions(t)
					c, want := order(name, 1, "latest"), map[imgd.CommandName]digest.Digest{imgd.CommandRollback: older.Root.Digest, imgd.CommandTag: newer.Root.Digest}[name]
					tag := "latest"
					if name == imgd.CommandTag {
						tag, c.NewTags = "stable", []string{"stable"}
					}
					w.fault = fault{effect: effect, mode: mode, left: 1}
					rel := w.obeyed(c)
					if rel.Root.Digest != want || !strings.HasPrefix(rel.ID, c.ID) || rel.ID != c.ID+"-1" {
						t.Errorf("got %s of %s, want %s-1 of %s", rel.ID, rel.Root.Digest, c.ID, want)
					}
					w.shows(tag, want)
					w.check()
				})
			}
		}
	}
}

// A command that nobody repeats is driven to its end.
func TestCommandIsDriven(t *testing.T) {
	w, older, _ := twoVersions(t)
	w.fault = fault{effect: "publish", mode: "fails", left: 1}
	rel, created, err := w.recorder().Command(t.Context(), order(imgd.CommandRollback, 1, "latest"))
	if err == nil || created || rel.State != imgd.ReleaseAdmitted {
		t.Fatalf("got %q, new %t, %v", rel.State, created, err)
	}
	if err := w.pipeline().DriveOpen(t.Context(), epoch.Add(time.Hour), time.Minute); err != nil {
		t.Fatal(err)
	}
	w.shows("latest", older.Root.Digest)
	w.check()
}

// A newer build that takes the tag from a command, and is dropped, asks for
// nothing in the queue: the command was never there.
func TestCommandLapses(t *testing.T) {
	w, _, newer := twoVersions(t)
	w.fault = fault{effect: "tag", mode: "fails", left: 1}
	rolled, _, err := w.recorder().Command(t.Context(), order(imgd.CommandRollback, 1, "latest"))
	if err == nil || rolled.State != imgd.ReleaseAdmitted {
		t.Fatalf("got %q, %v", rolled.State, err)
	}
	w.refs["refs/tags/v1.2.4"] = commit("c")
	next := w.admit(request("refs/tags/v1.2.4", -5))
	if !slices.Contains(next.Lapsed, rolled.ID) {
		t.Fatalf("lapsed %q", next.Lapsed)
	}
	if _, err := w.order(order(imgd.CommandRollback, 1, "latest")); !errors.Is(err, imgd.ErrSuperseded) {
		t.Errorf("the command that lost its tag: got %v", err)
	}
	if _, err := w.drop(next.Request.ID); err != nil {
		t.Fatal(err)
	}
	if len(w.asked) > 0 {
		t.Errorf("asked for %+v", w.asked)
	}
	w.shows("latest", newer.Root.Digest)
	w.check()
}
