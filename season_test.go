package imgd_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/version"
)

// A season is the work of many months on three branches: pushes, force pushes,
// backports, and rollbacks by operators, handled by workers that fail, die and
// stand still wherever chance wants it. The model of what each tag must name is
// kept beside it, from what was asked for alone.
type season struct {
	*world
	random  *rand.Rand
	lines   []*line
	queue   []imgd.Request
	workers []*worker
	clock   int
	made    int               // commits
	want    map[string]string // tag -> what it must name: a commit
	top     map[string]string // series -> the highest version it was to name
	story   []string
}

// A line is a branch, and the versions that are made of it.
type line struct {
	ref          string
	past         []string // its commits, the head last
	major, minor int
	patch        int
}

func newSeason(t *testing.T, seed uint64) *season {
	s := &season{world: newWorld(t), random: rand.New(rand.NewPCG(seed, 5)), want: map[string]string{}, top: map[string]string{}}
	s.repos = []string{demoRepo, copyRepo}[:1+s.random.IntN(2)]
	for i, name := range []string{"release-1", "release-2", "main"} {
		s.lines = append(s.lines, &line{ref: "refs/heads/" + name, major: i + 1, past: []string{s.commit("")}})
	}
	return s
}

func (s *season) tell(format string, args ...any) {
	s.story = append(s.story, fmt.Sprintf(format, args...))
}

// commit makes one over its parent.
func (s *season) commit(parent string) string {
	s.made++
	id := fmt.Sprintf("%08x", s.made*0x9e3779b1&0xffffffff) + strings.Repeat("0", 32)
	if parent != "" {
		s.past[id] = parent
	}
	return id
}

func (l *line) head() string { return l.past[len(l.past)-1] }

func (s *season) ask(ref, commit string) {
	s.clock++
	s.refs[ref] = commit
	req := request(ref, s.clock)
	req.Commit = commit
	req.ID = req.Hash()
	s.tell("asked for %s at %.8s", ref, commit)
	s.queue = append(s.queue, req)
}

// push moves a branch: by a commit or two, or, forced, back to an older one.
func (s *season) push(l *line) {
	if n := len(l.past); n > 1 && s.random.IntN(5) == 0 {
		l.past = l.past[:1+s.random.IntN(n-1)]
	} else {
		for range 1 + s.random.IntN(2) {
			l.past = append(l.past, s.commit(l.head()))
		}
	}
	s.ask(l.ref, l.head())
	s.want[strings.TrimPrefix(l.ref, "refs/heads/")] = l.head()
}

// release makes the next version of a branch at its head: of the older ones,
// a backport.
func (s *season) release(l *line) {
	if s.random.IntN(4) == 0 {
		l.minor, l.patch = l.minor+1, -1
	}
	l.patch++
	name := fmt.Sprintf("v%d.%d.%d", l.major, l.minor, l.patch)
	s.ask("refs/tags/"+name, l.head())
	s.want[name] = l.head()
	for _, series := range s.series(l) {
		if top := s.top[series]; top == "" || version.Compare(name, top) > 0 {
			s.top[series], s.want[series] = name, l.head()
		}
	}
}

func (s *season) series(l *line) []string {
	return []string{fmt.Sprintf("%d.%d", l.major, l.minor), fmt.Sprint(l.major), "latest"}
}

// rollback has an operator put a moving tag back to something that it named,
// in a moment when nothing else goes on.
func (s *season) rollback() {
	moving := slices.DeleteFunc(slices.Sorted(maps.Keys(s.want)), func(tag string) bool { return strings.HasPrefix(tag, "v") })
	if len(moving) == 0 {
		return
	}
	tag := moving[s.random.IntN(len(moving))]
	history := s.index.History(demoImage, tag)
	to := history[s.random.IntN(len(history))]
	cmd := order(imgd.CommandRollback, 1000+s.clock, tag)
	cmd.To = to.Root.Digest
	p := s.pipeline()
	s.clock++
	now := request("", s.clock).AskedAt
	p.Now = func() time.Time { return now }
	_, _, err := p.Command(s.t.Context(), cmd)
	s.tell("%s rolled back to %s, %.8s: %v", tag, to.ID, to.Request.Commit, err)
	if err != nil && !isEnd(err) {
		s.t.Fatal(err)
	}
	s.want[tag] = to.Request.Commit
}

// work lets workers handle the queue in any order, four at a time, until it is
// empty. Whatever fails or dies comes again.
func (s *season) work() {
	for n := 0; len(s.queue)+len(s.workers) > 0; n++ {
		if n > 20_000 {
			s.t.Fatalf("%d requests never end", len(s.queue)+len(s.workers))
		}
		if len(s.queue) > 0 && len(s.workers) < 4 {
			i := s.random.IntN(len(s.queue))
			k := s.world.work(s.queue[i])
			s.queue = slices.Delete(s.queue, i, i+1)
			k.slow, k.fate = true, s.fate
			s.workers = append(s.workers, k)
		}
		i := s.random.IntN(len(s.workers))
		k := s.workers[i]
		if k.step(); k.at != "end" {
			continue
		}
		s.workers = slices.Delete(s.workers, i, i+1)
		s.tell("%s at %.8s ended: %v", k.req.Ref, k.req.Commit, k.err)
		if k.err != nil && !isEnd(k.err) {
			s.queue = append(s.queue, k.req)
		}
	}
	s.calm()
}

func (s *season) fate(string) string {
	fates := []string{"fails", "fails but took effect", "dies"}
	if i := s.random.IntN(40); i < len(fates) {
		return fates[i]
	}
	return ""
}

// holds compares the registry with the model, tag by tag.
func (s *season) holds() {
	s.t.Helper()
	s.check()
	for _, tag := range slices.Sorted(maps.Keys(s.want)) {
		rel, _ := s.index.Wanted(demoImage, tag)
		if rel.Request.Commit != s.want[tag] {
			s.t.Errorf("%s is of %s at %.8s, want %.8s", tag, rel.Request.Ref, rel.Request.Commit, s.want[tag])
		}
		for _, repository := range s.repos {
			if there := s.world.tags[at(repository, tag)]; there != rel.Root.Digest {
				s.t.Errorf("%s:%s is %.14s, the index says %.14s", repository, tag, there, rel.Root.Digest)
			}
		}
	}
}

// releases is how many are asked for in a season.
const releases = 200

// However 200 releases of three branches interleave, with backports, force
// pushes, rollbacks and workers that die: every tag of the registry ends as the
// model says.
func TestSeason(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			s := newSeason(t, seed)
			for s.clock < releases && !t.Failed() {
				for range 1 + s.random.IntN(12) {
					l := s.lines[s.random.IntN(len(s.lines))]
					if s.random.IntN(3) == 0 {
						s.release(l)
					} else {
						s.push(l)
					}
				}
				s.work()
				for range s.random.IntN(3) {
					s.rollback()
				}
				s.holds()
			}
			if t.Failed() {
				t.Log(strings.Join(s.story, "\n"))
			}
		})
	}
}
