package httpapi

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
)

// Reloaded is what a reload of the config has changed, and what in the new one
// waits for a restart: keys, as log.level or projects.hello, sorted.
type Reloaded struct {
	Changed []string `json:"changed"`
	Restart []string `json:"restart"`
}

// Reloads are how the reloads of this process have ended.
type Reloads struct {
	OK, Failed uint64
	LastFailed bool
}

// reload has the daemon read its config again. A config that is bad is the
// caller's mistake; the daemon has logged it.
func (a *API) reload(w http.ResponseWriter, r *http.Request) error {
	if _, err := parse(r); err != nil {
		return err
	}
	if err := read(w, r, &struct{}{}, true); err != nil {
		return err
	}
	if a.Reload == nil {
		return problem(http.StatusNotFound, CodeNotFound, "this daemon does not reload its config: restart it")
	}
	done, err := a.Reload(r.Context())
	if err != nil {
		return usage("the old config stays:\n" + err.Error())
	}
	return answer(w, http.StatusOK, Reloaded{Changed: orEmpty(done.Changed), Restart: orEmpty(done.Restart)})
}

// orEmpty makes null an empty list.
func orEmpty(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

// The metrics of reloads.
var (
	reloadsTotal = prometheus.NewDesc("imgd_config_reloads_total", "Reloads of the config, by how they ended.", []string{"result"}, nil)
	lastReloadOK = describe("config_last_reload_successful", "1 if the config in effect is the last that was to be loaded, 0 if that was refused.")
)

// reloads measures Gauges.Reloads.
type reloads struct{ api *API }

// Describe implements prometheus.Collector.
func (c reloads) Describe(descs chan<- *prometheus.Desc) {
	descs <- reloadsTotal
	descs <- lastReloadOK
}

// Collect implements prometheus.Collector.
func (c reloads) Collect(metrics chan<- prometheus.Metric) {
	if c.api.Gauges.Reloads == nil {
		return
	}
	now := c.api.Gauges.Reloads()
	metrics <- prometheus.MustNewConstMetric(reloadsTotal, prometheus.CounterValue, float64(now.OK), "ok")
	metrics <- prometheus.MustNewConstMetric(reloadsTotal, prometheus.CounterValue, float64(now.Failed), "failed")
	sink(metrics).gauge(lastReloadOK, oneIf(!now.LastFailed))
}
