// Package httpapi is imgd's HTTP API: what the index says, builds to ask for,
// where requests stand and what operators do to them, their logs, the events,
// and the daemon's health and metrics. It decides nothing: it reads the index,
// resolves a ref while the caller waits, puts requests into the queue and hands
// on commands. It does not know how the index stores, how images are built or
// how the queue works.
package httpapi

import (
	"cmp"
	"context"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.opentelemetry.io/otel/trace"

	"github.com/imgd/imgd"
)

// Index is what queries are answered from. It sees durable entries only.
type Index interface {
	imgd.Lookup
	// Seq is the last entry that is folded.
	Seq() uint64
	// Count is how many records there are.
	Count() int
	// Tag are the records of a tag, by platform.
	Tag(image, name string) []imgd.Record
	// Held is what a tag names: the root, the repositories of the release that
	// holds it, and its records, each in JSON, by platform; all of one moment. There
	// are no lines if it names nothing.
	Held(image, name string) (root digest.Digest, repositories, lines []string)
	// Find answers the records that f chooses, in its order, whether there are
	// more of them behind its limit, and the sequence they stand for.
	Find(f imgd.Find) (found []imgd.Record, more bool, seq uint64)
	// Changes are what the entries after seq did to records, of one image if it is
	// not empty, in their order, and the entry up to which these are all. There
	// are at most limit of them: more follow behind that entry.
	Changes(seq uint64, image string, limit int) (changes []imgd.Change, upTo uint64)
	// Wait waits until entry seq is folded, or ctx is done.
	Wait(ctx context.Context, seq uint64) error
}

// Registry is what verify compares the index with, and where images are compared.
type Registry interface {
	imgd.Inspector
	// Resolve answers what ref, a tag or a digest, names at this moment, by the
	// bytes that are served. imgd.ErrNotFound if there is none.
	Resolve(ctx context.Context, repository, ref string) (ocispec.Descriptor, error)
	// Compare says whether the images a and b are the same, and if not the first
	// thing in which they differ. imgd.ErrNotFound if one is not there,
	// imgd.ErrInvalid if one is no image or cannot be looked into.
	Compare(ctx context.Context, repository string, a, b digest.Digest) (imgd.Comparison, error)
}

// Git completes what a caller wrote short.
type Git interface {
	// Expand says which full ref the short one means, and the commit, peeled,
	// that it names now. imgd.ErrNotFound if there is no such ref,
	// imgd.ErrInvalid if it cannot be one or means several.
	Expand(ctx context.Context, project, short string) (ref, commit string, err error)
}

// Queue takes requests.
type Queue interface {
	// Submit enqueues req durably under the delivery's ID and answers it with
	// its own ID and the time it was asked at, as whoever handles it will see
	// them. imgd.ErrInvalid if it can never be handled.
	Submit(ctx context.Context, req imgd.Request, delivery string) (imgd.Request, error)
}

// Statuses are where requests stand.
type Statuses interface {
	// Status is the state of the request, false if there is none.
	Status(ctx context.Context, request string) (imgd.Status, bool, error)
	// WatchStatus gives the state of the request, as soon as there is one, and
	// each that follows, until ctx is done. It may pass over states that follow
	// fast, but never the last.
	WatchStatus(ctx context.Context, request string) iter.Seq2[imgd.Status, error]
	// Statuses are at most limit states that the filter chooses, written before
	// the place before (0: all), the last written first, and the place to go on
	// from (0: none left).
	Statuses(ctx context.Context, filter imgd.StatusFilter, limit int, before uint64) (items []imgd.Status, next uint64, err error)
}

// Commands are what operators do to requests. by is who did it. What they have
// answered is durable; after another error than these they are safe to repeat.
// imgd.ErrNotFound if there is no such request or letter, imgd.ErrConflict, with
// the reason, if it stands where that cannot be done.
type Commands interface {
	// Cancel ends a request that has admitted nothing yet, and answers how it has
	// ended. Of one that is being built it waits until that has stopped.
	Cancel(ctx context.Context, request, by string) (imgd.Status, error)
	// Retry puts a request that has ended, or the message of a dead letter, into
	// the queue again, and answers it with the time it was asked at; only with
	// its project if the message is no request.
	Retry(ctx context.Context, id, by string) (imgd.Request, error)
	// Drop gives up a request that is publishing, whose release is abandoned, or
	// one that is dead, whose letter is thrown away, and answers how it has ended.
	// By the ID of a letter it throws that one away.
	Drop(ctx context.Context, id, by, reason string) (imgd.Status, error)
}

// Letters are the messages of the queue that nobody could handle.
type Letters interface {
	// Letters are at most limit letters written before the place before (0:
	// all), the last written first, and the place to go on from (0: none left).
	Letters(ctx context.Context, limit int, before uint64) (items []imgd.Letter, next uint64, err error)
	// Letter is the one with that ID, false if there is none.
	Letter(ctx context.Context, id string) (imgd.Letter, bool, error)
}

// Logs are the build logs, lines of JSON.
type Logs interface {
	// Log reads the log of a request. With ended nil it ends where the log ends
	// now, and imgd.ErrNotFound says that there is none. Else it waits for more,
	// and for a log to begin, until ended answers true or ctx is done.
	Log(ctx context.Context, request string, ended func() bool) (io.ReadCloser, error)
}

// An EventFilter chooses events. What is empty may be anything.
type EventFilter struct {
	Since uint64   // only those after this sequence
	What  []string // published, failed, ...: any of these
	Image string
}

