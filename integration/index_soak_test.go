//go:build soak

package integration_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/imgd/imgd/integration/kit"
)

const (
	// soakWriters is how many publish at once.
	soakWriters = 4
	// strikeTime is how long a call is waited for that is to fail.
	strikeTime = 4 * time.Second
)

// Calls fail under a daemon that publishes all the time, so that snapshots are written and journals begun meanwhile: SOAK_FAULTS
// faults from the seed SOAK_SEED. Whatever ends it, all that it acknowledged is there.
func TestSoakIndexFaults(t *testing.T) {
	seed := number(t, "SOAK_SEED", rand.Uint64())
	t.Logf("seed %d", seed)
	s := &indexSoak{victim: newVictim(t, sharedBuildkitd(t)), random: rand.New(rand.NewPCG(seed, 0)), acked: map[string]string{}, ends: map[string]int{}}
	for n := range number(t, "SOAK_FAULTS", 300) {
		s.life(int(n))
	}
	s.Logf("%d publishes acknowledged, %d lives saw a journal begun; ends: %v", len(s.acked), s.rotated, s.ends)
	if s.rotated == 0 {
		t.Error("no journal grew enough")
	}
}

// An indexSoak is a daemon that publishes what nobody looks at.
type indexSoak struct {
	*victim
	random *rand.Rand

	mu    sync.Mutex // guards acked and tags
	acked map[string]string
	tags  int

	rotated int
	ends    map[string]int
}

// life runs imgd until a call fails, looks, and goes on.
func (s *indexSoak) life(n int) {
	s.run()
	ctx, cancel := context.WithCancel(s.Context())
	defer cancel()
	var writers sync.WaitGroup
	for range soakWriters {
		writers.Go(func() {
			for s.publish(ctx) {
			}
		})
	}
	name := []string{"openat", "write", "pwrite64", "fsync", "fdatasync", "ftruncate", "renameat", "linkat", "unlinkat", "close"}[s.random.IntN(10)]
	answer := []string{"signal=KILL", "error=EIO", "error=ENOSPC"}[s.random.IntN(3)]
	var files []string
	for _, file := range indexFiles {
		files = append(files, filepath.Join("index", file))
	}
	fault := fmt.Sprintf("%s:%s:when=%d", name, answer, 1+s.random.IntN(6))
	stop := s.inject(fault, files...)
	timeout := time.NewTimer(strikeTime)
	end, rotated := "went on", false
	for waiting := true; waiting; {
		select {
		case <-s.daemon.Done():
			end, waiting = "ended", false
		case <-timeout.C:
			waiting = false
		case <-time.After(10 * time.Millisecond):
			if found, _ := filepath.Glob(filepath.Join(s.data(), "index", "journal.older")); len(found) > 0 {
				rotated = true
			}
		}
	}
	if rotated {
		s.rotated++
	}
	s.ends[name+" "+answer+": "+end]++
	s.daemon.Kill9()
	stop()
	cancel()
	writers.Wait()
	s.look(fmt.Sprintf("life %d, %s", n, fault))
}

// publish records one more tag, and reports whether there may be another.
func (s *indexSoak) publish(ctx context.Context) bool {
	s.mu.Lock()
	s.tags++
	tag := fmt.Sprintf("v1.0.%d", s.tags)
	s.mu.Unlock()
	body := fmt.Sprintf(`{"digest":%q,"source":"https://git.example.com/demo/tool@%s","noVerify":true,"labels":{"long":%q}}`,
		digestOf(tag), strings.Repeat("a", 40), strings.Repeat("x", 2000))
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.daemon.HTTP+"/v1/images/demo/tool/tags/"+tag, bytes.NewReader([]byte(body)))
	if err != nil {
		return false
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false // it has ended
	}
	defer resp.Body.Close()
	var recorded struct{ Tag, Digest, Detail string }
	if err := json.NewDecoder(resp.Body).Decode(&recorded); err != nil {
		return false
	}
	if resp.StatusCode == http.StatusCreated {
		s.mu.Lock()
		s.acked[recorded.Tag] = recorded.Digest
		s.mu.Unlock()
	} else if resp.StatusCode < 500 && resp.StatusCode != http.StatusTooManyRequests {
		s.Errorf("%s: %s %s", tag, resp.Status, recorded.Detail)
		return false
	}
	return ctx.Err() == nil
}

// look wants all that was acknowledged.
func (s *indexSoak) look(where string) {
	images, err := kit.ReadImages(s.data())
	if err != nil {
		s.Fatalf("%s: %v", where, err)
	}
	lost := maps.Clone(s.acked)
	for _, record := range images.Records {
		if lost[record.Tag] == record.Digest {
			delete(lost, record.Tag)
		}
	}
	if len(lost) > 0 {
		s.Fatalf("%s: of %d that were acknowledged these are lost: %v", where, len(s.acked), lost)
	}
}
