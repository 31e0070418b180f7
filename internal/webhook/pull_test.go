package webhook_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/imgd/imgd"
)

// pulled is the event of pull request 7, whose head is in another repository or
// in the same.
func pulled(scheme, action string, fork bool) (event, body string) {
	head := 1
	if fork {
		head = 2
	}
	if forgeOf(scheme) == "gitlab" {
		return "Merge Request Hook", fmt.Sprintf(`{"user":{"username":"ann"},"object_attributes":{"iid":7,"action":%q,"source_project_id":%d,"target_project_id":1,"target_branch":"main","last_commit":{"id":%q}}}`,
			action, head, commit)
	}
	return "pull_request", fmt.Sprintf(`{"action":%q,"sender":{"login":"ann"},"pull_request":{"number":7,"head":{"sha":%q,"repo":{"id":%d}},"base":{"ref":"main","repo":{"id":1}}}}`,
		action, commit, head)
}

func opened(scheme string) string {
	if forgeOf(scheme) == "gitlab" {
		return "open"
	}
	return "opened"
}

// Pull requests from forks are built only where the project says so, and refs
// bind all of them.
func TestForks(t *testing.T) {
	for _, scheme := range schemes {
		kind := "refs/pull/"
		if forgeOf(scheme) == "gitlab" {
			kind = "refs/merge-requests/"
		}
		for _, tt := range []struct {
			forks, fork bool
			refs        string
			ignored     string
		}{
			{false, false, kind + "*/head", ""},
			{true, false, kind + "*/head", ""},
			{true, true, kind + "*/head", ""},
			{false, true, kind + "*/head", "7 is from a fork, and project hello does not build those (pullRequests.forks)"},
			{true, true, "refs/heads/*", `ref "` + kind + `7/head" is not among the refs ["refs/heads/*"] of project hello`},
			{false, false, kind + "*/merge", "is not among the refs"},
		} {
			p := project("hello", tt.refs)
			p.Forks = tt.forks
			w := newWorld(t, hook(scheme, p))
			event, body := pulled(scheme, opened(scheme), tt.fork)
			got := w.deliver(scheme, event, body)
			if tt.ignored != "" {
				if text := strings.ReplaceAll(got.Body.String(), `\"`, `"`); got.Code != http.StatusOK || !strings.Contains(text, tt.ignored) {
					t.Errorf("%s, %+v: got %d %s", scheme, tt, got.Code, got.Body)
				}
				continue
			}
			asks := w.asked()
			if got.Code != http.StatusAccepted || len(asks) != 1 {
				t.Fatalf("%s, %+v: got %d %s", scheme, tt, got.Code, got.Body)
			}
			req := asks[0].req
			if req.Ref != kind+"7/head" || req.Commit != commit || req.Base != "main" || !strings.HasSuffix(req.Reason, "request 7") {
				t.Errorf("%s: asked for %+v", scheme, req)
			}
		}
	}
}

// Which branch a pull request is for makes no other request.
func TestBaseIsNotInTheID(t *testing.T) {
	w := newWorld(t, hook("github", project("hello")))
	event, body := pulled("github", "opened", false)
	w.deliver("github", event, body)
	w.deliver("github", event, strings.Replace(body, `"ref":"main"`, `"ref":"stable"`, 1))
	asks := w.asked()
	if len(asks) != 2 || asks[0].req.Base != "main" || asks[1].req.Base != "stable" || asks[0].req.Hash() != asks[1].req.Hash() {
		t.Errorf("asked for %+v", asks)
	}
}

// Whatever a name of an action is, only commits are built.
func TestPullActions(t *testing.T) {
	for _, scheme := range schemes {
		w := newWorld(t, hook(scheme, project("hello")))
		for _, action := range []string{"", "labeled", "edited", "approved", "update", "OPENED", strings.Repeat("é", 500)} {
			event, body := pulled(scheme, action, false)
			if got := w.deliver(scheme, event, body); got.Code != http.StatusOK || !strings.Contains(got.Body.String(), "has no new commits") || got.Body.Len() > 600 {
				t.Errorf("%s, %.20q: got %d %s", scheme, action, got.Code, got.Body)
			}
		}
		for _, body := range []string{"", "[]", "1", "{}", `{"pull_request":null,"object_attributes":null}`, `{"pull_request":{"number":"7"},"object_attributes":{"iid":"7"}}`,
			`{"pull_request":{"number":7.5},"object_attributes":{"iid":7.5}}`, `{"pull_request":[],"object_attributes":[]}`} {
			event, _ := pulled(scheme, "", false)
			wantProblem(t, w.deliver(scheme, event, body), http.StatusBadRequest, "usage", "the payload could not be read: ")
		}
	}
}

// A tag of another project in the same repository asks for nothing, and one of
// several for that one.
func TestTagPrefixes(t *testing.T) {
	a, b := project("hello"), project("other")
	a.TagPrefix, b.TagPrefix = "svc-a/", "svc-b/"
	for _, scheme := range schemes {
		w := newWorld(t, hook(scheme, a), hook(scheme, b))
		event := map[bool]string{true: "Tag Push Hook", false: "push"}[forgeOf(scheme) == "gitlab"]
		for ref, want := range map[string]string{"refs/tags/svc-a/v1.0.0": "hello", "refs/tags/svc-b/v1.0.0": "other", "refs/tags/v1.0.0": ""} {
			got := w.deliver(scheme, event, push(ref, commit))
			var asked []imgd.Request
			for _, a := range w.asked() {
				asked = append(asked, a.req)
			}
			switch {
			case want == "" && (got.Code != http.StatusOK || !strings.Contains(got.Body.String(), "whose tags begin with svc-b/")):
				t.Errorf("%s %s: got %d %s", scheme, ref, got.Code, got.Body)
			case want != "" && (len(asked) != 1 || asked[0].Project != want):
				t.Errorf("%s %s: asked for %v", scheme, ref, asked)
			}
		}
	}
}
