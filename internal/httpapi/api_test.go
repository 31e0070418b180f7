package httpapi_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/internal/httpapi"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares a JSON answer with testdata/name.json.
func golden(t *testing.T, name, got string) {
	t.Helper()
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, []byte(got), "", "  "); err != nil {
		t.Fatalf("%v in %q", err, got)
	}
	file := filepath.Join("testdata", name+".json")
	if *update {
		if err := os.WriteFile(file, pretty.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if pretty.String() != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", file, pretty.String(), want)
	}
}

// full is a world with two releases: v1.2.3 on one platform and v1.3.0 on two.
func full(t *testing.T) (*world, imgd.Release, imgd.Release) {
	t.Helper()
	w := newWorld(t)
	first := w.publish(w.release("refs/tags/v1.2.3", "a", "A"))
	second := w.publish(w.release("refs/tags/v1.3.0", "b", "BC"))
	w.set(statusOf(first, imgd.Published))
	w.set(statusOf(second, imgd.Published))
	return w, first, second
}

func statusOf(rel imgd.Release, s imgd.State) imgd.Status {
	r := rel.Request
	return imgd.Status{Request: r.ID, Project: r.Project, Ref: r.Ref, Commit: r.Commit, State: s, Tries: 1, Release: rel.ID,
		AskedAt: r.AskedAt, StartedAt: epoch, EndedAt: epoch.Add(time.Second)}
}

