package webhook

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/imgd/imgd/version"
)

const (
	// maxBase bounds the name of a base branch, in bytes: it is a hint, and git
	// stores names as paths.
	maxBase = 255
	// maxNumber is far above the number of any pull request.
	maxNumber = 1_000_000_000
)

// A pullPayload is what imgd takes from the event of a pull request. go-scm is
// not asked: it leaves out of GitLab's whether there are new commits, and of all
// whether the head is in another repository, but for names that can be renamed.
//
// https://docs.github.com/en/webhooks/webhook-events-and-payloads#pull_request,
// https://docs.gitlab.com/user/project/integrations/webhook_events/#merge-request-events,
// https://github.com/go-gitea/gitea/blob/main/modules/structs/hook.go
type pullPayload struct {
	Action string `json:"action"`
	Pull   struct {
		Number int `json:"number"`
		Head   struct {
			SHA  string     `json:"sha"`
			Repo repository `json:"repo"` // null: it was deleted
		} `json:"head"`
		Base struct {
			Ref  string     `json:"ref"`
			Repo repository `json:"repo"`
		} `json:"base"`
	} `json:"pull_request"`
	Sender struct {
		Login string `json:"login"`
	} `json:"sender"`

	// GitLab's.
	Merge struct {
		IID        int    `json:"iid"`
		Action     string `json:"action"`
		OldRev     string `json:"oldrev"` // only if there are new commits
		Source     int64  `json:"source_project_id"`
		Target     int64  `json:"target_project_id"`
		Branch     string `json:"target_branch"`
		LastCommit struct {
			ID string `json:"id"`
		} `json:"last_commit"`
	} `json:"object_attributes"`
	User struct {
		Username string `json:"username"`
	} `json:"user"`
}

type repository struct {
	ID int64 `json:"id"`
}

// A pull is an event of a pull request, whatever the forge calls it.
type pull struct {
	number int
	what   string // for reasons: pull request 7
	ref    string
	commit string
	base   string
	login  string
	fork   bool // the head is in another repository, or nobody knows
	state  pullState
	action string // the forge's word
}

// pullState is what has become of a pull request.
type pullState int

const (
	pullSame    pullState = iota // has no other commits than before
	pullChanged                  // is new, again open, or has other commits
	pullClosed                   // is merged, or given up
)

// gitHubPull reads the event pull_request of GitHub, Gitea and Forgejo, which
// differ in one word.
func gitHubPull(p pullPayload) pull {
	states := map[string]pullState{"opened": pullChanged, "reopened": pullChanged, "synchronize": pullChanged, "synchronized": pullChanged, "closed": pullClosed}
	from, to := p.Pull.Head.Repo.ID, p.Pull.Base.Repo.ID
	return pull{number: p.Pull.Number, what: fmt.Sprintf("pull request %d", p.Pull.Number), ref: fmt.Sprintf("refs/pull/%d/head", p.Pull.Number), commit: p.Pull.Head.SHA,
		base: p.Pull.Base.Ref, login: p.Sender.Login, fork: from == 0 || from != to, state: states[p.Action], action: p.Action}
}

// gitLabPull reads the Merge Request Hook.
func gitLabPull(p pullPayload) pull {
	m := p.Merge
	states := map[string]pullState{"open": pullChanged, "reopen": pullChanged, "close": pullClosed, "merge": pullClosed}
	state := states[m.Action]
	if m.Action == "update" && m.OldRev != "" {
		state = pullChanged
	}
	return pull{number: m.IID, what: fmt.Sprintf("merge request %d", m.IID), ref: fmt.Sprintf("refs/merge-requests/%d/head", m.IID), commit: m.LastCommit.ID,
		base: m.Branch, login: p.User.Username, fork: m.Source == 0 || m.Source != m.Target, state: state, action: m.Action}
}

// readPull reads the JSON of the event of a pull request.
func (f forge) readPull(body []byte) (push, error) {
	var payload pullPayload
	if err := json.Unmarshal(body, &payload); err != nil {
		return push{}, err
	}
	p := f.pull(payload)
	switch {
	case p.number <= 0 || p.number > maxNumber:
		return push{}, errors.New("it names no pull request")
	case p.state == pullClosed:
		return push{ref: p.ref, by: f.by(p.login), reason: p.what, closed: true}, nil
	case p.state == pullSame:
		return push{}, &ignored{reason: p.what + " has no new commits (action " + short(cmp.Or(p.action, "none")) + ")"}
	case version.ValidCommit(p.commit) != nil:
		return push{}, &ignored{reason: p.what + " names no commit"}
	}
	if len(p.base) > maxBase || !printable(p.base) {
		p.base = ""
	}
	return push{ref: p.ref, commit: full(p.commit), by: f.by(p.login), base: p.base, reason: p.what, fork: p.fork}, nil
}

// printable reports whether the name of a branch has none of the characters that
// the queue refuses.
func printable(name string) bool {
	for _, r := range name {
		if r <= ' ' || r == 0x7f || r == '\uFFFD' {
			return false
		}
	}
	return true
}
