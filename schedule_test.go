package imgd_test

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/imgd/imgd"
)

// A schedule is one random run of workers that stand still wherever chance
// wants it, for as long as it wants it, while pushes, refusals, lost roots,
// drops and sweeps happen. The seed repeats it exactly.
type schedule struct {
	*world
	*watch
	random  *rand.Rand
	workers []*worker
	queue   []imgd.Request
	known   map[string]imgd.Request // all that was ever asked for, by ID
	clock   int
	head    string // of main
	story   []string
}

// tell adds to the story that a failing run logs.
func (s *schedule) tell(format string, args ...any) {
	s.story = append(s.story, fmt.Sprintf("seq %d: ", s.world.index.Seq())+fmt.Sprintf(format, args...))
}

func newSchedule(t *testing.T, seed uint64) *schedule {
	w := newWorld(t)
	w.repos = []string{demoRepo, copyRepo}
	for i := 1; i < len(commits); i++ {
		w.past[commit(commits[i:i+1])] = commit(commits[i-1 : i])
	}
	return &schedule{world: w, watch: w.watch(), random: rand.New(rand.NewPCG(seed, 11)), known: map[string]imgd.Request{}}
}

// ask enqueues what ref names after a push of the commit.
func (s *schedule) ask(ref, letter string, forced bool) {
	s.clock++
	s.refs[ref] = commit(letter)
	req := request(ref, s.clock)
	if req.Commit = commit(letter); forced {
		req.Force, req.Rebuild, req.Nonce, req.Reason = true, true, fmt.Sprint(s.clock), "bad release"
	}
	req.ID = req.Hash()
	s.known[req.ID] = req
	s.tell("asked for %.4s: %s at %s, forced %t", req.ID, ref, letter, forced)
	s.queue = append(s.queue, req)
}

func (s *schedule) push() {
	n := s.random.IntN(len(commits))
	letter := commits[n : n+1]
	switch s.random.IntN(5) {
	case 0, 1:
		s.head = letter
		s.ask(mainRef, letter, false)
	case 2, 3:
		s.ask(fmt.Sprintf("refs/tags/v1.0.%d", n), letter, false)
	default:
		ref := fmt.Sprintf("refs/tags/v1.0.%d", s.random.IntN(len(commits)))
		s.ask(ref, letter, true)
	}
}

// one is any of those, in an order that is the same for the same seed.
func one[T any](s *schedule, of map[string]T) (key string, value T) {
	keys := slices.Sorted(maps.Keys(of))
	key = keys[s.random.IntN(len(keys))]
	return key, of[key]
}

// start lets a worker begin with something from the queue, or with what another
// one is handling: its lease has run out.
func (s *schedule) start() {
	if len(s.workers) >= 4 {
		return
	}
	if len(s.workers) > 0 && s.random.IntN(4) == 0 {
		s.hire(s.workers[s.random.IntN(len(s.workers))].req)
	} else if len(s.queue) > 0 {
		i := s.random.IntN(len(s.queue))
		req := s.queue[i]
		s.queue = slices.Delete(s.queue, i, i+1)
		s.hire(req)
	}
}

func (s *schedule) hire(req imgd.Request) {
	k := s.work(req)
	k.fate = func(string) string {
		fates := []string{"fails", "fails but took effect", "dies"}
		if i := s.random.IntN(30); i < len(fates) {
			return fates[i]
		}
		return ""
	}
	s.workers = append(s.workers, k)
}

// advance lets one worker go on.
func (s *schedule) advance() {
	if len(s.workers) == 0 {
		return
	}
	s.step(s.workers[s.random.IntN(len(s.workers))])
}

// step lets k go on, and takes what it answers.
func (s *schedule) step(k *worker) {
	k.step()
	s.tell("worker %p of %.4s stands %s %s", k, k.req.ID, k.at, k.what)
	s.look()
	if k.at != "end" {
		return
	}
	s.workers = slices.DeleteFunc(s.workers, func(other *worker) bool { return other == k })
	s.tell("  it answers %v", k.err)
	s.fits(k.rel, k.err)
	if k.err != nil && !isEnd(k.err) {
		s.queue = append(s.queue, k.req)
	}
}

// refuse makes the registry refuse a tag that it has, or allow it again.
func (s *schedule) refuse() {
	if len(s.world.tags) == 0 {
		return
	}
	key, _ := one(s, s.world.tags)
	s.refuses[key] = []int{0, 1, 2, -1}[s.random.IntN(4)]
	s.tell("%s refused %d times", key, s.refuses[key])
}

// turn is one of all that can happen.
func (s *schedule) turn() {
	switch n := s.random.IntN(100); {
	case n < 6:
		s.push()
	case n < 16:
		s.start()
	case n < 20:
		s.refuse()
	case n < 22 && len(s.known) > 0:
		_, req := one(s, s.known)
		_, err := s.pipeline().Drop(s.t.Context(), req.ID, "dropped by ada")
		if err != nil && !errors.Is(err, imgd.ErrNotFound) {
			s.t.Error(err)
		}
		s.tell("drop of %.4s: %v", req.ID, err)
	case n < 23:
		s.lose()
	case n < 24:
		s.tell("sweep: %v", s.pipeline().DriveOpen(s.t.Context(), epoch.Add(time.Hour), 0)) // lost roots are errors of it
	default:
		s.advance()
	}
	s.look()
}

// lose takes a root that is not published out of the registry.
func (s *schedule) lose() {
	for _, rel := range s.world.index.Open() {
		if s.random.IntN(2) == 0 {
			delete(s.world.roots, rel.Root.Digest)
			s.tell("lost the root of %.4s", rel.ID)
			return
		}
	}
}

// rest lets everything come to its end.
func (s *schedule) rest() {
	s.t.Helper()
	for _, k := range s.workers {
		k.fate = nil
	}
	for len(s.workers) > 0 {
		s.advance()
	}
	for ; len(s.queue) > 0; s.queue = s.queue[1:] {
		_, err := s.deliver(s.queue[0])
		s.tell("delivered %.4s: %v", s.queue[0].ID, err)
		s.look()
	}
	s.calm()
	s.look()
}

var schedules = flag.Uint64("schedules", 80, "seeds that TestSchedules tries")

// Whoever stands still wherever, and whatever the registry refuses meanwhile,
// for a while or for good: everything ends; and once the registry refuses
// nothing any more and all is asked for again, every tag names what it should.
func TestSchedules(t *testing.T) {
	for seed := range *schedules {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			s := newSchedule(t, seed)
			defer func() {
				if t.Failed() {
					t.Log(strings.Join(s.story, "\n"))
				}
			}()
			for range 250 {
				if s.turn(); t.Failed() {
					return
				}
			}
			s.rest()
			for key := range s.refused { // and what it kept then is still there
				s.refuses[key] = -1
			}
			s.check()
			clear(s.refuses)
			for _, id := range slices.Sorted(maps.Keys(s.known)) {
				req := s.known[id]
				req.AskedAt = s.later()
				_, err := s.deliver(req)
				s.tell("asked again %.4s: %v", id, err)
				s.look()
			}
			s.calm()
			for key := range s.refused { // of commits that are not asked for any more, and of versions forced over: an audit's business
				if tag := key[strings.LastIndex(key, ":")+1:]; tag != "main" && tag != "latest" && tag != "1.0" {
					s.refuses[key] = -1
				}
			}
			s.check()
			s.checkTop()
			if main, _ := s.world.index.Wanted(demoImage, "main"); s.head != "" && main.Request.Commit != commit(s.head) {
				t.Errorf("main is %.6s, its head is %s", main.Request.Commit, s.head)
			}
		})
	}
}
