package imgd_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/version"
)

var (
	interleavings = flag.Uint64("interleavings", 400, "runs of TestSlowDrivers")
	firstSeed     = flag.Uint64("seed", rand.Uint64(), "seed of the first run of TestSlowDrivers; each other's is one more")
)

// A slowRun is a schedule in which nothing fails: drivers only stand still, before
// and after each write of a tag, reading back, publication and any other effect,
// and so before and after each look at the index; and a lease that has run out
// gives one request two drivers.
type slowRun struct {
	*schedule
	top    string  // the highest version that was asked for
	driver *worker // who goes on, for some steps more, while the others stand still
	steps  int
}

// push asks for a new head of main, mostly a later one, or for a version.
func (s *slowRun) push() {
	n := s.random.IntN(len(commits))
	if s.random.IntN(2) == 0 {
		if now := strings.Index(commits, s.head); s.random.IntN(3) > 0 {
			n = max(n, now)
		}
		s.head = commits[n : n+1]
		s.ask(mainRef, s.head, false)
		return
	}
	name := fmt.Sprintf("v1.0.%d", n)
	if s.top == "" || version.Compare(name, s.top) > 0 {
		s.top = name
	}
	s.ask("refs/tags/"+name, commits[n:n+1], false)
}

// drive lets the drivers go on in any order, with pushes in between, until all
// has ended. A request whose driver answered an error comes again.
func (s *slowRun) drive(pushes int) {
	for n := 0; pushes+len(s.queue)+len(s.workers) > 0; n++ {
		if n > 5000 {
			s.t.Fatalf("%d requests and %d drivers never end", len(s.queue), len(s.workers))
		}
		switch roll := s.random.IntN(10); {
		case roll == 0 && pushes > 0:
			s.push()
			pushes--
		case roll <= 2 && len(s.queue) > 0:
			s.start()
		case len(s.workers) > 0:
			s.goOn()
		}
		for _, k := range s.workers {
			k.fate, k.slow = nil, true
		}
	}
}

// goOn lets one driver take a step. It is mostly who took the last one: so another
// may stand still for as long as a request takes, and then write.
func (s *slowRun) goOn() {
	if s.steps == 0 || !slices.Contains(s.workers, s.driver) {
		s.driver, s.steps = s.workers[s.random.IntN(len(s.workers))], 1+s.random.IntN(1+s.random.IntN(40))
	}
	s.steps--
	s.step(s.driver)
}

// names holds the registry against the index and the index against the model:
// main is the head, latest the highest version.
func (s *slowRun) names() {
	s.t.Helper()
	s.check()
	want := map[string]string{"main": "", "latest": s.top}
	if s.head != "" {
		want["main"] = commit(s.head)
	}
	for tag, name := range want {
		rel, ok := s.world.index.Wanted(demoImage, tag)
		if ok == (name == "") || ok && rel.Request.Version != name && rel.Request.Commit != name {
			s.t.Errorf("%s is of %s at %.6s, want %.6s", tag, rel.Request.Version, rel.Request.Commit, name)
		}
		for _, repository := range s.repos {
			if there := s.world.tags[at(repository, tag)]; there != rel.Root.Digest {
				s.t.Errorf("%s:%s names %q, the index says %q", repository, tag, there, rel.Root.Digest)
			}
		}
	}
}

// However slow drivers interleave: once they have ended, and without anybody
// looking after them, the registry names what the index says. `make soak` has
// 40,000 of these runs; -seed S -interleavings 1 repeats one that failed.
func TestSlowDrivers(t *testing.T) {
	t.Logf("-seed %d", *firstSeed)
	for n := range *interleavings {
		seed := *firstSeed + n
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			s := &slowRun{schedule: newSchedule(t, seed)}
			s.repos = slices.Clone(s.repos[:1+s.random.IntN(2)])
			defer func() {
				if t.Failed() {
					t.Log(strings.Join(s.story, "\n"))
				}
			}()
			s.drive(2 + s.random.IntN(3))
			s.names()
		})
	}
}

// until lets the worker go on to where it stands at that, about a tag.
func (k *worker) until(at, tag string) {
	k.t.Helper()
	for k.at != "end" && (k.at != at || !strings.HasPrefix(k.what, tag+" = ")) {
		k.step()
	}
	if k.at != at {
		k.t.Fatalf("it never stands %s %s: %v", at, tag, k.err)
	}
}

// A late writer whose write is taken over in one repository, before it has read
// it back, puts right what it wrote in another: nobody else would, where its
// release was published meanwhile.
func TestTakenOverWhileReadingBack(t *testing.T) {
	w := newWorld(t)
	w.repos = []string{demoRepo, copyRepo}
	w.refs["refs/tags/v1.0.0"], w.refs["refs/tags/v1.0.1"] = commit("a"), commit("b")
	older, newer := w.resolved(request("refs/tags/v1.0.0", 1)), w.resolved(request("refs/tags/v1.0.1", 2))
	late := w.work(older)
	late.slow = true
	late.until("before tag", at(copyRepo, "latest"))
	if _, err := w.deliver(older); err != nil {
		t.Fatal(err)
	}
	second := w.work(newer)
	second.until("before tag", at(demoRepo, "latest"))
	late.until("after tag", at(demoRepo, "latest"))
	for second.at != "end" {
		second.step()
	}
	for late.at != "end" {
		late.step()
	}
	if _, err := w.deliver(older); second.err != nil || err != nil {
		t.Fatal(second.err, err)
	}
	w.check()
}

// So does one whose second look is cut short by an error: its process comes back to
// the tag, as its request has been served meanwhile and does not come again.
func TestTakenOverAndCutShort(t *testing.T) {
	w := newWorld(t)
	w.repos = []string{demoRepo, copyRepo}
	w.refs["refs/tags/v1.0.0"], w.refs["refs/tags/v1.0.1"] = commit("a"), commit("b")
	older, newer := w.resolved(request("refs/tags/v1.0.0", 1)), w.resolved(request("refs/tags/v1.0.1", 2))
	late := w.work(older)
	late.until("before tag", at(copyRepo, "latest"))
	for _, req := range []imgd.Request{older, newer} {
		if _, err := w.deliver(req); err != nil {
			t.Fatal(err)
		}
	}
	late.until("after tag", at(copyRepo, "latest"))
	late.until("before tag", at(copyRepo, "latest"))
	late.fate = func(string) string { return "fails" }
	for late.at != "end" {
		late.step()
	}
	if _, err := w.deliver(older); late.err == nil || err != nil {
		t.Fatal(late.err, err)
	}
	late.fate = nil
	later := time.Now()
	done := make(chan error)
	go func() {
		err := late.p.DriveOpen(t.Context(), later, 0)
		late.at = "end"
		late.stands <- struct{}{}
		done <- err
	}()
	<-late.stands
	for late.at != "end" {
		late.step()
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	w.check()
}
