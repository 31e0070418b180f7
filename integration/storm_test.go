package integration_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/imgd/imgd/integration/check"
	"github.com/imgd/imgd/integration/kit"
)

// A stormPlan says how a storm is to be.
type stormPlan struct {
	seed       uint64
	projects   int
	kills      int           // of imgd, at least
	deliveries int64         // accepted webhooks, at least
	checkEvery int           // kills
	backlog    int           // requests in the queue, from which nobody asks for more
	others     bool          // also kills NATS and buildkitd, stops imgd, breaks the registry
	endTime    time.Duration // how long all may take to end, when the storm is over
	long       float64       // share of imgd's lives that are long enough for several builds
}

// A storm is a rig of many projects, whose authors ask for builds all the time while everything is killed.
type storm struct {
	*rig
	plan    stormPlan
	authors []*author
	nats    natsAsker
	asking  sync.RWMutex // held for writing while the world is looked at

	rand        *rand.Rand // of the strikes
	kills       int
	began       time.Time
	acked       atomic.Int64
	delivered   atomic.Int64    // webhooks
	hooks       *hookAsker      // nil: authors ask in all the other ways
	seen        *check.World    // last
	natsDied    bool            // in imgd's present life
	ownEnds     int             // of imgd
	unexplained []string        // its last words before those that should not have been
	struck      map[string]int  // strikes
	refusable   map[string]bool // images whose tags the registry may refuse for good
}

func newStorm(t *testing.T, plan stormPlan) *storm {
	t.Helper()
	t.Logf("seed %d", plan.seed)
	s := &storm{rig: bareRig(t, sharedBuildkitd(t)), plan: plan, began: time.Now(), struck: map[string]int{}, refusable: map[string]bool{},
		rand: rand.New(rand.NewPCG(plan.seed, 0))}
	git, err := kit.ServeGit(t.Context(), t.TempDir())
	s.must(err)
	t.Cleanup(func() { git.Close() })
	byImage := map[string]*author{}
	for n := range plan.projects {
		a, err := newAuthor(t.Context(), git, fmt.Sprintf("p%d", n), plan.seed+uint64(n))
		s.must(err)
		s.authors = append(s.authors, a)
		byImage[a.image] = a
		s.refusable[a.image] = n%5 == 0
		s.config.Projects = append(s.config.Projects, kit.ProjectConfig{Name: a.project, Git: a.repo.URL, Image: a.image})
		s.place.Repositories = append(s.place.Repositories, s.calls.Addr+"/"+a.image)
	}
	s.config.Listen, err = kit.OwnPort()
	s.must(err)
	var drawn atomic.Int64
	s.nats = natsAsker{js: s.js, delivery: func() string { return fmt.Sprintf("storm/%d/%d", plan.seed, drawn.Add(1)) }}
	s.watcher.Follows = func(image, tag, old, now string) bool {
		return byImage[image].follows(context.Background(), tag, old, now)
	}
	t.Cleanup(s.stop)
	return s
}

// stop ends the last imgd.
func (s *storm) stop() {
	if s.daemon != nil {
		s.daemon.Kill9()
	}
	if s.Failed() {
		s.keep()
	}
}

// keep keeps what tells how it came to this.
func (s *storm) keep() {
	dir, err := os.MkdirTemp("", fmt.Sprintf("imgd-storm-%d-", s.plan.seed))
	if err == nil {
		err = os.CopyFS(filepath.Join(dir, "index"), os.DirFS(filepath.Join(s.place.Data, "index")))
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "imgd.log"), []byte(s.daemon.Log()), 0o644)
	}
	if err == nil && s.seen != nil {
		err = os.WriteFile(filepath.Join(dir, "world.json"), s.seen.JSON(), 0o644)
	}
	s.Logf("seed %d; index and log are kept in %s (%v); the log ends with\n%s", s.plan.seed, dir, err, s.daemon.LogTail())
}

// run lets the storm blow until the kills are done, and then waits until all has ended.
func (s *storm) run() {
	ctx, cancel := context.WithCancel(s.Context())
	defer cancel()
	var authors sync.WaitGroup
	for _, a := range s.authors {
		authors.Go(func() { s.author(ctx, a) })
	}
	for (s.kills < s.plan.kills || s.delivered.Load() < s.plan.deliveries) && !s.Failed() {
		s.life()
		if s.kills%s.plan.checkEvery == 0 && s.daemon.Killed() {
			s.check()
		}
	}
	cancel()
	authors.Wait()
	if !s.Failed() {
		s.finish()
	}
}

