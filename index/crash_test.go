package index_test

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/imgd/imgd/index"
)

// writerDir makes this test binary the process that TestKill kills.
const writerDir = "IMGD_INDEX_TEST_WRITER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(writerDir); dir != "" {
		if err := writeUntilKilled(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if dir := os.Getenv(powerDir); dir != "" {
		if err := writeTraced(dir, os.Getenv(powerPlan)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// writeUntilKilled publishes release after release, each without its moving
// tags, and says each step that was acknowledged.
func writeUntilKilled(dir string) error {
	w := newWorld()
	x, err := index.Open(index.Config{Dir: dir, History: w, Registry: w})
	if err != nil {
		return err
	}
	for n := len(x.Published(0)) + len(x.Open()); ; n++ {
		rel := w.candidate(fmt.Sprintf("refs/tags/v1.0.%d", n), "a", fmt.Sprint("root ", n), n)
		admitted, err := x.Admit(context.Background(), rel, "")
		if err != nil {
			return err
		}
		for _, t := range admitted.Tags[1:] { // its version is left
			if _, err := x.Forgo(context.Background(), admitted.ID, t.Name, "refused"); err != nil {
				return err
			}
			fmt.Fprintln(os.Stdout, admitted.ID, t.Name)
		}
		if _, err := x.Publish(context.Background(), admitted.ID); err != nil {
			return err
		}
		fmt.Fprintln(os.Stdout, admitted.ID)
	}
}

// Killed at any moment, the index has all that it acknowledged.
func TestKill(t *testing.T) {
	const rounds = 15
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	dir := t.TempDir()
	acknowledged := 0
	for range rounds {
		writer := exec.Command(os.Args[0])
		writer.Env = append(os.Environ(), writerDir+"="+dir)
		writer.Stderr = os.Stderr
		said, err := writer.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := writer.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(said)
		var ids []string
		for left := 1 + random.IntN(20); lines.Scan(); left-- {
			ids = append(ids, lines.Text())
			if left == 0 {
				if err := writer.Process.Kill(); err != nil { // while it goes on
					t.Fatal(err)
				}
			}
		}
		if err := writer.Wait(); err == nil {
			t.Fatal("the writer was not killed")
		}
		x := open(t, dir, newWorld())
		for _, said := range ids {
			id, tag, forgone := strings.Cut(said, " ")
			rel, ok := x.Release(id)
			if !ok || !forgone && rel.PublishedAt.IsZero() || forgone && !strings.Contains(rel.Reasons(), tag+": refused") {
				t.Errorf("%s was acknowledged and is lost", said)
			}
		}
		acknowledged += len(ids)
		x.Close()
	}
	t.Logf("%d steps acknowledged in %d lives", acknowledged, rounds)
}
