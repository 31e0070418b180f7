package httpapi_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/imgd/imgd"
	"github.com/imgd/imgd/internal/httpapi"
)

func TestReload(t *testing.T) {
	done, err := httpapi.Reloaded{Changed: []string{"log.level", "projects.hello"}, Restart: []string{"nats.url"}}, error(nil)
	w := newWorld(t, func(c *httpapi.Config) {
		c.Reload = func(context.Context) (httpapi.Reloaded, error) { return done, err }
	})
	const want = `{"changed":["log.level","projects.hello"],"restart":["nats.url"]}` + "\n"
	for _, body := range []string{"", "{}"} {
		if got := w.do("POST", "/v1/reload", body); got.status != 200 || got.body != want {
			t.Errorf("%q: got %d %s", body, got.status, got.body)
		}
	}
	done = httpapi.Reloaded{}
	if got := w.do("POST", "/v1/reload", ""); got.body != `{"changed":[],"restart":[]}`+"\n" {
		t.Errorf("nothing new: got %s", got.body)
	}
	err = errors.New("imgd.yaml:1:1: buidl: there is no such key\nimgd.yaml:2:1: listen: no port")
	got := w.do("POST", "/v1/reload", "")
	checkProblem(t, got, 400, "usage", "buidl")
	checkProblem(t, got, 400, "usage", "listen: no port")
	checkProblem(t, w.do("GET", "/v1/reload", ""), 405, "usage", "POST")
	checkProblem(t, w.do("POST", "/v1/reload?file=x", ""), 400, "usage", "file")
	checkProblem(t, w.do("POST", "/v1/reload", `{"file":"x"}`), 400, "usage", "file")
	checkProblem(t, w.do("POST", "/v1/reload", "", "Origin", "https://evil.example"), 403, "unauthorized", "another site")
	checkProblem(t, w.do("POST", "/v1/reload", "", "Content-Type", "text/plain"), 415, "usage", "application/json")
	checkProblem(t, newWorld(t).do("POST", "/v1/reload", ""), 404, "not-found", "restart")
	far := newWorld(t, func(c *httpapi.Config) { c.Local, c.Reload = false, nil })
	checkProblem(t, far.do("POST", "/v1/reload", ""), 403, "unauthorized", "off loopback")
}

func TestReloadMetrics(t *testing.T) {
	now := httpapi.Reloads{}
	w := newWorld(t, func(c *httpapi.Config) { c.Gauges = httpapi.Gauges{Reloads: func() httpapi.Reloads { return now }} })
	for _, tt := range []struct {
		now  httpapi.Reloads
		want string
	}{
		{httpapi.Reloads{}, "imgd_config_last_reload_successful 1\nimgd_config_reloads_total{result=\"failed\"} 0\nimgd_config_reloads_total{result=\"ok\"} 0\n"},
		{httpapi.Reloads{OK: 2, Failed: 1, LastFailed: true}, "imgd_config_last_reload_successful 0\nimgd_config_reloads_total{result=\"failed\"} 1\nimgd_config_reloads_total{result=\"ok\"} 2\n"},
	} {
		now = tt.now
		body := w.get("/metrics").body
		if got := measured(t, body); !strings.Contains(got, tt.want) {
			t.Errorf("got %s, want %s", got, tt.want)
		}
		lint(t, body)
	}
	if got := newWorld(t).get("/metrics").body; strings.Contains(got, "imgd_config") {
		t.Errorf("nobody counts reloads: got %s", measured(t, got))
	}
}

// What is removed is not there for the next question; what comes is.
func TestProjectsAreReadAnew(t *testing.T) {
	var projects *imgd.Projects
	w := newWorld(t, func(c *httpapi.Config) { projects = c.Projects })
	w.refs["refs/heads/main"] = commit("a")
	build := func(project string) answer {
		return w.do("POST", "/v1/projects/"+project+"/builds", `{"ref":"main"}`)
	}
	if got := build("hello"); got.status != 202 {
		t.Errorf("got %d %s", got.status, got.body)
	}
	hello, _ := projects.Get("hello")
	hello.Name = "new"
	projects.Set(map[string]imgd.Project{"new": hello})
	checkProblem(t, build("hello"), 404, "not-found", `["new"]`)
	if got := build("new"); got.status != 202 {
		t.Errorf("got %d %s", got.status, got.body)
	}
}
