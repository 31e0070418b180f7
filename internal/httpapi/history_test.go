package httpapi_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/internal/httpapi"
)

const latest = "/v1/images/demo/hello/tags/latest"

// twice is full whose roots the registry has.
func twice(t *testing.T) (w *world, first, second imgd.Release) {
	w, first, second = full(t)
	w.push(repo, "first", "A")
	w.push(repo, "second", "BC")
	return w, first, second
}

// order posts a command, which must be answered so.
func (w *world) order(path, body string, status int) httpapi.Commanded {
	w.t.Helper()
	got := w.do(http.MethodPost, path, body)
	var done httpapi.Commanded
	if err := json.Unmarshal([]byte(got.body), &done); err != nil || got.status != status {
		w.t.Fatalf("got %d %s, want %d", got.status, got.body, status)
	}
	return done
}

func TestCommandTag(t *testing.T) {
	w, first, second := twice(t)
	id := strings.Repeat("1", 32)
	for i, status := range []int{http.StatusCreated, http.StatusOK} { // given twice under one ID, done once
		done := w.order(latest+"/rollback", `{"request":"`+id+`","reason":"it leaks"}`, status)
		if done.Root != first.Root.Digest || done.Release != id+"-1" || done.Outcome != []string{"new", "same"}[i] || done.Tags[0].Generation != 3 ||
			done.Tags[0].Previous != second.Root.Digest || len(done.Records) != 1 || done.Repositories[0] != repo || done.Seq != w.index.Seq() {
			t.Errorf("got %+v", done)
		}
	}
	if w.served[repo+":latest"] != first.Root.Digest || w.served[copyR+":latest"] != first.Root.Digest {
		t.Errorf("the registry has %v", w.served)
	}
	if done := w.order(latest+"/rollback", `{"generation":2}`, http.StatusCreated); done.Root != second.Root.Digest {
		t.Errorf("got %+v", done)
	}
	if done := w.order(latest+"/rollback", fmt.Sprintf(`{"to":%q}`, digest.FromString("A")), http.StatusCreated); done.Root != first.Root.Digest {
		t.Errorf("got %+v", done)
	}
	named := w.order("/v1/images/demo/hello/tags/"+digest.FromString("B").String()+"/tag", `{"tags":["stable","prod"]}`, http.StatusCreated)
	if named.Root != second.Root.Digest || len(named.Tags) != 2 || len(named.Records) != 4 { // by a platform's digest
		t.Errorf("got %+v", named)
	}
	removed := w.order(latest+"/untag", ``, http.StatusCreated)
	if removed.Root != "" || len(removed.Records) != 0 || removed.Tags[0].Previous != first.Root.Digest {
		t.Errorf("got %+v", removed)
	}
	if _, there := w.served[repo+":latest"]; there {
		t.Error("the registry has latest still")
	}
	w.check(w.get(latest), http.StatusNotFound, "was removed, by release "+removed.Release, "/history")
	if again := w.order(latest+"/untag", ``, http.StatusOK); again.Release != removed.Release {
		t.Errorf("got %+v", again)
	}
}

// steps is the history of latest, read by pages of one.
func steps(w *world) []imgd.Step {
	w.t.Helper()
	var all []imgd.Step
	for cursor := ""; ; {
		path := latest + "/history?limit=1"
		if cursor != "" {
			path += "&cursor=" + cursor
		}
		var page httpapi.HistoryAnswer
		if err := json.Unmarshal([]byte(w.get(path).body), &page); err != nil || len(page.Items) != 1 {
			w.t.Fatalf("got %+v, %v", page, err)
		}
		all = append(all, page.Items...)
		if cursor = page.Next; cursor == "" {
			return all
		}
	}
}

func TestHistory(t *testing.T) {
	w, first, second := twice(t)
	w.order(latest+"/untag", `{"request":"`+strings.Repeat("1", 32)+`","reason":"it leaks"}`, http.StatusCreated)
	golden(t, "history", w.get(latest+"/history?limit=2").body)
	got := steps(w)
	if len(got) != 3 || got[0].Root != "" || got[0].Reason != "it leaks" || got[0].By != "http" || got[0].Command != imgd.CommandUntag || got[0].Ended != nil ||
		got[1].Root != second.Root.Digest || got[1].Generation != 2 || got[1].Ended.How != imgd.StepRemoved || got[1].Ended.Reason != "it leaks" || len(got[1].Platforms) != 2 ||
		got[2].Root != first.Root.Digest || got[2].Ended.How != imgd.StepReplaced || got[2].Ended.Release != second.ID {
		t.Errorf("got %+v", got)
	}
}

func TestCommandTagRefuses(t *testing.T) {
	w, first, _ := twice(t)
	seq := w.index.Seq()
	for name, test := range map[string]struct {
		path, body string
		status     int
		want       string
	}{
		"version":    {"/v1/images/demo/hello/tags/v1.2.3/untag", "", 409, first.ID},
		"unknown":    {"/v1/images/demo/hello/tags/none/untag", "", 404, "demo/hello:none"},
		"generation": {latest + "/rollback", `{"generation":9}`, 404, "no generation 9"},
		"field":      {latest + "/rollback", `{"too":""}`, 400, "too"},
		"to":         {latest + "/untag", `{"to":"sha256:x"}`, 400, "untag takes no to"},
		"tags":       {latest + "/untag", `{"tags":["x"]}`, 400, "untag takes no tags"},
		"no tags":    {latest + "/tag", `{}`, 400, "no new tag"},
		"digest":     {"/v1/images/demo/hello/tags/sha256:x/tag", `{"tags":["x"]}`, 400, "sha256"},
		"force":      {latest + "/untag", `{"force":true}`, 400, "reason"},
		"parameter":  {latest + "/untag?force=1", ``, 400, "force"},
		"request":    {latest + "/untag", `{"request":"1"}`, 400, "32 hex"},
	} {
		got := w.do(http.MethodPost, test.path, test.body)
		if got.status != test.status || !strings.Contains(got.body, test.want) {
			t.Errorf("%s: got %d %s, want %d %q", name, got.status, got.body, test.status, test.want)
		}
	}
	if w.index.Seq() != seq {
		t.Error("a refusal entered the index")
	}
	delete(w.pushed, digest.FromString("A"))
	w.check(w.do(http.MethodPost, latest+"/rollback", ""), http.StatusNotFound, "is gone from the registry")
}

// What the registry does not take at once stands admitted, and is told so.
func TestCommandTagGoesOn(t *testing.T) {
	w, _, _ := twice(t)
	w.resolved = func(string) {}
	w.broken = errDown
	w.check(w.do(http.MethodPost, latest+"/untag", ""), http.StatusBadGateway, "imgd goes on with it by itself")
	w.broken = nil
	w.check(w.get(latest), http.StatusOK, "latest") // until it is published
	w.order(latest+"/untag", "", http.StatusOK)
	w.check(w.get(latest), http.StatusNotFound, "was removed")
}
