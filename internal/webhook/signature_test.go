package webhook_test

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/imgd/imgd/internal/webhook"
)

// TestVectors are the forges' own examples.
func TestVectors(t *testing.T) {
	// https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries#testing-the-webhook-payload-validation
	const hello = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
	for _, tt := range []struct {
		scheme, body string
		header       map[string]string
		now          time.Time
	}{
		{"github", "Hello, World!", map[string]string{"X-GitHub-Event": "ping", "X-Hub-Signature-256": "sha256=" + hello}, now},
		// The same MAC in the form of https://docs.gitea.com/usage/webhooks#authorization-header: bare.
		{"gitea", "Hello, World!", map[string]string{"X-Gitea-Event": "issues", "X-Gitea-Signature": hello}, now},
		{"forgejo", "Hello, World!", map[string]string{"X-Forgejo-Event": "issues", "X-Forgejo-Signature": hello}, now},
		// https://github.com/standard-webhooks/standard-webhooks/blob/main/libraries/go/webhook_test.go
		{"gitlab signed", `{"test": 2432232314}`, map[string]string{"X-Gitlab-Event": "Issue Hook",
			"Webhook-Id": "msg_p5jXN8AQM9LWM0D4loKWxJek", "Webhook-Timestamp": "1614265330",
			"Webhook-Signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="}, time.Unix(1614265330, 0)},
		{"gitlab", "Hello, World!", map[string]string{"X-Gitlab-Event": "Issue Hook", "X-Gitlab-Token": secret}, now},
	} {
		w := newWorld(t)
		var err error
		w.Handler, err = webhook.New(webhook.Config{Hooks: []webhook.Hook{hook(tt.scheme, project("hello"))}, Queue: w, Now: func() time.Time { return tt.now }})
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequest(http.MethodPost, "/hooks/"+forgeOf(tt.scheme)+"/hello", strings.NewReader(tt.body))
		for name, value := range tt.header {
			r.Header.Set(name, value)
		}
		got := httptest.NewRecorder()
		w.ServeHTTP(got, r)
		if got.Code != http.StatusOK {
			t.Errorf("%s: got %d %s", tt.scheme, got.Code, got.Body)
		}
	}
}

// proofs are the headers that prove a delivery, by scheme.
var proofs = map[string][]string{
	"github":        {"X-Hub-Signature-256"},
	"gitlab":        {"X-Gitlab-Token"},
	"gitlab signed": {"Webhook-Id", "Webhook-Timestamp", "Webhook-Signature"},
	"gitea":         {"X-Gitea-Signature"},
	"forgejo":       {"X-Forgejo-Signature"},
}

// No bit of the body or of its proof can be another, nor can the proof be cut,
// empty or missing. GitLab's secret token proves nothing about the body.
func TestOneBitIsWrong(t *testing.T) {
	body := push("refs/heads/main", commit)
	for _, scheme := range schemes {
		t.Run(scheme, func(t *testing.T) {
			w := newWorld(t, hook(scheme, project("hello")))
			refused := func(what string, change func(r *http.Request) string) {
				t.Helper()
				r := delivery(scheme, event(scheme), body)
				changed := httptest.NewRequest(r.Method, r.URL.Path, strings.NewReader(change(r)))
				changed.Header = r.Header
				if got := w.send(changed); got.Code != http.StatusUnauthorized {
					t.Errorf("%s: got %d %s", what, got.Code, got.Body)
				}
			}
			if scheme != "gitlab" {
				for i := range len(body) * 8 {
					refused("a bit of the body", func(*http.Request) string { return flip(body, i) })
				}
				refused("a body that is cut", func(*http.Request) string { return body[1:] })
				refused("a longer body", func(*http.Request) string { return body + "\n" })
			}
			for _, name := range proofs[scheme] {
				value := delivery(scheme, event(scheme), body).Header.Get(name)
				for i := range len(value) * 8 {
					refused("a bit of "+name, func(r *http.Request) string { r.Header[name] = []string{flip(value, i)}; return body })
				}
				refused("cut "+name, func(r *http.Request) string { r.Header.Set(name, value[:len(value)-1]); return body })
				refused("longer "+name, func(r *http.Request) string { r.Header.Set(name, value+"0"); return body })
				refused("empty "+name, func(r *http.Request) string { r.Header.Set(name, ""); return body })
				refused("no "+name, func(r *http.Request) string { r.Header.Del(name); return body })
			}
			if asks := w.asked(); asks != nil {
				t.Errorf("asked for %v", asks)
			}
			if got := w.deliver(scheme, event(scheme), body); got.Code != http.StatusAccepted {
				t.Errorf("unchanged: got %d %s", got.Code, got.Body)
			}
		})
	}
}

