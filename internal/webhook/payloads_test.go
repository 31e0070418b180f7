package webhook_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the golden file")

// A sample is a payload as a forge sends it.
type sample struct {
	forge, name, event, body string
}

// goSCM is the directory of go-scm's module, whose payloads are delivered and
// not copied.
var goSCM = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/drone/go-scm").Output()
	return strings.TrimSpace(string(out)), err
})

// samples are go-scm's payloads of every forge, and those in testdata/payloads,
// made after the forges' documentation, for what go-scm has no example of.
func samples(t testing.TB) []sample {
	t.Helper()
	dir, err := goSCM()
	if err != nil {
		t.Fatal(err)
	}
	var all []sample
	for _, forge := range []string{"github", "gitlab", "gitea", "forgejo"} {
		for _, pattern := range []string{
			filepath.Join(dir, "scm", "driver", strings.Replace(forge, "forgejo", "gitea", 1), "testdata", "webhooks", "*.json"),
			filepath.Join("testdata", "payloads", forge, "*.json"),
		} {
			files, err := filepath.Glob(pattern)
			if err != nil || len(files) == 0 {
				t.Fatalf("%s: no payloads (%v)", pattern, err)
			}
			for _, file := range files {
				body, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				name := strings.TrimSuffix(filepath.Base(file), ".json")
				all = append(all, sample{forge, name, eventOf(t, forge, name), string(body)})
			}
		}
	}
	return all
}

// events say by which event a payload is sent, by how its name begins; the
// first that fits counts.
var events = map[string][][2]string{
	"github": {{"branch_create", "create"}, {"tag_create", "create"}, {"branch_delete", "delete"}, {"tag_delete", "delete"},
		{"comment", "issue_comment"}, {"deployment", "deployment"}, {"merge_group", "merge_group"}, {"pipeline", "workflow_run"},
		{"pr_review", "pull_request_review"}, {"pr_", "pull_request"}, {"push", "push"}, {"release", "release"}, {"check_run", "check_run"},
		{"status", "status"}, {"ping", "ping"}},
	"gitlab": {{"issue_comment", "Note Hook"}, {"merge_request_comment", "Note Hook"}, {"review_comment", "Note Hook"}, {"issue", "Issue Hook"},
		{"merge_request", "Merge Request Hook"}, {"pull_request", "Merge Request Hook"}, {"pipeline", "Pipeline Hook"}, {"tag", "Tag Push Hook"},
		{"branch", "Push Hook"}, {"push", "Push Hook"}, {"system", "System Hook"}},
	"gitea": {{"branch_create", "create"}, {"tag_create", "create"}, {"branch_delete", "delete"}, {"tag_delete", "delete"},
		{"issue_comment", "issue_comment"}, {"pull_request_comment", "issue_comment"}, {"issues", "issues"}, {"pull_request", "pull_request"}, {"push", "push"}},
}

func eventOf(t testing.TB, forge, name string) string {
	t.Helper()
	for _, e := range events[strings.Replace(forge, "forgejo", "gitea", 1)] {
		if strings.HasPrefix(name, e[0]) {
			return e[1]
		}
	}
	t.Fatalf("%s: %s is of no event", forge, name)
	return ""
}

