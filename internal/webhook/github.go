package webhook

import (
	"bytes"
	"errors"
	"mime"
	"net/http"
	"net/url"

	"github.com/drone/go-scm/scm/driver/github"
)

// gitHub proves deliveries by X-Hub-Signature-256, which is sha256= and the MAC
// of the body as sent, form or JSON. The SHA-1 beside it is not looked at.
// https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries
//
// X-GitHub-Delivery stays the same when it is delivered again. The signature
// does not cover it.
// https://docs.github.com/en/webhooks/webhook-events-and-payloads#delivery-headers
//
// Of an annotated tag, after is the tag object and head_commit.id the commit.
// https://github.blog/changelog/2021-10-01-the-push-webhook-payload-provides-a-consistent-head_commit-on-tag-creation/
func gitHub(secret []byte) forge {
	return forge{
		name:  "github",
		event: "X-GitHub-Event",
		ids:   []string{"X-GitHub-Delivery"},
		help: "the header X-Hub-Signature-256 is missing, or does not fit the body and this project's secret: " +
			"give the webhook on GitHub the secret that is in the project's secretFile",
		parser:    github.NewDefault().Webhooks,
		header:    "X-GitHub-Event",
		authentic: signedHex("X-Hub-Signature-256", "sha256=", secret),
		content:   formOrJSON,
		why:       whyNot,
		pulls:     "pull_request",
		pull:      gitHubPull,
		peeled:    head,
	}
}

// formOrJSON reads the field payload of a form, which is what GitHub sends
// unless told to send JSON.
// https://docs.github.com/en/webhooks/using-webhooks/creating-webhooks#creating-a-repository-webhook
func formOrJSON(header http.Header, body []byte) ([]byte, error) {
	mediaType, _, err := mime.ParseMediaType(header.Get("Content-Type"))
	if err != nil || mediaType != "application/x-www-form-urlencoded" {
		return body, nil
	}
	for field := range bytes.SplitSeq(body, []byte("&")) {
		if value, ok := bytes.CutPrefix(field, []byte("payload=")); ok {
			content, err := url.QueryUnescape(string(value))
			return []byte(content), err
		}
	}
	return nil, errors.New("the form has no field payload")
}
