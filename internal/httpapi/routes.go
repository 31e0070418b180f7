package httpapi

import (
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// answerTime bounds an answer that does not wait on purpose: a slow registry
// may have to be asked several times.
const answerTime = 2 * time.Minute

// A method answers one method of one path. Its error becomes a problem.
type method func(w http.ResponseWriter, r *http.Request) error

// Routes below which the mux does not look further.
const (
	imagesRoute = "/v1/images/{rest...}"
	hooksRoute  = "/hooks/"
)

// table is what is served to whoever guard lets through. docs/openapi.yaml has
// each of them, which a test holds.
func (a *API) table() map[string]map[string]method {
	return map[string]map[string]method{
		"/v1/images":                     {http.MethodGet: a.listImages},
		imagesRoute:                      {http.MethodGet: a.getImage, http.MethodPost: a.postImage},
		"/v1/records":                    {http.MethodGet: a.listRecords},
		"/v1/verify":                     {http.MethodPost: a.verifyAll},
		"/v1/compare":                    {http.MethodGet: a.getCompare},
		"/v1/projects":                   {http.MethodGet: a.listProjects},
		"/v1/projects/{project}/builds":  {http.MethodPost: a.askBuild},
		"/v1/projects/{project}/explain": {http.MethodGet: a.explain},
		"/v1/check":                      {http.MethodPost: a.check},
		"/v1/expire":                     {http.MethodPost: a.expire},
		"/v1/drift":                      {http.MethodGet: a.getDrift, http.MethodPost: a.postDrift},
		"/v1/usage":                      {http.MethodGet: a.usage},
		"/v1/collect":                    {http.MethodPost: a.collect},
		"/v1/requests":                   {http.MethodGet: a.listRequests},
		"/v1/requests/{id}":              {http.MethodGet: a.getRequest},
		"/v1/requests/{id}/cancel":       {http.MethodPost: command(a.cancelRequest)},
		"/v1/requests/{id}/retry":        {http.MethodPost: command(a.retryRequest)},
		"/v1/requests/{id}/drop":         {http.MethodPost: command(a.dropRequest)},
		"/v1/requests/{id}/log":          {http.MethodGet: a.getLog},
		"/v1/letters":                    {http.MethodGet: a.listLetters},
		"/v1/letters/{id}":               {http.MethodGet: a.getLetter},
		"/v1/releases":                   {http.MethodGet: a.listReleases},
		"/v1/events":                     {http.MethodGet: a.getEvents},
		"/v1/watch":                      {http.MethodGet: a.watch},
		"/v1/version":                    {http.MethodGet: a.getVersion},
		"/v1/reload":                     {http.MethodPost: a.reload},
		"/metrics":                       {http.MethodGet: a.metrics()},
		"/":                              {},
	}
}

func (a *API) routes() http.Handler {
	mux := http.NewServeMux()
	for path, methods := range a.table() {
		mux.Handle(path, a.guard(a.serve(methods)))
	}
	mux.Handle(hooksRoute, a.hooks())
	mux.Handle("/livez", a.serve(map[string]method{http.MethodGet: livez}))
	mux.Handle("/readyz", a.serve(map[string]method{http.MethodGet: a.readyz}))
	return mux
}

// hooks lets everybody in, for forges call from anywhere. What they send names
// its sender by its signature, which no web page can make.
func (a *API) hooks() http.Handler {
	if a.Hooks != nil {
		return a.Hooks
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.fail(w, r, problem(http.StatusNotFound, CodeNotFound, "no project has a webhook; give one a webhook in the config"))
	})
}

// serve answers by the method; with no methods the path is unknown.
func (a *API) serve(methods map[string]method) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-store")
		name := r.Method
		if name == http.MethodHead {
			name = http.MethodGet
		}
		serve, ok := methods[name]
		switch {
		case len(methods) == 0:
			a.fail(w, r, problem(http.StatusNotFound, CodeNotFound, "there is no "+r.URL.Path+" here; the API is under /v1, as in /v1/images"))
		case !ok:
			allowed := strings.Join(slices.Sorted(maps.Keys(methods)), ", ")
			w.Header().Set("Allow", allowed)
			a.fail(w, r, problem(http.StatusMethodNotAllowed, CodeUsage, r.URL.Path+" takes "+allowed+", not "+r.Method))
		default:
			if err := serve(w, r); err != nil {
				a.fail(w, r, err)
			}
		}
	})
}

// guard lets through who may see and do everything. Until there are tokens that
// is whoever is on this machine, and not a web page in a browser on it: a page
// that rebinds its name to loopback still sends that name, and what a page posts
// across sites says so.
func (a *API) guard(next http.Handler) http.Handler {
	csrf := http.NewCrossOriginProtection()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := a.admit(r.Host)
		if err == nil {
			err = csrf.Check(r)
		}
		var p *Problem
		if err != nil && !errors.As(err, &p) {
			err = problem(http.StatusForbidden, CodeUnauthorized, "a web page of another site sent this: "+err.Error())
		}
		if err != nil {
			a.fail(w, r, err)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (a *API) admit(host string) error {
	switch {
	case a.AllowAnonymous:
		return nil
	case !a.Local:
		return problem(http.StatusForbidden, CodeUnauthorized,
			"imgd listens off loopback without tokens, so it serves only /hooks, /livez and /readyz; set listen to 127.0.0.1:7070, or allowAnonymous: true to serve everybody")
	case !loopback(host):
		return problem(http.StatusForbidden, CodeUnauthorized,
			"imgd serves this machine only, by the names localhost and 127.0.0.1, not "+host+"; set allowAnonymous: true to serve everybody, as behind a proxy")
	}
	return nil
}

// loopback reports whether the Host header names this machine and can mean no
// other.
func loopback(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

// Bounds of a body: a request to build is a few hundred bytes, and as large as
// the queue takes it at most.
const (
	maxBody  = 64 << 10
	bodyTime = 10 * time.Second
)

// read decodes the JSON body into v; empty says that there may be none. The
// content type is demanded because a form on a web page cannot send it.
func read(w http.ResponseWriter, r *http.Request, v any, empty bool) error {
	// It holds for what the server reads on after an error too; at the body's end
	// net/http takes it back.
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(bodyTime)) // not every ResponseWriter can, the server's does
	mediaType, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	if !strings.EqualFold(strings.TrimSpace(mediaType), "application/json") {
		return problem(http.StatusUnsupportedMediaType, CodeUsage, "send the header Content-Type: application/json")
	}
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(v)
	if errors.Is(err, io.EOF) && empty {
		return nil
	}
	if err == nil && decoder.More() {
		err = errors.New("more than one JSON value")
	}
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return problem(http.StatusRequestEntityTooLarge, CodeUsage, "the body has more than 64 KiB")
	}
	if err != nil {
		return usage("read the body: " + err.Error())
	}
	return nil
}

// actions are what may stand behind a tag.
var actions = [...]string{"", "verify", "history", "why", "rollback", "tag", "untag"}

// splitImage takes apart what follows /v1/images/: an image, whose name keeps
// its slashes, and a tag of it with an action, if these are there. /tags/ is
// found from the right, so an image whose name ends in tags/<something> is found
// only with its tag.
func splitImage(rest string) (image, tag, action string) {
	i := strings.LastIndex(rest, "/tags/")
	if i < 0 {
		return rest, "", ""
	}
	image = rest[:i]
	tag, action, _ = strings.Cut(rest[i+len("/tags/"):], "/")
	if image == "" || tag == "" || !slices.Contains(actions[:], action) || strings.HasSuffix(rest, "/") {
		return rest, "", ""
	}
	return image, tag, action
}