// TestPayloads says in testdata/payloads.golden what becomes of every payload.
func TestPayloads(t *testing.T) {
	var lines strings.Builder
	for _, s := range samples(t) {
		w := newWorld(t, hook(s.forge, project("hello")))
		got := w.deliver(s.forge, s.event, s.body)
		fmt.Fprintf(&lines, "%s %s (%s): %s\n", s.forge, s.name, s.event, outcome(t, w, got))
	}
	golden := filepath.Join("testdata", "payloads.golden")
	if *update {
		if err := os.WriteFile(golden, []byte(lines.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	wants, gots := strings.Split(string(want), "\n"), strings.Split(lines.String(), "\n")
	for i := range max(len(wants), len(gots)) {
		if i >= len(wants) || i >= len(gots) || wants[i] != gots[i] {
			t.Fatalf("line %d of %d and %d:\ngot  %s\nwant %s", i+1, len(gots), len(wants), at(gots, i), at(wants, i))
		}
	}
}

func at(lines []string, i int) string {
	if i < len(lines) {
		return lines[i]
	}
	return "(nothing)"
}

// outcome is an answer, and what was asked for, in one line.
func outcome(t *testing.T, w *world, got *httptest.ResponseRecorder) string {
	t.Helper()
	asks := w.asked()
	if (got.Code == http.StatusAccepted) != (len(asks) > 0) {
		t.Errorf("got %d %s, asked for %v", got.Code, got.Body, asks)
	}
	if len(asks) > 0 {
		req := asks[0].req
		line := fmt.Sprintf("%d %s at %q by %s", got.Code, req.Ref, req.Commit, req.By)
		if req.Base != "" {
			line += fmt.Sprintf(" (%s, for %s)", req.Reason, req.Base)
		}
		return line
	}
	var answer struct{ Ignored, Detail string }
	if err := json.Unmarshal(got.Body.Bytes(), &answer); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d %s%s", got.Code, answer.Ignored, answer.Detail)
}

// GitHub sends a form unless told otherwise, and signs its bytes.
func TestForm(t *testing.T) {
	body := push("refs/heads/main", commit)
	form := "a=b&payload=" + url.QueryEscape(body) + "&c"
	deliver := func(scheme, contentType, body string) *httptest.ResponseRecorder {
		w := newWorld(t, hook(scheme, project("hello")))
		r := delivery(scheme, event(scheme), body)
		r.Header.Set("Content-Type", contentType)
		return w.send(r)
	}
	for _, contentType := range []string{"application/x-www-form-urlencoded", "Application/X-WWW-Form-URLencoded; charset=utf-8"} {
		if got := deliver("github", contentType, form); got.Code != http.StatusAccepted {
			t.Errorf("%s: got %d %s", contentType, got.Code, got.Body)
		}
	}
	for _, contentType := range []string{"", "application/json", "text/plain", ";;", "application/vnd.github+json"} {
		if got := deliver("github", contentType, body); got.Code != http.StatusAccepted {
			t.Errorf("%s: got %d %s", contentType, got.Code, got.Body)
		}
	}
	const asForm = "application/x-www-form-urlencoded"
	wantProblem(t, deliver("github", asForm, body), http.StatusBadRequest, "usage", "no field payload")
	wantProblem(t, deliver("github", asForm, ""), http.StatusBadRequest, "usage", "no field payload")
	wantProblem(t, deliver("github", asForm, "payload=%zz"), http.StatusBadRequest, "usage", "read form: invalid URL escape")
	wantProblem(t, deliver("github", asForm, "payload="), http.StatusBadRequest, "usage", "could not be read")
	wantProblem(t, deliver("github", "", form), http.StatusBadRequest, "usage", "could not be read")

	// Gitea signs the JSON in the form, so that its bytes are not proven.
	w := newWorld(t, hook("gitea", project("hello")))
	r := delivery("gitea", "push", form)
	r.Header.Set("Content-Type", asForm)
	sign(r, "gitea", body)
	wantProblem(t, w.send(r), http.StatusUnauthorized, "unauthorized", "content type application/json")
}

// The form is proven before it is read.
func TestFormIsSigned(t *testing.T) {
	w := newWorld(t, hook("github", project("hello")))
	body := push("refs/heads/main", commit)
	r := delivery("github", "push", "payload="+url.QueryEscape(body))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	sign(r, "github", body)
	wantProblem(t, w.send(r), http.StatusUnauthorized, "unauthorized", "X-Hub-Signature-256")
}

func TestUnreadable(t *testing.T) {
	for _, scheme := range schemes {
		w := newWorld(t, hook(scheme, project("hello")))
		for _, body := range []string{"", "x", "[]", "1", `"x"`, "{", "{} {}", `{"ref":1}`, `{"ref":"refs/heads/main","after":{}}`, `{"ref":"refs/heads/main","head_commit":1,"checkout_sha":1}`} {
			wantProblem(t, w.deliver(scheme, event(scheme), body), http.StatusBadRequest, "usage", "the payload could not be read: ")
		}
		wantProblem(t, w.deliver(scheme, "", push("refs/heads/main", commit)), http.StatusBadRequest, "usage", "-Event is missing")
	}
}

// What is ignored is not even read: a forge may send what go-scm cannot read.
func TestOtherEventsAreNotRead(t *testing.T) {
	for scheme, tests := range map[string]map[string]string{
		"github": {"issues": "event issues asks for no build", "pull_request_review_thread": "event pull_request_review_thread asks for no build", "delete": "the ref was deleted",
			"create": "event create asks for no build: the push of the same ref does", "ping": "ping asks for no build: the webhook works",
			strings.Repeat("é", 200): "event " + strings.Repeat("é", 100) + "… asks for no build"},
		"gitlab": {"Issue Hook": "event Issue Hook asks for no build", "push": "event push asks for no build",
			"System Hook": "a system hook tells of every project: add a webhook to the one that is to be built"},
		"gitea":   {"pull_request_sync": "event pull_request_sync asks for no build", "Push Hook": "event Push Hook asks for no build"},
		"forgejo": {"action_run_failure": "event action_run_failure asks for no build"},
	} {
		w := newWorld(t, hook(scheme, project("hello")))
		for event, want := range tests {
			wantIgnored(t, w.deliver(scheme, event, "no JSON"), want)
		}
	}
}

func TestRefs(t *testing.T) {
	for ref, want := range map[string]string{
		"refs/heads/":          "ref refs/heads/ is neither a branch nor a tag",
		"refs/tags/":           "ref refs/tags/ is neither a branch nor a tag",
		"refs/pull/1/merge":    "ref refs/pull/1/merge is neither a branch nor a tag",
		"heads/main":           "ref heads/main is neither a branch nor a tag",
		"refs/refs/heads/main": "ref refs/refs/heads/main is neither a branch nor a tag",
		"HEAD":                 "ref HEAD is neither a branch nor a tag",
	} {
		w := newWorld(t, hook("github", project("hello", "*")))
		wantIgnored(t, w.deliver("github", "push", push(ref, commit)), want)
	}
	for after, want := range map[string]string{
		"":                        "the push of ref refs/heads/main names no commit",
		commit[1:]:                "the push of ref refs/heads/main names no commit",
		strings.ToUpper(commit):   "the push of ref refs/heads/main names no commit",
		"--upload-pack=x":         "the push of ref refs/heads/main names no commit",
		strings.Repeat("0", 40):   "ref refs/heads/main was deleted",
		strings.Repeat("0", 64):   "ref refs/heads/main was deleted",
		commit + "0000000000000":  "the push of ref refs/heads/main names no commit",
		" " + commit:              "the push of ref refs/heads/main names no commit",
		commit[:39] + "\u0660":    "the push of ref refs/heads/main names no commit",
		strings.Repeat("0", 1000): "ref refs/heads/main was deleted",
	} {
		w := newWorld(t, hook("github", project("hello")))
		wantIgnored(t, w.deliver("github", "push", push("refs/heads/main", after)), want)
	}
}

// A ref no queue takes never gets as far as a pattern of the config, which
// could take long to find out.
func TestLongRef(t *testing.T) {
	w := newWorld(t, hook("github", project("hello", strings.Repeat("*a", 20)+"b", "refs/heads/*")))
	fits := "refs/heads/" + strings.Repeat("x", 1024-len("refs/heads/"))
	if got := w.deliver("github", "push", push(fits, commit)); got.Code != http.StatusAccepted {
		t.Errorf("got %d %s", got.Code, got.Body)
	}
	got := w.deliver("github", "push", push(fits+"x", commit))
	wantIgnored(t, got, "ref "+fits[:200]+"… has 1025 bytes, at most 1024 can be built")
	if line := w.logged()[0]; line["level"] != "WARN" {
		t.Errorf("logged %v", line)
	}
	long := "refs/heads/" + strings.Repeat("a", 1<<20)
	if got := w.deliver("github", "push", push(long, commit)); got.Code != http.StatusOK || got.Body.Len() > 1000 {
		t.Errorf("got %d and %d bytes", got.Code, got.Body.Len())
	}
}

// A login is bounded, and printable.
func TestBy(t *testing.T) {
	for login, want := range map[string]string{
		"octocat": "github:octocat", "": "github", "a b": "github:a_b", "x\u202ey": "github:x_y", "\x00\x7f": "github:__",
		strings.Repeat("é", 300): "github:" + strings.Repeat("_", 128), strings.Repeat("x", 300): "github:" + strings.Repeat("x", 255),
	} {
		w := newWorld(t, hook("github", project("hello")))
		name, err := json.Marshal(login)
		if err != nil {
			t.Fatal(err)
		}
		w.deliver("github", "push", strings.Replace(push("refs/heads/main", commit), `"ann"`, string(name), 1))
		if asks := w.asked(); len(asks) != 1 || asks[0].req.By != want {
			t.Errorf("%q: asked for %v, want by %s", login, asks, want)
		}
	}
}

func BenchmarkDelivery(b *testing.B) {
	for _, s := range samples(b) {
		if s.forge != "github" || s.name != "push" {
			continue
		}
		w := newWorld(b, hook("github", project("hello")))
		b.SetBytes(int64(len(s.body)))
		b.ReportAllocs()
		for b.Loop() {
			got := httptest.NewRecorder()
			w.ServeHTTP(got, delivery("github", s.event, s.body))
			if got.Code != http.StatusAccepted {
				b.Fatalf("got %d %s", got.Code, got.Body)
			}
			w.asks = nil
			w.log.Reset()
		}
		return
	}
	b.Fatal("there is no payload")
}
