package index_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/index"
	"github.com/imgd/imgd/version"
)

// odd is text that JSON writes otherwise than it is, or that looks like a part
// of images.json or of the journal.
var odd = []string{
	"plain", `"quoted"`, `back\slash`, "<b>&amp;</b>", "line\nand\ttab", "\u2028 \u2029 \x00 \x7f", "größer 😀", "not \xff UTF-8",
	`],"tags":[`, `],"releases":[`, "],\n\"crc32c\":\"00000000\"}", `{"entries":1,"bytes":2,"crc32c":"00000000","header":"00000000"}`,
	`"records":[`, `"end":1}`, "", " ",
}

// An answers is everything that an index says, as JSON.
type answers map[string]string

func answered(x *index.Index) answers {
	all := answers{}
	say := func(what string, values ...any) {
		b, err := json.Marshal(values)
		if err != nil {
			panic(err)
		}
		all[what] = string(b)
	}
	records, seq := x.Records()
	say("records", records, seq)
	say("id", x.ID(), x.Seq(), x.Told())
	say("open", x.Open())
	for after := range seq + 1 {
		say(fmt.Sprint("published ", after), x.Published(after))
		for _, image := range []string{"", "a/one", "b/two"} {
			changes, upTo := x.Changes(after, image, 7)
			say(fmt.Sprint("changes ", after, image), changes, upTo)
		}
	}
	for _, order := range imgd.Orders() {
		found, more, seq := x.Find(imgd.Find{Sort: order, Project: "p1"})
		say("find "+string(order), found, more, seq)
		for i := range found {
			found, more, seq := x.Find(imgd.Find{Sort: order, Project: "p1", After: &found[i], Limit: 2})
			say(fmt.Sprint("find ", order, i), found, more, seq)
		}
	}
	for _, image := range []string{"a/one", "b/two"} {
		say("repositories "+image, x.Repositories(image))
		say("history "+image, x.History(image, ""))
		for _, tag := range sameTags {
			name := image + ":" + tag.Name
			wanted, known := x.Wanted(image, tag.Name)
			say("wanted "+name, wanted, known)
			say("tag "+name, x.Tag(image, tag.Name), x.Generation(image, tag.Name))
			say("history "+name, x.History(image, tag.Name))
			for root := range 6 {
				say(fmt.Sprint("made ", name, root), x.Made(image, tag.Name, digest.FromString(fmt.Sprint("root", root))))
			}
		}
	}
	for request := range sameRequests {
		id := fmt.Sprintf("%032x", request)
		newest, known := x.Newest(id)
		say("newest "+id, newest, known)
		for n := range 15 {
			rel, known := x.Release(fmt.Sprintf("%s-%d", id, n))
			say(fmt.Sprint("release ", id, n), rel, known)
		}
	}
	return all
}

const sameRequests = 25

var sameTags = []imgd.ReleaseTag{
	{Name: "v1.0.0", Kind: version.KindVersion}, {Name: "v1.0.1", Kind: version.KindVersion}, {Name: "sha-aaaaaaa", Kind: version.KindCommit},
	{Name: "latest", Kind: version.KindSeries}, {Name: "1", Kind: version.KindSeries}, {Name: "main", Kind: version.KindBranch}, {Name: "any", Kind: version.KindOther},
}

