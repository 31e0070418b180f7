package httpapi

import (
	"context"
	"net/http"
	"time"
)

// collectTime bounds a collection that is asked for: it reads and removes about
// ten thousand blobs a second, and what is left is left to the next.
const collectTime = 10 * time.Minute

// Used is the space that one part of the data directory takes.
type Used struct {
	Part  string `json:"part"` // index, nats, registry, buildkit, builds, git
	Path  string `json:"path"`
	Bytes int64  `json:"bytes"`           // as du counts them; of buildkit those of its cache, as buildkitd counts them
	Free  int64  `json:"freeBytes"`       // on its file system, to everybody
	Error string `json:"error,omitempty"` // why bytes are not all
}

// Usage is the space that all parts take.
type Usage struct {
	Items []Used `json:"items"` // only parts that are the daemon's own
}

// Collected is what was removed as nothing needs it any more.
type Collected struct {
	Manifests int   `json:"manifests"` // of the registry
	Blobs     int   `json:"blobs"`     // manifests' own among them
	Uploads   int   `json:"uploads"`   // that nobody has gone on with
	Logs      int   `json:"logs"`      // of builds
	Bytes     int64 `json:"bytes"`     // in all
	PauseMS   int64 `json:"pauseMs"`   // the longest that pushes were kept waiting
	PausedMS  int64 `json:"pausedMs"`  // in all
}

func (a *API) usage(w http.ResponseWriter, r *http.Request) error {
	if _, err := parse(r); err != nil {
		return err
	}
	if a.Usage == nil {
		return problem(http.StatusNotFound, CodeNotFound, "this daemon does not measure what it keeps")
	}
	ctx, cancel := context.WithTimeout(r.Context(), answerTime)
	defer cancel()
	return answer(w, http.StatusOK, Usage{Items: a.Usage(ctx)})
}

// collect has the daemon remove what nothing needs. If the caller leaves, what
// is left is left to the next.
func (a *API) collect(w http.ResponseWriter, r *http.Request) error {
	if _, err := parse(r); err != nil {
		return err
	}
	if err := read(w, r, &struct{}{}, true); err != nil {
		return err
	}
	if a.Collect == nil {
		return problem(http.StatusNotFound, CodeNotFound, "this daemon has nothing to collect")
	}
	ctx, cancel := context.WithTimeout(r.Context(), collectTime)
	defer cancel()
	done, err := a.Collect(ctx)
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, done)
}