func flip(s string, bit int) string {
	b := []byte(s)
	b[bit/8] ^= 1 << (bit % 8)
	return string(b)
}

// What another forge, or another time, would have taken for a proof is none.
func TestOtherProofs(t *testing.T) {
	body := push("refs/heads/main", commit)
	mac := hex.EncodeToString(sum(secret, body))
	old := hmac.New(sha1.New, []byte(secret))
	old.Write([]byte(body))
	for _, tt := range []struct {
		scheme, name string
		header       map[string]string
	}{
		{"github", "SHA-1", map[string]string{"X-Hub-Signature": "sha1=" + hex.EncodeToString(old.Sum(nil))}},
		{"github", "SHA-1 in the new header", map[string]string{"X-Hub-Signature-256": "sha1=" + hex.EncodeToString(old.Sum(nil))}},
		{"github", "SHA-256 in the old header", map[string]string{"X-Hub-Signature": "sha256=" + mac}},
		{"github", "bare", map[string]string{"X-Hub-Signature-256": mac}},
		{"github", "upper case", map[string]string{"X-Hub-Signature-256": "sha256=" + strings.ToUpper(mac)}},
		{"github", "the secret", map[string]string{"X-Hub-Signature-256": secret, "X-Gitlab-Token": secret}},
		{"github", "Gitea's", map[string]string{"X-Gitea-Signature": mac, "X-Forgejo-Signature": mac}},
		{"github", "the MAC of nothing", map[string]string{"X-Hub-Signature-256": "sha256=" + hex.EncodeToString(sum(secret, ""))}},
		{"github", "of no secret", map[string]string{"X-Hub-Signature-256": "sha256=" + hex.EncodeToString(sum("", body))}},
		{"gitea", "GitHub's", map[string]string{"X-Hub-Signature-256": "sha256=" + mac}},
		{"gitea", "with a prefix", map[string]string{"X-Gitea-Signature": "sha256=" + mac}},
		{"gitea", "Forgejo's", map[string]string{"X-Forgejo-Signature": mac}},
		{"gitea", "unsigned, as without a secret", map[string]string{"X-Gitea-Signature": "", "X-Hub-Signature-256": "sha256="}},
		{"forgejo", "Gitea's", map[string]string{"X-Gitea-Signature": mac}},
		{"forgejo", "unsigned, as without a secret", map[string]string{"X-Forgejo-Signature": ""}},
		{"gitlab", "no token", nil},
		{"gitlab", "a signature with the token for a key", map[string]string{"X-Hub-Signature-256": "sha256=" + mac, "Webhook-Signature": "v1," + mac}},
		{"gitlab signed", "the key as a token", map[string]string{"X-Gitlab-Token": signing}},
		{"gitlab signed", "the key without its prefix as a token", map[string]string{"X-Gitlab-Token": strings.TrimPrefix(signing, "whsec_")}},
	} {
		w := newWorld(t, hook(tt.scheme, project("hello")))
		r := delivery(tt.scheme, event(tt.scheme), body)
		for _, name := range proofs[tt.scheme] {
			r.Header.Del(name)
		}
		for name, value := range tt.header {
			r.Header.Set(name, value)
		}
		got := w.send(r)
		wantProblem(t, got, http.StatusUnauthorized, "unauthorized", "secretFile")
		if line := w.logged()[0]; line["level"] != "WARN" || line["msg"] != "webhook refused" || line["project"] != "hello" {
			t.Errorf("%s, %s: logged %v", tt.scheme, tt.name, line)
		}
		if asks := w.asked(); asks != nil {
			t.Errorf("%s, %s: asked for %v", tt.scheme, tt.name, asks)
		}
	}
}