func oddRelease(random *rand.Rand) imgd.Release {
	any := func() string { return odd[random.IntN(len(odd))] }
	n := random.IntN(sameRequests)
	root := fmt.Sprint("root", random.IntN(6))
	rel := imgd.Release{
		Image: []string{"a/one", "b/two"}[random.IntN(2)], Repositories: []string{"r.test/" + any()}, Source: "https://git.test/" + any(),
		Root: ocispec.Descriptor{Digest: digest.FromString(root), MediaType: ocispec.MediaTypeImageManifest, Size: 7}, Platforms: platforms(root),
		Request: imgd.Request{ID: fmt.Sprintf("%032x", n), Project: fmt.Sprint("p", n%3), Ref: "refs/heads/main", Commit: commit("a"), Reason: any(), By: any(),
			AskedAt: epoch.Add(time.Duration(random.IntN(1000)) * time.Second), Force: random.IntN(4) == 0, Rebuild: random.IntN(4) == 0, Version: []string{"", "v1.0.0", "v1.0.1"}[random.IntN(3)]},
	}
	if random.IntN(2) == 0 {
		rel.Labels = map[string]string{any(): any(), "Tag": any(), "image": any()}
	}
	for _, tag := range sameTags {
		if random.IntN(3) == 0 {
			rel.Tags = append(rel.Tags, tag)
		}
	}
	if len(rel.Tags) == 0 {
		rel.Tags = slices.Clone(sameTags[:1])
	}
	switch random.IntN(5) {
	case 0:
		rel.Pushed, rel.Tags = true, []imgd.ReleaseTag{sameTags[random.IntN(2)*6]}
	case 1:
		rel.Command = imgd.CommandTag
	case 2:
		rel.Command, rel.Tags, rel.Root, rel.Platforms = imgd.CommandUntag, rel.Tags[:1], ocispec.Descriptor{}, nil
	}
	return rel
}

// What is asked of an index is answered as before when it is opened again, be it
// from images.json, from the journal, or from both, whatever text is in it.
func TestSameAnswers(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	w := newWorld()
	w.heads["refs/heads/main"] = commit("a")
	w.tags["v1.0.1"] = digest.FromString("root1")
	for root := range 6 {
		w.roots[digest.FromString(fmt.Sprint("root", root))] = []string{fmt.Sprint("root", root)}
	}
	dir := t.TempDir()
	for range 12 {
		x := still(t, dir, w)
		for range 15 {
			step(t, x, random)
			if random.IntN(20) == 0 {
				if err := x.Snapshot(); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := os.Stat(filepath.Join(dir, "journal.older")); err != nil && random.IntN(20) == 0 {
				if err := x.Rotate(); err != nil {
					t.Fatal(err)
				}
			}
		}
		live := answered(x)
		if err := x.Kill(); err != nil {
			t.Fatal(err)
		}
		x = still(t, dir, w)
		answersSame(t, "after a kill", live, answered(x))
		if err := x.Snapshot(); err != nil {
			t.Fatal(err)
		}
		answersSame(t, "after a snapshot", live, answered(x))
		if err := x.Kill(); err != nil {
			t.Fatal(err)
		}
		if found, err := index.Check(dir); err != nil || found.Ahead != 0 {
			t.Errorf("%+v, %v", found, err)
		}
		x = still(t, dir, w)
		answersSame(t, "of images.json", live, answered(x))
		if err := x.Kill(); err != nil {
			t.Fatal(err)
		}
	}
}

// step does one thing with the index, which may refuse it.
func step(t *testing.T, x *index.Index, random *rand.Rand) {
	t.Helper()
	var err error
	open := x.Open()
	switch n := random.IntN(8); {
	case n < 4 || len(open) == 0:
		_, err = x.Admit(t.Context(), oddRelease(random), "")
	case n < 6:
		_, err = x.Publish(t.Context(), open[random.IntN(len(open))].ID)
	case n == 6:
		rel := open[random.IntN(len(open))]
		_, err = x.Forgo(t.Context(), rel.ID, rel.Tags[0].Name, "refused: "+odd[random.IntN(14)])
	default:
		_, err = x.Abandon(t.Context(), open[random.IntN(len(open))].ID, odd[random.IntN(len(odd))])
		if random.IntN(2) == 0 {
			err = errors.Join(err, x.SetTold(t.Context(), x.Seq()))
		}
	}
	for _, refused := range []error{imgd.ErrConflict, imgd.ErrSuperseded, imgd.ErrUnchanged, imgd.ErrNotFound} {
		if errors.Is(err, refused) {
			return
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

func answersSame(t *testing.T, when string, want, got answers) {
	t.Helper()
	for what, was := range want {
		if got[what] != was {
			t.Fatalf("%s, %s:\n got %s\nwant %s", when, what, got[what], was)
		}
	}
	if len(got) != len(want) {
		t.Fatalf("%s, %d answers, want %d", when, len(got), len(want))
	}
}
