package kit_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/imgd/imgd/integration/kit"
)

// A killed buildkitd starts over what it left, at the same places, and leaves nothing behind.
func TestBuildkitdIsKilledAndStarted(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM scratch\nCOPY Dockerfile /\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b, err := kit.StartBuildkitd(ctx, "127.0.0.1:1") // the mirror is not asked
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		for _, addr := range []string{b.Addr, "tcp://" + b.TCP} {
			if _, err := kit.Buildctl(ctx, addr, "build", "--frontend", "dockerfile.v0", "--local", "context="+dir, "--local", "dockerfile="+dir); err != nil {
				t.Error(err)
			}
		}
		b.Kill9()
		if _, err := b.Buildctl(ctx, "debug", "workers"); err == nil {
			t.Error("a killed buildkitd answers")
		}
		if err := b.Start(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	nothingLeft(t)
}
