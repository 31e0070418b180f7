package httpapi_test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/internal/httpapi"
)

// everything is a world in which every metric is served.
func everything(t *testing.T) *world {
	m := httpapi.NewMetrics(func(project string) bool { return project == "hello" })
	w := newWorld(t, func(c *httpapi.Config) {
		c.Metrics = m
		c.Checks = []httpapi.Check{{Name: "nats", Run: func(context.Context) error { return nil }}}
		c.Gauges = httpapi.Gauges{
			Depth:  func(context.Context) (imgd.Depth, error) { return imgd.Depth{}, nil },
			Paused: func() error { return nil }, Untold: func() int { return 0 },
			IndexSize: func() (int64, error) { return 0, nil }, IndexLag: func() (uint64, time.Duration) { return 0, 0 }, Restarts: func() uint64 { return 0 },
			Reloads: func() httpapi.Reloads { return httpapi.Reloads{} },
		}
	})
	_, ended := m.Stage(t.Context(), imgd.StageBuild, imgd.Request{Project: "hello"})
	ended(nil)
	m.Announced(imgd.Release{Request: imgd.Request{Project: "hello", AskedAt: epoch}, PublishedAt: epoch.Add(time.Second)}, epoch.Add(2*time.Second))
	m.Hooked("github", 202)
	w.get("/v1/version")
	return w
}

// A family is a metric as /metrics tells it.
type family struct{ name, kind, help, labels string }

var (
	helpLine = regexp.MustCompile(`(?m)^# HELP (imgd_\w+) (.*)$`)
	typeLine = regexp.MustCompile(`(?m)^# TYPE (imgd_\w+) (\w+)$`)
	label    = regexp.MustCompile(`[{,](\w+)="`)
)

func families(t *testing.T, body string) []family {
	t.Helper()
	kinds, found := map[string]string{}, []family{}
	for _, m := range typeLine.FindAllStringSubmatch(body, -1) {
		kinds[m[1]] = m[2]
	}
	for _, m := range helpLine.FindAllStringSubmatch(body, -1) {
		labels := map[string]bool{}
		for _, line := range regexp.MustCompile(`(?m)^`+m[1]+`(?:_bucket|_sum|_count)?(\{.*\})? \S+$`).FindAllString(body, -1) {
			for _, l := range label.FindAllStringSubmatch(line, -1) {
				labels[l[1]] = true
			}
		}
		delete(labels, "le")
		found = append(found, family{m[1], kinds[m[1]], m[2], strings.Join(slices.Sorted(maps.Keys(labels)), ", ")})
	}
	return found
}

const (
	metricsPage = "../../docs/metrics.md"
	tableBegin  = "<!-- metrics: made by go test ./internal/httpapi -run TestMetricsDoc -update -->\n"
	tableEnd    = "<!-- end -->"
)

// The table of docs/metrics.md is what is served: no more and no less, and each
// name is a good one.
func TestMetricsDoc(t *testing.T) {
	body := everything(t).get("/metrics").body
	lint(t, body)
	table := "| metric | type | labels | |\n|---|---|---|---|\n"
	for _, f := range families(t, body) {
		table += fmt.Sprintf("| `%s` | %s | %s | %s |\n", f.name, f.kind, f.labels, f.help)
	}
	page, err := os.ReadFile(metricsPage)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(page), tableBegin)
	got, after, ok2 := strings.Cut(rest, tableEnd)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the table", metricsPage)
	}
	if *update {
		if err := os.WriteFile(metricsPage, []byte(before+tableBegin+table+tableEnd+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if got != table {
		t.Errorf("%s has\n%swant\n%s", metricsPage, got, table)
	}
}

// No label takes what others may invent.
func TestMetricsAreFew(t *testing.T) {
	m := httpapi.NewMetrics(func(project string) bool { return project == "hello" })
	w := newWorld(t, func(c *httpapi.Config) { c.Metrics = m })
	for i := range 50 {
		stranger := fmt.Sprint("stranger-", i)
		_, ended := m.Stage(t.Context(), imgd.StageResolve, imgd.Request{Project: stranger})
		ended(fmt.Errorf("resolve %s: %w", stranger, imgd.ErrInvalid))
		m.Ended(imgd.Status{Project: stranger, State: imgd.Failed})
		m.Retried(imgd.Status{Project: stranger, Error: &imgd.StatusError{Kind: "error", Message: stranger}})
		m.Hooked("", 404)
		w.get("/v1/images/" + stranger + "/tags/" + stranger)
		w.get("/" + stranger)
		w.do("STRANGER"+fmt.Sprint(i), "/v1/requests/"+stranger, "")
	}
	body := w.get("/metrics").body
	if strings.Contains(body, "stranger") || strings.Contains(body, "STRANGER") {
		t.Errorf("a stranger's words are a label:\n%s", measured(t, body))
	}
	for _, line := range []string{
		`imgd_stage_duration_seconds_count{project="unknown",result="invalid",stage="resolve"} 50`,
		`imgd_requests_ended_total{project="unknown",state="failed"} 50`, `imgd_request_retries_total{project="unknown",reason="error"} 50`,
		`imgd_webhooks_total{code="404",forge="unknown"} 50`,
		`imgd_http_requests_total{code="404",method="GET",route="/v1/images/{name}/tags/{tag}"} 50`,
		`imgd_http_requests_total{code="404",method="GET",route="other"} 50`, `imgd_http_requests_total{code="405",method="other",route="/v1/requests/{id}"} 50`,
	} {
		if !strings.Contains(body, line+"\n") {
			t.Errorf("there is no %s in\n%s", line, body)
		}
	}
}

func TestResult(t *testing.T) {
	for want, err := range map[string]error{
		"ok": nil, "build-failed": fmt.Errorf("x: %w", &imgd.BuildError{}), "conflict": fmt.Errorf("x: %w", imgd.ErrConflict),
		"unchanged": imgd.ErrUnchanged, "superseded": imgd.ErrSuperseded, "invalid": imgd.ErrInvalid, "not-found": imgd.ErrNotFound,
		"refused": imgd.ErrRefused, "interrupted": context.Canceled, "timeout": context.DeadlineExceeded, "error": errDown,
	} {
		if got := httpapi.Result(err); got != want {
			t.Errorf("%v: got %s, want %s", err, got, want)
		}
		page, readErr := os.ReadFile(metricsPage)
		if readErr != nil || !strings.Contains(string(page), "`"+want+"`") {
			t.Errorf("%s does not name %s", metricsPage, want)
		}
	}
}
