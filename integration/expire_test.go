package integration_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/imgd/imgd/integration/check"
	"github.com/imgd/imgd/integration/kit"
)

const pullRef = "refs/pull/7/head"

// keepingRig is a rig whose pull request 7 expires a second after it was published, and all versions but the last at once;
// imgd looks so often. There is no daemon yet.
func keepingRig(t *testing.T, buildkitd *kit.Buildkitd, every string) *rig {
	t.Helper()
	r := bareRig(t, buildkitd)
	r.site.repo = r.addProject("hello", image, scratchFiles(t.Name()))
	r.must(r.repo.PullRequest(t.Context(), 7, r.commit("of the pull request", scratchFiles("pull request 7 of "+t.Name()))))
	p := &r.config.Projects[0]
	p.Refs = []string{"refs/heads/*", "refs/tags/*", "refs/pull/*"}
	p.Retention = &kit.Retention{Rules: []kit.RetentionRule{{Tags: []string{"pr-*"}, TTL: "1s"}, {Kinds: []string{"version"}, KeepLast: 1}}}
	r.config.Expire = &kit.ExpireConfig{Every: every}
	r.watch()
	return r
}

// waitRemoved waits until the index has the tag as one that names nothing.
func (r *rig) waitRemoved(tag string) {
	r.Helper()
	ctx, cancel := context.WithTimeout(r.Context(), endTime)
	defer cancel()
	r.must(kit.Wait(ctx, func(context.Context) error {
		index, err := check.ReadIndex(r.place.Data)
		if err != nil {
			return err
		}
		t := index.Tag(image, tag)
		if holder := index.Release(t.Holder); t.Claim != "" || holder.ID == "" || holder.Root.Digest != "" {
			return fmt.Errorf("%s is held by %q and claimed by %q", tag, t.Holder, t.Claim)
		}
		return nil
	}))
}

// mustHaveExpired holds that the tag was removed once, is not in the registry, and that the world was told.
func (r *rig) mustHaveExpired(w *check.World, tag string) {
	r.Helper()
	var removed []string
	for _, rel := range w.Index.Releases {
		if rel.Command == "expire" && rel.Tags[0].Tag == tag && rel.State == check.Published {
			removed = append(removed, rel.ID)
		}
	}
	if len(removed) != 1 {
		r.Errorf("%s was removed by %q, want one release", tag, removed)
		return
	}
	if d, there := w.Tags[r.place.Repositories[0]][tag]; there {
		r.Errorf("the registry has %s still, as %s", tag, d)
	}
	told := 0
	for _, e := range w.Events {
		if e.ID == removed[0] && e.What == "deleted" {
			told++
		}
	}
	if told != 1 {
		r.Errorf("that %s was removed was told %d times", tag, told)
	}
}

