package httpapi_test

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/internal/httpapi"
)

// verified reads a verification of many tags to its end.
func (w *world) verified(query, body string) (found []imgd.Verification, end imgd.VerifyProgress) {
	w.t.Helper()
	r := w.streamOf("POST", "/v1/verify"+query, body, "Content-Type", "application/json")
	for {
		message := r.next()
		kind, data, _ := strings.Cut(message, "data: ")
		switch {
		case message == hello, kind == "event: progress|":
		case kind == "event: end|":
			if err := json.Unmarshal([]byte(data), &end); err != nil {
				w.t.Fatal(err)
			}
			slices.SortFunc(found, func(a, b imgd.Verification) int { return strings.Compare(a.Tag, b.Tag) })
			return found, end
		case kind == "":
			var v imgd.Verification
			if err := json.Unmarshal([]byte(data), &v); err != nil {
				w.t.Fatal(err)
			}
			found = append(found, v)
		default:
			w.t.Fatalf("got %q", message)
		}
	}
}

func TestVerifyAll(t *testing.T) {
	w, first, second := twice(t)
	w.served[copyR+":v1.2.3"] = digest.FromString("stranger")
	w.lacks[second.Root.Digest] = imgd.Lack{Part: "layer", Digest: digest.FromString("layer"), Why: "it is not there"}
	for _, test := range []struct {
		query, body string
		want        string // the tags, with the kind of what differs
	}{
		{"", "", "1.2 1.3 latest v1.2.3:moved v1.3.0"},
		{"?image=demo/hello", `{"parallel":1}`, "1.2 1.3 latest v1.2.3:moved v1.3.0"},
		{"?image=demo/hello&tag=v1.2.3", `{"depth":"tag"}`, "v1.2.3:moved"},
		{"?image=demo/hello&tag=v1.3.0", `{"depth":"parts"}`, "v1.3.0:blob-missing"},
		{"?digest=" + first.Root.Digest.String(), `{"depth":"bytes"}`, "1.2 v1.2.3:moved"},
		{"?label=env%3Dprod&version=%5E1.3", "", "1.3 latest v1.3.0"},
	} {
		found, end := w.verified(test.query, test.body)
		var got []string
		for _, v := range found {
			text := v.Tag
			for _, r := range v.Repositories {
				if !r.Same && !strings.Contains(text, ":") {
					text += ":" + string(r.Kind)
				}
			}
			if v.OK == strings.Contains(text, ":") {
				t.Errorf("%s: got %+v", test.query, v)
			}
			got = append(got, text)
		}
		if strings.Join(got, " ") != test.want || end.Done != len(found) || end.Total != len(found) {
			t.Errorf("%s %s: got %q, %+v; want %q", test.query, test.body, got, end, test.want)
		}
	}
	if len(w.drifts) == 0 || w.drifts[0].Kind != imgd.DriftMoved {
		t.Errorf("told of %+v", w.drifts)
	}
}

func TestVerifyAllRefuses(t *testing.T) {
	w, _, _ := twice(t)
	for _, test := range []struct {
		query, body string
		code        httpapi.Code
		detail      string
		status      int
	}{
		{"", `{"depth":"deep"}`, "usage", `depth "deep"`, 400},
		{"", `{"parallel":65}`, "usage", "from 1 to 64", 400},
		{"", `{"parallel":-1}`, "usage", "from 1 to 64", 400},
		{"", `{"deep":true}`, "usage", "deep", 400},
		{"?sort=name", "", "usage", "sort", 400},
		{"?tag=v1.2.3", "", "usage", "image", 400},
		{"?image=demo/hello&tag=v1.2.3&label=a%3Db", "", "usage", "no other", 400},
		{"?label=a", "", "usage", "NAME=VALUE", 400},
		{"?label=a%3Db", "", "not-found", "nothing to verify", 404},
		{"?image=demo/none", "", "not-found", "demo/none", 404},
		{"?image=demo/hello&tag=v9", "", "not-found", "demo/hello:v9", 404},
	} {
		checkProblem(t, w.do("POST", "/v1/verify"+test.query, test.body), test.status, test.code, test.detail)
	}
	if found, end := newWorld(t).verified("", ""); len(found) > 0 || end != (imgd.VerifyProgress{}) {
		t.Errorf("of nothing: %v, %+v", found, end)
	}
}

func TestVerifyDepth(t *testing.T) {
	w, first, _ := twice(t)
	w.lacks[first.Root.Digest] = imgd.Lack{Part: "config", Digest: digest.FromString("config"), Why: "it is not there"}
	const path = "/v1/images/demo/hello/tags/v1.2.3/verify"
	if got := w.do("POST", path, `{"depth":"tag"}`); got.status != 200 {
		t.Errorf("got %d %s", got.status, got.body)
	}
	for _, depth := range []string{"parts", "bytes"} {
		p := checkProblem(t, w.do("POST", path, `{"depth":"`+depth+`"}`), 409, "differs", "its config")
		if v := p.Verification; v == nil || string(v.Depth) != depth || v.Repositories[0].Kind != imgd.DriftBlobMissing || len(v.Repositories[0].Lacks) != 1 {
			t.Errorf("%s: got %+v", depth, v)
		}
	}
	checkProblem(t, w.do("POST", path, `{"depth":"deep"}`), 400, "usage", "depth")
}

// Who goes away ends it, and so does the daemon's end: what was not looked at yet
// is not.
func TestVerifyAllIsLeft(t *testing.T) {
	for name, leave := range map[string]func(*world, *reader){
		"by its caller": func(_ *world, r *reader) { r.leave() },
		"by the daemon": func(w *world, r *reader) {
			w.api.Close()
			for got := ""; got != "EOF"; got = r.next() {
				if strings.HasPrefix(got, "event: end") {
					t.Error("it says that it has come to its end")
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			var looks atomic.Int32
			t.Cleanup(func() { // when the server has ended
				if n := looks.Load(); n != 1 {
					t.Errorf("%d looks, want the first one alone", n)
				}
			})
			w, _, _ := twice(t)
			looked := make(chan struct{}, 99)
			w.looking = func(ctx context.Context) {
				looks.Add(1)
				looked <- struct{}{}
				<-ctx.Done()
				w.change(func() { w.broken = ctx.Err() })
			}
			r := w.streamOf("POST", "/v1/verify", `{"parallel":1}`, "Content-Type", "application/json")
			<-looked
			leave(w, r)
		})
	}
}

// A look into an image takes as long as it takes; one that the daemon's end cuts is
// no answer.
func TestVerifyDepthIsLeft(t *testing.T) {
	w, _, _ := twice(t)
	w.looking = func(ctx context.Context) {
		w.api.Close()
		<-ctx.Done()
		w.change(func() { w.broken = ctx.Err() })
	}
	if got := w.do("POST", "/v1/images/demo/hello/tags/v1.2.3/verify", `{"depth":"bytes"}`); got.status != 502 {
		t.Errorf("got %d %s", got.status, got.body)
	}
}
