package index_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/index"
	"github.com/imgd/imgd/version"
)

// A shelf is an index whose clock goes on by a minute with each release.
type shelf struct {
	*world
	*index.Index
	t       *testing.T
	minutes int
}

func newShelf(t *testing.T) *shelf {
	s := &shelf{world: newWorld(), t: t}
	x, err := index.Open(index.Config{Dir: t.TempDir(), History: s, Registry: s.world, Writer: "test",
		Now: func() time.Time { return epoch.Add(time.Duration(s.minutes) * time.Minute) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { x.Close() })
	s.Index = x
	return s
}

// put publishes v under its name alone, with a label that says env.
func (s *shelf) put(v, letter, env string) {
	s.t.Helper()
	s.minutes++
	rel := s.candidate("refs/tags/"+v, letter, v, s.minutes)
	rel.Tags, rel.Labels = rel.Tags[:1], map[string]string{"env": env, "team": "red"}
	publish(s.t, s.Index, rel)
}

func found(records []imgd.Record) string {
	var tags []string
	for _, r := range records {
		tags = append(tags, r.Tag)
	}
	return strings.Join(tags, " ")
}

func TestFind(t *testing.T) {
	s := newShelf(t)
	s.put("v1.2.0", "a", "prod")
	s.put("v1.10.0", "b", "test")
	s.put("v1.9.0", "c", "prod")
	s.put("v2.0.0-rc.1", "d", "prod")
	other := pushed("stable", version.KindOther, "e", 9, "E")
	other.Image, other.ExpiresAt = "tools/lint", epoch.Add(24*time.Hour)
	s.minutes++
	publish(t, s.Index, other)
	v, err := version.ParseRange("^1.5")
	if err != nil {
		t.Fatal(err)
	}
	at := func(minutes int) time.Time { return epoch.Add(time.Duration(minutes) * time.Minute) }
	for name, test := range map[string]struct {
		find imgd.Find
		want string
	}{
		"all":           {imgd.Find{}, "v1.10.0 v1.2.0 v1.9.0 v2.0.0-rc.1 stable"},
		"image":         {imgd.Find{Image: "tools/lint"}, "stable"},
		"project":       {imgd.Find{Project: "hello"}, "v1.10.0 v1.2.0 v1.9.0 v2.0.0-rc.1"},
		"digest":        {imgd.Find{Digest: digest.FromString("v1.9.0")}, "v1.9.0"},
		"no digest":     {imgd.Find{Digest: digest.FromString("x")}, ""},
		"commit":        {imgd.Find{Commit: commit("b")}, "v1.10.0"},
		"short commit":  {imgd.Find{Commit: "ccccccc"}, "v1.9.0"},
		"label":         {imgd.Find{Labels: map[string]string{"env": "prod"}}, "v1.2.0 v1.9.0 v2.0.0-rc.1"},
		"labels":        {imgd.Find{Labels: map[string]string{"env": "test", "team": "red"}}, "v1.10.0"},
		"other label":   {imgd.Find{Labels: map[string]string{"env": "prod", "team": "blue"}}, ""},
		"version":       {imgd.Find{Version: v}, "v1.10.0 v1.9.0"},
		"since":         {imgd.Find{Since: at(3)}, "v1.9.0 v2.0.0-rc.1 stable"},
		"until":         {imgd.Find{Until: at(3)}, "v1.10.0 v1.2.0"},
		"expires":       {imgd.Find{ExpiresBy: epoch.Add(24 * time.Hour)}, "stable"},
		"expires later": {imgd.Find{ExpiresBy: epoch.Add(time.Hour)}, ""},
		"published":     {imgd.Find{Sort: imgd.ByPublished}, "stable v2.0.0-rc.1 v1.9.0 v1.10.0 v1.2.0"},
		"by version":    {imgd.Find{Sort: imgd.ByVersion}, "v2.0.0-rc.1 v1.10.0 v1.9.0 v1.2.0 stable"},
		"together":      {imgd.Find{Project: "hello", Since: at(2), Labels: map[string]string{"env": "prod"}, Sort: imgd.ByVersion}, "v2.0.0-rc.1 v1.9.0"},
	} {
		records, more, seq := s.Find(test.find)
		if got := found(records); got != test.want || more || seq != s.Seq() || test.find.Check() != nil {
			t.Errorf("%s: got %q, more %t, entry %d, want %q", name, got, more, seq, test.want)
		}
	}
}

// What comes and goes between two pages neither repeats nor skips what stood
// there, nor does the record that the first page ended with have to stay.
func TestFindPages(t *testing.T) {
	for _, order := range imgd.Orders() {
		s := newShelf(t)
		want := map[string]int{}
		for n := range 20 {
			v := fmt.Sprintf("v1.%d.0", 2*n)
			s.put(v, "a", "prod")
			want[v] = 1
		}
		seen := map[string]int{}
		f := imgd.Find{Sort: order, Limit: 3}
		for n := 0; ; n++ {
			records, more, _ := s.Find(f)
			for _, r := range records {
				seen[r.Tag]++
			}
			if !more {
				break
			}
			last := records[len(records)-1]
			f.After = &imgd.Record{Image: last.Image, Tag: last.Tag, Platform: last.Platform, Version: last.Version, PublishedAt: last.PublishedAt}
			s.minutes++
			publish(t, s.Index, forced(command(n+1, nil, s.minutes, last.Tag)))
			s.put(fmt.Sprintf("v1.%d.0", 2*n+1), "b", "prod")
		}
		for v := range want {
			if seen[v] != 1 {
				t.Errorf("by %s: %s is on %d pages", order, v, seen[v])
			}
		}
		for v, n := range seen {
			if n > 1 {
				t.Errorf("by %s: %s is on %d pages", order, v, n)
			}
		}
	}
}

func TestFindCheck(t *testing.T) {
	for _, f := range []imgd.Find{{Digest: "sha256:x"}, {Commit: "abc"}, {Commit: "main-branch"}, {Sort: "size"}} {
		if f.Check() == nil {
			t.Errorf("%+v is taken", f)
		}
	}
}
