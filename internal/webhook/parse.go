package webhook

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"

	"github.com/drone/go-scm/scm"

	"github.com/imgd/imgd/version"
)

// A push is what imgd takes from a payload, also of a pull request. The clone
// URL is not in it: that is the config's.
type push struct {
	ref    string // full, of a branch, a tag or a pull request
	commit string // 40 hex, peeled; "" if the payload does not tell it for certain
	by     string // <forge>:<login> of who pushed, as the forge authenticated him
	reason string // of the request
	base   string // branch that the pull request is for, "" if it is none
	fork   bool   // a pull request from another repository
	closed bool   // a pull request that is closed: it asks for no build
}

// A payload is what go-scm drops or changes of a push.
type payload struct {
	After      string `json:"after"` // what the ref names now, of an annotated tag the tag object; zeros: it is gone
	HeadCommit struct {
		ID string `json:"id"`
	} `json:"head_commit"`
	CheckoutSHA string `json:"checkout_sha"`
}

// ignored says why a delivery asks for nothing.
type ignored struct {
	reason string
	cause  error // what an operator should know of it, mostly nil
}

func (i *ignored) Error() string { return i.reason }

// A crash is what a parser's panic becomes.
type crash struct {
	value any
	stack []byte
}

func (c *crash) Error() string { return fmt.Sprintf("panic: %v\n%s", c.value, c.stack) }

// unreadable is the answer to a payload that is authentic and no push.
func unreadable(err error) *problem {
	var c *crash
	if errors.As(err, &c) { // what a panic says is for the log
		p := newProblem(http.StatusBadRequest, codeUsage, "the payload could not be read")
		p.cause, p.level = err, slog.LevelError
		return p
	}
	return newProblem(http.StatusBadRequest, codeUsage, "the payload could not be read: "+short(err.Error()))
}

// parse reads what an authentic delivery asks for. Some of go-scm's parsers
// have panicked, so it outlives that.
func (h *Handler) parse(d *delivery, header http.Header, body []byte) (p push, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &crash{v, debug.Stack()}
		}
	}()
	if d.event == "" {
		return push{}, fmt.Errorf("the header %s is missing", d.forge.event)
	}
	content, err := d.forge.content(header, body)
	if err != nil {
		return push{}, fmt.Errorf("read form: %w", err)
	}
	return h.read(d.forge, d.event, content)
}

// read reads the JSON of an event. Only that of a push or a pull request is looked
// at.
func (f forge) read(event string, body []byte) (push, error) {
	if event == f.pulls {
		return f.readPull(body)
	}
	if why := f.why(event); why != "" {
		return push{}, &ignored{reason: why}
	}
	body, err := withoutCommits(body)
	if err != nil {
		return push{}, err
	}
	var p payload
	if err := json.Unmarshal(body, &p); err != nil {
		return push{}, err
	}
	sent, err := f.push(event, body)
	if err != nil {
		return push{}, err
	}
	if err := check(sent.Ref, p.After); err != nil {
		return push{}, err
	}
	commit := p.After
	if strings.HasPrefix(sent.Ref, "refs/tags/") {
		commit = f.peeled(p)
	}
	return push{ref: sent.Ref, commit: full(commit), by: f.by(sent.Sender.Login), reason: "push"}, nil
}

// withoutCommits leaves out the list of commits, of which imgd needs none. It
// is most of a large payload, and two letters of it ({}) would become hundreds
// of bytes when go-scm has read them.
func withoutCommits(body []byte) ([]byte, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(body, &fields); err != nil {
		return nil, err
	}
	for name := range fields {
		if strings.EqualFold(name, "commits") { // encoding/json takes fields in any case
			delete(fields, name)
		}
	}
	return json.Marshal(fields)
}

// push reads the payload by go-scm. Its own check of the signature is left out,
// and it sees no header but the event's.
func (f forge) push(event string, body []byte) (*scm.PushHook, error) {
	r := &http.Request{Header: http.Header{}, Body: io.NopCloser(bytes.NewReader(body))}
	r.Header.Set(f.header, event)
	hook, err := f.parser.Parse(r, func(scm.Webhook) (string, error) { return "", nil })
	if err != nil {
		return nil, err
	}
	switch hook := hook.(type) {
	case *scm.PushHook:
		return hook, nil
	case *scm.BranchHook, *scm.TagHook: // what go-scm makes of GitLab's deletions
		return nil, &ignored{reason: "the ref was deleted"}
	}
	return nil, fmt.Errorf("%T is no push", hook)
}

// maxRef is the longest ref that the queue takes.
const maxRef = 1024

// check ignores what no build can come of: a deletion, and a ref that is no
// branch's or tag's. Whether the ref may be built is the project's to say.
func check(ref, after string) error {
	kind, name, _ := strings.Cut(strings.TrimPrefix(ref, "refs/"), "/")
	switch {
	case ref == "":
		return errors.New("it names no ref")
	case after != "" && strings.Trim(after, "0") == "":
		return &ignored{reason: "ref " + short(ref) + " was deleted"}
	case version.ValidCommit(after) != nil:
		return &ignored{reason: "the push of ref " + short(ref) + " names no commit"}
	case len(ref) > maxRef:
		err := fmt.Errorf("ref %s has %d bytes, at most %d can be built", short(ref), len(ref), maxRef)
		return &ignored{reason: err.Error(), cause: err}
	case !strings.HasPrefix(ref, "refs/") || kind != "heads" && kind != "tags" || name == "":
		return &ignored{reason: "ref " + short(ref) + " is neither a branch nor a tag"}
	}
	return nil
}

// full is the commit if it is a full one of SHA-1, else "": then it is asked
// of git when the request is handled.
func full(commit string) string {
	if len(commit) != 40 || version.ValidCommit(commit) != nil {
		return ""
	}
	return commit
}

// maxLogin bounds a login, in bytes. GitLab's have 255 at most, the others'
// fewer.
const maxLogin = 255

// by names who pushed. What no login has is replaced, because records, logs and
// annotations repeat it.
func (f forge) by(login string) string {
	login = strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' {
			return '_'
		}
		return r
	}, login[:min(len(login), maxLogin)])
	if login == "" {
		return f.name
	}
	return f.name + ":" + login
}
