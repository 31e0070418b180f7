//go:build soak

package integration_test

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"
)

// A storm of hours, with everything: `go test -tags soak -run TestSoak -v -timeout 3h .`, SOAK_KILLS kills of imgd from the
// seed SOAK_SEED.
func TestSoak(t *testing.T) {
	plan := stormPlan{seed: number(t, "SOAK_SEED", rand.Uint64()), kills: int(number(t, "SOAK_KILLS", 2000)),
		projects: 20, checkEvery: 50, backlog: 40, others: true, endTime: 30 * time.Minute, long: 0.04}
	newStorm(t, plan).run()
}

// As many webhooks in bursts from 20 projects, SOAK_DELIVERIES of them, and a kill a few seconds.
func TestSoakWebhooks(t *testing.T) {
	plan := stormPlan{seed: number(t, "SOAK_SEED", rand.Uint64()), deliveries: int64(number(t, "SOAK_DELIVERIES", 2000)),
		projects: 20, checkEvery: 20, backlog: 400, others: true, endTime: 30 * time.Minute, long: 0.5}
	newStorm(t, plan).byHooks().run()
}

// Random images, tags and signatures, cleaned up and collected beside publishes, SOAK_KEEPS rounds of them with a kill each.
func TestSoakKeep(t *testing.T) {
	seed := number(t, "SOAK_SEED", rand.Uint64())
	t.Logf("seed %d", seed)
	newKeep(t, seed).run(int(number(t, "SOAK_KEEPS", 300)))
}

func number(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}
