package webhook_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/internal/webhook"
)

// What the tests deliver by default. The schemes are the forges, with GitLab's
// two ways apart.
const (
	commit  = "0123456789abcdef0123456789abcdef01234567"
	secret  = "It's a Secret to Everybody"
	signing = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
)

var (
	schemes = []string{"github", "gitlab", "gitlab signed", "gitea", "forgejo"}
	now     = time.Unix(1795255200, 0)
)

func project(name string, refs ...string) imgd.Project {
	if refs == nil {
		refs = []string{"refs/heads/*", "refs/tags/*", "refs/pull/*", "refs/merge-requests/*"}
	}
	return imgd.Project{Name: name, Git: "https://git.example.com/demo/hello.git", Image: "demo/" + name, Refs: refs}
}

// forgeOf and secretOf take a scheme apart.
func forgeOf(scheme string) string {
	forge, _, _ := strings.Cut(scheme, " ")
	return forge
}

func secretOf(scheme string) string {
	if scheme == "gitlab signed" {
		return signing
	}
	return secret
}

func hook(scheme string, p imgd.Project) webhook.Hook {
	return webhook.Hook{Project: p, Forge: forgeOf(scheme), Secret: []byte(secretOf(scheme))}
}

// An ask is one call of Submit.
type ask struct {
	req      imgd.Request
	delivery string
}

// A world is a Handler, its queue and its log. It fails the test when one of
// them breaks its contract.
type world struct {
	*webhook.Handler
	t testing.TB

	// mu guards what follows.
	mu       sync.Mutex
	asks     []ask
	log      bytes.Buffer
	answered []string // the forge and the status of each
	closed   []string // project, ref and who closed it of each pull request
	full     error    // of the next

	projects map[string]imgd.Project
	submit   func(ctx context.Context, req imgd.Request) error // nil: takes all
}

func newWorld(t testing.TB, hooks ...webhook.Hook) *world {
	t.Helper()
	w := &world{t: t, projects: map[string]imgd.Project{}}
	for _, h := range hooks {
		w.projects[h.Project.Name] = h.Project
	}
	var err error
	w.Handler, err = webhook.New(webhook.Config{Hooks: hooks, Queue: w, Now: func() time.Time { return now },
		Log: slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug})), Answered: w.note, Close: w.close})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// close is Config.Close.
func (w *world) close(project, ref, by string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = append(w.closed, project+" "+ref+" "+by)
	return w.full
}

// note is Config.Answered.
func (w *world) note(forge string, status int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answered = append(w.answered, fmt.Sprint(forge, " ", status))
}

// Write implements io.Writer, for the log.
func (w *world) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.Write(b)
}

// logged are the lines of the log since the last call.
func (w *world) logged() []map[string]any {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	var lines []map[string]any
	for line := range strings.Lines(w.log.String()) {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			w.t.Fatal(err)
		}
		lines = append(lines, fields)
	}
	w.log.Reset()
	return lines
}

// asked are the calls of Submit since the last call.
func (w *world) asked() []ask {
	w.mu.Lock()
	defer w.mu.Unlock()
	asks := w.asks
	w.asks = nil
	return asks
}

var (
	fullRef    = regexp.MustCompile(`^refs/((heads|tags)/.|(pull|merge-requests)/[1-9][0-9]*/head$)`)
	fullCommit = regexp.MustCompile(`^([0-9a-f]{40})?$`)
	base       = regexp.MustCompile(`^[^\x00-\x20\x7f\x{fffd}]{0,255}$`)
	byWhom     = regexp.MustCompile(`^(github|gitlab|gitea|forgejo)(:[!-~]{1,255})?$`)
	deliveryID = regexp.MustCompile(`^(github|gitlab|gitea|forgejo)/[A-Za-z0-9._-]{1,128}/([a-z0-9-]+)$`)
)

// Submit is the queue. It wants what events.Decode and the pipeline want.
func (w *world) Submit(ctx context.Context, req imgd.Request, delivery string) (imgd.Request, error) {
	if _, ok := ctx.Deadline(); !ok {
		w.t.Error("Submit has no deadline")
	}
	if p, ok := w.projects[req.Project]; !ok || !p.Allows(req.Ref) {
		w.t.Errorf("asked for ref %.100q of project %q, which does not allow it", req.Ref, req.Project)
	}
	if !fullRef.MatchString(req.Ref) || len(req.Ref) > 1024 || !fullCommit.MatchString(req.Commit) || !byWhom.MatchString(req.By) || !base.MatchString(req.Base) {
		w.t.Errorf("asked for %+v", req)
	}
	if !req.AskedAt.IsZero() || req.Force || req.Rebuild || req.Args != nil || req.Target != "" || req.Platforms != nil {
		w.t.Errorf("asked for more than a ref: %+v", req)
	}
	if m := deliveryID.FindStringSubmatch(delivery); m == nil || m[2] != req.Project || len(delivery) > 256 {
		w.t.Errorf("delivery ID %q of project %s", delivery, req.Project)
	}
	w.mu.Lock()
	w.asks = append(w.asks, ask{req, delivery})
	w.mu.Unlock()
	if w.submit != nil {
		if err := w.submit(ctx, req); err != nil {
			return req, err
		}
	}
	req.ID = req.Hash()
	return req, nil
}

