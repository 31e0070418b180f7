package httpapi_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/imgd/imgd/internal/httpapi"
)

func TestUsage(t *testing.T) {
	w := newWorld(t, func(c *httpapi.Config) {
		c.Usage = func(context.Context) []httpapi.Used {
			return []httpapi.Used{{Part: "registry", Path: "/data/registry", Bytes: 3, Free: 4}, {Part: "buildkit", Path: "/data/buildkit", Free: 4, Error: "away"}}
		}
	})
	const want = `{"items":[{"part":"registry","path":"/data/registry","bytes":3,"freeBytes":4},{"part":"buildkit","path":"/data/buildkit","bytes":0,"freeBytes":4,"error":"away"}]}` + "\n"
	if got := w.get("/v1/usage"); got.status != 200 || got.body != want {
		t.Errorf("got %d %s", got.status, got.body)
	}
	checkProblem(t, w.do("POST", "/v1/usage", ""), 405, "usage", "GET")
	checkProblem(t, w.get("/v1/usage?part=x"), 400, "usage", "part")
	checkProblem(t, newWorld(t).get("/v1/usage"), 404, "not-found", "measure")
}

func TestCollect(t *testing.T) {
	var failed error
	w := newWorld(t, func(c *httpapi.Config) {
		c.Collect = func(context.Context) (httpapi.Collected, error) {
			return httpapi.Collected{Manifests: 1, Blobs: 2, Uploads: 3, Logs: 4, Bytes: 5, PauseMS: 6, PausedMS: 7}, failed
		}
	})
	const want = `{"manifests":1,"blobs":2,"uploads":3,"logs":4,"bytes":5,"pauseMs":6,"pausedMs":7}` + "\n"
	for _, body := range []string{"", "{}"} {
		if got := w.do("POST", "/v1/collect", body); got.status != 200 || got.body != want {
			t.Errorf("%q: got %d %s", body, got.status, got.body)
		}
	}
	failed = errors.New("disk broken")
	checkProblem(t, w.do("POST", "/v1/collect", ""), 502, "failed", "disk broken")
	checkProblem(t, w.do("GET", "/v1/collect", ""), 405, "usage", "POST")
	checkProblem(t, w.do("POST", "/v1/collect", `{"all":true}`), 400, "usage", "all")
	checkProblem(t, w.do("POST", "/v1/collect", "", "Origin", "https://evil.example"), 403, "unauthorized", "another site")
	checkProblem(t, newWorld(t).do("POST", "/v1/collect", ""), 404, "not-found", "nothing")
}

func TestCollectMetrics(t *testing.T) {
	m := httpapi.NewMetrics(nil)
	w := newWorld(t, func(c *httpapi.Config) { c.Metrics = m })
	m.Collected(httpapi.Collected{Bytes: 5, PauseMS: 40}, nil)
	m.Collected(httpapi.Collected{Bytes: 2, PauseMS: 50}, errors.New("cut"))
	m.Collected(httpapi.Collected{PauseMS: 50}, fmt.Errorf("remove: %w", context.Canceled)) // which says nothing of the disk
	body := w.get("/metrics").body
	for _, want := range []string{`imgd_collections_total{result="ok"} 1`, `imgd_collections_total{result="failed"} 1`, `imgd_collections_total{result="interrupted"} 1`,
		"imgd_collected_bytes_total 7", "imgd_collect_pause_seconds 0.05", "imgd_collect_last_successful 0"} {
		if !strings.Contains(body, want+"\n") {
			t.Errorf("no %s", want)
		}
	}
	lint(t, body)
	m.Collected(httpapi.Collected{}, nil)
	for when, m := range map[string]*httpapi.Metrics{"after the next": m, "at the start": httpapi.NewMetrics(nil)} {
		w := newWorld(t, func(c *httpapi.Config) { c.Metrics = m })
		if !strings.Contains(w.get("/metrics").body, "imgd_collect_last_successful 1\n") {
			t.Errorf("%s the last collection has failed still", when)
		}
	}
}
