package integration_test

import (
	"context"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/imgd/imgd/integration/check"
	"github.com/imgd/imgd/integration/kit"
)

const lint = "tools/lint" // no project makes it

// What another CI has pushed is recorded by the daemon: new, known, in conflict, forced, not there; one platform, several, a
// tag that moves, and one that nobody looks at. imgd writes none of it.
func TestPushedByAnotherCI(t *testing.T) {
	t.Parallel()
	r := newRig(t, sharedBuildkitd(t))
	ci := otherCI{r}
	r.calls.Watch(func(req *http.Request) {
		if image, _, about := manifest(req); about && image == lint && req.Method != http.MethodGet && req.Method != http.MethodHead {
			t.Errorf("imgd sends %s %s", req.Method, req.URL)
		}
	})
	first := ci.push(lint, "v1.0.0")
	said := ci.record(0, lint, "v1.0.0", first, "--label", "env=prod", "--ttl", "7d")
	ci.mustSay(said, `{"image":"tools/lint","tag":"v1.0.0","digest":"`+first+`","platform":"linux/amd64"`, `"outcome":"new"`,
		`"sourceRef":"https://git.example.com/tools/lint@`+sourceCommit+`"`, `"labels":{"env":"prod"}`, `"expiresAt":"`)
	ci.mustSay(ci.record(0, lint, "v1.0.0", first), `"outcome":"same"`)
	event := r.published(1)[0]
	if event.Purl.Version != first || event.Purl.Name != "lint" || len(event.Custom.Records) != 1 || event.Custom.Tags[0].Ref != "" || event.Custom.Tags[0].Kind != "version" {
		t.Errorf("event %+v", event)
	}

	second := ci.push(lint, "v1.0.0")
	ci.mustSay(ci.record(5, lint, "v1.0.0", second), first, second)
	if got := ci.drifts(lint, "v1.0.0"); !slices.Equal(got, []string{first + " " + second}) {
		t.Errorf("drifts %q", got)
	}
	if got := ci.serves(lint, "v1.0.0"); got != second {
		t.Errorf("the registry has %s: imgd wrote it", got)
	}
	ci.mustSay(ci.record(3, lint, "v1.0.0", first), first, second)
	ci.mustSay(ci.record(0, lint, "v1.0.0", second, "--force", "--reason", "the first was wrong"), `"generation":2`, `"previous":"`+first+`"`)
	ci.mustSay(ci.record(6, lint, "v7.0.0", second), "push it first")

	list, arm := ci.pushList(lint, "v2.0.0")
	ci.mustSay(ci.record(0, lint, "v2.0.0", arm, "--platform", "linux/arm64"), `"digest":"`+arm+`"`, `"indexDigest":"`+list+`"`, `"platform":"linux/amd64"`)
	ci.mustSay(ci.record(0, lint, "v2.0.0", list), `"outcome":"same"`)

	for range 2 {
		stable := ci.push(lint, "stable")
		ci.mustSay(ci.record(0, lint, "stable", stable, "--moving"), `"outcome":"new"`, stable)
	}
	ci.mustSay(ci.record(0, lint, "unseen", first, "--no-verify"), `"mediaType":"","size":0`)
	ci.mustSay(r.imgctl("get", lint+":v2.0.0", "-o", "digest"), r.calls.Addr+"/"+lint+"@"+list)

	// moved by another hand: drift is told, and imgd leaves it
	strange := ci.push(lint, "stable")
	r.exit(3, "verify", lint+":stable")
	if got := ci.serves(lint, "stable"); got != strange {
		t.Errorf("the registry has %s, want the other hand's %s", got, strange)
	}
	r.published(6)
	w := r.mustEnd()
	if len(w.States) > 0 {
		t.Errorf("states %v: commands do not use the queue", w.States)
	}
	mustBeDocumented(t, r.drifted())
}

// drifted are the drift events as they are.
func (r *rig) drifted() []kit.Message {
	r.Helper()
	messages, err := kit.ReadStream(r.Context(), r.queue.URL, "IMGD_EVENTS", "imgd.events.drift.>", 0)
	r.must(err)
	return messages
}

// A tag of a project keeps to its own: what is pushed beside is a conflict, and drift is told.
func TestPushedBesideBuilds(t *testing.T) {
	t.Parallel()
	r := newRig(t, sharedBuildkitd(t))
	ci := otherCI{r}
	built := r.build(gitTag)[0]
	strange := ci.push(image, gitTag)
	ci.mustSay(ci.record(5, image, gitTag, strange), built.Digest, strange)
	if got := ci.serves(image, gitTag); got != strange {
		t.Errorf("the registry has %s: imgd wrote it", got)
	}
	if got := ci.drifts(image, gitTag); !slices.Equal(got, []string{built.Digest + " " + strange}) {
		t.Errorf("drifts %q", got)
	}
	ci.mustSay(ci.record(2, image, "v9.0.0", strange, "--registry", "other.example.com"), "other.example.com", r.calls.Addr+"/"+image)
	r.agree(1)
}