// send delivers, and holds the log and the answer to what is promised of them:
// one line, and no secret in either; and that the answer is told, with the
// forge of the path if there is such a webhook.
func (w *world) send(r *http.Request) *httptest.ResponseRecorder {
	w.t.Helper()
	w.logged()
	got := httptest.NewRecorder()
	w.ServeHTTP(got, r)
	w.mu.Lock()
	said, answered := w.log.String()+got.Body.String(), w.answered
	w.answered = nil
	w.mu.Unlock()
	forge, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/hooks/"), "/")
	if got.Code == http.StatusNotFound || got.Code == http.StatusMethodNotAllowed {
		forge = ""
	}
	if want := fmt.Sprint(forge, " ", got.Code); len(answered) != 1 || answered[0] != want {
		w.t.Errorf("told %q, want %q", answered, want)
	}
	for _, word := range []string{secret, signing, strings.TrimPrefix(signing, "whsec_"), r.Header.Get("X-Gitlab-Token"),
		r.Header.Get("X-Hub-Signature-256"), r.Header.Get("X-Gitea-Signature"), r.Header.Get("X-Forgejo-Signature"), r.Header.Get("Webhook-Signature")} {
		if len(word) > 8 && strings.Contains(said, word) {
			w.t.Errorf("answer or log tell %q: %s", word, said)
		}
	}
	if lines := strings.Count(said, "\n"); lines != 2 {
		w.t.Errorf("got %d lines, want one of the log and one of the answer: %s", lines, said)
	}
	return got
}

// deliver sends body as the scheme's forge would, to project hello.
func (w *world) deliver(scheme, event, body string) *httptest.ResponseRecorder {
	w.t.Helper()
	return w.send(delivery(scheme, event, body))
}

// delivery is body as the scheme's forge sends it to project hello.
func delivery(scheme, event, body string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "/hooks/"+forgeOf(scheme)+"/hello", strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	switch scheme {
	case "github":
		r.Header.Set("X-GitHub-Event", event)
		r.Header.Set("X-GitHub-Delivery", "72d3162e-cc78-11e3-81ab-4c9367dc0958")
	case "gitlab", "gitlab signed":
		r.Header.Set("X-Gitlab-Event", event)
		r.Header.Set("X-Gitlab-Event-UUID", "13792a34-cac6-4fda-95a8-c58e00a3954e")
		r.Header.Set("Idempotency-Key", "f5e5f430-f57b-4e6e-9fac-d9128cd7232f")
	case "gitea", "forgejo":
		r.Header.Set("X-Gitea-Event", event) // Forgejo sends both
		r.Header.Set("X-Gitea-Delivery", "f6266f16-1bf3-46a5-9ea4-602e06ead473")
		if scheme == "forgejo" {
			r.Header.Set("X-Forgejo-Event", event)
			r.Header.Set("X-Forgejo-Delivery", "f6266f16-1bf3-46a5-9ea4-602e06ead473")
		}
	}
	sign(r, scheme, body)
	return r
}

// sign proves body as the scheme's forge does.
func sign(r *http.Request, scheme, body string) {
	switch scheme {
	case "github":
		r.Header.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(sum(secret, body)))
	case "gitlab":
		r.Header.Set("X-Gitlab-Token", secret)
	case "gitlab signed":
		signStandard(r, "f5e5f430-f57b-4e6e-9fac-d9128cd7232f", now, body)
	case "gitea":
		r.Header.Set("X-Gitea-Signature", hex.EncodeToString(sum(secret, body)))
	case "forgejo":
		r.Header.Set("X-Forgejo-Signature", hex.EncodeToString(sum(secret, body)))
	}
}

func signStandard(r *http.Request, id string, at time.Time, body string) {
	seconds := strconv.FormatInt(at.Unix(), 10)
	r.Header.Set("Webhook-Id", id)
	r.Header.Set("Webhook-Timestamp", seconds)
	r.Header.Set("Webhook-Signature", "v1,"+standardMAC(id+"."+seconds+"."+body))
}

func standardMAC(signed string) string {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(signing, "whsec_"))
	if err != nil {
		panic(err)
	}
	return base64.StdEncoding.EncodeToString(sum(string(key), signed))
}

func sum(key, body string) []byte {
	m := hmac.New(sha256.New, []byte(key))
	m.Write([]byte(body))
	return m.Sum(nil)
}

// push is a small payload that each forge could have sent, and event its event.
func push(ref, after string) string {
	return fmt.Sprintf(`{"object_kind":"push","ref":%q,"after":%q,"checkout_sha":%q,"head_commit":{"id":%q},"sender":{"login":"ann"},"user_username":"ann"}`,
		ref, after, after, after)
}

func event(scheme string) string {
	if forgeOf(scheme) == "gitlab" {
		return "Push Hook"
	}
	return "push"
}

// wantProblem checks an answer that is an error.
func wantProblem(t *testing.T, got *httptest.ResponseRecorder, status int, code, detail string) {
	t.Helper()
	var p struct {
		Title, Detail, Code string
		Status              int
	}
	if err := json.Unmarshal(got.Body.Bytes(), &p); err != nil {
		t.Fatalf("status %d, body %q: %v", got.Code, got.Body, err)
	}
	if got.Code != status || p.Status != status || p.Code != code || p.Title != http.StatusText(status) || !strings.Contains(p.Detail, detail) {
		t.Errorf("got %d %+v, want %d, code %s and a detail that says %q", got.Code, p, status, code, detail)
	}
	if ct := got.Header().Get("Content-Type"); ct != "application/problem+json" {
		t.Errorf("content type %q", ct)
	}
	if again := got.Header().Get("Retry-After"); (again != "") != (status == http.StatusServiceUnavailable) {
		t.Errorf("status %d with Retry-After %q", status, again)
	}
}

func wantIgnored(t *testing.T, got *httptest.ResponseRecorder, reason string) {
	t.Helper()
	var answer map[string]string
	if err := json.Unmarshal(got.Body.Bytes(), &answer); err != nil || got.Code != http.StatusOK || len(answer) != 1 || answer["ignored"] != reason {
		t.Errorf("got %d %s (%v), want it ignored because %q", got.Code, got.Body, err, reason)
	}
}
