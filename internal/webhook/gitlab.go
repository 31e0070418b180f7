package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/drone/go-scm/scm/driver/gitlab"
)

// gitLab proves deliveries by their signature if the secret is a signing token,
// which begins with whsec_, else by the secret token that they repeat. One
// never stands in for the other: who saw a token cannot get round a signature.
// https://docs.gitlab.com/user/project/integrations/webhooks/
//
// A delivery is known by Idempotency-Key, which is webhook-id where it is
// signed. It is another for each delivery of each hook and stays the same when
// GitLab delivers again.
// https://docs.gitlab.com/user/project/integrations/webhooks/#delivery-headers
// X-Gitlab-Event-UUID is no such ID, although it looks like one: all refs of one
// push have the same, and so have the pushes that a webhook leads to. It is only
// mixed into the digest that stands in for GitLab before 17.4, which sends no
// Idempotency-Key.
// https://gitlab.com/gitlab-org/gitlab/-/blob/master/lib/gitlab/web_hooks/recursion_detection/uuid.rb
//
// Of an annotated tag, after is the tag object and checkout_sha the commit, or
// null if the tag is gone already.
// https://gitlab.com/gitlab-org/gitlab/-/blob/master/lib/gitlab/data_builder/push.rb
func gitLab(secret []byte) (forge, error) {
	f := forge{
		name:  "gitlab",
		event: "X-Gitlab-Event",
		apart: "X-Gitlab-Event-UUID",
		help: "this was not sent with this project's secret: give the webhook on GitLab the secret that is in the project's secretFile, " +
			"as its signing token if it begins with whsec_ (then a signature is valid for five minutes, by this machine's clock), else as its secret token",
		parser:  gitlab.NewDefault().Webhooks,
		header:  "X-Gitlab-Event",
		content: plain,
		why:     whyNotGitLab,
		pulls:   "Merge Request Hook",
		pull:    gitLabPull,
		peeled:  func(p payload) string { return p.CheckoutSHA },
	}
	encoded, signs := strings.CutPrefix(string(secret), "whsec_")
	if !signs {
		f.ids, f.authentic = []string{"Idempotency-Key"}, token(secret)
		return f, nil
	}
	key, err := base64.StdEncoding.DecodeString(encoded)
	if err == nil && len(key) == 0 {
		err = errors.New("nothing")
	}
	if err != nil {
		return forge{}, fmt.Errorf("its secret begins with whsec_, after which a key in base64 follows: %w", err)
	}
	f.ids, f.authentic = []string{"Webhook-Id"}, standard(key)
	return f, nil
}

// token compares digests, so that the time does not tell the secret's length.
func token(secret []byte) func(http.Header, []byte, time.Time) bool {
	want := sha256.Sum256(secret)
	return func(header http.Header, _ []byte, _ time.Time) bool {
		got := sha256.Sum256([]byte(header.Get("X-Gitlab-Token")))
		return subtle.ConstantTimeCompare(got[:], want[:]) == 1
	}
}

// skew is how far a signature's time may be from now, as Standard Webhooks'
// own libraries have it.
const skew = 5 * time.Minute

// standard proves by Standard Webhooks: webhook-signature holds, between
// spaces, v1 signatures, each v1, and the MAC of <id>.<time>.<body> in base64,
// one of which must be right. An ID with a dot is refused: the bytes could be
// cut another way.
// https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
func standard(key []byte) func(http.Header, []byte, time.Time) bool {
	return func(header http.Header, body []byte, now time.Time) bool {
		id, at := header.Get("Webhook-Id"), header.Get("Webhook-Timestamp")
		sum := mac(key, []byte(id+"."+at+"."), body)
		want := []byte("v1," + base64.StdEncoding.EncodeToString(sum))
		signed := false
		for got := range strings.FieldsSeq(header.Get("Webhook-Signature")) {
			if hmac.Equal([]byte(got), want) {
				signed = true
			}
		}
		return signed && id != "" && !strings.Contains(id, ".") && fresh(at, now)
	}
}

func fresh(at string, now time.Time) bool {
	seconds, err := strconv.ParseInt(at, 10, 64)
	return err == nil && seconds >= now.Add(-skew).Unix() && seconds <= now.Add(skew).Unix()
}

// whyNotGitLab is gitLab's forge.why.
// https://docs.gitlab.com/user/project/integrations/webhook_events/
func whyNotGitLab(event string) string {
	switch event {
	case "Push Hook", "Tag Push Hook":
		return ""
	case "System Hook":
		return "a system hook tells of every project: add a webhook to the one that is to be built"
	}
	return noBuild(event)
}
