package index_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/version"
)

// expire is the command that takes the tag from the release.
func expire(n int, from imgd.Release, at int, tag string) imgd.Release {
	rel := command(n, nil, at, tag)
	rel.Image, rel.Command, rel.Removes = from.Image, imgd.CommandExpire, from.ID
	return rel
}

// What is immutable expires without force. Its name stays kept for what it named,
// and no generation is used twice.
func TestExpireImmutable(t *testing.T) {
	w, _, x, a, _ := series(t)
	gone := publish(t, x, expire(1, a, 10, "v1.1.0"))
	if gone.Removes != a.ID || gone.Taken()[0].Generation != 1 || gone.Taken()[0].Previous != a.Root.Digest {
		t.Errorf("got %+v", gone)
	}
	if got := names(x, roots, "v1.1.0", "1.1"); got != "v1.1.0=- 1.1=A" {
		t.Errorf("got %s", got)
	}
	refused(t, x, expire(2, a, 11, "v1.1.0"), imgd.ErrUnchanged, "removed by release "+gone.ID, "expire by ada")
	other := w.candidate("refs/tags/v1.1.0", "c", "C", 12)
	refused(t, x, other, imgd.ErrConflict, a.Root.Digest.String())
	again := w.candidate("refs/tags/v1.1.0", "a", "A", 13)
	again.Request.ID = fmt.Sprintf("%032x", 99)
	if back := publish(t, x, again); back.Tags[0].Generation != 2 {
		t.Errorf("it came back as generation %d", back.Tags[0].Generation)
	}
}

// What was looked at goes, and nothing that came after it: neither another root,
// nor the same one published anew, nor what only claims the tag yet.
func TestExpireComparesTheRelease(t *testing.T) {
	w, _, x, a, b := series(t)
	refused(t, x, expire(1, a, 10, "latest"), imgd.ErrSuperseded, "is not what was to expire any more", b.ID)
	refused(t, x, expire(1, a, 10, "nothing"), imgd.ErrNotFound)
	again := w.candidate("refs/tags/v1.2.0", "b", "B", 11)
	again.Request.ID, again.Request.Rebuild = fmt.Sprintf("%032x", 98), true
	again = publish(t, x, again)
	if took := again.Taken(); len(took) == 0 || names(x, roots, "latest") != "latest=B" {
		t.Fatalf("the same root was not published again: %s", again.Reasons())
	}
	refused(t, x, expire(2, b, 12, "latest"), imgd.ErrSuperseded, again.ID)
	claimed, err := x.Admit(t.Context(), w.candidate("refs/tags/v1.3.0", "c", "C", 13), "")
	if err != nil {
		t.Fatal(err)
	}
	refused(t, x, expire(3, again, 14, "latest"), imgd.ErrSuperseded, "claimed by release "+claimed.ID)
	if rel, _ := x.Release(claimed.ID); len(rel.Taken()) != 3 {
		t.Errorf("the claim has lapsed: %s", rel.Reasons())
	}
	if _, err := x.Abandon(t.Context(), claimed.ID, "a test"); err != nil {
		t.Fatal(err)
	}
	publish(t, x, expire(3, again, 15, "latest"))
	if got := names(x, roots, "latest"); got != "latest=-" {
		t.Errorf("got %s", got)
	}
}

// The mark of what has expired stays, so no redelivery brings it back.
func TestExpireLeavesTheMark(t *testing.T) {
	w, dir, x, _, b := series(t)
	publish(t, x, expire(1, b, 10, "latest"))
	if got := markOf(t, dir, "latest"); !strings.Contains(got, `"version":"v1.2.0"`) || !strings.Contains(got, `"askedAt":"2026-11-21T10:00:10Z"`) {
		t.Errorf("mark %s", got)
	}
	late := w.candidate("refs/tags/v1.1.5", "d", "D", 5)
	if rel := publish(t, x, late); !strings.Contains(rel.Reasons(), "latest: has named v1.2.0") {
		t.Errorf("a late older build: %s", rel.Reasons())
	}
}

func TestHolds(t *testing.T) {
	w, _, x, a, b := series(t)
	publish(t, x, expire(1, a, 10, "v1.1.0"))
	claimed, err := x.Admit(t.Context(), w.candidate("refs/tags/v1.3.0", "c", "C", 13), "")
	if err != nil {
		t.Fatal(err)
	}
	theirs := pushed("v9.0.0", version.KindVersion, "d", 14, "D")
	theirs.Image = "tools/lint"
	theirs = publish(t, x, theirs)
	if got := fmt.Sprint(x.Images()); got != "["+image+" tools/lint]" {
		t.Errorf("images %s", got)
	}
	var got []string
	for _, h := range x.Holds(image) {
		got = append(got, fmt.Sprint(h.Tag.Name, " ", h.Tag.Kind, " ", h.Release.ID == b.ID, " ", h.Claim == claimed.ID))
	}
	want := "1.1 series false false, 1.2 series true false, latest series true true, v1.2.0 version true false"
	if strings.Join(got, ", ") != want {
		t.Errorf("got  %s\nwant %s", strings.Join(got, ", "), want)
	}
	publish(t, x, expire(2, theirs, 15, "v9.0.0"))
	if got := fmt.Sprint(x.Images(), len(x.Holds("tools/lint"))); got != "["+image+"] 0" {
		t.Errorf("when all tags of an image are gone: %s", got)
	}
}
