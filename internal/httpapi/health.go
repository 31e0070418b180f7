package httpapi

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"
)

// A Check is one thing that the daemon cannot work without.
type Check struct {
	Name string
	// Run says what is wrong. It is called now and then, at any moment, and
	// ends with ctx.
	Run func(ctx context.Context) error
}

// Bounds of /readyz. A probe that is not answered within seconds counts as
// failed; and probes that come fast share one look.
const (
	checkTime = 5 * time.Second
	checkFor  = time.Second
)

// A health runs the checks.
type health struct {
	checks []Check
	now    func() time.Time

	// mu guards what follows: who comes while the checks run waits for them.
	mu      sync.Mutex
	checked time.Time
	errs    []error
}

// look answers what each check says, from at most checkFor ago.
func (h *health) look(ctx context.Context) []error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if now := h.now(); h.checked.IsZero() || now.Sub(h.checked) >= checkFor {
		// Another caller may be told what this one asked, so it ends in its own time.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), checkTime)
		defer cancel()
		h.errs = h.run(ctx)
		h.checked = h.now()
	}
	return h.errs
}

func (h *health) run(ctx context.Context) []error {
	errs := make([]error, len(h.checks))
	var all sync.WaitGroup
	for i, check := range h.checks {
		all.Go(func() { errs[i] = check.Run(ctx) })
	}
	all.Wait()
	return errs
}

// livez says that the process answers. It looks at nothing else: a restart
// would not bring NATS back.
func livez(w http.ResponseWriter, r *http.Request) error {
	if _, err := parse(r, "verbose"); err != nil {
		return err
	}
	return text(w, http.StatusOK, "ok\n")
}

// readyz says whether the daemon can work, with ?verbose or if it cannot in a
// line for each check.
func (a *API) readyz(w http.ResponseWriter, r *http.Request) error {
	q, err := parse(r, "verbose")
	if err != nil {
		return err
	}
	verbose, err := q.flag("verbose", false)
	if err != nil {
		return err
	}
	var lines strings.Builder
	status := http.StatusOK
	for i, err := range a.health.look(r.Context()) {
		if err != nil {
			status = http.StatusServiceUnavailable
			fmt.Fprintf(&lines, "[-]%s failed: %s\n", a.Checks[i].Name, oneLine(err.Error()))
			continue
		}
		fmt.Fprintf(&lines, "[+]%s ok\n", a.Checks[i].Name)
	}
	switch {
	case status != http.StatusOK:
		return text(w, status, lines.String()+"readyz check failed\n")
	case verbose:
		return text(w, status, lines.String()+"readyz check passed\n")
	}
	return text(w, status, "ok\n")
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

func text(w http.ResponseWriter, status int, body string) error {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(body)) // it fails if the prober is gone
	return nil
}
