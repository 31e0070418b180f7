package integration_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/imgd/imgd/integration/check"
	"github.com/imgd/imgd/integration/kit"
)

const hookSecret = "a secret of the storm"

// A hookAsker is a forge: it tells imgd of each push by a signed webhook, some of them twice, and between them sends what
// no forge would.
type hookAsker struct {
	url     string // of imgd
	event   string // default: push
	seed    uint64
	sent    *atomic.Int64 // deliveries that were accepted
	mu      *sync.Mutex   // guards draw
	draw    *rand.Rand
	mustNot func(format string, args ...any) // says what must not be
}

func (h hookAsker) ask(ctx context.Context, project, ref, commit string) (check.Asked, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	body, err := pushed(project, ref, commit)
	if err != nil {
		return check.Asked{}, err
	}
	h.mu.Lock()
	id, twice, bad := fmt.Sprintf("%d-%d", h.seed, h.draw.Uint64()), h.draw.IntN(20) == 0, h.draw.IntN(10)
	h.mu.Unlock()
	h.malformed(ctx, project, body, bad)
	asked, err := h.deliver(ctx, project, id, body)
	if err != nil {
		return asked, err
	}
	h.sent.Add(1)
	if twice {
		again, err := h.deliver(ctx, project, id, body)
		if err == nil && again.Request != asked.Request {
			h.mustNot("delivery %s was request %s, and repeated %s", id, asked.Request, again.Request)
		}
	}
	return asked, nil
}

// pushed is GitHub's payload of a push.
func pushed(project, ref, commit string) ([]byte, error) {
	return json.Marshal(map[string]any{"ref": ref, "after": commit, "head_commit": map[string]string{"id": commit},
		"sender": map[string]string{"login": "ada"}, "repository": map[string]any{"name": project, "owner": map[string]string{"login": "storm"}}})
}

// deliver answers what was acknowledged.
func (h hookAsker) deliver(ctx context.Context, project, id string, body []byte) (check.Asked, error) {
	status, answer, err := h.post(ctx, project, id, sign(body), body)
	if err != nil {
		return check.Asked{}, err
	}
	var accepted struct {
		Requests []struct{ Project, Request string }
	}
	if err := json.Unmarshal(answer, &accepted); err != nil || status != http.StatusAccepted || len(accepted.Requests) != 1 {
		return check.Asked{}, errors.Join(fmt.Errorf("delivery %s: %d %s", id, status, answer), err)
	}
	return check.Asked{Request: accepted.Requests[0].Request}, nil
}

// malformed sends what must be refused, if bad is one of its kinds. Of who does not answer nothing is said.
func (h hookAsker) malformed(ctx context.Context, project string, body []byte, bad int) {
	var signature string
	var want int
	switch bad {
	case 0:
		signature, want = sign(append(body, ' ')), http.StatusUnauthorized
	case 1:
		want = http.StatusUnauthorized
	case 2:
		body = body[:len(body)/2]
		signature, want = sign(body), http.StatusBadRequest
	default:
		return
	}
	if status, answer, err := h.post(ctx, project, "malformed", signature, body); err == nil && status != want {
		h.mustNot("malformed delivery %d: got %d %s, want %d", bad, status, answer, want)
	}
}

func sign(body []byte) string {
	mac := hmac.New(sha256.New, []byte(hookSecret))
	mac.Write(body)
	return "sha256=" + hex.EncodeToString(mac.Sum(nil))
}

func (h hookAsker) post(ctx context.Context, project, id, signature string, body []byte) (status int, answer []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.url+"/hooks/github/"+project, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-GitHub-Event", cmp.Or(h.event, "push"))
	req.Header.Set("X-GitHub-Delivery", id)
	req.Header.Set("X-Hub-Signature-256", signature)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	var read bytes.Buffer
	_, err = read.ReadFrom(resp.Body)
	return resp.StatusCode, read.Bytes(), err
}

// takeHooks gives each project a webhook.
func (r *rig) takeHooks() {
	r.Helper()
	file := filepath.Join(r.TempDir(), "secret")
	r.must(os.WriteFile(file, []byte(hookSecret+"\n"), 0o600))
	for i := range r.config.Projects {
		r.config.Projects[i].Webhook = &kit.WebhookConfig{Forge: "github", SecretFile: file}
	}
}

// byHooks makes the storm's authors ask by webhooks.
func (s *storm) byHooks() *storm {
	s.takeHooks()
	s.hooks = &hookAsker{url: "http://" + s.config.Listen, seed: s.plan.seed, sent: &s.delivered, mu: new(sync.Mutex),
		draw: rand.New(rand.NewPCG(s.plan.seed, 7)), mustNot: s.Errorf}
	return s
}

// Bursts of webhooks while everything is killed; the size for every run of the tests.
func TestWebhookStorm(t *testing.T) {
	t.Parallel()
	newStorm(t, stormPlan{seed: rand.Uint64(), projects: 5, kills: 4, deliveries: 100, checkEvery: 2, backlog: 100, endTime: 2 * endTime, long: 1}).byHooks().run()
}

// One delivery, from the signature to the record: what a forge and its users see.
func TestWebhook(t *testing.T) {
	t.Parallel()
	s := newStorm(t, stormPlan{seed: rand.Uint64(), projects: 1, endTime: endTime}).byHooks()
	s.daemon = kit.RunDaemon(t, s.dir, s.config)
	a := s.authors[0]
	ref, commit, err := "refs/heads/dev", a.newest["refs/heads/dev"], error(nil)
	asked, err := s.hooks.ask(t.Context(), a.project, ref, commit)
	s.must(err)
	s.note(asked)
	s.drain()
	s.mustEnd()
	for _, st := range s.look().States {
		if st.State != "published" {
			t.Errorf("got %+v", st)
		}
	}
	again, err := s.hooks.ask(t.Context(), a.project, ref, commit) // the same push under another delivery's ID
	s.must(err)
	s.note(again)
	s.drain()
	s.mustEnd()
	if n := len(s.look().Index.Releases); n != 1 || again.Request != asked.Request {
		t.Errorf("a replay made %d releases, as request %s", n, again.Request)
	}
}