// author asks for what the author does, until ctx is done.
func (s *storm) author(ctx context.Context, a *author) {
	draw := rand.New(rand.NewPCG(s.plan.seed, uint64(len(a.project))+uint64(a.n)))
	for ctx.Err() == nil {
		if !s.mayAsk(ctx) {
			pass(ctx, 200*time.Millisecond)
			continue
		}
		ref, commit, err := a.act(s.Context()) // to its end
		if err != nil {
			s.Errorf("author of %s: %v", a.project, err)
			return
		}
		var way asker
		for done := false; ctx.Err() == nil && !done; {
			if way = s.way(draw, ref); !s.askOnce(ctx, way, a, ref, commit) {
				pass(ctx, 100*time.Millisecond)
				continue
			}
			done = true
		}
		switch draw.IntN(20) {
		case 0:
			s.junk(ctx, a)
		case 1:
			s.askOnce(ctx, way, a, ref, commit)
		}
	}
}

// way is one of the ways to ask. Only a version tag is ever forced.
func (s *storm) way(draw *rand.Rand, ref string) asker {
	if s.hooks != nil {
		return *s.hooks
	}
	repeated := s.nats.delivery() // by whoever asks twice in this way
	n := natsAsker{js: s.js, delivery: func() string { return repeated }}
	switch draw.IntN(10) {
	case 0, 1, 2, 3:
		return httpAsker{url: "http://" + s.config.Listen}
	case 4:
		return httpAsker{url: "http://" + s.config.Listen, bare: true}
	case 5:
		n.bare = true
	case 6:
		n.forced = strings.HasPrefix(ref, "refs/tags/")
	}
	return n
}

// mayAsk reports whether the queue is not too long. If NATS does not say, nobody asks.
func (s *storm) mayAsk(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	queue, err := s.js.Stream(ctx, "IMGD_REQUESTS")
	return err == nil && queue.CachedInfo().State.Msgs < uint64(s.plan.backlog)
}

// askOnce reports whether it was acknowledged.
func (s *storm) askOnce(ctx context.Context, way asker, a *author, ref, commit string) bool {
	s.asking.RLock()
	defer s.asking.RUnlock()
	asked, err := way.ask(ctx, a.project, ref, commit)
	if err != nil {
		return false
	}
	a.acknowledged(ref, commit, asked)
	s.note(asked)
	return true
}

func (s *storm) junk(ctx context.Context, a *author) {
	s.asking.RLock()
	defer s.asking.RUnlock()
	if asked, err := s.nats.junk(ctx, a.project); err == nil {
		s.note(asked)
	}
}

func (s *storm) note(asked check.Asked) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, asked)
	s.acked.Add(1)
}

// life is one life of imgd, at whose end it is killed, unless it has ended by itself. That may be only if NATS died.
func (s *storm) life() {
	var err error
	s.natsDied = false
	s.daemon, err = kit.LaunchDaemon(s.dir, s.config)
	s.must(err)
	span := time.Duration(50+s.rand.IntN(1450)) * time.Millisecond
	if s.rand.Float64() < s.plan.long {
		span = time.Duration(3+s.rand.IntN(4)) * time.Second
	}
	s.live(span / 2)
	s.strike()
	s.live(span / 2)
	if s.ended() && !s.daemon.Killed() {
		lines := strings.Split(strings.TrimSpace(s.daemon.LogTail()), "\n")
		s.ownEnds++
		if !s.natsDied {
			s.unexplained = append(s.unexplained, lines[len(lines)-1])
		}
		return
	}
	s.daemon.Kill9()
	s.kills++
}

// live lets imgd live so long, or until it ends.
func (s *storm) live(span time.Duration) {
	select {
	case <-s.Context().Done():
	case <-time.After(span):
	case <-s.daemon.Done():
	}
}

func (s *storm) ended() bool {
	select {
	case <-s.daemon.Done():
		return true
	default:
		return false
	}
}

