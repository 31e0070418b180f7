package publisher_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/publisher"
)

var _ imgd.Lister = newPublisher()

// list reads all tags, and the error that they end with.
func list(t *testing.T, p *publisher.Publisher, repository string) (tags []string, end error) {
	t.Helper()
	for tag, err := range p.Tags(t.Context(), repository) {
		if end != nil {
			t.Fatalf("%q follows an error", tag)
		}
		if end = err; err == nil {
			tags = append(tags, tag)
		}
	}
	return tags, end
}

func TestTags(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	image := reg.image("demo/hello", "one", amd64())
	want := []string{"1", "1.2", "latest", "main", "v1.2.3"}
	for _, tag := range want {
		reg.retag("demo/hello", tag, image)
	}
	p := newPublisher()
	if got, err := list(t, p, reg.addr+"/demo/hello"); err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v", got, err)
	}
	reg.misbehave(func(_ http.ResponseWriter, r *http.Request) { // the registry's pages are of two
		r.URL.RawQuery = strings.Replace(r.URL.RawQuery, "n=1000", "n=2", 1)
	})
	if got, err := list(t, p, reg.addr+"/demo/hello"); err != nil || !slices.Equal(got, want) || reg.count("GET") < 3 {
		t.Errorf("by pages: got %q in %d calls, %v", got, reg.count("GET"), err)
	}
	reg.misbehave(nil)
	for tag, err := range p.Tags(t.Context(), reg.addr+"/demo/hello") {
		if tag != "1" || err != nil {
			t.Errorf("got %q, %v", tag, err)
		}
		break
	}
	if got, err := list(t, p, reg.addr+"/demo/none"); err != nil || len(got) > 0 {
		t.Errorf("of a repository that is not there: %q, %v", got, err)
	}
	if _, err := list(t, p, "demo/hello:latest"); err == nil {
		t.Error("what is no repository is listed")
	}
}

func TestTagsFaults(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	page := func(w http.ResponseWriter, link, body string) {
		w.Header().Set("Link", link)
		fmt.Fprint(w, body)
	}
	for name, row := range map[string]struct {
		answer func(w http.ResponseWriter, r *http.Request)
		tags   string
		want   string // in the error
	}{
		"the same page for ever": {func(w http.ResponseWriter, _ *http.Request) {
			page(w, `</v2/demo/hello/tags/list?n=1&last=a>; rel="next"`, `{"tags":["a"]}`)
		}, "a a", "again and again"},
		"another host": {func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Get("last") == "a" {
				page(w, "", `{"tags":["b"]}`)
				return
			}
			page(w, `<http://192.0.2.1/elsewhere?last=a>; rel="next"`, `{"tags":["a"]}`)
		}, "a b", ""},
		"a next page without an address": {func(w http.ResponseWriter, _ *http.Request) { page(w, `<>; rel=next`, `{"tags":["a"]}`) }, "a", "address of the next page"},
		"no list":                        {func(w http.ResponseWriter, _ *http.Request) { page(w, "", `<html>`) }, "", "decode the list"},
		"null":                           {func(w http.ResponseWriter, _ *http.Request) { page(w, "", `{"tags":null}`) }, "", ""},
		"forbidden":                      {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }, "", "403"},
		"without end":                    {func(w http.ResponseWriter, _ *http.Request) { page(w, "", strings.Repeat(" ", 9<<20)) }, "", "more than"},
	} {
		t.Run(name, func(t *testing.T) {
			reg.misbehave(row.answer)
			got, err := list(t, newPublisher(), reg.addr+"/demo/hello")
			if strings.Join(got, " ") != row.tags || (err == nil) != (row.want == "") || err != nil && !strings.Contains(err.Error(), row.want) {
				t.Errorf("got %q, %v; want %q and %q", got, err, row.tags, row.want)
			}
		})
	}
}

// Requests of a Paced one come one after the other, also those of several callers.
func TestPaced(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t)
	p := newPublisher().Paced(func() int { return 20 })
	began := time.Now()
	var all sync.WaitGroup
	for range 11 {
		all.Go(func() {
			if _, err := list(t, p, reg.addr+"/demo/hello"); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if d := time.Since(began); d < 450*time.Millisecond {
		t.Errorf("11 requests at 20 a second took %s", d)
	}
}

// Each registry has its own turn, and what is said of the pace holds from then on.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		perSecond := 2
		wait := publisher.Pace(func() int { return perSecond })
		began := time.Now()
		for i := range 9 {
			for _, host := range []string{"a.test", "b.test"} {
				if err := wait(t.Context(), host); err != nil {
					t.Fatal(err)
				}
			}
			if got, want := time.Since(began), time.Duration(i)*500*time.Millisecond; got != want {
				t.Errorf("request %d after %s, want %s", i, got, want)
			}
		}
		perSecond, began = 10, time.Now()
		for range 2 {
			if err := wait(t.Context(), "a.test"); err != nil {
				t.Fatal(err)
			}
		}
		if got := time.Since(began); got > 600*time.Millisecond {
			t.Errorf("faster, two requests took %s", got)
		}
	})
}