// Events are what imgd tells the world.
type Events interface {
	// Events calls f with the events that the filter chooses, in order. With
	// follow it goes on until ctx is done, else it ends at the last there is.
	// It returns f's error.
	Events(ctx context.Context, filter EventFilter, follow bool, f func(seq uint64, event []byte) error) error
}

// Gauges are what /metrics asks beyond the index and the checks. The metrics of
// a func that is nil are left out.
type Gauges struct {
	// Depth measures the queue. It ends with ctx.
	Depth func(ctx context.Context) (imgd.Depth, error)
	// Paused says why no requests are taken at the moment, nil if they are.
	Paused func() error
	// Untold is how many published releases are not announced yet.
	Untold func() int
	// Reloads are how the reloads of the config have ended.
	Reloads func() Reloads
	// IndexSize is how many bytes images.json has.
	IndexSize func() (int64, error)
	// IndexLag is how many entries images.json lacks, and for how long it could not
	// be written, 0 if it could.
	IndexLag func() (entries uint64, failing time.Duration)
	// Restarts is how often buildkitd was started again.
	Restarts func() uint64
}

// Config is what the API answers from. Projects to Expirer must be set.
type Config struct {
	Projects *imgd.Projects
	Index    Index
	Registry Registry
	Git      Git
	Queue    Queue
	Statuses Statuses
	Commands Commands
	Letters  Letters
	Logs     Logs
	Events   Events
	Drifts   imgd.Drifts
	Recorder Recorder
	// Commander is the same pipeline for operators.
	Commander Commander
	Explainer Explainer
	Expirer   Expirer
	Auditor   Auditor

	// Hooks serves what is below /hooks/, to everybody: it has its own way to
	// know who sent something, and bounds what it reads and for how long. nil:
	// there is nothing.
	Hooks http.Handler
	// Reload reads the config anew. Its error says all that is wrong with it, and
	// nothing has changed then. nil: the config cannot be reloaded.
	Reload func(ctx context.Context) (Reloaded, error)
	// Usage measures what the daemon keeps, a part each, as far as ctx lets it.
	// nil: nobody does.
	Usage func(ctx context.Context) []Used
	// Collect removes what nothing needs any more. It ends with ctx, and may be
	// repeated. nil: there is nothing to collect.
	Collect func(ctx context.Context) (Collected, error)
	Checks  []Check        // of /readyz, and imgd_up of /metrics
	Gauges  Gauges         // of /metrics
	Metrics *Metrics       // what it counts; default: of HTTP requests only
	Probes  func() []Probe // of /v1/check; default: none
	Version Version        // of this daemon

	// Traces takes the spans of HTTP requests. Default: none are made.
	Traces trace.TracerProvider

	// Local says that the listener is on loopback. Then requests are served if
	// they name a loopback host, which a web page that rebinds its own name does
	// not. Off loopback only /hooks, /livez and /readyz are.
	Local bool
	// AllowAnonymous serves everybody everything.
	AllowAnonymous bool

	KeepAlive time.Duration    // between two signs of life on a silent stream; default 15s
	Now       func() time.Time // default time.Now
	Log       *slog.Logger     // default: none
}

// Version is what a program says of itself.
type Version struct {
	Version string `json:"version"`
	Commit  string `json:"commit,omitempty"`
	Date    string `json:"date,omitempty"`
	Go      string `json:"go,omitempty"`
}

// An API serves /v1, /hooks, /metrics, /livez and /readyz.
type API struct {
	Config
	handler http.Handler
	health  health

	waits waits
}

// New makes an API. It contacts nobody.
func New(config Config) *API {
	config.KeepAlive = cmp.Or(config.KeepAlive, 15*time.Second)
	if config.Now == nil {
		config.Now = time.Now
	}
	if config.Log == nil {
		config.Log = slog.New(slog.DiscardHandler)
	}
	if config.Metrics == nil {
		config.Metrics = NewMetrics(nil)
	}
	if config.Probes == nil {
		config.Probes = func() []Probe { return nil }
	}
	a := &API{Config: config}
	a.health = health{checks: config.Checks, now: config.Now}
	a.handler = a.routes()
	return a
}

// Close ends the streams and the waits, which a server's Shutdown would wait
// for. What is asked afterwards is answered at once. It is safe to repeat.
func (a *API) Close() { a.waits.close() }

// A waits is all that lasts until somebody ends it.
type waits struct {
	// mu guards what follows.
	mu      sync.Mutex
	closed  bool
	cancels map[int]context.CancelFunc
	next    int
}

func (s *waits) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, cancel := range s.cancels {
		cancel()
	}
}

// until is ctx, cancelled by close too. Whoever called calls the function when
// the wait is over.
func (s *waits) until(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		cancel()
		return ctx, cancel
	}
	if s.cancels == nil {
		s.cancels = map[int]context.CancelFunc{}
	}
	id := s.next
	s.next++
	s.cancels[id] = cancel
	return ctx, func() {
		cancel()
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.cancels, id)
	}
}

// Bounds of a connection. Bodies and answers have their own, for a stream may
// last for days.
const (
	headerTime = 10 * time.Second // to send the headers in: who needs longer holds a connection on purpose
	idleTime   = 2 * time.Minute  // between two requests of one connection
	maxHeader  = 32 << 10
)

// Server is an HTTP server for the API whose Shutdown also ends the streams.
func (a *API) Server() *http.Server {
	s := &http.Server{
		Handler: a, ReadHeaderTimeout: headerTime, IdleTimeout: idleTime, MaxHeaderBytes: maxHeader,
		ErrorLog: slog.NewLogLogger(a.Log.Handler(), slog.LevelWarn),
	}
	s.RegisterOnShutdown(a.Close)
	return s
}