// strikes are what befalls imgd and its parts besides its kill. The rest of a hundred is nothing.
var strikes = []struct {
	name   string
	chance int // of a hundred
	strike func(*storm)
}{
	{"imgd stopped past its lease", 4, func(s *storm) {
		if s.daemon.Stop() == nil {
			pass(s.Context(), leaseTime+leaseTime/2)
			_ = s.daemon.Wake() // it may have ended before
		}
	}},
	{"NATS killed", 4, func(s *storm) {
		s.natsDied = true
		s.queue.Kill9()
		pass(s.Context(), time.Duration(s.rand.IntN(1000))*time.Millisecond)
		s.must(s.queue.Start(s.Context()))
	}},
	{"buildkitd killed", 2, func(s *storm) {
		s.buildkitd.Kill9()
		pass(s.Context(), time.Duration(s.rand.IntN(1000))*time.Millisecond)
		s.must(s.buildkitd.Start(s.Context()))
	}},
	{"registry faulty", 5, func(s *storm) { s.breakRegistry(500 * time.Millisecond) }},
	{"registry down", 2, func(s *storm) {
		s.must(errors.Join(s.calls.Down(), s.pushes.Down()))
		pass(s.Context(), time.Duration(s.rand.IntN(1000))*time.Millisecond)
		s.must(errors.Join(s.calls.Up(), s.pushes.Up()))
	}},
	{"imgd killed with calls on their way", 10, func(s *storm) {
		hold := s.calls.Arm(kit.Before, func(req *http.Request) bool { return req.Method == http.MethodPut })
		s.live(300 * time.Millisecond)
		s.daemon.Kill9()
		hold.Pass()
	}},
}

func (s *storm) strike() {
	if !s.plan.others {
		return
	}
	n := s.rand.IntN(100)
	for _, strike := range strikes {
		if n -= strike.chance; n < 0 {
			s.struck[strike.name]++
			strike.strike(s)
			return
		}
	}
}

// breakRegistry makes every third call fail for a while.
func (s *storm) breakRegistry(span time.Duration) {
	var mu sync.Mutex
	draw := rand.New(rand.NewPCG(s.rand.Uint64(), 0))
	fault := func(req *http.Request) *kit.Fault {
		mu.Lock()
		defer mu.Unlock()
		if draw.IntN(3) > 0 {
			return nil
		}
		answer := answers[draw.IntN(len(answers))]
		image, _, ok := manifest(req)
		if ok && req.Method == http.MethodPut && answer.Status == http.StatusForbidden && !s.refusable[image] {
			return nil // it would be right to give up
		}
		return &answer.Fault
	}
	for _, gate := range []*kit.HTTPGate{s.calls, s.pushes} {
		defer gate.Fault(fault)()
	}
	s.live(span)
}

// check looks at the world while imgd is dead and nobody asks.
func (s *storm) check() {
	s.asking.Lock()
	defer s.asking.Unlock()
	s.mustIdle()
	s.seen = s.look()
	s.mustHold(s.seen)
	s.progress(s.seen)
}

func (s *storm) progress(w *check.World) {
	s.Logf("%5d kills, %d asks, %d releases, %d events, %d queued, %d dead, %.0f s", s.kills, s.acked.Load(), len(w.Index.Releases), len(w.Events), len(w.Queue), len(w.Dead), time.Since(s.began).Seconds())
}

// finish lets imgd live until nothing is left to do, and then wants all that was acknowledged to have ended, and each
// newest commit to have a release or a visible failure.
func (s *storm) finish() {
	s.daemon = kit.RunDaemon(s.T, s.dir, s.config)
	s.drain()
	w := s.mustEnd()
	s.seen = w
	s.progress(w)
	for _, a := range s.authors {
		for _, err := range a.mustHave(w, s.refusable[a.image]) {
			s.Error(err)
		}
	}
	for _, words := range s.unexplained {
		s.Errorf("imgd ended by itself: %s", words)
	}
	s.Logf("seed %d; struck: %v; %d ends of its own; states: %v", s.plan.seed, s.struck, s.ownEnds, statesOf(w))
}

// drain waits until the queue is empty, or for too long: mustEnd says what is wrong then.
func (s *storm) drain() {
	ctx, cancel := context.WithTimeout(s.Context(), s.plan.endTime)
	defer cancel()
	_ = kit.Wait(ctx, func(ctx context.Context) error {
		queue, err := s.js.Stream(ctx, "IMGD_REQUESTS")
		if err == nil && queue.CachedInfo().State.Msgs > 0 {
			err = fmt.Errorf("%d in the queue", queue.CachedInfo().State.Msgs)
		}
		return err
	})
}

func statesOf(w *check.World) map[string]int {
	n := map[string]int{}
	for _, st := range w.States {
		n[st.State]++
	}
	return n
}

// A storm of the size that every run of the tests can have.
func TestStorm(t *testing.T) {
	t.Parallel()
	newStorm(t, stormPlan{seed: rand.Uint64(), projects: 4, kills: 15, checkEvery: 5, backlog: 8, endTime: endTime, long: 0.1}).run()
}
