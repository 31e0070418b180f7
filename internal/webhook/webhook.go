// Package webhook turns a forge's signed webhook into requests: it serves
// POST /hooks/{forge}/{project}, proves on the raw bytes that the project's
// forge sent them, and puts what a push asks for into the queue before it
// answers. A payload is a hint: what may be built, and from where, is the
// config's to say, and which commits a ref has is git's. It registers nothing
// with a forge, and does not know how the queue works.
package webhook

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/imgd/imgd"
)

// A Hook is a project whose repository's forge may ask for builds.
type Hook struct {
	Project imgd.Project
	Forge   string // github, gitlab, gitea or forgejo: the path and the headers go by it, nothing is guessed
	Secret  []byte // as the forge has it: who reads it from a file cuts off the newline at its end
}

// Queue takes requests.
type Queue interface {
	// Submit enqueues req durably under the delivery's ID and answers it with
	// its own ID. A repeated one is the same message, or asks for the same
	// request again. imgd.ErrInvalid if it can never be handled.
	Submit(ctx context.Context, req imgd.Request, delivery string) (imgd.Request, error)
}

// Config is what a Handler works with.
type Config struct {
	Hooks []Hook
	Queue Queue            // must be set
	Now   func() time.Time // GitLab's signatures are not older or newer than it says; default time.Now
	Log   *slog.Logger     // default: none

	// Close has what was built of a closed pull request removed soon. Its error says
	// why it is not. It must not block. Default: that is left to the tags' own time.
	Close func(project, ref, by string) error

	// Answered is told the forge of each delivery and the status of its answer,
	// for metrics. The forge is empty if the path is no webhook's. Default: nobody
	// is told.
	Answered func(forge string, status int)
}

// A Handler serves POST /hooks/{forge}/{project}; mount it at /hooks/, with the
// path as it is. One webhook serves a repository: it asks for every project with
// the same git URL (without credentials), forge and secret as the one it names.
type Handler struct {
	queue Queue
	now   func() time.Time
	log   *slog.Logger
	hooks map[string]*hook // by path
	room  chan struct{}    // holds one for each chunk of a body in memory

	answered func(forge string, status int)
	close    func(project, ref, by string) error

	// read is forge.read, but for tests of what becomes of its panic.
	read func(f forge, event string, body []byte) (push, error)
}

type hook struct {
	forge    forge
	project  string         // that the path names
	projects []imgd.Project // that are asked for, by name
	room     chan struct{}  // holds one for each chunk of a body in memory that was sent to it
}

// Bounds of one delivery. GitHub waits for ten seconds
// (https://docs.github.com/en/webhooks/using-webhooks/handling-failed-webhook-deliveries),
// GitLab for ten (https://docs.gitlab.com/administration/instance_limits/#webhook-timeout)
// and Gitea for five unless told otherwise (DELIVER_TIMEOUT,
// https://docs.gitea.com/administration/config-cheat-sheet#webhook-webhook).
// GitHub and Gitea do not deliver again by themselves, so what was read goes
// into the queue even if the forge has stopped waiting.
const (
	totalTime = 8 * time.Second // from the headers to the answer
	bodyTime  = 5 * time.Second // of it, to wait for room and for the body
)

// New makes a Handler. It contacts nobody.
func New(config Config) (*Handler, error) {
	if config.Queue == nil {
		return nil, errors.New("webhooks need a queue")
	}
	h := &Handler{queue: config.Queue, now: config.Now, log: config.Log, read: forge.read,
		hooks: map[string]*hook{}, room: make(chan struct{}, maxRoom/chunk), answered: config.Answered, close: config.Close}
	if h.now == nil {
		h.now = time.Now
	}
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	if h.close == nil {
		h.close = func(string, string, string) error { return nil }
	}
	if h.answered == nil {
		h.answered = func(string, int) {}
	}
	for _, c := range config.Hooks {
		if err := h.add(c, config.Hooks); err != nil {
			return nil, fmt.Errorf("set up webhook of project %s: %w", c.Project.Name, err)
		}
	}
	return h, nil
}

// add refuses what would let everybody ask for builds, or nobody. Its errors
// do not repeat the secret.
func (h *Handler) add(c Hook, all []Hook) error {
	if len(bytes.TrimSpace(c.Secret)) == 0 {
		return errors.New("its secret is empty, so that everybody could ask for builds")
	}
	f, err := newForge(c.Forge, c.Secret)
	if err != nil {
		return err
	}
	for _, other := range h.hooks {
		if other.project == c.Project.Name {
			return errors.New("the project has one already")
		}
	}
	added := &hook{forge: f, project: c.Project.Name, room: make(chan struct{}, maxHookRoom/chunk)}
	for _, other := range all {
		if other.Forge == c.Forge && other.Project.Source() == c.Project.Source() && bytes.Equal(other.Secret, c.Secret) {
			added.projects = append(added.projects, other.Project)
		}
	}
	slices.SortFunc(added.projects, func(a, b imgd.Project) int { return strings.Compare(a.Name, b.Name) })
	h.hooks["/hooks/"+f.name+"/"+c.Project.Name] = added
	return nil
}

