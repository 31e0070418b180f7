package imgd_test

import (
	"context"
	"errors"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgd/imgd"
)

// A third is a registry whose third write of a tag fails, and no other.
type third struct {
	*world
	writes int
}

func (r *third) Tag(ctx context.Context, repository, tag string, root ocispec.Descriptor) error {
	if r.writes++; r.writes == 3 {
		return errInjected
	}
	return r.world.Tag(ctx, repository, tag, root)
}

// A command is in no queue. If what it has to give back cannot be given back at
// once, it stands admitted, and the sweep does the rest.
func TestCommandGivesBackLater(t *testing.T) {
	for name, dropped := range map[string]bool{"refused": false, "dropped": true} {
		t.Run(name, func(t *testing.T) {
			w, older, newer := twoVersions(t)
			cmd := order(imgd.CommandTag, 1, "v1.2.2")
			cmd.NewTags, cmd.Force = []string{"stable", "v1.2.3"}, true
			p := w.pipeline()
			p.Tagger = &third{world: w}
			if w.refuses["v1.2.3"] = -1; dropped {
				w.refuses["v1.2.3"] = 0
				p.Tagger = &third{world: w, writes: 1}
			}
			rel, _, err := p.Command(t.Context(), cmd)
			if !errors.Is(err, errInjected) || rel.State != imgd.ReleaseAdmitted {
				t.Fatalf("got %s, %v, want an admitted release and the injected fault", rel.State, err)
			}
			if dropped {
				if _, err := w.pipeline().Drop(t.Context(), cmd.ID, "dropped by ada"); err != nil {
					t.Fatal(err)
				}
			} else if err := w.pipeline().DriveOpen(t.Context(), epoch.Add(time.Hour), 0); err != nil && !errors.Is(err, imgd.ErrRefused) {
				t.Fatal(err)
			}
			if now, _ := w.index.Release(rel.ID); now.State != imgd.ReleaseAbandoned || now.Why == imgd.LostClaims {
				t.Errorf("it stands %s: %s", now.State, now.Why)
			}
			for _, repository := range w.repos {
				if w.tags[at(repository, "v1.2.3")] != newer.Root.Digest || w.tags[at(repository, "v1.2.2")] != older.Root.Digest || w.tags[at(repository, "stable")] != "" {
					t.Errorf("%s has %v", repository, w.tags)
				}
			}
		})
	}
}

// What an operator has dropped is never published, not a tag of it, however
// little of the drop took effect; and it is said why.
func TestHalfDroppedCommand(t *testing.T) {
	for _, fails := range []fault{{"tag", "fails", 1}, {"forgo", "fails but took effect", 1}, {"abandon", "fails", 1}} {
		t.Run(fails.effect, func(t *testing.T) {
			w, older, newer := twoVersions(t)
			cmd := order(imgd.CommandTag, 1, "v1.2.2")
			cmd.NewTags, cmd.Force = []string{"stable", "v1.2.3"}, true
			p := w.pipeline()
			p.Tagger = &third{world: w, writes: 1}
			rel, _, err := p.Command(t.Context(), cmd)
			if !errors.Is(err, errInjected) || rel.State != imgd.ReleaseAdmitted {
				t.Fatalf("got %s, %v", rel.State, err)
			}
			w.fault = fails
			if _, err := w.pipeline().Drop(t.Context(), cmd.ID, "dropped by ada"); !errors.Is(err, errInjected) {
				t.Fatalf("got %v", err)
			}
			if err := w.pipeline().DriveOpen(t.Context(), epoch.Add(time.Hour), 0); err != nil {
				t.Fatal(err)
			}
			if now, _ := w.index.Release(rel.ID); now.State != imgd.ReleaseAbandoned || now.Why != "dropped by ada" {
				t.Errorf("it stands %s: %s", now.State, now.Why)
			}
			for _, repository := range w.repos {
				if w.tags[at(repository, "v1.2.3")] != newer.Root.Digest || w.tags[at(repository, "v1.2.2")] != older.Root.Digest || w.tags[at(repository, "stable")] != "" {
					t.Errorf("%s has %v", repository, w.tags)
				}
			}
		})
	}
}
