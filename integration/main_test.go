package integration_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/imgd/imgd/integration/kit"
)

func TestMain(m *testing.M) {
	kit.ServeNATS()
	before := leftBehind() // of a process that had the same ID and was killed
	code := m.Run()
	for _, left := range leftBehind() {
		if slices.Contains(before, left) {
			continue
		}
		fmt.Fprintln(os.Stderr, "left behind:", left)
		code = max(code, 1)
	}
	os.Exit(code)
}

// leftBehind is what is left of the parts that the tests ran beside imgd. What imgd leaves is looked for by each test.
func leftBehind() []string {
	name := fmt.Sprintf("imgd-kit-%d-", os.Getpid())
	found := kit.Leftovers(name)
	for _, dir := range []string{"/run", os.TempDir()} {
		dirs, _ := filepath.Glob(filepath.Join(dir, name+"*")) // the pattern is good
		found = append(found, dirs...)
	}
	return found
}