// A secret that begins with whsec_ means nothing to the other forges.
func TestSigningTokenIsGitLabs(t *testing.T) {
	body := push("refs/heads/main", commit)
	w := newWorld(t, webhook.Hook{Project: project("hello"), Forge: "github", Secret: []byte("whsec_!")})
	r := delivery("github", "push", body)
	r.Header.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(sum("whsec_!", body)))
	if got := w.send(r); got.Code != http.StatusAccepted {
		t.Errorf("got %d %s", got.Code, got.Body)
	}
}

func TestStandardWebhooks(t *testing.T) {
	body := push("refs/heads/main", commit)
	w := newWorld(t, hook("gitlab signed", project("hello")))
	signed := func(id string, at time.Time, change func(http.Header)) int {
		r := delivery("gitlab signed", "Push Hook", body)
		signStandard(r, id, at, body)
		if change != nil {
			change(r.Header)
		}
		return w.send(r).Code
	}
	for at, want := range map[time.Duration]int{
		0: 202, 5 * time.Minute: 202, -5 * time.Minute: 202, 301 * time.Second: 401, -301 * time.Second: 401, 24 * time.Hour: 401, -24 * time.Hour: 401,
	} {
		if got := signed("1", now.Add(at), nil); got != want {
			t.Errorf("signed %s from now: got %d, want %d", at, got, want)
		}
	}
	const other = "v1,AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
	for name, tt := range map[string]struct {
		change func(h http.Header)
		want   int
	}{
		"the first of two":  {func(h http.Header) { h.Set("Webhook-Signature", h.Get("Webhook-Signature")+" "+other) }, 202},
		"the last of three": {func(h http.Header) { h.Set("Webhook-Signature", other+" v1a,x "+h.Get("Webhook-Signature")) }, 202},
		"none of two":       {func(h http.Header) { h.Set("Webhook-Signature", other+" "+other) }, 401},
		"another version": {func(h http.Header) {
			h.Set("Webhook-Signature", "v2"+strings.TrimPrefix(h.Get("Webhook-Signature"), "v1"))
		}, 401},
		"no version":             {func(h http.Header) { h.Set("Webhook-Signature", strings.TrimPrefix(h.Get("Webhook-Signature"), "v1,")) }, 401},
		"commas between them":    {func(h http.Header) { h.Set("Webhook-Signature", other+","+h.Get("Webhook-Signature")) }, 401},
		"the right token beside": {func(h http.Header) { h.Set("Webhook-Signature", other); h.Set("X-Gitlab-Token", signing) }, 401},
		"only a token":           {func(h http.Header) { h.Del("Webhook-Signature"); h.Set("X-Gitlab-Token", signing) }, 401},
	} {
		if got := signed("1", now, tt.change); got != tt.want {
			t.Errorf("%s: got %d, want %d", name, got, tt.want)
		}
	}
	if asks := w.asked(); len(asks) != 5 {
		t.Errorf("asked %d times, want 5", len(asks))
	}
}

// A time that is no number is refused even if it is signed, and so is an ID
// that lets the signed bytes be cut in another way: here a pusher has put the
// rest of a delivery into a message, and somebody who saw the whole cuts it
// there.
func TestStandardWebhooksCutsOneWay(t *testing.T) {
	w := newWorld(t, hook("gitlab signed", project("hello")))
	evil := push("refs/heads/main", commit)
	for name, tt := range map[string]struct{ id, time, body string }{
		"an ID with dots":  {"1.1795255200.{\"message\":\"x", "1795255200", evil},
		"no ID":            {"", "1795255200", evil},
		"no time":          {"1", "", evil},
		"a fraction":       {"1", "1795255200.5", evil},
		"hexadecimal":      {"1", "0x6b017a20", evil},
		"far in the past":  {"1", "-9223372036854775808", evil},
		"far in the years": {"1", "9223372036854775807", evil},
		"beyond 64 bits":   {"1", "18446744073709551616", evil},
	} {
		r := delivery("gitlab signed", "Push Hook", tt.body)
		signStandard(r, tt.id, now, tt.body)
		r.Header.Set("Webhook-Timestamp", tt.time)
		r.Header.Set("Webhook-Signature", "v1,"+standardMAC(tt.id+"."+tt.time+"."+tt.body))
		if got := w.send(r); got.Code != http.StatusUnauthorized {
			t.Errorf("%s: got %d %s", name, got.Code, got.Body)
		}
	}
	if asks := w.asked(); asks != nil {
		t.Errorf("asked for %v", asks)
	}
}
