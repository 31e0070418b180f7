package webhook

import (
	"fmt"

	scm "github.com/drone/go-scm/scm/driver/gitea"
)

// gitea is Gitea, or Forgejo, which sends the same by headers of its own name
// beside Gitea's: either forge may be configured for it. Deliveries are proven by <prefix>Signature, the MAC of the JSON; the
// header is there, and empty, if the webhook has no secret. A form is signed by
// the JSON in it and not by its bytes, so it does not pass.
// https://docs.gitea.com/usage/webhooks,
// https://forgejo.org/docs/latest/user/webhooks/,
// https://github.com/go-gitea/gitea/blob/main/services/webhook/deliver.go
//
// <prefix>Delivery is another one when a delivery is repeated by hand. The
// signature does not cover it.
//
// Of an annotated tag, after is the tag object and head_commit.id the commit.
// https://github.com/go-gitea/gitea/blob/main/services/repository/push.go
func gitea(name, prefix string, secret []byte) (forge, error) {
	client, err := scm.New("http://localhost") // it wants an address, and asks nobody
	if err != nil {
		return forge{}, fmt.Errorf("make parser: %w", err)
	}
	return forge{
		name:  name,
		event: prefix + "Event",
		ids:   []string{prefix + "Delivery"},
		help: "the header " + prefix + "Signature is missing or empty, or does not fit the body and this project's secret: " +
			"give the webhook the secret that is in the project's secretFile, and the content type application/json",
		parser:    client.Webhooks,
		header:    "X-Gitea-Event",
		authentic: signedHex(prefix+"Signature", "", secret),
		content:   plain,
		why:       whyNot,
		pulls:     "pull_request",
		pull:      gitHubPull,
		peeled:    head,
	}, nil
}
