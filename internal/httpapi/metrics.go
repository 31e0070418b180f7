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
	untold       = describe("events_untold", "Published releases that are not announced yet.")
	queueDepth   = describe("queue_messages", "Requests that wait in the queue or are being handled.")
	deadLetters  = describe("dead_letters", "Messages of the queue that nobody could handle.")
	paused       = describe("paused", "1 if no requests are taken at the moment, as a part that all need is away, else 0.")
	up           = describe("up", "1 if the part answers, as /readyz says, else 0.", "part")
	scrapeErrors = prometheus.NewDesc("imgd_scrape_errors_total", "Scrapes in which the part did not say what it was asked.", []string{"part"}, nil)
)

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("imgd_"+name, help, labels, nil)
}

// A collector measures at each scrape.
type collector struct {
	api    *API
	failed atomic.Uint64 // how often the queue did not answer
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{releasesOpen, oldestOpen, indexSeq, untold, queueDepth, deadLetters, paused, up, scrapeErrors} {
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
	parts.Wait()
}

// index measures what is in memory.
func (c *collector) index(m sink) {
	open := c.api.Index.Open()
	var age time.Duration
	for _, rel := range open {
		age = max(age, c.api.Now().Sub(rel.AdmittedAt))
	}
	_, seq := c.api.Index.Records()
	m.gauge(releasesOpen, float64(len(open)))
	m.gauge(oldestOpen, age.Seconds())
	m.gauge(indexSeq, float64(seq))
	if c.api.Gauges.Untold != nil {
		m.gauge(untold, float64(c.api.Gauges.Untold()))
	}
}

func (c *collector) queue(ctx context.Context, m sink) {
	if c.api.Gauges.Depth == nil {
		return
	}
	queued, dead, err := c.api.Gauges.Depth(ctx)
	if err != nil {
		c.failed.Add(1)
		c.api.Log.Warn("the queue's depth is not measured", "error", err)
	} else {
		m.gauge(queueDepth, float64(queued))
		m.gauge(deadLetters, float64(dead))
	}
	m <- prometheus.MustNewConstMetric(scrapeErrors, prometheus.CounterValue, float64(c.failed.Load()), "queue")
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

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
