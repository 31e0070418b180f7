package httpapi

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics answers what Prometheus scrapes. Scrapes that come together share one
// look. What a part does not say in time is left out, and counted.
func (a *API) metrics() method {
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "imgd_build_info", Help: "1, with what this imgd was built from.", ConstLabels: prometheus.Labels{
			"version": a.Version.Version, "revision": a.Version.Commit, "goversion": a.Version.Go,
		}}, func() float64 { return 1 }),
		&collector{api: a}, reloads{a},
	)
	registry.MustRegister(a.Metrics.collectors()...)
	handler := promhttp.HandlerFor(registry, promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(a.Log.Handler(), slog.LevelWarn), ErrorHandling: promhttp.ContinueOnError, CoalesceGather: true,
	})
	return func(w http.ResponseWriter, r *http.Request) error {
		handler.ServeHTTP(w, r)
		return nil
	}
}

// The metrics of imgd itself.
var (
	releasesOpen = describe("releases_open", "Releases that are admitted and not published.")
	oldestOpen   = describe("release_open_oldest_seconds", "Age of the oldest release that is admitted and not published, 0 if there is none.")
	indexSeq     = describe("index_seq", "Sequence of the last entry of the index.")
	indexRecords = describe("index_records", "Records in the index: one for each tag and platform.")
	indexSize    = describe("index_size_bytes", "Size of images.json.")
	indexBehind  = describe("index_behind_entries", "Entries that images.json lacks; the journal has them.")
	indexFailing = describe("index_failing_seconds", "For how long images.json could not be written, 0 if it could at the last try.")
	untold       = describe("events_untold", "Published releases that are not announced yet.")
	queueDepth   = describe("queue_messages", "Requests that wait in the queue or are being handled.")
	queueOldest  = describe("queue_oldest_seconds", "Age of the oldest request that waits in the queue or is being handled, 0 if there is none.")
	deadLetters  = describe("dead_letters", "Messages of the queue that nobody could handle.")
	paused       = describe("paused", "1 if no requests are taken at the moment, as a part that all need is away, else 0.")
	up           = describe("up", "1 if the part answers, as /readyz says, else 0.", "part")
	restarts     = prometheus.NewDesc("imgd_buildkitd_restarts_total", "How often imgd's own buildkitd was started again.", nil, nil)
	scrapeErrors = prometheus.NewDesc("imgd_scrape_errors_total", "Scrapes in which the part did not say what it was asked.", []string{"part"}, nil)
)

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("imgd_"+name, help, labels, nil)
}

// A collector measures at each scrape.
type collector struct {
	api                *API
	noQueue, noIndexes atomic.Uint64 // how often they did not answer
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{releasesOpen, oldestOpen, indexSeq, indexRecords, indexSize, indexBehind, indexFailing, untold,
		queueDepth, queueOldest, deadLetters, paused, up, restarts, scrapeErrors} {
		descs <- d
	}
}

// Collect implements prometheus.Collector. It takes checkTime at most.
func (c *collector) Collect(metrics chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), checkTime)
	defer cancel()
	m := sink(metrics)
	var parts sync.WaitGroup
	parts.Go(func() { c.queue(ctx, m) })
	parts.Go(func() { c.checks(ctx, m) })
	c.index(m)
	if c.api.Gauges.Paused != nil {
		m.gauge(paused, oneIf(c.api.Gauges.Paused() != nil))
	}
	if c.api.Gauges.Restarts != nil {
		m.counter(restarts, c.api.Gauges.Restarts())
	}
	parts.Wait()
}

// index measures what is in memory, and the file of it.
func (c *collector) index(m sink) {
	open := c.api.Index.Open()
	var age time.Duration
	for _, rel := range open {
		age = max(age, c.api.Now().Sub(rel.AdmittedAt))
	}
	m.gauge(releasesOpen, float64(len(open)))
	m.gauge(oldestOpen, age.Seconds())
	m.gauge(indexSeq, float64(c.api.Index.Seq()))
	m.gauge(indexRecords, float64(c.api.Index.Count()))
	if c.api.Gauges.Untold != nil {
		m.gauge(untold, float64(c.api.Gauges.Untold()))
	}
	if c.api.Gauges.IndexLag != nil {
		entries, failing := c.api.Gauges.IndexLag()
		m.gauge(indexBehind, float64(entries))
		m.gauge(indexFailing, failing.Seconds())
	}
	if c.api.Gauges.IndexSize == nil {
		return
	}
	if size, err := c.api.Gauges.IndexSize(); c.said(m, "index", &c.noIndexes, err) {
		m.gauge(indexSize, float64(size))
	}
}

func (c *collector) queue(ctx context.Context, m sink) {
	if c.api.Gauges.Depth == nil {
		return
	}
	d, err := c.api.Gauges.Depth(ctx)
	if !c.said(m, "queue", &c.noQueue, err) {
		return
	}
	var age time.Duration
	if !d.Oldest.IsZero() {
		age = max(0, c.api.Now().Sub(d.Oldest)) // the queue's clock may be ahead
	}
	m.gauge(queueDepth, float64(d.Queued))
	m.gauge(queueOldest, age.Seconds())
	m.gauge(deadLetters, float64(d.Dead))
}

// said reports whether the part has answered, and counts how often it has not.
func (c *collector) said(m sink, part string, failed *atomic.Uint64, err error) bool {
	if err != nil {
		failed.Add(1)
		c.api.Log.Warn("a metric is not measured", "part", part, "error", err)
	}
	m.counter(scrapeErrors, failed.Load(), part)
	return err == nil
}

func (c *collector) checks(ctx context.Context, m sink) {
	for i, err := range c.api.health.look(ctx) {
		m.gauge(up, oneIf(err == nil), c.api.Checks[i].Name)
	}
}

// A sink takes what is measured.
type sink chan<- prometheus.Metric

func (m sink) gauge(d *prometheus.Desc, v float64, labels ...string) {
	m <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func (m sink) counter(d *prometheus.Desc, n uint64, labels ...string) {
	m <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
