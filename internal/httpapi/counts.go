package httpapi

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/imgd/imgd"
)

// Metrics are what /metrics counts as it happens. Its methods are the funcs that
// the daemon's parts tell of what they do; they are safe for concurrent use. A
// label is never a tag, a commit or an image, and a project only if it is known.
type Metrics struct {
	known func(project string) bool

	stages         *prometheus.HistogramVec
	running        *prometheus.GaugeVec
	ended, retries *prometheus.CounterVec
	publishing     *prometheus.HistogramVec
	announcing     prometheus.Histogram
	drifts         prometheus.Counter
	leases         *prometheus.CounterVec
	hooks          *prometheus.CounterVec
	requests       *prometheus.CounterVec
	requestTime    *prometheus.HistogramVec
	expired        *prometheus.CounterVec
	heldBack       prometheus.Gauge
	collections    *prometheus.CounterVec
	collectedBytes prometheus.Counter
	collectPause   prometheus.Gauge
	collectOK      prometheus.Gauge
	driftTags      *prometheus.GaugeVec
	audits         *prometheus.CounterVec
	auditTime      prometheus.Gauge
	auditedAt      prometheus.Gauge
	repairs        *prometheus.CounterVec
}

// The bounds of the histograms, in seconds. A stage takes milliseconds (admit)
// to an hour (a build); who waits for a publication waits for all of them and for
// a slot.
var (
	stageBuckets   = []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600}
	publishBuckets = []float64{.1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 3 * 3600, 6 * 3600}
	announceBounds = []float64{.005, .01, .025, .05, .1, .25, .5, 1, 5, 30, 60, 300, 1800, 3600}
	httpBuckets    = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}
)

// unknownLabel stands for what is not to become a label.
const unknownLabel = "unknown"

// NewMetrics makes Metrics; known says which projects are configured, for anybody
// on NATS may ask for others. nil: none is.
func NewMetrics(known func(project string) bool) *Metrics {
	if known == nil {
		known = func(string) bool { return false }
	}
	m := &Metrics{
		known:       known,
		stages:      histograms("stage_duration_seconds", "Time that a stage of a request took.", stageBuckets, "stage", "result", "project"),
		running:     gauges("stages_running", "Stages that are under way.", "stage"),
		ended:       counters("requests_ended_total", "Requests that have ended, by their final state.", "project", "state"),
		retries:     counters("request_retries_total", "Tries of requests that another follows, by why: interrupted, outage or error.", "project", "reason"),
		publishing:  histograms("publish_latency_seconds", "Time from the ask to the release in the index.", publishBuckets, "project"),
		announcing:  prometheus.NewHistogram(histogram("announce_latency_seconds", "Time from the release in the index to its event in IMGD_EVENTS.", announceBounds)),
		drifts:      prometheus.NewCounter(counter("drift_reports_total", "Reports of a tag that names in a registry what the index does not want there; of the same drift each time it is seen.")),
		leases:      counters("lease_renewals_lost_total", "Signs of life of running requests that were not sent (unsent), and requests that came again while they were handled (expired).", "reason"),
		hooks:       counters("webhooks_total", "Deliveries of webhooks, by the status they were answered with.", "forge", "code"),
		requests:    counters("http_requests_total", "HTTP requests, by the route and the status of the answer; 499: the caller was gone.", "route", "method", "code"),
		requestTime: histograms("http_request_duration_seconds", "Time to answer HTTP requests. Streams and waits last on purpose.", httpBuckets, "route"),
		expired:     counters("expired_tags_total", "Tags whose time was over: gone, refused by the registry (each time they are met), or left to the next try.", "state"),
		heldBack: prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "imgd", Name: "expire_held_images",
			Help: "Images of which the last clean-up removed nothing, as more of their tags than expire.maxShare would have gone at once."}),
		collections:    counters("collections_total", "Collections of what nothing needs any more in the registry and among the build logs, by how they ended: ok, failed, or interrupted by who asked or a shutdown.", "result"),
		collectedBytes: prometheus.NewCounter(counter("collected_bytes_total", "Bytes that collections have removed.")),
		collectPause:   prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "imgd", Name: "collect_pause_seconds", Help: "The longest that the last collection kept pushes to the registry waiting."}),
		collectOK:      prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "imgd", Name: "collect_last_successful", Help: "0 if the last collection that nobody interrupted has failed, else 1."}),
		driftTags:      gauges("drift_tags", "Tags that differ between a registry and the index, by kind, as the last audit has found them; unreachable: it could not look. 0 before the first.", "kind"),
		audits:         counters("audits_total", "Audits of all images, by how they ended: complete, incomplete (a registry did not answer) or failed.", "result"),
		auditTime:      prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "imgd", Name: "audit_seconds", Help: "Time that the last audit of all images took."}),
		auditedAt: prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "imgd", Name: "audit_complete_timestamp_seconds",
			Help: "When the last audit ended in which all registries answered, in Unix time; 0 if there was none since the start."}),
		repairs: counters("repairs_total", "Findings that were to be repaired: repaired, left, or refused by the registry.", "state"),
	}
	m.begin()
	return m
}

func counter(name, help string) prometheus.CounterOpts {
	return prometheus.CounterOpts{Namespace: "imgd", Name: name, Help: help}
}

func counters(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(counter(name, help), labels)
}

func gauges(name, help string, labels ...string) *prometheus.GaugeVec {
	return prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "imgd", Name: name, Help: help}, labels)
}

func histogram(name, help string, buckets []float64) prometheus.HistogramOpts {
	return prometheus.HistogramOpts{Namespace: "imgd", Name: name, Help: help, Buckets: buckets}
}

func histograms(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(histogram(name, help, buckets), labels)
}

