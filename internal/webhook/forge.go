package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/drone/go-scm/scm"
)

// A forge is what differs between forges, for one secret.
type forge struct {
	name   string
	event  string   // header that names the event
	pulls  string   // the event of a pull request
	ids    []string // headers that may name the delivery, the best first
	apart  string   // header that tells deliveries apart but does not name one, see digest
	help   string   // what to do about a 401; it is told to everybody
	parser scm.WebhookService
	header string // where the parser looks for the event

	// authentic reports whether the forge sent body, and now, as far as it tells
	// the time. How long that takes does not tell where a wrong one is wrong.
	authentic func(header http.Header, body []byte, now time.Time) bool
	// content is the JSON in body.
	content func(header http.Header, body []byte) ([]byte, error)
	// why says why the event asks for no build, "" for a push. It is not asked of
	// pulls.
	why func(event string) string
	// pull is what p says of a pull request.
	pull func(p pullPayload) pull
	// peeled is the commit of the tag that was pushed, "" if p does not tell.
	peeled func(p payload) string
}

// Forges are the names that a Hook's forge may have.
func Forges() []string { return []string{"github", "gitlab", "gitea", "forgejo"} }

func newForge(name string, secret []byte) (forge, error) {
	switch name {
	case "github":
		return gitHub(secret), nil
	case "gitlab":
		return gitLab(secret)
	case "gitea":
		return gitea("gitea", "X-Gitea-", secret)
	case "forgejo":
		return gitea("forgejo", "X-Forgejo-", secret)
	}
	return forge{}, fmt.Errorf("forge %q is none of %q", name, Forges())
}

// maxID is far above a UUID, which is what forges send, and far below what the
// queue takes of <forge>/<delivery ID>/<project>.
const maxID = 128

// delivery is the ID by which the forge knows the delivery, "" if it sent none
// that can be used.
func (f forge) delivery(header http.Header) string {
	for _, name := range f.ids {
		if id := header.Get(name); usable(id) {
			return id
		}
	}
	return ""
}

func usable(id string) bool {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."
	return id != "" && len(id) <= maxID && strings.Trim(id, letters) == ""
}

// digest stands in for the ID: the same for the same bytes.
func (f forge) digest(header http.Header, body []byte) string {
	sum := sha256.New()
	_, _ = sum.Write([]byte(header.Get(f.apart) + "\n"))
	_, _ = sum.Write(body)
	return "sha256-" + hex.EncodeToString(sum.Sum(nil))
}

// mac is the HMAC-SHA256 of the parts, one after the other.
func mac(key []byte, parts ...[]byte) []byte {
	m := hmac.New(sha256.New, key)
	for _, part := range parts {
		_, _ = m.Write(part)
	}
	return m.Sum(nil)
}

// signedHex reports whether the header is prefix and the MAC of body, in
// lower-case hex. An empty header never is.
func signedHex(header, prefix string, key []byte) func(http.Header, []byte, time.Time) bool {
	return func(h http.Header, body []byte, _ time.Time) bool {
		want := prefix + hex.EncodeToString(mac(key, body))
		return hmac.Equal([]byte(h.Get(header)), []byte(want))
	}
}

// plain is the content of forges that send JSON only.
func plain(_ http.Header, body []byte) ([]byte, error) { return body, nil }

// head is the commit of the tag where the forge tells it as head_commit.
func head(p payload) string { return p.HeadCommit.ID }

// whyNot is forge.why of GitHub, and of Gitea, which took its names over.
// GitHub sends a push for every branch and tag that is created or deleted,
// beside the events create and delete, but none of them when more than three
// tags are pushed at once.
// https://docs.github.com/en/webhooks/webhook-events-and-payloads#push
func whyNot(event string) string {
	switch {
	case event == "push":
		return ""
	case event == "ping":
		return "ping asks for no build: the webhook works"
	case event == "create":
		return "event create asks for no build: the push of the same ref does"
	case event == "delete":
		return "the ref was deleted"
	}
	return noBuild(event)
}

func noBuild(event string) string { return "event " + short(event) + " asks for no build" }