// A delivery is what a webhook sent. Until it is authentic, its event and ID
// are anybody's words, of which only logs are made.
type delivery struct {
	*hook
	event string
	id    string // letters, digits, '-', '_' and '.'; may be "" until the body is there
}

// ServeHTTP implements http.Handler. Answers: 202 with the requests once all
// of them are in the queue; 200 with the reason if the delivery asks for
// nothing, because a forge switches off webhooks that fail
// (https://docs.gitlab.com/user/project/integrations/webhooks/#auto-disabled-webhooks);
// 401 if it is not proven to be the forge's; 400, 408 and 413 if its body cannot
// be read; 503 if it should be delivered again.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	// It goes for the bodies that are not read here, too: the server reads on
	// after the answer, and would wait for their ends for ever. At the end of a
	// body it takes the deadline back by itself.
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(bodyTime)) // not every ResponseWriter can, the server's does
	found, ok := h.hooks[r.URL.Path]
	if r.Method != http.MethodPost || !ok {
		p := nowhere(r.Method)
		h.log.DebugContext(r.Context(), "webhook refused", "method", short(r.Method), "path", short(r.URL.Path), "status", p.Status)
		if p.Status == http.StatusMethodNotAllowed {
			w.Header().Set("Allow", http.MethodPost)
		}
		writeProblem(w, p)
		h.answered("", p.Status)
		return
	}
	d := delivery{hook: found, event: r.Header.Get(found.forge.event), id: found.forge.delivery(r.Header)}
	o := h.handle(w, r, &d)
	h.answer(r.Context(), w, &d, o)
	h.answered(d.forge.name, o.status())
}

// nowhere is the answer to what is sent to no webhook. It is the same whatever is
// wrong with the path, so that nobody learns which projects there are.
func nowhere(method string) *problem {
	if method != http.MethodPost {
		return newProblem(http.StatusMethodNotAllowed, codeUsage, "webhooks are sent by POST, not "+short(method))
	}
	return newProblem(http.StatusNotFound, codeNotFound,
		"there is no such webhook: the path is /hooks/FORGE/PROJECT, of a project that has a webhook of this forge in imgd's config")
}

// handle reads, proves, parses and submits, in this order.
func (h *Handler) handle(w http.ResponseWriter, r *http.Request, d *delivery) outcome {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), totalTime)
	defer cancel()
	b := body{rooms: [...]chan struct{}{d.room, h.room}}
	defer b.release()
	if err := b.receive(w, r); err != nil {
		return outcome{problem: asProblem(err)}
	}
	if d.id == "" {
		d.id = d.forge.digest(r.Header, b.data)
	}
	if !d.forge.authentic(r.Header, b.data, h.now()) {
		return outcome{problem: newProblem(http.StatusUnauthorized, codeUnauthorized, d.forge.help)}
	}
	p, err := h.parse(d, r.Header, b.data)
	var why *ignored
	switch {
	case errors.As(err, &why):
		return outcome{reasons: []string{why.reason}, refused: why.cause}
	case err != nil:
		return outcome{problem: unreadable(err)}
	case p.closed:
		return h.closed(d, p)
	}
	return h.submit(ctx, d, p)
}

// closed has the tags of a closed pull request removed. What is lost on the way
// is removed when the tags' own time is over.
func (h *Handler) closed(d *delivery, p push) outcome {
	o := outcome{reasons: []string{p.reason + " is closed: nothing is built of it any more"}}
	for _, project := range d.projects {
		if err := h.close(project.Name, p.ref, p.by); err != nil {
			o.refused = errors.Join(o.refused, fmt.Errorf("remove the tags of project %s: %w", project.Name, err))
		}
	}
	return o
}

// submit puts the requests into the queue. The last acknowledgement is the
// commit point: a crash or an error before it leaves some of them in the queue
// and the delivery without a 202. Delivered again, it asks for all of them again
// under the same IDs, which is safe.
func (h *Handler) submit(ctx context.Context, d *delivery, p push) outcome {
	var o outcome
	for _, project := range d.projects {
		why := project.WhyNot(p.ref)
		if why == "" && p.fork && !project.Forks {
			why = fmt.Sprintf("%s is from a fork, and project %s does not build those (pullRequests.forks)", p.reason, project.Name)
		}
		if why != "" {
			o.reasons = append(o.reasons, why)
			continue
		}
		req := imgd.Request{Project: project.Name, Ref: p.ref, Commit: p.commit, By: p.by, Reason: p.reason, Base: p.base}
		req, err := h.queue.Submit(ctx, req, d.forge.name+"/"+d.id+"/"+project.Name)
		switch {
		case errors.Is(err, imgd.ErrInvalid):
			o.reasons = append(o.reasons, fmt.Sprintf("project %s: %s", project.Name, short(err.Error())))
			o.refused = errors.Join(o.refused, err)
		case err != nil:
			err = fmt.Errorf("put the request of project %s into the queue: %w", project.Name, err)
			return outcome{problem: again("the queue does not take requests now: deliver this again later", err)}
		default:
			o.requests = append(o.requests, asked{Project: project.Name, Request: req.ID})
		}
	}
	return o
}
