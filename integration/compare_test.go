package integration_test

import (
	"encoding/json"
	"maps"
	"os"
	"strings"
	"testing"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/integration/kit"
)

// A second project over the same repository keeps the times of its files.
const (
	timed      = "timed"
	timedImage = "demo/timed"
)

// The image of a Go program is made again to the byte, from nothing; of another
// Dockerfile the first file that differs is shown. Neither releases anything.
func TestCompare(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: the embedded buildkitd needs root")
	}
	s := bareSite(t, kit.HelloFiles())
	s.daemon = kit.RunDaemon(t, t.TempDir(), kit.LocalConfig(
		kit.ProjectConfig{Name: "hello", Git: s.repo.URL, Image: image},
		kit.ProjectConfig{Name: timed, Git: s.repo.URL, Image: timedImage, KeepTimes: true}))
	t.Cleanup(func() { s.mustEnd() })
	s.must(kit.PushBaseImages(t.Context(), s.daemon.Registry))

	s.must(s.repo.Tag(t.Context(), "v1.0.0", "main"))
	first := s.build("v1.0.0")
	before := s.tags()
	if said := s.imgctl("build", "hello", "--ref", "v1.0.0", "--rebuild", "--compare", image+":v1.0.0"); strings.TrimSpace(said) != "reproducible: "+first[0].Digest+" was made again" {
		t.Errorf("a Go program: %s", said)
	}
	if after := s.tags(); !maps.Equal(after, before) {
		t.Errorf("a comparison has moved tags: they were %v, are %v", before, after)
	}

	// Two builds may fall into one second, so the time is drawn.
	s.commit("times alone", map[string]string{"Dockerfile": "FROM busybox\n" +
		"RUN echo hello > /hello && touch -d @$((2000000000 + $(od -An -N4 -tu4 /dev/urandom) % 1000000000)) /hello\n"})
	s.must(s.repo.Tag(t.Context(), "v1.1.0", "main"))
	second := s.build("v1.1.0")
	if said := s.imgctl("build", "hello", "--ref", "v1.1.0", "--rebuild", "--compare", image+":v1.1.0"); strings.TrimSpace(said) != "reproducible: "+second[0].Digest+" was made again" {
		t.Errorf("a file with a time of its own: %s", said)
	}
	s.imgctl("build", timed, "--ref", "v1.1.0", "--wait")
	if d := s.differs(timed, timedImage, "v1.1.0"); d.Part != imgd.PartLayer || d.Field != imgd.FieldModTime || d.File == "" {
		t.Errorf("a file that keeps its time: %+v", d)
	}

	s.commit("chance", map[string]string{"Dockerfile": "FROM busybox\nRUN echo hello > /hello && cat /proc/sys/kernel/random/uuid > /x\n"})
	s.must(s.repo.Tag(t.Context(), "v1.2.0", "main"))
	s.build("v1.2.0")
	for project, name := range map[string]string{"hello": image, timed: timedImage} {
		if project == timed {
			s.imgctl("build", timed, "--ref", "v1.2.0", "--wait")
		}
		if d := s.differs(project, name, "v1.2.0"); d.Part != imgd.PartLayer || d.File != "x" || d.Field != imgd.FieldContent || d.A == d.B {
			t.Errorf("%s, a file of chance: %+v", project, d)
		}
	}

	s.published(5)
}

// differs compares what the tag names with the same made again, which must
// differ.
func (s *site) differs(project, image, tag string) imgd.Difference {
	s.Helper()
	said := s.exit(3, "build", project, "--ref", tag, "--rebuild", "--compare", image+":"+tag, "--progress", "quiet")
	if !strings.Contains(said, image+":"+tag+" was not made again") {
		s.Errorf("it says %s", said)
	}
	var last struct {
		Items []struct {
			Error struct{ Built string }
		}
	}
	body, err := kit.Get(s.Context(), s.daemon.HTTP+"/v1/requests?state=unchanged&limit=1&project="+project)
	s.must(err)
	s.must(json.Unmarshal(body, &last))
	body, err = kit.Get(s.Context(), s.daemon.HTTP+"/v1/images/"+image+"/tags/"+tag)
	s.must(err)
	var named struct{ Root string }
	s.must(json.Unmarshal(body, &named))
	body, err = kit.Get(s.Context(), s.daemon.HTTP+"/v1/compare?image="+image+"&a="+named.Root+"&b="+last.Items[0].Error.Built)
	s.must(err)
	var c imgd.Comparison
	s.must(json.Unmarshal(body, &c))
	if c.Same || c.Difference == nil {
		s.Fatalf("%s:%s: %s", image, tag, body)
	}
	return *c.Difference
}