// A pull request's tags, and versions but the last: what would go is shown, goes when it is told to and by itself, once, and
// what else names the same stays.
func TestExpire(t *testing.T) {
	t.Parallel()
	r := keepingRig(t, sharedBuildkitd(t), "0s")
	r.start()
	pull := r.build(pullRef)
	commitTag := pull[0].Tag
	r.imgctl("tag", image+":pr-7", "kept")
	r.must(kit.Wait(r.Context(), func(context.Context) error { // a second has passed
		if out := r.imgctl("expire", image, "--dry-run", "--jq", ".items[].tag"); out != "pr-7\n"+commitTag && out != "pr-7\n"+commitTag+"\n" {
			return fmt.Errorf("to go are %q", out)
		}
		return nil
	}))
	if out := r.imgctl("get", image+":pr-7", "-o", "digest"); !strings.HasSuffix(strings.TrimSpace(out), pull[0].Digest) {
		t.Errorf("the dry run has changed what pr-7 is: %s", out)
	}
	var done struct {
		Bytes int64
		Items []struct{ Tag, State, Why string }
	}
	r.must(json.Unmarshal([]byte(r.imgctl("expire", "-o", "json")), &done))
	if len(done.Items) != 2 || done.Items[0].State != "gone" || !strings.Contains(done.Items[0].Why, "ttl: tags pr-* stay for 1s") || done.Bytes != 0 {
		t.Errorf("got %+v", done)
	}
	r.exit(6, "get", image+":pr-7")
	if out := r.imgctl("get", image+":kept", "-o", "digest"); !strings.HasSuffix(strings.TrimSpace(out), pull[0].Digest) {
		t.Errorf("the sibling is %s, want %s", out, pull[0].Digest)
	}
	r.imgctl("verify", image+":kept")
	w := r.mustEnd()
	r.mustHaveExpired(w, "pr-7")
	r.mustHaveExpired(w, commitTag)
	if w.Tags[r.place.Repositories[0]]["kept"] != pull[0].Digest {
		t.Errorf("the registry has %v", w.Tags)
	}
	seq := w.Index.Seq
	r.imgctl("expire", "--yes")
	if now := r.look().Index.Seq; now != seq {
		t.Errorf("a second run has made entries %d to %d", seq+1, now)
	}

	// The schedule, and an immutable tag.
	r.build(gitTag)
	r.must(r.daemon.Terminate(t.Context()))
	r.config.Expire.Every = "1s"
	r.start()
	next := "v1.2.4"
	r.must(r.repo.Tag(t.Context(), next, r.commit("the next", scratchFiles("the next"))))
	r.build(next)
	r.waitRemoved(gitTag)
	w = r.mustEnd()
	r.mustHaveExpired(w, gitTag)
	if w.Tags[r.place.Repositories[0]][next] == "" || w.Tags[r.place.Repositories[0]]["latest"] == "" {
		t.Errorf("too much is gone: %v", w.Tags)
	}
}

// A closed pull request's tags go at once, as its forge says so.
func TestExpireClosed(t *testing.T) {
	t.Parallel()
	r := keepingRig(t, sharedBuildkitd(t), "0s")
	r.config.Projects[0].Retention = nil
	r.takeHooks()
	r.start()
	r.build(pullRef)
	hook := hookAsker{url: r.daemon.HTTP, event: "pull_request"}
	body := []byte(`{"action":"closed","number":7,"pull_request":{"number":7,"head":{"sha":"` + strings.Repeat("a", 40) + `","repo":{"id":1}},"base":{"ref":"main","repo":{"id":1}}},"sender":{"login":"ada"}}`)
	status, answer, err := hook.post(t.Context(), "hello", "1", sign(body), body)
	if err != nil || status != http.StatusOK || !strings.Contains(string(answer), "is closed") {
		t.Fatalf("got %d %s, %v", status, answer, err)
	}
	r.waitRemoved("pr-7")
	r.must(kit.Wait(t.Context(), func(context.Context) error {
		if all := r.tags(); len(all) > 0 {
			return errors.New("there are tags still: " + fmt.Sprint(all))
		}
		return nil
	}))
	r.mustHaveExpired(r.mustEnd(), "pr-7")
}

// imgd is killed at each step of the way on which a tag is removed, and goes on after its start.
func TestKilledWhileExpiring(t *testing.T) {
	t.Parallel()
	buildkitd := sharedBuildkitd(t)
	isDeleted := func(l kit.Line) bool { return isPub(l, "imgd.events.deleted.") }
	removing, announcing := point{"removal of the tag", call(http.MethodDelete, "pr-7")}, point{"event deleted", line(isDeleted)}
	rows := []struct {
		point
		side kit.Side
		late bool
	}{
		{removing, kit.Before, false}, {removing, kit.Before, true}, {removing, kit.Answered, false},
		{announcing, kit.Before, false}, {announcing, kit.Before, true}, {announcing, kit.Answered, false},
	}
	name := func(i int) string { return rowName(rows[i].point, rows[i].side, rows[i].late) }
	runRows(t, rowsAtOnce, []int{0, 1, 2, 3, 4, 5}, name, func(t *testing.T, i int) {
		row := rows[i]
		r := keepingRig(t, buildkitd, "1s")
		r.start()
		hold := row.arm(r, row.side)
		r.ask(pullRef)
		r.waitHeld(hold)
		r.daemon.Kill9()
		if row.late {
			hold.Pass()
		} else {
			hold.Drop()
		}
		r.mustIdle()
		r.mustHold(r.look())
		r.start()
		r.waitRemoved("pr-7")
		r.mustHaveExpired(r.mustEnd(), "pr-7")
	})
}