func TestAnswers(t *testing.T) {
	w, first, _ := full(t)
	branch := w.release("refs/heads/main", "a", "A").Request
	w.set(imgd.Status{Request: branch.ID, Project: "hello", Ref: "refs/tags/v1.2.3", Commit: commit("a"), State: imgd.Unchanged,
		Error: &imgd.StatusError{Kind: "unchanged", Message: "every tag names it already"}, AskedAt: epoch})
	for _, test := range []struct{ name, method, path, body string }{
		{"images", "GET", "/v1/images", ""},
		{"image", "GET", "/v1/images/demo/hello", ""},
		{"image-page", "GET", "/v1/images/demo/hello?limit=2", ""},
		{"image-last-page", "GET", "/v1/images/demo/hello?limit=5&cursor=eyJpbWFnZSI6ImRlbW8vaGVsbG8iLCJ0YWciOiIxLjMiLCJwbGF0Zm9ybSI6ImxpbnV4L2FybTY0In0", ""},
		{"tag", "GET", "/v1/images/demo/hello/tags/v1.2.3", ""},
		{"tag-platforms", "GET", "/v1/images/demo/hello/tags/latest?seq=4", ""},
		{"verify", "POST", "/v1/images/demo/hello/tags/latest/verify", ""},
		{"verify-digest", "POST", "/v1/images/demo/hello/tags/latest/verify", `{"digest":"` + digest.FromString("C").String() + `"}`},
		{"requests", "GET", "/v1/requests", ""},
		{"requests-page", "GET", "/v1/requests?limit=1", ""},
		{"request", "GET", "/v1/requests/" + first.Request.ID, ""},
		{"request-unchanged", "GET", "/v1/requests/" + branch.ID + "?wait=1m", ""},
		{"version", "GET", "/v1/version", ""},
		{"build", "POST", "/v1/projects/hello/builds", `{"schema":1,"ref":"v1.3.0"}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := w.do(test.method, test.path, test.body)
			if got.status/100 != 2 || got.header.Get("Content-Type") != "application/json" {
				t.Fatalf("got %d %s\n%s", got.status, got.header, got.body)
			}
			golden(t, test.name, got.body)
		})
	}
}

// What is asked for most is put together of the lines of the index: byte for byte
// what writing the decoded answer gives, of an image of the config, of one of another
// CI's, and of one whose labels JSON has to escape.
func TestTagAnswerBytes(t *testing.T) {
	w, _, _ := full(t)
	odd := w.release("refs/tags/v2.0.0", "c", "CD")
	odd.Labels = map[string]string{`"items":[`: "<a & b>\u2028", "é": "\xff]}"}
	odd.Image, odd.Repositories = "strange/image", []string{"other.test/strange/image"}
	odd = w.publish(odd)
	unread := w.release("refs/tags/v3.0.0", "d", "E")
	unread.Image, unread.Repositories = "strange/unread", nil
	w.publish(unread)
	for _, path := range []string{image + "/tags/v1.2.3", image + "/tags/latest", "strange/image/tags/latest", "strange/unread/tags/v3.0.0?seq=4"} {
		got := w.get("/v1/images/" + path)
		var answer httpapi.TagAnswer
		if err := json.Unmarshal([]byte(got.body), &answer); err != nil {
			t.Fatalf("%s: %v in %s", path, err, got.body)
		}
		want, err := json.Marshal(answer)
		if err != nil {
			t.Fatal(err)
		}
		records := w.index.Tag(answer.Image, answer.Tag)
		if got.body != string(want)+"\n" || !reflect.DeepEqual(answer.Items, records) || answer.Root != records[0].Root() || answer.Seq != w.index.Seq() {
			t.Errorf("%s: got %s, want %s of %v", path, got.body, want, records)
		}
		rel, _ := w.index.Release(records[0].Release)
		if !slices.Equal(answer.Repositories, rel.Repositories) {
			t.Errorf("%s: repositories %v, want %v", path, answer.Repositories, rel.Repositories)
		}
	}
}

func TestEmptyIndex(t *testing.T) {
	got := newWorld(t).get("/v1/images")
	if want := `{"items":[],"seq":0}` + "\n"; got.body != want {
		t.Errorf("got %s, want %s", got.body, want)
	}
}

// Pages that follow each other's cursor are the whole list.
func TestPages(t *testing.T) {
	w, _, _ := full(t)
	var tags []string
	path := "/v1/images/demo/hello?limit=2"
	for path != "" {
		var page httpapi.List[imgd.Record]
		if err := json.Unmarshal([]byte(w.get(path).body), &page); err != nil {
			t.Fatal(err)
		}
		for _, r := range page.Items {
			tags = append(tags, r.Tag+" "+r.Platform)
		}
		if path = ""; page.Next != "" {
			path = "/v1/images/demo/hello?limit=2&cursor=" + page.Next
		}
	}
	want := "1.2 linux/amd64, 1.3 linux/amd64, 1.3 linux/arm64, latest linux/amd64, latest linux/arm64, v1.2.3 linux/amd64, v1.3.0 linux/amd64, v1.3.0 linux/arm64"
	if got := strings.Join(tags, ", "); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestProblems(t *testing.T) {
	w, first, _ := full(t)
	w.change(func() {
		w.refs["refs/heads/twice"], w.refs["refs/tags/twice"] = commit("a"), commit("b")
		w.refs["refs/tags/nightly"] = commit("c")
	})
	const builds, id = "/v1/projects/hello/builds", "0123456789abcdef0123456789abcdef"
	for _, test := range []struct {
		method, path, body string
		status             int
		code               httpapi.Code
		words              string // of the detail
	}{
		{"GET", "/", "", 404, "not-found", "/v1/images"},
		{"GET", "/v2/", "", 404, "not-found", "/v2/"},
		{"DELETE", "/v1/images", "", 405, "usage", "GET"},
		{"GET", builds, "", 405, "usage", "POST"},
		{"POST", "/v1/images/demo/hello", "{}", 405, "usage", "verify"},
		{"POST", "/v1/images/demo/hello/tags/latest", "{}", 400, "usage", "sha256:"},
		{"GET", "/v1/images/demo/hello/tags/latest/verify", "", 405, "usage", "POST"},
		{"GET", "/v1/images/demo/hello/tags/none/history", "", 404, "not-found", "demo/hello:none"},
		{"GET", "/v1/images/demo/none", "", 404, "not-found", "demo/none"},
		{"GET", "/v1/images/demo/hello/tags/v9", "", 404, "not-found", "demo/hello:v9"},
		{"POST", "/v1/images/demo/hello/tags/v9/verify", "{}", 404, "not-found", "demo/hello:v9"},
		{"GET", "/v1/images?lmit=1", "", 400, "usage", "lmit"},
		{"GET", "/v1/images?limit=1&limit=2", "", 400, "usage", "twice"},
		{"GET", "/v1/images?limit=0", "", 400, "usage", "limit"},
		{"GET", "/v1/images?limit=1001", "", 400, "usage", "limit"},
		{"GET", "/v1/images?seq=-1", "", 400, "usage", "seq"},
		{"GET", "/v1/images?cursor=%21", "", 400, "usage", "cursor"},
		{"GET", "/v1/images?a=%zz", "", 400, "usage", "query"},
		{"GET", "/v1/requests?cursor=x", "", 400, "usage", "cursor"},
		{"GET", "/v1/requests/" + id, "", 404, "not-found", id},
		{"GET", "/v1/requests/" + id + "?wait=1ms", "", 404, "not-found", id},
		{"GET", "/v1/requests/..%2f..%2fetc", "", 404, "not-found", "etc"},
		{"GET", "/v1/requests/" + id + "?wait=long", "", 400, "usage", "wait"},
		{"GET", "/v1/requests/" + id + "?askedAt=now", "", 400, "usage", "askedAt"},
		{"GET", "/v1/requests/" + id + "/log", "", 404, "not-found", id},
		{"GET", "/v1/requests/" + first.Request.ID + "/log", "", 404, "not-found", "published"},
		{"GET", "/v1/requests/" + first.Request.ID + "/log?follow=maybe", "", 400, "usage", "follow"},
		{"GET", "/v1/events?since=x", "", 400, "usage", "since"},
		{"POST", "/v1/projects/none/builds", `{"ref":"main"}`, 404, "not-found", `["hello" "other"]`},
		{"POST", builds, "", 400, "usage", "EOF"},
		{"POST", builds, "{}", 400, "usage", "ref is missing"},
		{"POST", builds, `{"ref":"main","rev":1}`, 400, "usage", "rev"},
		{"POST", builds, `{"ref":"main"}{}`, 400, "usage", "more than one"},
		{"POST", builds, `{"ref":"main","schema":2}`, 400, "usage", "schema 2"},
		{"POST", builds, `{"ref":"` + strings.Repeat("a", 70<<10) + `"}`, 413, "usage", "64 KiB"},
		{"POST", builds, `{"ref":"none"}`, 404, "not-found", "none"},
		{"POST", builds, `{"ref":"twice"}`, 400, "usage", "refs/heads/twice or refs/tags/twice"},
		{"POST", builds, `{"ref":"nightly"}`, 400, "usage", `refs/tags/nightly" is not among`},
		{"POST", builds, `{"ref":"refs/tags/nightly","commit":"` + commit("c") + `"}`, 400, "usage", "is not among"},
		{"POST", builds, `{"ref":"v1.2.3","commit":"abc"}`, 400, "usage", "commit"},
		{"POST", builds, `{"ref":"v1.2.3","force":true}`, 400, "usage", "reason"},
		{"POST", builds, `{"ref":"v1.2.3","askedAt":"later"}`, 400, "usage", "askedAt"},
		{"POST", builds, `{"ref":"v1.2.3","askedAt":"2026-11-21T10:00:01Z"}`, 400, "usage", "future"},
		{"POST", "/v1/images/demo/hello/tags/latest/verify", `{"digest":"sha256:12"}`, 400, "usage", "sha256:12"},
	} {
		t.Run(test.method+" "+test.path+" "+test.body[:min(len(test.body), 40)], func(t *testing.T) {
			checkProblem(t, w.do(test.method, test.path, test.body), test.status, test.code, test.words)
		})
	}
	if len(w.asked) > 0 {
		t.Errorf("refused asks came into the queue: %+v", w.asked)
	}
}

func checkProblem(t *testing.T, got answer, status int, code httpapi.Code, words string) httpapi.Problem {
	t.Helper()
	var p httpapi.Problem
	if err := json.Unmarshal([]byte(got.body), &p); err != nil {
		t.Fatalf("got %d %q: %v", got.status, got.body, err)
	}
	if got.status != status || p.Status != status || p.Code != code || !strings.Contains(p.Detail, words) || p.Title != http.StatusText(status) {
		t.Errorf("got %d %s, want %d %s with %q", got.status, got.body, status, code, words)
	}
	if got.header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("got content type %q", got.header.Get("Content-Type"))
	}
	if status == http.StatusMethodNotAllowed && got.header.Get("Allow") == "" {
		t.Error("no header says what is allowed")
	}
	return p
}

// What the API needs and does not get is no fault of the caller.
func TestBroken(t *testing.T) {
	w, first, _ := full(t)
	w.change(func() { w.broken = errDown })
	for _, test := range []struct{ method, path, body string }{
		{"POST", "/v1/images/demo/hello/tags/latest/verify", "{}"},
		{"POST", "/v1/projects/hello/builds", `{"ref":"v1.2.3"}`},
		{"POST", "/v1/projects/hello/builds", `{"ref":"refs/tags/v1.2.3","commit":"` + commit("a") + `"}`},
		{"GET", "/v1/requests", ""},
		{"GET", "/v1/requests/" + first.Request.ID, ""},
		{"GET", "/v1/requests/" + first.Request.ID + "/log", ""},
	} {
		t.Run(test.method+" "+test.path, func(t *testing.T) {
			checkProblem(t, w.do(test.method, test.path, test.body), 502, "failed", errDown.Error())
		})
	}
}

func TestBuild(t *testing.T) {
	w := newWorld(t)
	w.change(func() { w.refs["refs/heads/main"] = commit("a") })
	ask := func(body string) httpapi.Asked {
		t.Helper()
		got := w.do("POST", "/v1/projects/hello/builds", body)
		var asked httpapi.Asked
		if err := json.Unmarshal([]byte(got.body), &asked); err != nil || got.status != http.StatusAccepted {
			t.Fatalf("got %d %s", got.status, got.body)
		}
		if want := "/v1/requests/" + asked.Request; got.header.Get("Location") != want {
			t.Errorf("got location %q, want %q", got.header.Get("Location"), want)
		}
		if last := w.asked[len(w.asked)-1]; asked.Request != last.ID || asked.Commit != last.Commit || asked.Ref != last.Ref {
			t.Errorf("answered %+v, but asked %+v", asked, last)
		}
		return asked
	}
	first := ask(`{"ref":"main"}`)
	if first.Ref != "refs/heads/main" || first.Commit != commit("a") || first.Before != "" || !first.AskedAt.Equal(epoch) {
		t.Errorf("got %+v", first)
	}
	if again := ask(`{"ref":"refs/heads/main","by":"me","askedAt":"2026-11-21T09:00:00Z"}`); again.Request != first.Request || again.Before != imgd.Queued || !again.AskedAt.Equal(epoch.Add(-time.Hour)) {
		t.Errorf("the same again: got %+v, first %+v", again, first)
	}
	rebuilt, forced := ask(`{"ref":"main","rebuild":true}`), ask(`{"ref":"main","force":true,"reason":"bad"}`)
	if rebuilt.Request == first.Request || forced.Request == first.Request || forced.Request == rebuilt.Request || rebuilt.Before != "" || forced.Before != "" {
		t.Errorf("each rebuild and force is a request of its own: %s %s %s", first.Request, rebuilt.Request, forced.Request)
	}
	if short := ask(`{"ref":"main","commit":"` + commit("b") + `"}`); short.Ref != "refs/heads/main" || short.Commit != commit("b") {
		t.Errorf("a named commit: got %+v", short)
	}
	// Who names both asks nobody.
	w.change(func() { delete(w.refs, "refs/heads/main") })
	if named := ask(`{"ref":"refs/heads/main","commit":"` + commit("a") + `"}`); named.Request != first.Request {
		t.Errorf("got %+v, want request %s", named, first.Request)
	}
	with := ask(`{"ref":"refs/heads/main","commit":"` + commit("a") + `","args":{"A":"1"},"target":"t","platforms":["linux/arm64"],"reason":"r"}`)
	if last := w.asked[len(w.asked)-1]; with.Request == first.Request || last.Args["A"] != "1" || last.Target != "t" || last.Platforms[0] != "linux/arm64" || last.Reason != "r" {
		t.Errorf("got %+v", last)
	}
}

func TestVerifyDiffers(t *testing.T) {
	w, first, second := full(t)
	stranger := digest.FromString("stranger")
	w.change(func() {
		w.served[copyR+":v1.2.3"] = stranger
		delete(w.served, repo+":1.2")
	})
	const path = "/v1/images/demo/hello/tags/"
	p := checkProblem(t, w.do("POST", path+"v1.2.3/verify", "{}"), 409, "differs", copyR+":v1.2.3 is "+stranger.String())
	if v := p.Verification; v == nil || v.OK || v.Want != first.Root.Digest || len(v.Repositories) != 2 || !v.Repositories[0].Same || v.Repositories[1].Same {
		t.Errorf("got %+v", p.Verification)
	}
	p = checkProblem(t, w.do("POST", path+"1.2/verify", "{}"), 409, "differs", repo+":1.2 is not there")
	if p.Verification.Repositories[0].Found != "" {
		t.Errorf("got %+v", p.Verification)
	}
	checkProblem(t, w.do("POST", path+"latest/verify", `{"digest":"`+stranger.String()+`"}`), 409, "differs", "demo/hello:latest names "+second.Root.Digest.String()+", not "+stranger.String())
	for _, d := range []digest.Digest{second.Root.Digest, second.Platforms[0].Digest, second.Platforms[1].Digest} {
		if got := w.do("POST", path+"latest/verify", `{"digest":"`+d.String()+`"}`); got.status != 200 {
			t.Errorf("digest %s: got %d %s", d, got.status, got.body)
		}
	}
}

// Between a tag and its entry in the index lie moments, in which a verification
// is no difference.
func TestVerifyWhilePublishing(t *testing.T) {
	w, _, second := full(t)
	next := w.admit(w.release("refs/tags/v1.4.0", "c", "D"))
	w.serve(next)
	looks := 0
	w.resolved = func(string) {
		if looks++; looks == 2 { // both repositories have been read, the index is old
			if _, err := w.index.Publish(t.Context(), next.ID); err != nil {
				t.Error(err)
			}
		}
	}
	got := w.do("POST", "/v1/images/demo/hello/tags/latest/verify", "{}")
	var v imgd.Verification
	if err := json.Unmarshal([]byte(got.body), &v); err != nil || !v.OK || v.Want != next.Root.Digest || v.Pending != "" {
		t.Errorf("got %d %s, want %s instead of %s", got.status, got.body, next.Root.Digest, second.Root.Digest)
	}
}

// A claim does not excuse what another hand has put there.
func TestVerifyNamesPending(t *testing.T) {
	w, _, _ := full(t)
	next := w.admit(w.release("refs/tags/v1.4.0", "c", "D"))
	w.change(func() { w.served[repo+":latest"] = digest.FromString("stranger") })
	p := checkProblem(t, w.do("POST", "/v1/images/demo/hello/tags/latest/verify", "{}"), 409, "differs", "release "+next.ID+" is to take the tag")
	if p.Verification.Pending != next.ID {
		t.Errorf("got %+v", p.Verification)
	}
	checkProblem(t, w.get("/v1/images/demo/hello/tags/v1.4.0"), 404, "not-found", "is being published")
}

func TestSeqWaits(t *testing.T) {
	w, _, _ := full(t)
	answers := make(chan answer, 1)
	next := w.release("refs/tags/v1.4.0", "c", "D")
	go func() { answers <- w.get("/v1/images/demo/hello/tags/v1.4.0?seq=6") }()
	w.publish(next)
	if got := <-answers; got.status != 200 || !strings.Contains(got.body, `"seq":6`) {
		t.Errorf("got %d %s", got.status, got.body)
	}
	go func() { answers <- w.get("/v1/images?seq=7") }()
	w.api.Close()
	checkProblem(t, <-answers, 504, "timeout", "entry 6")
}