// imgd is killed between admit and publish. It finishes by itself, also if the tag was moved or removed meanwhile; the same
// command again is answered by that.
func TestPushedAndKilled(t *testing.T) {
	t.Parallel()
	buildkitd := sharedBuildkitd(t)
	type end struct {
		name  string
		moves bool
		again bool
	}
	runRows(t, rowsAtOnce, []end{{"it goes on", false, false}, {"the tag is moved", true, false}, {"the command comes again", false, true}}, func(e end) string { return e.name }, func(t *testing.T, e end) {
		r := newRig(t, buildkitd)
		ci := otherCI{r}
		digest := ci.push(lint, "v1.0.0")
		reads := 0
		hold := r.calls.Arm(kit.Before, func(req *http.Request) bool { // the second is settle's, after admit
			if about(http.MethodGet, "v1.0.0")(req) {
				reads++
			}
			return reads == 2
		})
		ended := make(chan told, 1)
		publish, err := kit.Bin("publish")
		r.must(err)
		go func() { ended <- ci.run(exec.CommandContext(t.Context(), publish, ci.args(lint, "v1.0.0", digest)...)) }()
		r.waitHeld(hold)
		r.daemon.Kill9()
		hold.Drop()
		r.mustIdle()
		if got := <-ended; got.code != 1 {
			t.Errorf("publish exits with %d: %s", got.code, got.stderr)
		}
		dead := r.look()
		r.mustHold(dead)
		if rel := dead.Index.Releases[0]; rel.State != check.Admitted || !rel.Pushed {
			t.Fatalf("at the kill the release is %+v", rel)
		}
		found := digest
		if e.moves {
			found = ci.push(lint, "v1.0.0")
		}
		r.start()
		if e.again {
			ci.mustSay(ci.record(0, lint, "v1.0.0", digest), `"outcome":"same"`)
		}
		r.published(1)
		w := r.mustEnd()
		if got := w.Index.Releases; len(got) != 1 || got[0].ID != dead.Index.Releases[0].ID || got[0].State != check.Published {
			t.Errorf("releases %+v", got)
		}
		if got := ci.serves(lint, "v1.0.0"); got != found {
			t.Errorf("the registry has %s, want %s", got, found)
		}
		if drifts := ci.drifts(lint, "v1.0.0"); len(drifts) != 0 != e.moves {
			t.Errorf("drifts %q", drifts)
		}
	})
}

// Without a daemon a CI job writes the index itself, as it stands in the README; the daemon that serves it next tells the
// world. While one runs the index is its own.
func TestPushedStraight(t *testing.T) {
	t.Parallel()
	r := bareRig(t, sharedBuildkitd(t))
	ci := otherCI{r}
	data := (&kit.Daemon{Dir: r.dir}).Data()
	digest := ci.push(lint, "v1.0.0")
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute) // it is built
	defer cancel()
	run := exec.CommandContext(ctx, "go", "run", "./cmd/publish", "--image="+r.calls.Addr+"/"+lint, "--tag=v1.0.0", "--digest="+digest, "--source=https://git.example.com/tools/lint@"+sourceCommit)
	run.Dir = ".."
	got := ci.run(run, "IMGD_DATA="+data)
	if got.code != 0 || strings.Count(got.stdout, "\n") != 1 {
		t.Fatalf("go run ./cmd/publish exits with %d\n%s%s", got.code, got.stdout, got.stderr)
	}
	ci.mustSay(got.stdout, `{"image":"tools/lint","tag":"v1.0.0","digest":"`+digest+`"`, `"outcome":"new"`)
	ci.mustSay(got.stderr, filepath.Join(data, "index"))
	ci.mustSay(ci.record(0, lint, "v1.0.0", digest, "--index", filepath.Join(data, "index")), `"outcome":"same"`)
	r.start()
	event := r.published(1)[0]
	if event.Purl.Version != digest {
		t.Errorf("event of %s, want %s", event.Purl.Version, digest)
	}
	ci.mustSay(ci.record(1, lint, "v1.0.0", digest, "--index", filepath.Join(data, "index")), "in use by process", "--server")
	ci.mustSay(ci.record(0, lint, "v1.0.0", digest), `"outcome":"same"`)
	r.mustEnd()
}
