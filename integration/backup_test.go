package integration_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/imgd/imgd/integration/kit"
)

// The backup that docs/install.md makes of a stopped imgd brings all of it back in another place: what was published is
// there and is what the registry has, the events are, and the next release goes on from them.
func TestBackup(t *testing.T) {
	t.Parallel()
	s := bareSite(t, scratchFiles("one"))
	config, err := s.config(), error(nil)
	config.Registry.Listen, err = kit.OwnPort() // the registry's name is part of every image's
	s.must(err)
	s.must(s.repo.Tag(t.Context(), "v1.0.0", "main"))
	s.daemon = kit.RunDaemon(t, t.TempDir(), config)
	s.build("v1.0.0")
	before := s.imgctl("list", image, "-o", "json")
	ctx, cancel := context.WithTimeout(context.Background(), firstStop)
	defer cancel()
	s.must(s.daemon.Terminate(ctx))

	dir := t.TempDir()
	for _, c := range commandsIn(t, filepath.Join(docs, "install.md")) {
		if command, ok := strings.CutPrefix(c.text, "sudo tar "); ok {
			s.bash(dir, "tar "+strings.ReplaceAll(command, "/var/lib/imgd", s.daemon.Data()))
		}
	}
	restored := t.TempDir()
	s.must(os.MkdirAll(filepath.Join(restored, "data"), 0o755))
	s.bash(dir, "tar -C "+restored+"/data -xzf imgd-backup.tar.gz")
	s.daemon = kit.RunDaemon(t, restored, config)
	if after := s.imgctl("list", image, "-o", "json"); after != before {
		t.Errorf("got %s, want %s", after, before)
	}
	s.imgctl("verify", image+":v1.0.0")
	s.commit("two", scratchFiles("two"))
	s.must(s.repo.Tag(t.Context(), "v1.1.0", "main"))
	s.build("v1.1.0")
	s.published(2) // one event of each release
}

func (s *site) bash(dir, command string) {
	s.Helper()
	cmd := exec.CommandContext(s.Context(), "bash", "-c", command)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		s.Fatalf("%s: %v\n%s", command, err, out)
	}
}
