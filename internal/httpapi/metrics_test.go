package httpapi_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/internal/httpapi"
)

// measured are the lines of /metrics that are of imgd itself, without the help,
// and without what Metrics counts.
func measured(t *testing.T, body string) string {
	t.Helper()
	var lines []string
	for line := range strings.Lines(body) {
		if strings.HasPrefix(line, "imgd_") && !counted.MatchString(line) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}

var counted = regexp.MustCompile(`^imgd_(collect|stage|request|publish|announce|drift|lease|webhook|http|expire|audit|repair)`)

func TestMetrics(t *testing.T) {
	now := epoch
	var natsErr, pausedFor, depthErr, sizeErr error
	w := newWorld(t, func(c *httpapi.Config) {
		c.Now = func() time.Time { return now }
		c.Checks = []httpapi.Check{
			{Name: "nats", Run: func(context.Context) error { return natsErr }},
			{Name: "registry", Run: func(context.Context) error { return nil }},
		}
		c.Gauges = httpapi.Gauges{
			Depth: func(ctx context.Context) (imgd.Depth, error) {
				if _, ok := ctx.Deadline(); !ok {
					t.Error("the queue is asked without a deadline")
				}
				return imgd.Depth{Queued: 3, Oldest: epoch.Add(-time.Minute), Dead: 2}, depthErr
			},
			Paused:    func() error { return pausedFor },
			Untold:    func() int { return 4 },
			IndexSize: func() (int64, error) { return 4711, sizeErr },
			Restarts:  func() uint64 { return 5 },
		}
	})
	scrape := func(want string) string {
		t.Helper()
		got := w.get("/metrics")
		if got.status != 200 || !strings.HasPrefix(got.header.Get("Content-Type"), "text/plain; version=0.0.4") {
			t.Fatalf("got %d %s", got.status, got.header)
		}
		if lines := measured(t, got.body); lines != want {
			t.Errorf("got\n%swant\n%s", lines, want)
		}
		return got.body
	}
	const restarts = "imgd_buildkitd_restarts_total 5\n"
	const info = `imgd_build_info{goversion="go1.26.8",revision="ffffffffffffffffffffffffffffffffffffffff",version="v0.1.0"} 1` + "\n"
	body := scrape(info + restarts + `imgd_dead_letters 2
imgd_events_untold 4
imgd_index_records 0
imgd_index_seq 0
imgd_index_size_bytes 4711
imgd_paused 0
imgd_queue_messages 3
imgd_queue_oldest_seconds 60
imgd_release_open_oldest_seconds 0
imgd_releases_open 0
imgd_scrape_errors_total{part="index"} 0
imgd_scrape_errors_total{part="queue"} 0
imgd_up{part="nats"} 1
imgd_up{part="registry"} 1
`)
	for _, name := range []string{"go_goroutines ", "process_open_fds "} {
		if !strings.Contains(body, "\n"+name) {
			t.Errorf("there is no %s", name)
		}
	}
	lint(t, body)

	// What stands, and what is away.
	w.publish(w.release("refs/tags/v1.2.3", "a", "A"))
	w.admit(w.release("refs/tags/v1.3.0", "b", "B"))
	natsErr, pausedFor, depthErr, sizeErr, now = errDown, errDown, errDown, errDown, epoch.Add(90*time.Second)
	const away = info + restarts + `imgd_events_untold 4
imgd_index_records 3
imgd_index_seq 3
imgd_paused 1
imgd_release_open_oldest_seconds 90
imgd_releases_open 1
`
	lint(t, scrape(away+`imgd_scrape_errors_total{part="index"} 1
imgd_scrape_errors_total{part="queue"} 1
imgd_up{part="nats"} 0
imgd_up{part="registry"} 1
`))
	natsErr = nil // seen at the next look, a second later at the soonest, as by /readyz
	scrape(away + `imgd_scrape_errors_total{part="index"} 2
imgd_scrape_errors_total{part="queue"} 2
imgd_up{part="nats"} 0
imgd_up{part="registry"} 1
`)
	if !strings.Contains(w.log.String(), errDown.Error()) {
		t.Errorf("the log does not say why the queue is not measured:\n%s", w.log.String())
	}
}

func lint(t *testing.T, body string) {
	t.Helper()
	problems, err := promlint.New(strings.NewReader(body)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// What a daemon does not wire has no metric, which is not 0.
func TestMetricsLeftOut(t *testing.T) {
	w := newWorld(t)
	const want = "imgd_build_info{goversion=\"go1.26.8\",revision=\"ffffffffffffffffffffffffffffffffffffffff\",version=\"v0.1.0\"} 1\n" +
		"imgd_index_records 0\nimgd_index_seq 0\nimgd_release_open_oldest_seconds 0\nimgd_releases_open 0\n"
	if got := measured(t, w.get("/metrics").body); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

// A part that never answers does not hold a scrape up for ever.
func TestMetricsAreBounded(t *testing.T) {
	w := newWorld(t)
	synctest.Test(t, func(t *testing.T) {
		hangs := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		api := httpapi.New(httpapi.Config{Index: w.index, Local: true,
			Checks: []httpapi.Check{{Name: "nats", Run: hangs}},
			Gauges: httpapi.Gauges{Depth: func(ctx context.Context) (imgd.Depth, error) { return imgd.Depth{}, hangs(ctx) }},
		})
		began, rec := time.Now(), httptest.NewRecorder()
		req := httptest.NewRequest(http.MethodGet, "/metrics", nil)
		req.Host = "localhost"
		api.ServeHTTP(rec, req)
		if took := time.Since(began); took != 5*time.Second { // both at a time
			t.Errorf("a scrape took %s", took)
		}
		got := measured(t, rec.Body.String())
		for _, line := range []string{"imgd_index_seq 0\n", `imgd_up{part="nats"} 0` + "\n", `imgd_scrape_errors_total{part="queue"} 1` + "\n"} {
			if !strings.Contains(got, line) {
				t.Errorf("there is no %q in\n%s", line, got)
			}
		}
		if strings.Contains(got, "imgd_queue_messages") {
			t.Errorf("a depth that nobody said is there:\n%s", got)
		}
	})
}
