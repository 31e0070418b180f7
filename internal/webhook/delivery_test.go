package webhook_test

import (
	"net/http"
	"strings"
	"testing"
)

// deliveredAs delivers with some headers changed, "" for none, and answers the
// delivery's ID.
func deliveredAs(t *testing.T, scheme, body string, change map[string]string) string {
	t.Helper()
	w := newWorld(t, hook(scheme, project("hello")))
	r := delivery(scheme, event(scheme), body)
	for name, value := range change {
		r.Header.Del(name)
		if value != "" {
			r.Header.Set(name, value)
		}
	}
	got := w.send(r)
	asks := w.asked()
	if got.Code != http.StatusAccepted || len(asks) != 1 {
		t.Fatalf("got %d %s, asked for %v", got.Code, got.Body, asks)
	}
	id := strings.TrimSuffix(strings.TrimPrefix(asks[0].delivery, forgeOf(scheme)+"/"), "/hello")
	if line := w.logged()[0]; line["delivery"] != id {
		t.Errorf("logged delivery %v, want %s", line["delivery"], id)
	}
	return id
}

// An ID that is missing, or that the queue might not take, is replaced by one
// that the bytes tell, so that a redelivery has the same.
func TestDeliveryID(t *testing.T) {
	header := map[string]string{"github": "X-GitHub-Delivery", "gitlab": "Idempotency-Key", "gitea": "X-Gitea-Delivery", "forgejo": "X-Forgejo-Delivery"}
	main, other := push("refs/heads/main", commit), push("refs/heads/other", commit)
	for scheme, name := range header {
		for _, id := range []string{"72d3162e-cc78-11e3-81ab-4c9367dc0958", "A_b.9", strings.Repeat("x", 128)} {
			if got := deliveredAs(t, scheme, main, map[string]string{name: id}); got != id {
				t.Errorf("%s: got %s, want %s", scheme, got, id)
			}
		}
		want := deliveredAs(t, scheme, main, map[string]string{name: ""})
		for _, id := range []string{" ", "a b", "a/b", "a\nb", "a\x00", "é", "a\u202eb", "{}", strings.Repeat("x", 129)} {
			if got := deliveredAs(t, scheme, main, map[string]string{name: id}); got != want || !strings.HasPrefix(got, "sha256-") || len(got) != len("sha256-")+64 {
				t.Errorf("%s: %q is delivered as %s, want as %s, like none", scheme, id, got, want)
			}
		}
		if got := deliveredAs(t, scheme, other, map[string]string{name: ""}); got == want {
			t.Errorf("%s: two bodies are delivered as %s", scheme, got)
		}
	}
}

// GitLab gives all refs of one push the same X-Gitlab-Event-UUID, and sends no
// Idempotency-Key before 17.4.
func TestOldGitLab(t *testing.T) {
	main, other := push("refs/heads/main", commit), push("refs/heads/other", commit)
	first := deliveredAs(t, "gitlab", main, map[string]string{"Idempotency-Key": "", "X-Gitlab-Event-UUID": "1"})
	if got := deliveredAs(t, "gitlab", main, map[string]string{"Idempotency-Key": "", "X-Gitlab-Event-UUID": "1"}); got != first {
		t.Errorf("delivered again as %s, before as %s", got, first)
	}
	for name, got := range map[string]string{
		"the other ref of the push": deliveredAs(t, "gitlab", other, map[string]string{"Idempotency-Key": "", "X-Gitlab-Event-UUID": "1"}),
		"the same, pushed again":    deliveredAs(t, "gitlab", main, map[string]string{"Idempotency-Key": "", "X-Gitlab-Event-UUID": "2"}),
	} {
		if got == first {
			t.Errorf("%s is delivered as the first, %s", name, got)
		}
	}
}

// Where it is signed only the signed ID counts.
func TestSignedID(t *testing.T) {
	if got := deliveredAs(t, "gitlab signed", push("refs/heads/main", commit), map[string]string{"Idempotency-Key": "forged"}); got != "f5e5f430-f57b-4e6e-9fac-d9128cd7232f" {
		t.Errorf("got %s", got)
	}
}