// begin has those at 0 that are known from the start, so that the first of them
// is seen as an increase.
func (m *Metrics) begin() {
	for _, stage := range imgd.Stages() {
		m.running.WithLabelValues(string(stage))
	}
	for _, loss := range []string{"unsent", "expired"} {
		m.leases.WithLabelValues(loss)
	}
	for _, state := range []imgd.ExpireState{imgd.ExpireGone, imgd.ExpireRefused, imgd.ExpireLeft} {
		m.expired.WithLabelValues(string(state))
	}
	for _, result := range []string{"ok", "failed", "interrupted"} {
		m.collections.WithLabelValues(result)
	}
	m.collectOK.Set(1)
	for _, result := range []string{"complete", "incomplete", "failed"} {
		m.audits.WithLabelValues(result)
	}
	for _, state := range repairStates() {
		m.repairs.WithLabelValues(string(state))
	}
	for _, kind := range imgd.DriftKinds() {
		m.driftTags.WithLabelValues(string(kind))
	}
	m.Configured(unknownLabel)
}

// Configured has the counters of the projects at 0, if they are not there yet.
func (m *Metrics) Configured(projects ...string) {
	for _, project := range projects {
		for _, state := range states {
			if imgd.State(state).Final() {
				m.ended.WithLabelValues(project, state)
			}
		}
		for _, reason := range []string{"interrupted", "outage", "error"} {
			m.retries.WithLabelValues(project, reason)
		}
	}
}

// Listening has the counters of the forges' webhooks at 0 that alerts look at.
func (m *Metrics) Listening(forges ...string) {
	for _, forge := range forges {
		for _, code := range []int{http.StatusOK, http.StatusAccepted, http.StatusUnauthorized, http.StatusServiceUnavailable} {
			m.hooks.WithLabelValues(forge, strconv.Itoa(code))
		}
	}
}

func (m *Metrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.stages, m.running, m.ended, m.retries, m.publishing, m.announcing, m.drifts, m.leases, m.hooks, m.requests, m.requestTime,
		m.expired, m.heldBack, m.collections, m.collectedBytes, m.collectPause, m.collectOK,
		m.driftTags, m.audits, m.auditTime, m.auditedAt, m.repairs}
}

func (m *Metrics) project(name string) string {
	if m.known(name) {
		return name
	}
	return unknownLabel
}

// Collected counts a collection, which may have removed something before it
// failed.
func (m *Metrics) Collected(done Collected, err error) {
	result := "ok"
	switch {
	case errors.Is(err, context.Canceled):
		result = "interrupted"
	case err != nil:
		result = "failed"
		m.collectOK.Set(0)
	default:
		m.collectOK.Set(1)
	}
	m.collections.WithLabelValues(result).Inc()
	m.collectedBytes.Add(float64(done.Bytes))
	m.collectPause.Set(float64(done.PauseMS) / 1000)
}

// Stage is an imgd.Observer.
func (m *Metrics) Stage(ctx context.Context, stage imgd.Stage, req imgd.Request) (context.Context, func(error)) {
	began, running := time.Now(), m.running.WithLabelValues(string(stage))
	running.Inc()
	return ctx, func(err error) {
		running.Dec()
		m.stages.WithLabelValues(string(stage), Result(err), m.project(req.Project)).Observe(time.Since(began).Seconds())
	}
}

// Result is what err means for a stage, in one word: ok, unchanged, superseded,
// conflict, invalid, not-found, refused, build-failed, interrupted, timeout or
// error.
func Result(err error) string {
	var build *imgd.BuildError
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &build):
		return string(CodeBuildFailed)
	}
	for _, r := range []struct {
		err  error
		word string
	}{
		{imgd.ErrUnchanged, "unchanged"}, {imgd.ErrSuperseded, "superseded"}, {imgd.ErrConflict, "conflict"}, {imgd.ErrInvalid, "invalid"},
		{imgd.ErrNotFound, "not-found"}, {imgd.ErrRefused, "refused"}, {context.Canceled, "interrupted"}, {context.DeadlineExceeded, "timeout"},
	} {
		if errors.Is(err, r.err) {
			return r.word
		}
	}
	return "error"
}

// Ended counts the end of a request.
func (m *Metrics) Ended(st imgd.Status) {
	m.ended.WithLabelValues(m.project(st.Project), string(st.State)).Inc()
}

// Retried counts a try that another follows, by the kind of its error.
func (m *Metrics) Retried(st imgd.Status) {
	reason := unknownLabel
	if st.Error != nil {
		reason = st.Error.Kind
	}
	m.retries.WithLabelValues(m.project(st.Project), reason).Inc()
}

// Announced measures the way of a release whose event is out now.
func (m *Metrics) Announced(rel imgd.Release, now time.Time) {
	m.publishing.WithLabelValues(m.project(rel.Request.Project)).Observe(max(0, rel.PublishedAt.Sub(rel.Request.AskedAt).Seconds()))
	m.announcing.Observe(max(0, now.Sub(rel.PublishedAt).Seconds()))
}

// Drifted counts a report.
func (m *Metrics) Drifted(imgd.Drift) { m.drifts.Inc() }

// LeaseLost counts how a lease was lost: unsent or expired.
func (m *Metrics) LeaseLost(reason string) { m.leases.WithLabelValues(reason).Inc() }

// Hooked counts a webhook's delivery; forge is empty if its path names none.
func (m *Metrics) Hooked(forge string, status int) {
	if forge == "" {
		forge = unknownLabel
	}
	m.hooks.WithLabelValues(forge, strconv.Itoa(status)).Inc()
}

func (m *Metrics) served(route, method string, status int, took time.Duration) {
	m.requests.WithLabelValues(route, method, strconv.Itoa(status)).Inc()
	m.requestTime.WithLabelValues(route).Observe(took.Seconds())
}
